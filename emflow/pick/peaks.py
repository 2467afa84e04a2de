"""Peaks of a score map: local maxima, to a fraction of a pixel, at a minimum distance."""

from __future__ import annotations

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor
from torch.nn import functional


def local_maxima(score: Tensor, allowed: Tensor) -> tuple[Tensor, Tensor]:
    """Pixels not lower than their eight neighbours, where ``allowed``; of equal neighbours all count.

    Returns
    -------
    indices (n, 2) as y, x and scores (n,), highest first.
    """
    width = score.shape[1]
    around = functional.max_pool2d(score[None, None], 3, stride=1, padding=1)[0, 0]
    place = torch.nonzero((score == around) & allowed)
    value = score[place[:, 0], place[:, 1]]
    order = torch.argsort(place[:, 0] * width + place[:, 1])  # the same order on every device
    order = order[torch.argsort(value[order], descending=True, stable=True)]
    return place[order], value[order]


def highest_near(score: Tensor, place: Tensor, radius: float, allowed: Tensor) -> Tensor:
    """Pixel of the highest score within ``radius`` of each place (n, 2), where ``allowed``; else the place itself."""
    half = int(radius)
    axis = torch.arange(-half, half + 1, device=score.device)
    y, x = (offset.flatten() for offset in torch.meshgrid(axis, axis, indexing="ij"))
    near = y * y + x * x <= radius * radius
    offset = torch.stack([y[near], x[near]], 1)
    around = place[:, None] + offset
    last = torch.tensor(score.shape, device=score.device) - 1
    row, column = around.clamp(torch.zeros_like(last), last).unbind(-1)
    inside = (around >= 0).all(-1) & (around <= last).all(-1) & allowed[row, column]
    value = torch.where(inside, score[row, column], -torch.inf)
    found = place + offset[value.argmax(1)]
    return torch.where(inside.any(1)[:, None], found, place)


def refine(score: Tensor, place: Tensor) -> Tensor:
    """Positions (n, 2) as y, x to a fraction of a pixel: the vertex of a parabola along each axis.

    At the border, and where the neighbours are no peak, the pixel itself.
    """
    padded = functional.pad(score[None, None], (1, 1, 1, 1), mode="replicate")[0, 0]
    y, x = place[:, 0] + 1, place[:, 1] + 1
    centre = padded[y, x]
    shifts = []
    for below, above in ((padded[y - 1, x], padded[y + 1, x]), (padded[y, x - 1], padded[y, x + 1])):
        curvature = below - 2 * centre + above
        shift = 0.5 * (below - above) / torch.where(curvature < 0, curvature, -torch.ones_like(curvature))
        shifts.append(torch.where(curvature < 0, shift, torch.zeros_like(shift)).clamp(-0.5, 0.5))
    border = (place == 0) | (place == torch.tensor(score.shape, device=place.device) - 1)
    return place + torch.where(border, 0.0, torch.stack(shifts, 1))


def suppress(positions: np.ndarray, min_distance: float) -> np.ndarray:
    """Choose positions greedily, best first, so that no two are nearer than ``min_distance``.

    Parameters
    ----------
    positions
        Shape (n, 2), best first.
    min_distance
        Any two that are kept are at least this far apart.

    Returns
    -------
    Indices that are kept, ascending. The result is that of taking one after the other; it is found in rounds:
    whoever has no better rival left is kept, and those near it leave.
    """
    n = len(positions)
    if n == 0:
        return np.zeros(0, dtype=np.int64)
    pairs = cKDTree(positions).query_pairs(min_distance * (1 + 1e-9), output_type="ndarray")
    pairs = pairs[np.linalg.norm(positions[pairs[:, 0]] - positions[pairs[:, 1]], axis=1) < min_distance]
    better, worse = pairs.min(axis=1), pairs.max(axis=1)
    alive, kept = np.ones(n, dtype=bool), np.zeros(n, dtype=bool)
    while alive.any():
        rivals = alive[better] & alive[worse]
        better, worse = better[rivals], worse[rivals]
        free = alive.copy()
        free[worse] = False
        kept |= free
        alive &= ~free
        alive[worse[free[better]]] = False
    return np.flatnonzero(kept)
