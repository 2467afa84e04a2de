"""3D classes on simulated stacks with known compositions: poses free and fixed, a focus mask, one state, pure noise.

    python benchmarks/classes3d.py FOLDER [fixed global whole focused homogeneous noise] [--seeds 0 1] [--write]

Makes the stacks with `emflow simulate particles`, runs `emflow reconstruct classes` on them, and prints one JSON line
per set and seed: adjusted Rand index with the truth, that between the half-sets, the first verdict, CPU-seconds.
`global` takes the poses away and starts both halves from the mean map, low-passed to 40 Å. `whole` and `focused` are
two compositions that differ by a small domain, without and with a mask on it. RELION's Class3D is not run beside it:
at its 0.25 s per image evaluation (PEERS' figure, 64 px, one class) a blind run of 25 iterations with five classes
would take more than a day of CPU time for 3 000 images.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from running.cost import run
from running.simulated_sets import run_sets
from sklearn.metrics import adjusted_rand_score

from emflow.em.masks import lowpass, solvent_mask
from emflow.em.poses import angular_distance_deg, euler_to_matrix
from emflow.io.mrc import map_mrc, read_header, read_mrc, write_mrc
from emflow.io.star import floats, integers, read_star, write_star

SETS = {
    "fixed": ["--n-compositions", "5"],
    "global": ["--n-compositions", "5"],
    "whole": ["--n-compositions", "2", "--n-domains", "10"],
    "focused": ["--n-compositions", "2", "--n-domains", "10"],
    "homogeneous": [],
    "noise": [],
}
CLASSES = {"fixed": 5, "global": 5, "whole": 2, "focused": 2, "homogeneous": 3, "noise": 3}
RESULTS = Path(__file__).parent / "results" / "classes3d.json"
START_ANGSTROM = 40.0


def prepare(kind: str, folder: Path, particles: int, box: int, snr: float, seed: int) -> None:
    """Make the stack, and what the set needs beside it, once."""
    if (folder / "start.mrc").exists():
        return
    sizes = ["--n-particles", str(particles), "--box-px", str(box), "--snr", str(snr), "--seed", str(seed)]
    run("simulate", "particles", str(folder), *sizes, *SETS[kind])
    stack = folder / "particles.mrcs"
    voxel = read_header(stack).voxel_size_angstrom
    if kind == "noise":
        noise = np.random.default_rng(seed).standard_normal(map_mrc(stack).shape, dtype=np.float32)
        write_mrc(stack, noise, voxel)
    if kind == "global":
        tables = read_star(folder / "particles.star")
        known = [name for name in tables["particles"] if "Angle" in str(name) and "Defocus" not in str(name)]
        table = tables["particles"].drop(columns=known).drop(columns=["rlnOriginXAngst", "rlnOriginYAngst"])
        write_star(folder / "particles.star", {**tables, "particles": table})
    if kind == "focused":
        states = [read_mrc(folder / "truth" / "states" / f"00{number}.mrc") for number in (1, 2)]
        part = lowpass(torch.from_numpy(states[0] - states[1]), voxel, 15.0)
        mask = solvent_mask(part, voxel, lowpass_angstrom=15.0, dilate_angstrom=8.0, edge_angstrom=12.0)
        write_mrc(folder / "focus.mrc", mask.mask.numpy(), voxel)
    volume = torch.from_numpy(read_mrc(folder / "truth" / "volume.mrc"))
    write_mrc(folder / "start.mrc", lowpass(volume, voxel, START_ANGSTROM).numpy(), voxel)


def score(kind: str, folder: Path) -> dict[str, float | int | str]:
    """Compare classes with the truth."""
    truth = read_star(folder / "truth" / "particles.star")["particles"]
    found = read_star(folder / "classes" / "particles.star")["particles"]
    assert truth["emflowParticleId"].tolist() == found["emflowParticleId"].tolist()
    metrics = json.loads((folder / "classes" / "metrics.json").read_text())
    first = json.loads((folder / "classes" / "verdicts.json").read_text())[0]
    out: dict[str, float | int | str] = {
        "verdict": first["verdict"],
        "evidence": first["evidence"],
        "adjusted_rand_between_halves": metrics["adjusted_rand_between_halves"],
    }
    if kind not in ("homogeneous", "noise"):
        labels = integers(found, "rlnClassNumber")
        out["ari"] = adjusted_rand_score(integers(truth, "emflowState"), labels)
    if kind == "global":
        poses = []
        for table in (truth, found):
            names = [f"rlnAngle{name}" for name in ("Rot", "Tilt", "Psi")]
            poses.append(euler_to_matrix(torch.from_numpy(np.stack([floats(table, n) for n in names], 1))))
        error = angular_distance_deg(*poses)
        out["pose_error_median_deg"] = float(error.median())
        out["pose_error_90_deg"] = float(error.quantile(0.9))
    return out


def measure(kind: str, seed: int, given: argparse.Namespace) -> dict[str, object]:
    """Make, classify and score one set."""
    folder = given.folder / f"{kind}_{given.particles}_{given.box}_{given.snr:g}_{seed}"
    prepare(kind, folder, given.particles, given.box, given.snr, seed)
    words = ["--n-classes", str(CLASSES[kind]), "--diameter-angstrom", "200", "--n-starts", str(given.starts)]
    if kind == "global":
        words += ["--poses", "global", "--start", str(folder / "start.mrc")]
    else:
        words += ["--poses", "fixed"]
    if kind == "focused":
        words += ["--mask", str(folder / "focus.mrc")]
    cpu = run("reconstruct", "classes", str(folder / "particles.star"), str(folder / "classes"), *words)
    about = {
        "set": kind, "seed": seed, "particles": given.particles, "box_px": given.box, "snr": given.snr,
        "classes": CLASSES[kind], "starts": given.starts,
    }  # fmt: skip
    rounded = {k: round(v, 4) if isinstance(v, float) else v for k, v in score(kind, folder).items()}
    return about | rounded | {"cpu_s": round(cpu, 1)}


def keep(result: dict[str, object]) -> None:
    """Put a result among those kept, in place of an older one of the same set."""
    identity = ("set", "seed", "particles", "box_px", "snr", "classes", "starts")
    kept = json.loads(RESULTS.read_text())["results"] if RESULTS.is_file() else []
    kept = [row for row in kept if any(row[name] != result[name] for name in identity)]
    kept = sorted([*kept, result], key=lambda row: [str(row[name]) for name in identity])
    about = {
        "command": "python benchmarks/classes3d.py FOLDER SET... --seeds 0 1 ... --write",
        "note": "one thread; half-sets alternate by micrograph and are sorted apart; ARI over both together. "
        "RELION's Class3D was not run: too dear.",
        "results": kept,
    }
    RESULTS.write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    run_sets(__doc__, SETS, measure, keep, particles=3000, box=64, snr=0.1, starts=2)
