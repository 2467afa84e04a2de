"""Hold `emflow reconstruct ctf` against RELION's `relion_ctf_refine` on the same particles, poses and half maps.

    python benchmarks/ctf_refine.py FOLDER [--particles 1600] [--snr 0.1] [--seeds 0]

Particles are simulated (128 px at 1.6 Å, a generated protein of 220 kDa): their defocus spreads by 400 Å
about the micrograph's, the table's value of the micrograph is wrong by 200 Å and its astigmatism by 150 Å, and the
beam is tilted. Both programs get the table's values, the true poses turned by a little, and half maps reconstructed
with these. The result is kept in benchmarks/results/ctf_refine.json. One thread each.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from emflow.em.fsc import fsc, resolution_at
from emflow.em.poses import matrix_to_euler, rotation_vector_to_matrix
from emflow.io.mrc import read_mrc, write_mrc
from emflow.io.particle_images import image_set, poses_of
from emflow.io.particles import load_particles
from emflow.io.star import floats, read_star, write_star
from emflow.reconstruct.agreement import compare
from emflow.reconstruct.config import ReconstructCtf
from emflow.reconstruct.ctf_refine import CtfRefinement, make_matcher
from emflow.reconstruct.inputs import read_halves
from emflow.reconstruct.inputs_ctf import places_of, views_of
from emflow.reconstruct.merge import particle_mask, reconstruct_halves

RESULTS = Path(__file__).parent / "results" / "ctf_refine.json"
DIAMETER = 136.0
TILT = (0.5, -0.3)
POSE_ERROR_DEG, SHIFT_ERROR_ANGSTROM = 0.7, 0.3
MICROGRAPH_ERROR_ANGSTROM, ASTIGMATISM_ERROR_ANGSTROM = 200.0, 150.0


def timed(command: list[str], folder: Path | None = None, log: Path | None = None) -> float:
    """Run a command; its CPU seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        command,
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if log is not None:
        log.write_text(done.stdout)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout[-2000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def simulate(folder: Path, given: argparse.Namespace, seed: int) -> None:
    """Make the particles, and the table that both programs get."""
    timed(
        ["emflow", "simulate", "particles", str(folder), "--n-particles", str(given.particles),
         "--box-px", "128", "--pixel-size-angstrom", "1.6", "--diameter-angstrom", "130", "--mass-kda", "220",
         "--snr", str(given.snr), "--particles-per-micrograph", "40", "--defocus-min-um", "0.7", "--defocus-max-um",
         "2.0", "--defocus-spread-angstrom", "400", "--beam-tilt-mrad", *map(str, TILT), "--max-shift-px", "2",
         "--threads", "1", "--seed", str(seed)]
    )  # fmt: skip
    tables = read_star(folder / "particles.star")
    table = tables["particles"]
    random = np.random.default_rng(seed)
    names, code = np.unique(table["rlnMicrographName"], return_inverse=True)
    u, v, angle = (floats(table, f"rlnDefocus{part}") for part in ("U", "V", "Angle"))
    mean = (u + v) / 2 + (MICROGRAPH_ERROR_ANGSTROM * random.standard_normal(len(names)))[code]
    vector = (u - v) / 2 * np.exp(2j * np.deg2rad(angle))
    wrong = random.standard_normal((2, len(names))) * ASTIGMATISM_ERROR_ANGSTROM / np.sqrt(2)
    vector = vector + (wrong[0] + 1j * wrong[1])[code]
    rotations, _ = poses_of(load_particles(folder / "particles.star"), 1.6)
    turn = torch.from_numpy(random.standard_normal((len(table), 3)) * np.deg2rad(POSE_ERROR_DEG) / np.sqrt(3))
    angles = matrix_to_euler(rotation_vector_to_matrix(turn) @ rotations.double()).numpy()
    shifts = random.standard_normal((2, len(table))) * SHIFT_ERROR_ANGSTROM
    table = table.assign(
        rlnImageName=[name.replace("@", f"@{folder.resolve()}/") for name in table["rlnImageName"]],
        rlnDefocusU=mean + np.abs(vector),
        rlnDefocusV=mean - np.abs(vector),
        rlnDefocusAngle=np.rad2deg(np.angle(vector)) / 2,
        rlnAngleRot=angles[:, 0],
        rlnAngleTilt=angles[:, 1],
        rlnAnglePsi=angles[:, 2],
        rlnOriginXAngst=floats(table, "rlnOriginXAngst") + shifts[0],
        rlnOriginYAngst=floats(table, "rlnOriginYAngst") + shifts[1],
    )
    write_star(folder / "given.star", {**tables, "particles": table})


def simulated(folder: Path, given: argparse.Namespace, seed: int) -> None:
    """Make a set once."""
    if not (folder / "refined" / "mask.mrc").exists():
        simulate(folder, given, seed)
        reconstruct(folder / "given.star", folder / "refined")


def reconstruct(star: Path, out: Path) -> tuple[Tensor, Tensor]:
    """Half maps and mask of a table at its poses: what `reconstruct refine` leaves."""
    particles = load_particles(star)
    images = image_set(particles, torch.device("cpu"))
    voxel = images.pixel_size_angstrom
    rotations, shifts = poses_of(particles, voxel)
    halves = reconstruct_halves(images, rotations, shifts, "C1")
    agreement = compare(halves[0], halves[1], voxel, DIAMETER, "C1")
    out.mkdir(exist_ok=True)
    for number, half in enumerate(halves, start=1):
        write_mrc(out / f"half{number}.mrc", half.numpy(), voxel)
    mean = 0.5 * (halves[0] + halves[1])
    write_mrc(out / "mask.mrc", particle_mask(mean, agreement).numpy(), voxel)
    return halves[0], halves[1]


def relion(folder: Path) -> dict[str, float]:
    """Run RELION on the set; its cost."""
    (folder / "relion").mkdir(exist_ok=True)
    (folder / "post").mkdir(exist_ok=True)  # for the log that it writes
    halves = [f"refined/half{number}.mrc" for number in (1, 2)]
    timed(
        ["relion_postprocess", "--i", halves[0], "--i2", halves[1], "--o", "post", "--mask", "refined/mask.mrc",
         "--angpix", "1.6"],
        folder,
    )  # fmt: skip
    cost = timed(
        ["relion_ctf_refine", "--i", "given.star", "--f", "post.star", "--m1", halves[0], "--m2", halves[1],
         "--mask", "refined/mask.mrc", "--o", "relion/", "--fit_defocus", "--fit_mode", "fpmff", "--fit_beamtilt",
         "--j", "1"],
        folder,
    )  # fmt: skip
    return {"cpu_s": round(cost, 1)}


def ours(folder: Path) -> dict[str, float]:
    """Run emflow on the set; its cost, with and without start-up, pictures and the new half maps."""
    whole = timed(
        ["emflow", "reconstruct", "ctf", "given.star", "refined", "emflow", "--diameter-angstrom", str(DIAMETER),
         "--threads", "1"],
        folder,
    )  # fmt: skip
    cfg = ReconstructCtf(diameter_angstrom=DIAMETER)
    particles = load_particles(folder / "given.star")
    halves, _ = read_halves(folder / "refined")
    before = time.process_time()
    images = image_set(particles, torch.device("cpu"))
    views = views_of(particles, images)
    matcher = make_matcher(images, views, halves, DIAMETER, cfg)
    CtfRefinement(matcher, places_of(particles, views.micrograph), cfg).run()
    return {"cpu_s": round(whole, 1), "fit_cpu_s": round(time.process_time() - before, 1)}


def defoci(table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Mean defocus and astigmatism as a complex number, U − V at twice the angle; Å."""
    u, v, angle = (floats(table, f"rlnDefocus{part}") for part in ("U", "V", "Angle"))
    return (u + v) / 2, (u - v) * np.exp(2j * np.deg2rad(angle))


def score(folder: Path, name: str, star: Path) -> dict[str, float]:
    """Errors of a table against the truth, and what its map is worth."""
    truth = read_star(folder / "truth" / "particles.star")["particles"]
    tables = read_star(star)
    table = tables["particles"]
    order = {identity: row for row, identity in enumerate(table["emflowParticleId"])}
    table = table.iloc[[order[identity] for identity in truth["emflowParticleId"]]]
    mean, vector = defoci(table)
    true_mean, true_vector = defoci(truth)
    error = np.abs(mean - true_mean)
    tilt = [float(floats(tables["optics"], f"rlnBeamTilt{axis}", 0.0)[0]) for axis in "XY"]
    halves = reconstruct(star, folder / f"map_{name}")
    mask = torch.from_numpy(read_mrc(folder / "refined" / "mask.mrc"))
    true = torch.from_numpy(read_mrc(folder / "truth" / "volume.mrc"))
    curve = fsc(0.5 * (halves[0] + halves[1]) * mask, true * mask)
    extent = 128 * 1.6
    fine = slice(round(extent / 8), round(extent / 4) + 1)
    out = {
        "defocus_error_median_angstrom": float(np.median(error)),
        "defocus_error_90_percent_angstrom": float(np.quantile(error, 0.9)),
        "astigmatism_error_median_angstrom": float(np.median(np.abs(vector - true_vector))),
        "beam_tilt_x_mrad": tilt[0],
        "beam_tilt_y_mrad": tilt[1],
        "beam_tilt_error_mrad": float(np.hypot(tilt[0] - TILT[0], tilt[1] - TILT[1])),
        "fsc_to_truth_8_to_4_angstrom": float(curve[fine].mean()),
        "fsc_to_truth_05_angstrom": resolution_at(curve, 0.5, 128, 1.6) or float("nan"),
    }
    if "emflowDefocusDeviation" in table:
        stated = floats(table, "emflowDefocusDeviation")
        out["defocus_error_over_stated_rms"] = float(np.sqrt(np.mean((error / stated) ** 2)))
    return {key: round(value, 3) for key, value in out.items()}


def honoured(folder: Path) -> dict[str, float]:
    """FSC to the truth of RELION's own reconstruction with emflow's tilt, without it and with its opposite."""
    tables = read_star(folder / "emflow" / "particles.star")
    mask = torch.from_numpy(read_mrc(folder / "refined" / "mask.mrc"))
    true = torch.from_numpy(read_mrc(folder / "truth" / "volume.mrc")) * mask
    out = {}
    for name, sign in (("as_found", 1.0), ("none", 0.0), ("opposite", -1.0)):
        optics = tables["optics"].assign(
            **{f"rlnBeamTilt{axis}": sign * floats(tables["optics"], f"rlnBeamTilt{axis}") for axis in "XY"}
        )
        write_star(folder / "tilted.star", {**tables, "optics": optics})
        timed(["relion_reconstruct", "--i", "tilted.star", "--o", "tilted.mrc", "--ctf"], folder)
        volume = torch.from_numpy(read_mrc(folder / "tilted.mrc"))
        curve = fsc(volume * mask, true)
        out[name] = round(float(curve[round(204.8 / 8) : round(204.8 / 4) + 1].mean()), 3)
    return out


def exact(folder: Path) -> Path:
    """The table with the true CTF and tilt at the poses that were given: what can be reached."""
    truth, given = read_star(folder / "truth" / "particles.star"), read_star(folder / "given.star")
    poses = (
        ["rlnImageName"]
        + [f"rlnAngle{name}" for name in ("Rot", "Tilt", "Psi")]
        + [f"rlnOrigin{axis}Angst" for axis in "XY"]
    )
    table = truth["particles"].assign(**{name: given["particles"][name].to_numpy() for name in poses})
    write_star(folder / "exact.star", {**truth, "particles": table})
    return folder / "exact.star"


def main() -> None:
    """Run the sets and keep the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--particles", type=int, default=1600)
    parser.add_argument("--snr", type=float, default=0.1)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    given = parser.parse_args()
    torch.set_num_threads(1)
    sets = []
    for seed in given.seeds:
        folder = given.folder / f"{given.particles}_{given.snr:g}_{seed}"
        simulated(folder, given, seed)
        costs = {"emflow": ours(folder), "relion": relion(folder)}
        stars = {
            "table": folder / "given.star",
            "emflow": folder / "emflow" / "particles.star",
            "relion": folder / "relion" / "particles_ctf_refine.star",
            "truth": exact(folder),
        }
        result: dict[str, Any] = {"seed": seed, "particles": given.particles, "snr": given.snr}
        for name, star in stars.items():
            result[name] = {**score(folder, name, star), **costs.get(name, {})}
        result["relion_reconstruct_fsc_to_truth"] = honoured(folder)
        print(json.dumps(result, indent=1), flush=True)
        sets.append(result)
    about = {
        "command": "python benchmarks/ctf_refine.py FOLDER",
        "truth": {"beam_tilt_mrad": TILT, "defocus_spread_angstrom": 400},
        "relion": "3.1.3 of Debian (double precision): relion_ctf_refine --fit_defocus --fit_mode fpmff --fit_beamtilt",
        "note": "CPU seconds of whole commands, one thread; fit_cpu_s is without start-up, pictures and new half maps",
        "sets": sets,
    }
    RESULTS.write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main()
