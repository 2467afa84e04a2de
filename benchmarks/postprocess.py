"""Hold `emflow validate maps` against RELION's `relion_postprocess` on the same half maps, mask and settings.

    python benchmarks/postprocess.py [FOLDER]

Three simulated pairs, and the real one in FOLDER (half1.mrc, half2.mrc, mask.mrc) if that is given. The result is
benchmarks/results/postprocess.json. Both programs run with one thread.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

import emflow
from emflow.device import generator
from emflow.em.fsc import corrected_fsc, shell_index
from emflow.em.masks import radius_grid, soft_sphere
from emflow.em.sharpen import sharpen
from emflow.io.mrc import read_header, read_mrc, write_mrc
from emflow.io.star import floats, read_star
from emflow.validate.config import ValidateMaps
from emflow.validate.maps import _randomised, compare_halves

SEEDS = 200
RELION_SEEDS = 20
RELION = ["relion_postprocess", "--auto_bfac", "--autob_lowres", "10", "--low_pass", "-1"]
PAIRS: dict[str, dict[str, Any]] = {
    "ball": {
        "box": 64,
        "voxel": 2.4,
        "radius": 0.25,
        "bfactor": 60,
        "crossing": 0.65,
        "mask": "soft",
        "seed": 1,
    },
    "steep": {
        "box": 96,
        "voxel": 1.5,
        "radius": 0.22,
        "bfactor": 140,
        "crossing": 0.5,
        "mask": "rod",
        "seed": 2,
    },
    "tight": {
        "box": 80,
        "voxel": 2.0,
        "radius": 0.3,
        "bfactor": 90,
        "crossing": 0.6,
        "mask": "hard",
        "seed": 3,
    },
}
LARGE: dict[str, Any] = {
    "box": 256, "voxel": 1.2, "radius": 0.25, "bfactor": 60, "crossing": 0.5, "mask": "soft", "seed": 4
}  # fmt: skip
"""Radius as a fraction of the box, B factor of the signal in Å², FSC crossing as a fraction of Nyquist."""


def simulate(
    folder: Path, box: int, voxel: float, radius: float, bfactor: float, crossing: float, mask: str, seed: int
) -> None:
    """Write two half maps of atoms in a ball, with white noise, and a mask."""
    rng = np.random.default_rng(seed)
    atoms = rng.normal(size=(int(30 * (radius * box * voxel / 10) ** 3), 3))
    atoms *= (radius * box * rng.random(len(atoms)) ** (1 / 3) / np.linalg.norm(atoms, axis=1))[:, None]
    points, _ = np.histogramdd(atoms + box // 2, bins=[np.arange(box + 1) - 0.5] * 3)
    frequency = shell_index(box).float() / (box * voxel)
    spectrum = torch.fft.rfftn(torch.from_numpy(points).float()) * torch.exp(-bfactor / 4 * frequency**2)
    signal = torch.fft.irfftn(spectrum, s=(box,) * 3)
    at = shell_index(box) == int(crossing * box / 2)
    noise = float((spectrum[at].abs().square().mean() * 6 / box**3).sqrt())
    for half in (1, 2):
        extra = noise * torch.randn(box, box, box, generator=generator(seed, half))
        write_mrc(folder / f"half{half}.mrc", (signal + extra).numpy(), voxel)
    edge = {"soft": 8, "rod": 6, "hard": 1.5}[mask]
    around = soft_sphere(box, radius * box + (0 if mask == "hard" else 4), edge)
    if mask == "rod":
        along = (torch.arange(box) - box // 2).abs().float()
        across = radius_grid(box, 2)
        around = around * (1 - ((across - 0.6 * radius * box) / 6).clamp(0, 1))[None]
        around = around * (1 - ((along - 0.9 * radius * box) / 6).clamp(0, 1))[:, None, None]
    write_mrc(folder / "mask.mrc", around.numpy(), voxel)


def spent_on(command: list[str], folder: Path) -> tuple[float, float]:
    """CPU seconds and peak memory in megabytes of a command, on one thread."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
        _, status, used = os.wait4(process.pid, 0)
    # RELION ends with an error where ghostscript is missing, after everything is written
    if command[0] != "relion_postprocess" and status:
        sys.exit((folder / "log.txt").read_text())
    return round(used.ru_utime + used.ru_stime, 2), round(used.ru_maxrss * 1024 / 1e6)


def relion(folder: Path, inputs: Path, name: str, *more: str) -> tuple[dict[str, Any], float]:
    """Run relion_postprocess; return its tables and CPU seconds."""
    (folder / name).mkdir()
    voxel = read_header(inputs / "half1.mrc").voxel_size_angstrom
    files = ["--i", inputs / "half1.mrc", "--i2", inputs / "half2.mrc", "--mask", inputs / "mask.mrc"]
    options = ["--angpix", voxel, "--o", f"{name}/postprocess", *more]
    spent, _ = spent_on([*RELION, *map(str, [*files, *options])], folder)
    return read_star(folder / name / "postprocess.star"), spent


