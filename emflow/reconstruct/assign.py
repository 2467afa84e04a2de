"""The best pose, and class, of every particle of a half-set on the maps that its search has found."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from emflow.em.grids import local_rotations, shift_grid
from emflow.em.search import (
    References,
    WeightedImages,
    likeliest_shifts,
    log_evidence,
    search_globally,
    search_locally,
)
from emflow.em.slices import Spectrum, volume_spectrum
from emflow.reconstruct.abinitio import CLIMB, HalfSearch, Stage
from emflow.reconstruct.images import weigh

_LEVELS = ((1, 3), (2, 2), (3, 1))
"""Halvings of the global grid, and the candidates that each keeps."""


@dataclass(frozen=True)
class Assigned:
    """Poses of a half-set's particles in the order of its rows, on the CPU."""

    rotations: Tensor
    """A, (n, 3, 3)."""
    shifts_px: Tensor
    """Shifts that centre the particles, in the images' pixels, (n, 2)."""
    number: Tensor
    """Class of each, from 0, (n,)."""


def assign(search: HalfSearch, volumes: Tensor) -> Assigned:
    """Best class and pose of every particle.

    Parameters
    ----------
    search
        Of the half-set.
    volumes
        Maps (K, b, b, b) in the search's box.
    """
    coarse, reach = [], search.full_reach_px
    band = min(search.shape_band, search.band)
    while True:
        stage = search.stage(band, reach)
        coarse.append((stage, search.references(volumes, stage), stage.plane.phases(stage.shifts_px)))
        reach = search.left_px(stage.plane, reach)
        if band >= search.band:
            break
        band = min(2 * band, search.band)
    fine = search.stage(CLIMB[-2][0] * search.band, reach)
    spectra = [volume_spectrum(volume, float(search.plane.radius[-1])) for volume in volumes]
    each = [References.make(spectrum, fine.rotations, fine.plane) for spectrum in spectra]
    phases = fine.plane.phases(fine.shifts_px)
    joined = References.joined(each)
    rotations, shifts, numbers = [], [], []
    for part, transforms, ctf in search.images.batches(search.rows, search.wide):
        weighted = weigh(transforms, ctf, search.noise, search.images.group[part], search.wide)
        centre = torch.zeros(len(part), 2, device=transforms.device)
        for stage, references, shifted in coarse:
            found = likeliest_shifts(weighted.within(len(stage.plane)), references, shifted)
            centre += stage.shifts_px[found]
            weighted = weighted.moved(search.plane.phases(stage.shifts_px[found]))
        number = torch.zeros(len(part), dtype=torch.long, device=centre.device)
        if len(volumes) > 1:
            number = log_evidence(weighted.within(len(fine.plane)), joined, phases, len(volumes)).argmax(1)
        turned, moved = torch.empty(len(part), 3, 3), centre.cpu()
        for k in range(len(volumes)):
            own = (number == k).nonzero()[:, 0]
            if len(own):
                at = own.cpu()
                turned[at], extra = _pose(search, weighted[own], fine, (spectra[k], each[k]))
                moved[at] += extra
        rotations.append(turned)
        shifts.append(moved * search.scale)
        numbers.append(number.cpu())
    return Assigned(torch.cat(rotations), torch.cat(shifts), torch.cat(numbers))


def _pose(
    search: HalfSearch, images: WeightedImages, stage: Stage, reference: tuple[Spectrum, References]
) -> tuple[Tensor, Tensor]:
    """Best pose of centred images on one map: a global search and halvings of its grid. On the CPU."""
    spectrum, references = reference
    found = search_globally(images.within(len(stage.plane)), references, stage.plane, stage.shifts_px, 4)
    spacing = search.spacing_deg(stage.plane)
    step = min(float(stage.shifts_px.norm(dim=1).max()), search.shift_step(stage.plane))
    for level, keep in _LEVELS:
        turns = local_rotations(spacing / 2**level).to(images.data)
        moves = shift_grid(step / 2**level, step / 2**level).to(images.data)
        found = search_locally(images, spectrum, search.plane, found, turns, moves, keep)
    return found.rotations[:, 0].cpu(), found.shifts_px[:, 0].cpu()
