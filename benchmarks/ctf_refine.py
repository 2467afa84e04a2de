"""Hold `emflow reconstruct ctf` against RELION's `relion_ctf_refine` on the same particles, poses and half maps.

    python benchmarks/ctf_refine.py FOLDER [--particles 1000] [--seed 0] [--no-relion]

Particles are simulated (128 px at 1.6 Å, a generated protein of 220 kDa, SNR 0.08): their defocus spreads by 400 Å
about the micrograph's, the table's value of the micrograph is wrong by 200 Å and its astigmatism by 150 Å, and the
beam is tilted. Both programs get the table's values, the true poses turned by a little, and half maps reconstructed
with these. The result is kept in benchmarks/results/ctf_refine.json. One thread each.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
from pathlib import Path

import numpy as np
import torch

from emflow.em.images import noise_spectra
from emflow.em.poses import matrix_to_euler, rotation_vector_to_matrix
from emflow.io.mrc import write_mrc
from emflow.io.particle_images import image_set, poses_of
from emflow.io.particles import load_particles
from emflow.io.star import floats, read_star, write_star
from emflow.reconstruct.agreement import compare
from emflow.reconstruct.merge import accumulate, particle_mask

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


def simulate(folder: Path, given: argparse.Namespace) -> None:
    """Make the particles, and the table that both programs get."""
    timed(
        ["emflow", "simulate", "particles", str(folder), "--n-particles", str(given.particles),
         "--box-px", "128", "--pixel-size-angstrom", "1.6", "--diameter-angstrom", "130", "--mass-kda", "220",
         "--snr", str(given.snr), "--particles-per-micrograph", "40", "--defocus-min-um", "0.7", "--defocus-max-um",
         "2.0", "--defocus-spread-angstrom", "400", "--beam-tilt-mrad", *map(str, TILT), "--max-shift-px", "2",
         "--threads", "1", "--seed", str(given.seed)]
    )  # fmt: skip
    tables = read_star(folder / "particles.star")
    table = tables["particles"]
    random = np.random.default_rng(given.seed)
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


def reconstruct(star: Path, out: Path) -> None:
    """Half maps, mask and FSC of a table at its poses: what `reconstruct refine` leaves."""
    particles = load_particles(star)
    images = image_set(particles, torch.device("cpu"))
    rotations, shifts = poses_of(particles, images.pixel_size_angstrom)
    plane = images.plane(images.box / 2)
    halves = []
    for number in (1, 2):
        rows = images.rows(number)
        noise = noise_spectra(images, rows, plane)
        halves.append(accumulate(images, rows, rotations[rows], shifts[rows], noise, plane, "C1").solve())
    voxel = images.pixel_size_angstrom
    agreement = compare(halves[0], halves[1], voxel, DIAMETER, "C1")
    out.mkdir(exist_ok=True)
    for number, half in enumerate(halves, start=1):
        write_mrc(out / f"half{number}.mrc", half.numpy(), voxel)
    write_mrc(out / "mask.mrc", particle_mask(0.5 * (halves[0] + halves[1]), agreement).numpy(), voxel)
