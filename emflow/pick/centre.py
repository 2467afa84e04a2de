"""Centre picks on the whole particle.

A template learnt from one micrograph may sit on whatever part of a particle stands out most, a lobe of an
elongated one, and always the same. Later steps look for the centre within a small part of the diameter only, so
each pick moves to where a blob of the particle's size fits best.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from emflow.pick.filters import gaussian_blur
from emflow.pick.peaks import suppress

INNER, OUTER = 0.25, 0.625
"""Deviations of the two Gaussians of the blob, in diameters: a quarter finds centres best, from round to three-lobed."""


def centre_picks(
    image: Tensor, place: Tensor, reach_px: float, diameter_px: float, min_distance_px: float
) -> tuple[Tensor, np.ndarray]:
    """Move picks to the best fit of a difference of Gaussians nearby.

    Parameters
    ----------
    image
        Locally normalised image (y, x), protein bright, zero on contamination.
    place
        Pixels (n, 2) as y, x, best first.
    reach_px
        How far a pick may move, in pixels of ``image``.
    diameter_px
        Diameter of the particle, likewise.
    min_distance_px
        Picks that come nearer than this to a better one were parts of the same particle and are dropped.

    Returns
    -------
    new pixels (m, 2) as y, x, and indices (m,) of the picks that are left.
    """
    if len(place) == 0:
        return place, np.zeros(0, dtype=np.int64)
    blob = gaussian_blur(image, INNER * diameter_px) - gaussian_blur(image, OUTER * diameter_px)
    half = math.floor(reach_px)
    axis = torch.arange(-half, half + 1, device=image.device)
    dy, dx = (grid.flatten() for grid in torch.meshgrid(axis, axis, indexing="ij"))
    near = dy**2 + dx**2 <= reach_px**2
    y, x = place[:, :1] + dy[near], place[:, 1:] + dx[near]
    inside = (y >= 0) & (y < image.shape[0]) & (x >= 0) & (x < image.shape[1])
    values = blob[y.clamp(0, image.shape[0] - 1), x.clamp(0, image.shape[1] - 1)]
    best = torch.where(inside, values, -math.inf).argmax(dim=1, keepdim=True)
    moved = torch.cat([y.gather(1, best), x.gather(1, best)], dim=1)
    kept = suppress(moved.double().cpu().numpy(), min_distance_px)
    return moved[torch.from_numpy(kept).to(moved.device)], kept
