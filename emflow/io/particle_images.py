"""Particle images and poses as tensors, for the verbs that take them in batches."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from emflow.em.images import ImageSet
from emflow.em.optics import ctf_values
from emflow.em.poses import euler_to_matrix
from emflow.io.particles import Particles, ctf_of, read_images
from emflow.io.star import floats, integers
from emflow.step import EmflowError


def image_set(particles: Particles, device: torch.device) -> ImageSet:
    """Give the verbs their images, read in batches."""
    facts = particles.common_facts()
    if facts.box_px % 2:
        raise EmflowError(f"Boxes of {facts.box_px} px are odd; extract with an even box.")
    names = {name: number for number, name in enumerate(sorted(set(particles.groups)))}
    group = torch.tensor([names[g] for g in particles.groups], dtype=torch.long)
    place = torch.zeros(len(group), dtype=torch.long)
    parameters = []
    for number in range(len(names)):
        own = torch.nonzero(group == number)[:, 0]
        place[own] = torch.arange(len(own))
        parameters.append(ctf_of(particles, own.numpy()))

    def read(rows: Tensor) -> Tensor:
        return torch.from_numpy(read_images(particles, rows.numpy()))

    def ctf(rows: Tensor, fy: Tensor, fx: Tensor) -> Tensor:
        out = torch.empty(len(rows), len(fy), device=fy.device)
        for number in group[rows].unique().tolist():
            here = torch.nonzero(group[rows] == number)[:, 0]
            values = parameters[number][place[rows[here]]].to(fy.device)
            out[here.to(fy.device)] = ctf_values(values, fy, fx)
        return out

    return ImageSet(
        read,
        ctf,
        facts.box_px,
        facts.pixel_size_angstrom,
        torch.from_numpy(integers(particles.table, "rlnRandomSubset")),
        group,
        device,
    )


def poses_of(particles: Particles, pixel_size_angstrom: float) -> tuple[Tensor, Tensor]:
    """Poses of a table: A (N, 3, 3) and the shifts (x, y) that centre the particles, in pixels (N, 2); float32."""
    table = particles.table
    angles = np.stack([floats(table, f"rlnAngle{name}") for name in ("Rot", "Tilt", "Psi")], 1)
    origins = np.stack([floats(table, f"rlnOrigin{axis}Angst", 0.0) for axis in "XY"], 1)
    rotations = euler_to_matrix(torch.from_numpy(angles)).float()
    return rotations, torch.from_numpy(origins / pixel_size_angstrom).float()