def compare(folder: Path, inputs: Path) -> dict[str, Any]:
    """Run both programs on one pair and say how far they agree."""
    halves = [torch.from_numpy(read_mrc(inputs / f"half{k}.mrc")) for k in (1, 2)]
    mask = torch.from_numpy(read_mrc(inputs / "mask.mrc"))
    header = read_header(inputs / "half1.mrc")
    voxel, box = header.voxel_size_angstrom, header.shape[0]
    theirs, relion_s = relion(folder, inputs, "relion")
    cfg = ValidateMaps()
    curves = compare_halves(halves[0], halves[1], mask, voxel, cfg)
    resolution = curves.resolution()
    shells = theirs["fsc"]
    column = {
        name: floats(shells, f"rln{long}")
        for name, long in {
            "unmasked": "FourierShellCorrelationUnmaskedMaps",
            "masked": "FourierShellCorrelationMaskedMaps",
            "corrected": "FourierShellCorrelationCorrected",
        }.items()
    }
    spread = spread_of(halves, mask, curves, cfg)
    low, high = np.quantile(spread, [0.005, 0.995], axis=0)
    told = column["corrected"]
    first = (curves.random_from_shell or 0) + 2
    outside = ((told < low - 5e-6) | (told > high + 5e-6))[first:]
    deviations = np.abs(told - spread.mean(0))[first:] / np.maximum(spread.std(0)[first:], 1e-6)
    # fit to the same shells in both: to the resolution, and RELION's way, to the last shell with agreement
    fits = {}
    mean = torch.lerp(halves[0], halves[1], 0.5)
    general = theirs["general"]
    for name, end in {"to_resolution": resolution, "to_nyquist": 2 * voxel}.items():
        given = cfg.model_copy(update={"bfactor_fit_to_angstrom": end})
        tables = relion(folder, inputs, name, "--autob_highres", f"{end - 1e-4:.6f}")[0]
        made = sharpen(mean, curves.corrected, resolution, voxel, given)
        with_theirs = sharpen(
            mean,
            torch.from_numpy(told),
            resolution,
            voxel,
            cfg.model_copy(update={"bfactor_fit_to_angstrom": end}),
        )
        b = float(floats(tables["general"], "rlnBfactorUsedForSharpening")[0])
        single = [
            sharpen(mean, torch.from_numpy(curve), resolution, voxel, given).bfactor_angstrom2
            for curve in spread[::4]
        ]
        drawn = []
        for seed in range(1, RELION_SEEDS + 1):
            ends = ["--autob_highres", f"{end - 1e-4:.6f}", "--random_seed", str(seed)]
            again = relion(folder, inputs, f"{name}{seed}", *ends)[0]
            drawn.append(float(floats(again["general"], "rlnBfactorUsedForSharpening")[0]))
        fits[name] = {
            "relion_bfactor_of_other_seeds_mean_angstrom2": round(float(np.mean(drawn)), 2),
            "relion_bfactor_of_other_seeds_range_angstrom2": [min(drawn), max(drawn)],
            "difference_to_that_mean_percent": round(
                100 * abs(made.bfactor_angstrom2 / float(np.mean(drawn)) - 1), 3
            ),
            "relion_bfactor_angstrom2": round(b, 2),
            "emflow_bfactor_angstrom2": round(made.bfactor_angstrom2, 2),
            "difference_percent": round(100 * abs(made.bfactor_angstrom2 / b - 1), 3),
            "emflow_bfactor_of_single_draws_range_angstrom2": [round(min(single), 2), round(max(single), 2)],
            "emflow_bfactor_with_relions_curve_angstrom2": round(with_theirs.bfactor_angstrom2, 2),
        }
        if name == "to_resolution":
            volume = read_mrc(folder / name / "postprocess.mrc")
            fits[name]["map_correlation"] = round(
                float(np.corrcoef(volume.ravel(), made.volume.numpy().ravel())[0, 1]), 6
            )
            fits[name]["map_correlation_with_relions_curve"] = round(
                float(np.corrcoef(volume.ravel(), with_theirs.volume.numpy().ravel())[0, 1]), 6
            )
    size = box * voxel
    emflow_s, _ = spent_on(whole_command(inputs), folder)
    last = size / float(floats(general, "rlnFinalResolution")[0])
    return {
        "box": box,
        "voxel_angstrom": voxel,
        "unmasked_largest_difference": round(
            float(np.abs(column["unmasked"] - curves.unmasked.numpy()).max()), 7
        ),
        "masked_largest_difference": round(float(np.abs(column["masked"] - curves.masked.numpy()).max()), 7),
        "random_from_shell": [
            round(size / float(floats(general, "rlnRandomiseFrom")[0])),
            curves.random_from_shell,
        ],
        "corrected_shells": len(outside),
        "corrected_shells_outside_99_percent_spread": int(outside.sum()),
        "corrected_largest_deviation_sd": round(float(deviations.max()), 2),
        "corrected_largest_difference_to_mean": round(
            float(np.abs(told - curves.corrected.numpy()).max()), 4
        ),
        "resolution_angstrom": [round(size / last, 3), round(float(resolution), 3)],
        "resolution_shells_apart": abs(round(last) - curves.last_shell()),
        "bfactor": fits,
        "relion_cpu_s": relion_s,
        "emflow_whole_command_cpu_s": emflow_s,
    }


