"""What the refinement of the CTF takes from a particle table."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from emflow.em.images import ImageSet
from emflow.em.optics import Ctf
from emflow.io.particle_ctf import ctf_columns, envelope_of
from emflow.io.particle_images import poses_of
from emflow.io.particles import Particles
from emflow.io.star import floats
from emflow.reconstruct.ctf_match import Views
from emflow.step import EmflowError


def views_of(particles: Particles, images: ImageSet) -> Views:
    """Poses, CTF and micrographs of all particles.

    Raises
    ------
    EmflowError
        If the table has no poses or no micrograph names.
    """
    table = particles.table
    for column in ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi", "rlnMicrographName"):
        if column not in table:
            raise EmflowError(
                f"The particles lack the column _{column}: give the particles.star of `emflow reconstruct refine`, "
                "whose poses belong to its half maps."
            )
    rotations, shifts = poses_of(particles, images.pixel_size_angstrom)
    columns = ctf_columns(particles)
    u, v, angle, phase = (
        torch.from_numpy(columns[name].astype(np.float32))
        for name in ("defocus_u_um", "defocus_v_um", "defocus_angle_deg", "phase_shift_deg")
    )
    groups = [particles.facts(name) for name in sorted(set(particles.groups))]
    envelope = envelope_of(particles)
    ctf = tuple(
        Ctf(u, v, angle, facts.voltage_kv, facts.cs_mm, facts.amplitude_contrast, phase, **envelope)
        for facts in groups
    )
    return Views(rotations, shifts, ctf, _numbers(table["rlnMicrographName"].tolist()))


def _numbers(names: list[str]) -> Tensor:
    """Number of each name, in the order in which they first stand."""
    order = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return torch.tensor([order[name] for name in names], dtype=torch.long)


def places_of(particles: Particles, micrograph: Tensor) -> Tensor:
    """Coordinates of each particle about its micrograph's mean, in units of one deviation for all: (N, 2)."""
    columns = [floats(particles.table, f"rlnCoordinate{axis}", 0.0) for axis in "XY"]
    place = torch.from_numpy(np.stack(columns, 1))
    counts = torch.bincount(micrograph).double().clamp(min=1)
    centre = torch.zeros(len(counts), 2, dtype=torch.float64).index_add_(0, micrograph, place)
    place = place - (centre / counts[:, None])[micrograph]
    return (place / place.std().clamp(min=1e-6)).float()
