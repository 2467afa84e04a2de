"""Particle images and poses as tensors, for the verbs that take them in batches."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from emflow.em.images import ImageSet
from emflow.em.optics import beam_tilt_phase, ctf_values, rfft_frequencies
from emflow.em.poses import euler_to_matrix
from emflow.io.particle_ctf import ctf_of
from emflow.io.particles import Particles, read_images
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
        aberration_of(particles),
    )


def aberration_of(particles: Particles) -> Callable[[Tensor, Tensor, Tensor], Tensor] | None:
    """Phases that take the beam tilt off images, see ``ImageSet.aberration``; None without any tilt in the table."""
    names = sorted(set(particles.groups))
    each = [particles.facts(name) for name in names]
    if not any(any(facts.beam_tilt_mrad) for facts in each):
        return None
    group = torch.tensor([names.index(g) for g in particles.groups], dtype=torch.long)

    def aberration(rows: Tensor, fy: Tensor, fx: Tensor) -> Tensor:
        phases = [beam_tilt_phase(f.beam_tilt_mrad, f.voltage_kv, f.cs_mm, fy, fx) for f in each]
        return torch.stack(phases)[group[rows].to(fy.device)]

    return aberration


def read_mended(particles: Particles, rows: np.ndarray) -> Tensor:
    """Images (n, box, box) with the beam tilt of the table taken off: for those who take no ``ImageSet``."""
    images = torch.from_numpy(read_images(particles, rows))
    aberration = aberration_of(particles)
    if aberration is None or not len(images):
        return images
    size = images.shape[-1]
    pixel = particles.facts(particles.groups[rows[0]]).pixel_size_angstrom
    phase = aberration(torch.from_numpy(rows), *rfft_frequencies((size, size), pixel))
    return torch.fft.irfft2(
        torch.fft.rfft2(images) * torch.polar(torch.ones_like(phase), phase), s=(size, size)
    )


def poses_of(particles: Particles, pixel_size_angstrom: float) -> tuple[Tensor, Tensor]:
    """Poses of a table: A (N, 3, 3) and the shifts (x, y) that centre the particles, in pixels (N, 2); float32."""
    table = particles.table
    angles = np.stack([floats(table, f"rlnAngle{name}") for name in ("Rot", "Tilt", "Psi")], 1)
    origins = np.stack([floats(table, f"rlnOrigin{axis}Angst", 0.0) for axis in "XY"], 1)
    rotations = euler_to_matrix(torch.from_numpy(angles)).float()
    return rotations, torch.from_numpy(origins / pixel_size_angstrom).float()