def whole_command(inputs: Path) -> list[str]:
    """`emflow validate maps` on a pair, with everything that it looks at."""
    files = [str(inputs / name) for name in ("half1.mrc", "half2.mrc")]
    return [
        "emflow",
        "validate",
        "maps",
        *files,
        "emflow",
        "--mask",
        str(inputs / "mask.mrc"),
        "--threads",
        "1",
    ]


def relions_part(inputs: Path) -> None:
    """What relion_postprocess does, and no more: curves, resolution, sharpened map, written."""
    torch.set_num_threads(1)
    halves = [torch.from_numpy(read_mrc(inputs / f"half{k}.mrc")) for k in (1, 2)]
    mask, voxel = (
        torch.from_numpy(read_mrc(inputs / "mask.mrc")),
        read_header(inputs / "mask.mrc").voxel_size_angstrom,
    )
    cfg = ValidateMaps()
    curves = compare_halves(halves[0], halves[1], mask, voxel, cfg)
    resolution = curves.resolution()
    assert resolution is not None
    made = sharpen(torch.lerp(halves[0], halves[1], 0.5), curves.corrected, resolution, voxel, cfg)
    write_mrc(inputs / "part.mrc", made.volume.numpy(), voxel)
    write_mrc(inputs / "part_masked.mrc", (made.volume * mask).numpy(), voxel)


def large(folder: Path) -> dict[str, Any]:
    """CPU seconds and peak memory on a pair of 256³."""
    simulate(folder, **LARGE)
    (folder / "relion").mkdir()
    files = ["--i", "half1.mrc", "--i2", "half2.mrc", "--mask", "mask.mrc", "--o", "relion/postprocess"]
    commands = {
        "relion": [*RELION, *files, "--angpix", str(LARGE["voxel"])],
        "emflow_same_part": [sys.executable, str(Path(__file__).resolve()), "--part", str(folder)],
        "emflow_whole_command": whole_command(folder),
    }
    result: dict[str, Any] = {"box": LARGE["box"]}
    for name, command in commands.items():
        result[f"{name}_cpu_s"], result[f"{name}_peak_mb"] = spent_on(command, folder)
    return result


def spread_of(halves: list[torch.Tensor], mask: torch.Tensor, curves: Any, cfg: ValidateMaps) -> np.ndarray:
    """Corrected curves of single draws of random phases, one per seed: (seeds, shells)."""
    index = shell_index(mask.shape[-1])
    spectra = (torch.fft.rfftn(halves[0]), torch.fft.rfftn(halves[1]))
    shell = curves.random_from_shell
    drawn = []
    for seed in range(SEEDS):
        one = cfg.model_copy(update={"seed": seed + 1, "randomisations": 1})
        randomised, _ = _randomised(spectra, mask, index, shell, one)
        drawn.append(corrected_fsc(curves.masked, randomised, shell).numpy())
    return np.stack(drawn)


def main() -> None:
    """Compare all pairs and write the figures."""
    if sys.argv[1:2] == ["--part"]:
        relions_part(Path(sys.argv[2]))
        return
    torch.set_num_threads(1)
    version = subprocess.run(
        ["relion_postprocess", "--version"], capture_output=True, text=True
    ).stdout.split("\n")[0]
    results: dict[str, Any] = {
        "command": "python benchmarks/postprocess.py FOLDER",
        "versions": {"relion": version.strip(), "emflow": emflow.__version__, "torch": torch.__version__},
        "relion_command": " ".join(RELION),
        "remark": "pairs of numbers: RELION, emflow; CPU seconds on one thread, of the whole commands (emflow's draws, "
        "bands and judges as well)",
        "seeds_of_the_spread": SEEDS,
    }
    with tempfile.TemporaryDirectory() as scratch:
        for name, given in PAIRS.items():
            folder = Path(scratch) / name
            folder.mkdir()
            simulate(folder, **given)
            results[name] = compare(folder, folder)
            print(name, json.dumps(results[name], indent=1), flush=True)
        folder = Path(scratch) / "large"
        folder.mkdir()
        results["large"] = large(folder)
        print("large", json.dumps(results["large"], indent=1), flush=True)
        if len(sys.argv) > 1:
            folder = Path(scratch) / "real"
            folder.mkdir()
            results["apoferritin"] = compare(folder, Path(sys.argv[1]).resolve())
            print("apoferritin", json.dumps(results["apoferritin"], indent=1))
    out = Path(__file__).parent / "results" / "postprocess.json"
    out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
