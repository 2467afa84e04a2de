"""Shells against local regularisation in refinement: a hinge, a rigid specimen and pure noise, of known truth.

    python benchmarks/nonuniform.py FOLDER [hinge rigid noise] [--seeds 0 1 2] [--fixed] [--write]

Makes the stacks with `emflow simulate particles`. From the truth low-passed to 30 Å, one global iteration is run
once; from there both regularisations go the same number of local iterations. Prints one JSON line per set, seed and
regularisation: pose error; mean FSC to the truth of the references and of the mean of the raw halves, in the rigid
and in the moving part and over all; resolution by the halves (0.143) and against truth (0.5); CPU-seconds of the
local iterations. --fixed only compares the references that both make of the same half maps. --write keeps the
results, with medians over the seeds, in benchmarks/results.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from emflow.device import generator
from emflow.em.fsc import fsc, resolution_at
from emflow.em.images import noise_spectra
from emflow.em.masks import lowpass, solvent_mask
from emflow.em.poses import angular_distance_deg, euler_to_matrix, quaternion_to_matrix
from emflow.io.mrc import map_mrc, read_header, read_mrc, write_mrc
from emflow.io.particle_images import image_set
from emflow.io.particles import load_particles
from emflow.io.star import floats
from emflow.reconstruct.agreement import compare
from emflow.reconstruct.config import ReconstructRefine
from emflow.reconstruct.nonuniform import regularise_locally
from emflow.reconstruct.refine import HalfState, Refinement
from emflow.reconstruct.resume import start_state

SETS = {
    "hinge": ["--n-angles", "1", "--n-domains", "2", "--angle-range-deg", "60", "--n-state-volumes", "3"],
    "rigid": ["--n-domains", "2"],
    "noise": ["--n-domains", "2"],
}
DIAMETER_ANGSTROM = 200.0
RESULTS = Path(__file__).parent / "results" / "nonuniform.json"


def prepare(kind: str, folder: Path, given: argparse.Namespace, seed: int) -> None:
    """Make a stack, once."""
    if (folder / "particles.star").exists():
        return
    sizes = {"n-particles": given.particles, "box-px": given.box, "snr": given.snr, "seed": seed}
    words = [word for name, value in sizes.items() for word in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "emflow.cli", "simulate", "particles", str(folder), *words, *SETS[kind]]
    subprocess.run(command, check=True)
    if kind == "noise":
        stack = folder / "particles.mrcs"
        noise = np.random.default_rng(seed).standard_normal(map_mrc(stack).shape, dtype=np.float32)
        write_mrc(stack, noise, read_header(stack).voxel_size_angstrom)


def parts(folder: Path, truth: Tensor, voxel: float) -> dict[str, Tensor]:
    """Masks of the whole mean map and, where there are two bodies, of the one that rests and of the rest."""
    masks = {"all": solvent_mask(lowpass(truth, voxel, 15.0), voxel).mask}
    resting = folder / "truth" / "bodies" / "body_0.mrc"
    if resting.exists():
        masks["rigid"] = solvent_mask(
            lowpass(torch.from_numpy(read_mrc(resting)), voxel, 15.0), voxel, dilate_angstrom=0
        ).mask
        masks["moving"] = masks["all"] * (1 - masks["rigid"])
    return masks


def measure(kind: str, folder: Path, given: argparse.Namespace) -> list[dict[str, Any]]:
    """Refine one set both ways and compare with the truth."""
    source = load_particles(folder / "particles.star")
    images = image_set(source, torch.device("cpu"))
    voxel = images.pixel_size_angstrom
    angles = [floats(source.table, f"rlnAngle{name}") for name in ("Rot", "Tilt", "Psi")]
    true = euler_to_matrix(torch.from_numpy(np.stack(angles, 1))).float()
    truth = torch.from_numpy(read_mrc(folder / "truth" / "volume.mrc"))
    masks = parts(folder, truth, voxel)
    scale = json.loads((folder / "truth" / "facts.json").read_text())["scale"]
    first = lowpass(truth * scale, voxel, 30.0)
    settings = {"diameter_angstrom": DIAMETER_ANGSTROM, "global_iterations": 1}
    refinement = Refinement(images, DIAMETER_ANGSTROM, ReconstructRefine(**settings))
    begun = refinement.iterate(start_state(refinement, (first, first), voxel))
    rows = []
    for way in ("shells", "local"):
        refinement.cfg = ReconstructRefine(**settings, regularisation=way)
        state, before = copy.deepcopy(begun), time.process_time()
        for _ in range(given.iterations):
            state = refinement.iterate(state)
        spent = time.process_time() - before
        raw = [refinement.accumulate(half).solve() for half in state.halves]
        agreement = compare(raw[0], raw[1], voxel, DIAMETER_ANGSTROM, "C1")
        if agreement.found:
            mean_mask = solvent_mask((raw[0] + raw[1]) / 2 * refinement.sphere, voxel).mask
            agreement = compare(raw[0], raw[1], voxel, DIAMETER_ANGSTROM, "C1", mean_mask)
        error = torch.cat([angular_distance_deg(h.rotations, true[h.rows]) for h in state.halves])
        row: dict[str, Any] = {
            "regularisation": way,
            "pose_error_median_deg": float(error.median()),
            "pose_error_90_percent_deg": float(error.quantile(0.9)),
            "resolution_halves_angstrom": agreement.claim_angstrom,
            "iterations_cpu_s": spent,
        }
        mean = (raw[0] + raw[1]) / 2
        for name, mask in masks.items():
            target = truth * mask
            to_truth = fsc(mean * mask, target)
            row[f"fsc_area_map_{name}"] = float(to_truth[1:-1].mean())
            row[f"fsc_area_reference_{name}"] = statistics.mean(
                float(fsc(half.volume * mask, target)[1:-1].mean()) for half in state.halves
            )
            if name == "all":
                row["resolution_truth_angstrom"] = resolution_at(
                    to_truth, 0.5, images.box, voxel, interpolate=True
                )
        rows.append(row)
    return rows


def measure_references(folder: Path) -> list[dict[str, Any]]:
    """Compare both regularisations of one pair of half maps, from true poses turned by about 2°."""
    source = load_particles(folder / "particles.star")
    images = image_set(source, torch.device("cpu"))
    voxel = images.pixel_size_angstrom
    angles = [floats(source.table, f"rlnAngle{name}") for name in ("Rot", "Tilt", "Psi")]
    shifts = [floats(source.table, f"rlnOrigin{name}Angst") for name in "XY"]
    true = euler_to_matrix(torch.from_numpy(np.stack(angles, 1))).float()
    error = torch.randn(len(true), 3, generator=generator(0)) * math.radians(1.3)
    half_turn = torch.cat([torch.ones(len(true), 1), error / 2], 1)
    turned = quaternion_to_matrix(half_turn / half_turn.norm(dim=1, keepdim=True)) @ true
    truth = torch.from_numpy(read_mrc(folder / "truth" / "volume.mrc"))
    settings = {"diameter_angstrom": DIAMETER_ANGSTROM}
    refinement = Refinement(images, DIAMETER_ANGSTROM, ReconstructRefine(**settings))
    origin = torch.from_numpy(np.stack(shifts, 1)).float() / voxel
    halves = []
    for rows in (images.rows(1), images.rows(2)):
        noise = noise_spectra(images, rows, refinement.plane)
        halves.append(HalfState(rows, truth, noise, turned[rows], origin[rows], torch.zeros(len(rows))))
    sums = [refinement.accumulate(half) for half in halves]
    raw = [half.solve() for half in sums]
    filling = max(share for _, share in refinement.regularise(sums, raw, refinement.compare(raw, 1.0)))
    curve = refinement.compare(raw, filling)
    out = []
    for way in ("shells", "local"):
        refinement.cfg = ReconstructRefine(**settings, regularisation=way)
        row: dict[str, Any] = {"regularisation": way}
        references = refinement.regularise(sums, raw, curve)
        for name, mask in parts(folder, truth, voxel).items():
            curves = [fsc(volume * mask, truth * mask)[1:-1] for volume, _ in references]
            row[f"fsc_area_reference_{name}"] = float(torch.stack(curves).mean())
        out.append(row)
    return out


def cost() -> dict[str, float]:
    """CPU-seconds of the local regularisation alone, per box."""
    spent = {}
    for box in (64, 128):
        half = torch.randn(box, box, box, generator=generator(0))
        pair, before = (half, half), time.process_time()  # that agree in every band: none is left out
        regularise_locally(pair, pair, torch.ones(box, box, box), 1.0)
        spent[str(box)] = round(time.process_time() - before, 2)
    return spent


def medians(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Medians over the seeds of every set and regularisation."""
    out = []
    about = ("poses", "set", "regularisation")
    for group in sorted({tuple(row[name] for name in about) for row in rows}):
        chosen = [row for row in rows if tuple(row[name] for name in about) == group]
        line: dict[str, Any] = dict(zip(about, group, strict=True)) | {"seeds": len(chosen)}
        for name in chosen[0]:
            told = [row[name] for row in chosen if row.get(name) is not None]
            if name not in (*about, "seed") and told:
                line[name] = round(statistics.median(told), 4)
        out.append(line)
    return out


