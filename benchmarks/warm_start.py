"""Ten percent more particles: a warm start of `reconstruct refine` beside a full run.

    python benchmarks/warm_start.py FOLDER [--particles 2000] [--added 200] [--box 64] [--seed 0] [--write]

Simulates a set, refines its first particles from the truth at 30 Å, then all of them twice: in full from the
same start, and warm from the first result. Prints one JSON line per run: resolution between the halves,
band FSC to the truth, median pose error of old and of new particles, CPU-seconds. --write keeps them in
benchmarks/results.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from running.cost import run
from torch import Tensor

from emflow.em.fsc import fsc, shell_index
from emflow.em.poses import angular_distance_deg, euler_to_matrix
from emflow.io.mrc import read_mrc, write_mrc
from emflow.io.star import floats, read_star, read_table, write_star

RESULTS = Path(__file__).parent / "results" / "warm_start.json"
START_ANGSTROM = 30.0
EXTENT_ANGSTROM = 217.6
DIAMETER_ANGSTROM = 150
BANDS_ANGSTROM = ((20.0, 10.0), (10.0, 7.0))
POSES = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi", "rlnOriginXAngst", "rlnOriginYAngst")


def prepare(folder: Path, first: int, added: int, box: int, seed: int) -> None:
    """Simulate all particles; first.star names the first of them; start/ holds the truth at low resolution."""
    if (folder / "first.star").exists():
        return
    pixel = EXTENT_ANGSTROM / box
    words = ["--n-particles", str(first + added), "--box-px", str(box), "--pixel-size-angstrom", str(pixel)]
    words += ["--diameter-angstrom", str(DIAMETER_ANGSTROM), "--mass-kda", "200", "--seed", str(seed)]
    words += ["--snr", "0.05", "--max-shift-px", "2", "--envelope-b-factor-angstrom2", "200"]
    run("simulate", "particles", str(folder), *words)
    tables = read_star(folder / "particles.star")
    tables["particles"] = tables["particles"].drop(columns=[*POSES], errors="ignore")
    write_star(folder / "particles.star", tables)
    facts = json.loads((folder / "truth" / "facts.json").read_text())
    truth = torch.from_numpy(read_mrc(folder / "truth" / "volume.mrc"))
    weight = ((EXTENT_ANGSTROM / START_ANGSTROM + 1 - torch.arange(box // 2 + 2)) / 2).clamp(0, 1)
    start = torch.fft.irfftn(torch.fft.rfftn(truth) * weight[shell_index(box)], s=(box,) * 3)
    for half in (1, 2):
        write_mrc(folder / "start" / f"half{half}.mrc", (start * facts["scale"] * pixel).numpy(), pixel)
    tables["particles"] = tables["particles"].iloc[:first]
    write_star(folder / "first.star", tables)


def score(folder: Path, name: str, first: int) -> dict[str, Any]:
    """Compare a refinement with the truth."""
    metrics = json.loads((folder / name / "metrics.json").read_text())
    truth = torch.from_numpy(read_mrc(folder / "truth" / "volume.mrc"))
    merged = torch.from_numpy(read_mrc(folder / name / "half1.mrc") + read_mrc(folder / name / "half2.mrc"))
    curve = fsc(merged, truth)
    bands = [
        float(curve[round(EXTENT_ANGSTROM / coarse) : round(EXTENT_ANGSTROM / fine)].mean())
        for coarse, fine in BANDS_ANGSTROM
    ]
    error = angular_distance_deg(poses(folder / name), poses(folder / "truth")[: metrics["particles"]])
    return {
        "resolution_angstrom": round(metrics["resolution_angstrom"], 3),
        "fsc_to_truth": [round(value, 4) for value in bands],
        "iterations": metrics["iterations"],
        "pose_error_old_deg": round(float(error[:first].median()), 2),
        "pose_error_new_deg": round(float(error[first:].median()), 2) if len(error) > first else None,
    }


def poses(folder: Path) -> Tensor:
    """Rotations of a table."""
    table = read_table(folder / "particles.star", "particles", *POSES[:3])
    return euler_to_matrix(torch.from_numpy(np.stack([floats(table, name) for name in POSES[:3]], 1)))


def main() -> None:
    """All runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--particles", type=int, default=2000)
    parser.add_argument("--added", type=int, default=200)
    parser.add_argument("--box", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    folder = given.folder
    prepare(folder, given.particles, given.added, given.box, given.seed)
    facts = ["--diameter-angstrom", str(DIAMETER_ANGSTROM), "--threads", "1", "--device", "cpu"]
    lines = []
    runs = [("first", "first", "start"), ("full", "particles", "start"), ("warm", "particles", "first")]
    for name, table, start in runs:
        out = folder / name
        cpu = run(
            "reconstruct", "refine", str(folder / f"{table}.star"), str(folder / start), str(out), *facts
        )
        line = {"run": name, "cpu_s": round(cpu, 1)} | score(folder, name, given.particles)
        print(json.dumps(line), flush=True)
        lines.append(line)
    if given.write:
        about = {name: getattr(given, name) for name in ("particles", "added", "box", "seed")}
        note = "simulated, C1, snr 0.05; one thread; CPU-seconds are of the whole command"
        kept = {"command": "python benchmarks/warm_start.py FOLDER --write", "note": note, **about}
        RESULTS.write_text(json.dumps(kept | {"results": lines}, indent=1) + "\n")


if __name__ == "__main__":
    main()
