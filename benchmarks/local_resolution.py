"""How well is a known local resolution found, and what does it cost?

    python benchmarks/local_resolution.py [--box 256] [--data FOLDER] [--out benchmarks/results/local_resolution.json]

Truth: white detail with an exponential fall-off in 1/Å, and white noise whose strength rises along x, so that the
FSC between the halves reaches any threshold at a known frequency at each x. "uniform": the same noise everywhere.
Peers: `relion_postprocess --locres`, where it is installed, on the 64-voxel pair; its resolution is held against the
truth at 0.143, its criterion, ours at 0.5. Rank correlation and relative error are taken inside the mask.
The real map: FOLDER/maps, with its published local resolution (where that is not its one background value).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from scipy.stats import spearmanr
from torch import Tensor

from emflow.device import generator
from emflow.em.fsc import shell_index
from emflow.em.local_filter import filter_locally  # noqa: F401  (measured in a process of its own)
from emflow.em.local_resolution import windowed_resolution
from emflow.em.masks import soft_sphere, solvent_mask
from emflow.io.mrc import read_mrc, write_mrc
from emflow.validate.config import ValidateLocal
from emflow.validate.judge_local import judge_finer, judge_parts, local_metrics
from emflow.validate.local_single import monogenic_resolution

FALL = 0.08
"""Fall-off of the signal-to-noise ratio: by e over this share of Nyquist."""
VOXEL = 1.5


def pair(n: int, seed: int, low: float = 0.45, high: float = 0.9) -> tuple[Tensor, Tensor, Tensor]:
    """Two halves, and for each x the frequency over Nyquist where signal and noise are equal."""
    fall = torch.exp(-shell_index(n) / (n // 2) / (2 * FALL))
    detail = torch.fft.rfftn(torch.randn(n, n, n, generator=generator(seed)))
    signal = torch.fft.irfftn(detail * fall, s=(n, n, n))
    equal = low + (high - low) * ((torch.arange(n) - n / 2) / (0.8 * n) + 0.5).clamp(0, 1)
    noise = torch.exp(-equal / (2 * FALL))
    one, two = (signal + noise * torch.randn(n, n, n, generator=generator(seed, k)) for k in (1, 2))
    return one, two, equal


def in_solvent(n: int, seed: int, low: float = 0.45, high: float = 0.9) -> tuple[Tensor, Tensor]:
    """One map, a particle whose signal rises along x in even noise, and where both are equal in its half maps."""
    fall = torch.exp(-shell_index(n) / (n // 2) / (2 * FALL))
    detail = torch.fft.irfftn(
        torch.fft.rfftn(torch.randn(n, n, n, generator=generator(seed))) * fall, s=(n, n, n)
    )
    equal = low + (high - low) * ((torch.arange(n) - n / 2) / (0.8 * n) + 0.5).clamp(0, 1)
    signal = detail * torch.exp(equal / (2 * FALL)) * soft_sphere(n, 0.36 * n, 1)
    return signal + torch.randn(n, n, n, generator=generator(seed, 5)) / math.sqrt(2), equal


def held(truth: Tensor, found: Tensor, inside: Tensor) -> dict[str, float]:
    """Rank correlation, mean and spread of the relative error."""
    ratio = found[inside] / truth.expand_as(found)[inside]
    row = {"bias": float(ratio.mean() - 1), "spread": float(ratio.std())}
    if float(truth.max()) > float(truth.min()):  # else there is nothing to rank
        row["rank_correlation"] = float(spearmanr(truth.expand_as(found)[inside], found[inside])[0])
    return row


def expected(equal: Tensor, threshold: float) -> Tensor:
    """True resolution, in ångström, at each x."""
    return 2 * VOXEL / (equal + FALL * math.log((1 - threshold) / threshold)).clamp(max=1)


def simulated(n: int, seeds: int) -> dict[str, object]:
    """Both methods on gradient, uniform and noise maps; means over seeds."""
    mask = soft_sphere(n, 0.36 * n, 4)
    inside = mask > 0.5
    rows: dict[str, list[dict[str, float]]] = {}
    for threshold in (0.5, 0.143):
        cfg = ValidateLocal(threshold=threshold)
        for seed in range(seeds):
            for kind, (low, high) in {"gradient": (0.45, 0.9), "uniform": (0.675, 0.675)}.items():
                one, two, equal = pair(n, seed, low, high)
                maps = {
                    "halves": windowed_resolution(one, two, mask, VOXEL, cfg),
                    "monogenic": monogenic_resolution((one + two) / 2, (one - two) / 2, mask, VOXEL, cfg),
                }
                for method, found in maps.items():
                    row = held(expected(equal, threshold), found.angstrom, inside)
                    rows.setdefault(f"{kind}_{method}_{threshold}", []).append(row)
        for seed in range(seeds):
            volume, equal = in_solvent(n, seed)
            found = monogenic_resolution(volume, None, mask, VOXEL, cfg)
            row = held(expected(equal, threshold), found.angstrom, inside)
            rows.setdefault(f"gradient_monogenic_solvent_{threshold}", []).append(row)
    noise: dict[str, list[float]] = {}
    for level in (0.05, 0.01):
        cfg = ValidateLocal(threshold=0.02, noise_level=level)
        for seed in range(seeds):
            one, two = (torch.randn(n, n, n, generator=generator(seed, 9, k)) for k in (1, 2))
            maps = {
                "halves": windowed_resolution(one, two, mask, VOXEL, cfg),
                "monogenic, half difference": monogenic_resolution(one, two, mask, VOXEL, cfg),
                "monogenic, solvent": monogenic_resolution(one, None, mask, VOXEL, cfg),
            }
            for method, found in maps.items():
                share = float((found.resolved & inside).sum() / inside.sum())
                noise.setdefault(f"{method} at {level}", []).append(share)
    mean = {
        name: {key: round(sum(r[key] for r in part) / len(part), 4) for key in part[0]}
        for name, part in rows.items()
    }
    return mean | {"noise_resolved_fraction": {k: round(sum(v) / len(v), 4) for k, v in noise.items()}}


def verdicts(n: int, seeds: int) -> dict[str, str]:
    """How many of so many sets raise each of the two verdicts (every part resolved; a part far beyond the whole)."""
    mask = soft_sphere(n, 0.36 * n, 4)
    far = (torch.arange(n) > 0.6 * n).float()
    spot = soft_sphere(n, 5, 2).roll(8, 0)
    counts: dict[str, list[int]] = {}
    for seed in range(seeds):
        one, two, _ = pair(n, seed, 0.5, 0.5)
        steep = pair(n, seed)
        a, b = (torch.randn(n, n, n, generator=generator(seed, 20, k)) * float(one.std()) for k in (1, 2))
        sets = {
            "clean, even": (one, two),
            "clean, gradient of two": steep[:2],
            "noise eight times stronger in a quarter": (one + 8 * far * a, two + 8 * far * b),
            "spot shared by the halves": (one + 3 * spot * a, two + 3 * spot * a),
            "noise": (a, b),
        }
        for name, (half1, half2) in sets.items():
            found = local_metrics(windowed_resolution(half1, half2, mask, VOXEL, ValidateLocal()))
            row = counts.setdefault(name, [0, 0])
            for k, judged in enumerate((judge_parts(found), judge_finer(found))):
                row[k] += judged.verdict in ("warn", "fail")
    return {name: f"{a} and {b} of {seeds}" for name, (a, b) in counts.items()}


def children_s() -> float:
    """CPU time of finished child processes."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def peer(n: int) -> dict[str, object]:
    """`relion_postprocess --locres` beside ours on one pair, as commands."""
    one, two, equal = pair(n, 1)
    mask = soft_sphere(n, 0.36 * n, 4)
    inside = mask > 0.5
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file, volume in (("half1_class001_unfil", one), ("half2_class001_unfil", two), ("mask", mask)):
            write_mrc(folder / f"{file}.mrc", volume.numpy(), VOXEL)
        paths = [str(folder / f"half{k}_class001_unfil.mrc") for k in (1, 2)]
        before = children_s()
        code = "from emflow.cli import main; main()"
        ours = [sys.executable, "-c", code, "validate", "local", *paths, str(folder / "out")]
        subprocess.run([*ours, "--mask", str(folder / "mask.mrc")], check=True, capture_output=True)
        rows: dict[str, object] = {
            "emflow": held(
                expected(equal, 0.5),
                torch.from_numpy(read_mrc(folder / "out" / "local_resolution.mrc")),
                inside,
            )
            | {"cpu_s_with_start": round(children_s() - before, 2)}
        }
        if shutil.which("relion_postprocess"):
            before = children_s()
            call = [
                "relion_postprocess",
                "--i",
                paths[0],
                "--mask",
                str(folder / "mask.mrc"),
                "--o",
                str(folder / "peer"),
            ]
            call += ["--angpix", str(VOXEL), "--locres", "--adhoc_bfac", "0", "--locres_sampling", "9"]
            subprocess.run(call, check=True, capture_output=True)
            found = torch.from_numpy(read_mrc(folder / "peer_locres.mrc"))
            rows["relion 3.1.3 --locres (sampling 9 Å)"] = held(expected(equal, 0.143), found, inside) | {
                "cpu_s_with_start": round(children_s() - before, 2)
            }
    return rows


