"""How often ab initio finds the structure, and what it costs: seeds on sets of particles.

    python benchmarks/abinitio.py SET.star FOLDER --symmetry O --diameter 130 [--truth MAP.mrc] [--seeds 10] [--write NAME]
    python benchmarks/abinitio.py SET.star FOLDER --symmetry C1 --diameter 150 --truth MAP.mrc --refine --same REFINED.mrc

For each seed `emflow reconstruct abinitio` (and with --refine `refine`) runs into FOLDER/seed_N; what is finished is
not made again. Prints one JSON line per seed: resolution of the halves, agreement of the starts, where the FSC with
the truth falls to 0.5, CPU-seconds; and a line for all. --write keeps them in benchmarks/results.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

import torch
from running.cost import run

from emflow.em.fourier import resample
from emflow.em.frames import align_frames
from emflow.em.fsc import fsc, resolution_at
from emflow.em.masks import soft_sphere
from emflow.em.volume_align import apply_alignment
from emflow.io.mrc import read_header, read_mrc

RESULTS = Path(__file__).parent / "results" / "abinitio.json"
ALIGNED_DIAMETERS = 8.0
"""Maps are aligned with the truth on detail down to the diameter over this."""
SUCCESS = 1.1
"""A seed succeeds that comes to this times the best resolution at most (against the truth where it is known):
at these sizes two shells."""
SAME = 1.05
"""With --same a seed succeeds that comes to this times the resolution of that map at most."""


def against_truth(path: Path, given: argparse.Namespace) -> float | None:
    """Where a map's FSC with the true volume, within the particle's sphere, falls to 0.5, in ångström."""
    volume, voxel = torch.from_numpy(read_mrc(path)), read_header(path).voxel_size_angstrom
    truth = torch.from_numpy(read_mrc(given.truth))
    truth = resample(truth, read_header(given.truth).voxel_size_angstrom, len(volume), voxel)
    band = int(min(len(volume) // 2 - 3, ALIGNED_DIAMETERS * len(volume) * voxel / given.diameter))
    aligned = apply_alignment(volume, align_frames(volume, truth, given.symmetry, band))
    radius_px = 0.55 * given.diameter / voxel
    sphere = soft_sphere(len(volume), radius_px, radius_px / 8)
    return resolution_at(fsc(aligned * sphere, truth * sphere), 0.5, len(volume), voxel)


def one(given: argparse.Namespace, seed: int) -> dict[str, float | int | None]:
    """Figures of a seed, made or read."""
    folder = given.folder / f"seed_{seed}"
    kept = folder / "benchmark.json"
    if kept.exists():
        found: dict[str, float | int | None] = json.loads(kept.read_text())
        return found
    words = ["--symmetry", given.symmetry, "--diameter-angstrom", str(given.diameter), "--seed", str(seed)]
    threads = ["--threads", "1", "--device", "cpu"]
    cost = run("reconstruct", "abinitio", str(given.star), str(folder / "abinitio"), *words, *threads)
    first = json.loads((folder / "abinitio" / "metrics.json").read_text())
    out: dict[str, float | int | None] = {
        "seed": seed,
        "cpu_s": round(cost, 1),
        "abinitio_angstrom": first["resolution_angstrom"],
        "n_starts": first["n_starts"],
        "start_agreement": min(first["half1_start_agreement"], first["half2_start_agreement"]),
    }
    last = "abinitio"
    if given.refine:
        paths = [str(given.star), str(folder / "abinitio"), str(folder / "refine")]
        out["refine_cpu_s"] = round(run("reconstruct", "refine", *paths, *words, *threads), 1)
        refined = json.loads((folder / "refine" / "metrics.json").read_text())
        out["refine_angstrom"] = refined["resolution_angstrom"]
        last = "refine"
    if given.truth is not None:
        out["truth_angstrom"] = against_truth(folder / last / "map.mrc", given)
    kept.write_text(json.dumps(out))
    return out


def main() -> None:
    """Run the seeds."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("star", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--symmetry", default="C1")
    parser.add_argument("--diameter", type=float, required=True)
    parser.add_argument("--truth", type=Path)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--refine", action="store_true")
    parser.add_argument(
        "--same", type=Path, help="map refined from the truth's low frequencies, same particles"
    )
    parser.add_argument("--write", help="name of the set in benchmarks/results")
    given = parser.parse_args()
    if given.same is not None and given.truth is None:
        parser.error("--same is measured against the truth: give --truth, too")
    torch.set_num_threads(1)
    rows = []
    for seed in range(given.seeds):
        rows.append(one(given, seed))
        print(json.dumps(rows[-1]), flush=True)
    key = "refine_angstrom" if given.refine else "abinitio_angstrom"
    if given.truth is not None:
        key = "truth_angstrom"
    reached = [float(row[key]) for row in rows if row[key] is not None]  # type: ignore[arg-type]
    limit = SUCCESS * min(reached)
    if given.same is not None:
        limit = SAME * float(against_truth(given.same, given) or 0)
    good = sum(value <= limit for value in reached)
    cost = [float(row["cpu_s"] or 0) for row in rows]
    summary = {
        "seeds": len(rows),
        "succeed": good,
        "succeed_to_angstrom": round(limit, 3),
        "cpu_s_median": statistics.median(cost),
        "cpu_s_per_success": round(sum(cost) / good, 1) if good else None,
    }
    print(json.dumps(summary))
    if given.write:
        results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        results[given.write] = {"summary": summary, "seeds": rows}
        RESULTS.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
