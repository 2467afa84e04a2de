"""The best pose of every particle of a half-set on the map that its search has found."""

from __future__ import annotations

import torch
from torch import Tensor

from emflow.em.grids import local_rotations, shift_grid
from emflow.em.search import References, likeliest_shifts, search_globally, search_locally
from emflow.em.slices import volume_spectrum
from emflow.reconstruct.abinitio import CLIMB, HalfSearch
from emflow.reconstruct.images import weigh

_LEVELS = ((1, 3), (2, 2), (3, 1))
"""Halvings of the global grid, and the candidates that each keeps."""


def assign(search: HalfSearch, volume: Tensor) -> tuple[Tensor, Tensor]:
    """Best pose of every particle: centring from coarse to fine, a global search, halvings of its grid.

    Parameters
    ----------
    search
        Of the half-set.
    volume
        Map (b, b, b) in the search's box.

    Returns
    -------
    Rotations A (n, 3, 3) and the shifts (n, 2) that centre the particles, in the images' pixels, in the order of the
    half-set's rows, on the CPU.
    """
    coarse, reach = [], search.full_reach_px
    band = min(search.shape_band, search.band)
    while True:
        stage = search.stage(band, reach)
        coarse.append((stage, search.references(volume, stage), stage.plane.phases(stage.shifts_px)))
        reach = search.left_px(stage.plane, reach)
        if band >= search.band:
            break
        band = min(2 * band, search.band)
    fine = search.stage(CLIMB[-2][0] * search.band, reach)
    spectrum = volume_spectrum(volume, float(search.plane.radius[-1]))
    references = References.make(spectrum, fine.rotations, fine.plane)
    spacing = search.spacing_deg(fine.plane)
    step = min(float(fine.shifts_px.norm(dim=1).max()), search.shift_step(fine.plane))
    rotations, shifts = [], []

    def find(here: slice, part: Tensor, transforms: Tensor, ctf: Tensor) -> None:
        weighted = weigh(transforms, ctf, search.noise, search.images.group[part], search.wide)
        centre = torch.zeros(len(part), 2, device=transforms.device)
        for stage, slices, phases in coarse:
            likeliest = likeliest_shifts(weighted.within(len(stage.plane)), slices, phases)
            centre += stage.shifts_px[likeliest]
            weighted = weighted.moved(search.plane.phases(stage.shifts_px[likeliest]))
        found = search_globally(weighted.within(len(fine.plane)), references, fine.plane, fine.shifts_px, 4)
        for level, keep in _LEVELS:
            turns = local_rotations(spacing / 2**level).to(weighted.data)
            moves = shift_grid(step / 2**level, step / 2**level).to(weighted.data)
            found = search_locally(weighted, spectrum, search.plane, found, turns, moves, keep)
        own = found.rotations[:, 0].cpu(), (centre + found.shifts_px[:, 0]).cpu() * search.scale
        rotations.append(own[0])
        shifts.append(own[1])

    search.images.each(search.rows, search.wide, find, "images whose poses are searched")
    return torch.cat(rotations), torch.cat(shifts)
