"""emflow's sharpening beside `relion_postprocess` (--auto_bfac; --locres) on half maps of known truth.

    python benchmarks/sharpening.py

Balls of a white spectrum with a known fall-off, in white noise: the B factor that each finds. A rigid ball beside one
that is blurred: correlation of the maps with the truth in either, by one filter for all and by the local ones,
nothing sharpened. The result is benchmarks/results/sharpening.json. One thread each.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from emflow.device import generator
from emflow.em.bands import radial_frequency
from emflow.em.masks import soft_sphere
from emflow.io.mrc import read_mrc, write_mrc
from emflow.io.star import floats, read_star
from emflow.reconstruct.config import ReconstructSharpen
from emflow.reconstruct.sharpen import SharpenedMaps, sharpen_halves

N, VOXEL = 64, 1.5
SEEDS = (0,)
BFACTORS = (60.0, 150.0, 300.0)
RESULTS = Path(__file__).parent / "results" / "sharpening.json"


def ball(bfactor: float, mask: Tensor, seed: int) -> Tensor:
    """White spectrum under exp(−B/4·s²), within a mask; deviation 1."""
    white = torch.fft.rfftn(torch.randn(N, N, N, generator=generator(seed, int(bfactor))))
    volume = torch.fft.irfftn(
        white * torch.exp(-bfactor / 4 * radial_frequency(N, N * VOXEL).square()), s=(N,) * 3
    )
    return volume / volume.std() * mask


def write_halves(folder: Path, truth: Tensor, level: float, mask: Tensor, seed: int) -> None:
    """Two half maps in white noise, and the mask."""
    folder.mkdir()
    for number in (1, 2):
        noise = level * torch.randn(N, N, N, generator=generator(seed, 7, number))
        write_mrc(folder / f"half{number}.mrc", (truth + noise).numpy(), VOXEL)
    write_mrc(folder / "mask.mrc", mask.numpy(), VOXEL)


def cpu_s(command: str, folder: Path) -> float:
    """CPU-seconds of a command on one thread."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen(command.split(), cwd=folder, env=environment, stdout=log, stderr=log)
        _, _, used = os.wait4(process.pid, 0)
    return round(used.ru_utime + used.ru_stime, 2)


def emflow(folder: Path, cfg: ReconstructSharpen) -> tuple[SharpenedMaps, float]:
    """Sharpen the folder's half maps; CPU-seconds."""
    one, two, mask = (
        torch.from_numpy(read_mrc(folder / f"{name}.mrc")) for name in ("half1", "half2", "mask")
    )
    before = time.process_time()
    made = sharpen_halves(one, two, VOXEL, 70.0, cfg, mask=mask)
    return made, round(time.process_time() - before, 2)


def relion(folder: Path, name: str, more: str) -> float:
    """Run relion_postprocess into folder/name."""
    (folder / name).mkdir()
    files = f"--i half1.mrc --i2 half2.mrc --mask mask.mrc --angpix {VOXEL} --o {name}/post"
    return cpu_s(f"nice -n 19 relion_postprocess {files} {more}", folder)


def bfactors(scratch: Path) -> list[dict[str, Any]]:
    """B factors that are found, medians over the seeds."""
    rows = []
    for truth in BFACTORS:
        found: dict[str, list[float]] = {"emflow": [], "relion": []}
        for seed in SEEDS:
            folder = scratch / f"b{truth:.0f}_{seed}"
            volume = ball(truth, soft_sphere(N, 18, 4), seed)
            write_halves(folder, volume, 1.0, soft_sphere(N, 22, 6), seed)
            made = emflow(folder, ReconstructSharpen())[0].made
            assert made is not None
            found["emflow"].append(made.bfactor_angstrom2)
            relion(folder, "relion", "--auto_bfac --autob_lowres 10")
            general = read_star(folder / "relion" / "post.star")["general"]
            found["relion"].append(float(floats(general, "rlnBfactorUsedForSharpening")[0]))
        rows.append(
            {
                "true_bfactor_angstrom2": -truth,
                **{f"{name}_bfactor_angstrom2": round(statistics.median(v), 1) for name, v in found.items()},
            }
        )
        print(json.dumps(rows[-1]), flush=True)
    return rows


def correlation(volume: Tensor, truth: Tensor, mask: Tensor) -> float:
    """Of two maps within a mask."""
    a, b = volume * mask, truth * mask
    return float((a * b).sum() / (a.square().sum() * b.square().sum()).sqrt())


def parts(scratch: Path) -> list[dict[str, Any]]:
    """Correlation with the truth in the rigid and in the blurred ball, medians over the seeds."""
    rigid, blurred = (soft_sphere(N, 8, 4).roll(shift, 2) for shift in (-11, 11))
    rows = []
    for level in (1.0,):
        found: dict[str, list[float]] = {}
        for seed in SEEDS:
            folder = scratch / f"parts_{level:g}_{seed}"
            truth = ball(60, rigid, seed) + ball(900, blurred, seed)
            write_halves(folder, truth, level, soft_sphere(N, 24, 6), seed)
            made, emflow_s = emflow(folder, ReconstructSharpen(bfactor_angstrom2=0))
            spent = {
                "emflow_cpu_s": emflow_s,
                "relion_cpu_s": relion(folder, "relion", ""),
                "relion_locres_cpu_s": relion(folder, "locres", "--locres --locres_sampling 12"),
            }
            maps = {
                "emflow": made.whole,
                "emflow_local": made.local,
                "relion": torch.from_numpy(read_mrc(folder / "relion" / "post.mrc")),
                "relion_local": torch.from_numpy(read_mrc(folder / "locres" / "post_locres_filtered.mrc")),
            }
            for name, volume in maps.items():
                for part, mask in (("rigid", rigid), ("blurred", blurred)):
                    found.setdefault(f"{name}_{part}_correlation", []).append(
                        correlation(volume, truth, mask)
                    )
            for name, seconds in spent.items():
                found.setdefault(name, []).append(seconds)
        rows.append({"noise": level, **{name: round(statistics.median(v), 4) for name, v in found.items()}})
        print(json.dumps(rows[-1]), flush=True)
    return rows


def main() -> None:
    """Compare and write the figures."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        about = {
            "command": "python benchmarks/sharpening.py",
            "box_px": N,
            "voxel_angstrom": VOXEL,
            "seeds": len(SEEDS),
            "bfactors": bfactors(Path(scratch)),
            "parts": parts(Path(scratch)),
        }
    RESULTS.write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main()