def main() -> None:
    """Run the sets."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("sets", nargs="*", default=list(SETS))
    parser.add_argument("--particles", type=int, default=1200)
    parser.add_argument("--box", type=int, default=64)
    parser.add_argument("--snr", type=float, default=0.05)
    parser.add_argument("--iterations", type=int, default=4)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--fixed", action="store_true", help="references from true poses turned by 2°; no search"
    )
    parser.add_argument("--write", action="store_true", help="keep in benchmarks/results")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for seed in given.seeds:
        for kind in given.sets:
            folder = given.folder / f"{kind}_{given.particles}_{given.box}_{given.snr:g}_{seed}"
            prepare(kind, folder, given, seed)
            measured = measure_references(folder) if given.fixed else measure(kind, folder, given)
            for row in measured:
                rounded = {k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}
                poses = "true, turned by 2°" if given.fixed else "refined"
                rows.append({"set": kind, "seed": seed, "poses": poses, **rounded})
                print(json.dumps(rows[-1]), flush=True)
    if given.write:
        keep(rows, given)


def identity(row: dict[str, Any]) -> tuple[Any, ...]:
    """What a row is about."""
    return row["poses"], row["set"], row["seed"], row["regularisation"]


def keep(rows: list[dict[str, Any]], given: argparse.Namespace) -> None:
    """Put results among those kept, in place of older ones of the same sets and seeds."""
    kept = json.loads(RESULTS.read_text())["results"] if RESULTS.is_file() else []
    new = {identity(row) for row in rows}
    rows = sorted([*(row for row in kept if identity(row) not in new), *rows], key=identity)
    about = {
        "command": "python benchmarks/nonuniform.py FOLDER hinge rigid noise --seeds 0 1 2 --write [--fixed]",
        "note": "one thread; fsc_area is the mean FSC to the true mean map from the first shell to the last but one",
        "particles": given.particles,
        "box_px": given.box,
        "snr": given.snr,
        "local_iterations": given.iterations,
        "local_regularisation_cpu_s_by_box": cost(),
        "medians": medians(rows),
        "results": rows,
    }
    RESULTS.write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main()