def real(folder: Path) -> dict[str, object]:
    """The published local resolution of a β-galactosidase map, and ours from the map alone."""
    volume = torch.from_numpy(read_mrc(folder / "betaGal_crop50_f16.mrc"))
    published = torch.from_numpy(read_mrc(folder / "localResolution_crop50_f16.mrc"))
    mask = solvent_mask(volume, 3.54, lowpass_angstrom=10, dilate_angstrom=4).mask
    found = monogenic_resolution(volume, None, mask, 3.54, ValidateLocal(method="monogenic"))
    inside = found.inside & (published != published[0, 0, 0])
    return {
        "rank_correlation": round(float(spearmanr(published[inside], found.angstrom[inside])[0]), 3),
        "median_published_angstrom": round(float(published[inside].median()), 2),
        "median_angstrom": round(float(found.angstrom[inside].median()), 2),
        "p05_p95_angstrom": [round(float(found.angstrom[inside].quantile(q)), 2) for q in (0.05, 0.95)],
        "voxels": int(inside.sum()),
    }


def cost(n: int) -> dict[str, float]:
    """CPU seconds and peak memory of local resolution and filter, in a process of its own."""
    code = (
        "import sys, time, resource, torch; sys.path.insert(0, sys.argv[1]); torch.set_num_threads(1)\n"
        "import local_resolution as b\nn = int(sys.argv[2]); one, two, _ = b.pair(n, 1)\n"
        "mask = b.soft_sphere(n, 0.36 * n, 4); idle = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024\n"
        "t = time.process_time(); r = b.windowed_resolution(one, two, mask, b.VOXEL, b.ValidateLocal())\n"
        "u = time.process_time(); b.filter_locally(one, r.angstrom, mask, b.VOXEL); v = time.process_time()\n"
        "mean, noise = (one + two) / 2, (one - two) / 2\n"
        "b.monogenic_resolution(mean, noise, mask, b.VOXEL, b.ValidateLocal()); w = time.process_time()\n"
        "print(u - t, v - u, w - v, idle, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)\n"
    )
    run = [sys.executable, "-c", code, str(Path(__file__).parent), str(n)]
    done = subprocess.run(
        run, check=True, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    names = ("local_cpu_s", "filter_cpu_s", "monogenic_cpu_s", "peak_before_mb", "peak_mb")
    return {"box_px": n} | {k: round(float(v), 1) for k, v in zip(names, done.stdout.split(), strict=True)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--box", type=int, default=256, help="side of the map whose cost is measured")
    parser.add_argument("--seeds", type=int, default=10)
    default = os.environ.get("EMFLOW_TEST_DATA", "../shared/data")
    parser.add_argument("--data", type=Path, default=Path(default))
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "results" / "local_resolution.json"
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    started = time.process_time()
    result: dict[str, object] = {
        "simulated_64": simulated(64, args.seeds),
        "verdicts_64": verdicts(64, args.seeds),
        "peers_64": peer(64),
    }
    if (args.data / "maps").is_dir():
        result["beta_galactosidase"] = real(args.data / "maps")
    result["cost"] = cost(args.box)
    result["benchmark_cpu_s"] = round(time.process_time() - started, 1)
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
