"""Q-score: how well the density about each atom resembles that of a resolved atom.

Pintilie et al., Nat. Methods 17 (2020) 328: the map is sampled on shells of radius 0 to 2 Å about an atom, at
points that are nearer to it than to any other atom, and correlated with a Gaussian of 0.6 Å; 1 is a perfectly
resolved atom, 0 none.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from scipy.spatial import KDTree

from emflow.em.atoms import AtomicModel

SIGMA_ANGSTROM = 0.6
_RADII = np.arange(21) * 0.1
_POINTS = 8  # on a shell, as in the paper
_TRIED = 64  # directions from which those of an atom are taken
_CHUNK = 2000  # atoms at a time


def q_scores(model: AtomicModel, volume: np.ndarray, voxel_size_angstrom: float) -> np.ndarray:
    """Q-score of each atom.

    A direction is free for an atom up to the distance where the plane between it and a neighbour is met, so
    that no point has to be tried: of 64 even directions the 8 first that are free at a radius are taken.

    Parameters
    ----------
    model
        Positions relative to the centre n//2.
    volume
        Map (n, n, n), axes z, y, x; its values are interpolated linearly.
    voxel_size_angstrom
        Voxel size.

    Returns
    -------
    (N,), from −1 to 1; NaN for an atom outside of the map, or in a constant density.
    """
    position = model.position
    directions = _sphere(_TRIED)
    pairs = KDTree(position).query_pairs(2 * _RADII[-1], output_type="ndarray")
    first = np.concatenate([pairs[:, 0], pairs[:, 1]])
    second = np.concatenate([pairs[:, 1], pairs[:, 0]])
    order = np.argsort(first, kind="stable")
    first, second = first[order], second[order]
    start = np.searchsorted(first, np.arange(len(position) + 1))
    reference = np.exp(-0.5 * (_RADII / SIGMA_ANGSTROM) ** 2)[None, :, None]
    n = volume.shape[-1]
    out = np.full(len(position), np.nan)
    for begin in range(0, len(position), _CHUNK):
        end = min(begin + _CHUNK, len(position))
        rows = slice(start[begin], start[end])
        toward = position[second[rows]] - position[first[rows]]
        # along a direction d the neighbour at v is nearer from |v|²/(2 d·v) on
        cosine = toward @ directions.T
        limit = (toward**2).sum(1)[:, None] / np.maximum(2 * cosine, 1e-9)
        free = np.full((end - begin, _TRIED), np.inf)
        np.minimum.at(free, first[rows] - begin, limit)
        allowed = free[:, None] >= _RADII[:, None]  # atom, radius, direction
        taken = allowed & (np.cumsum(allowed, axis=2) <= _POINTS)
        at, shell, direction = np.nonzero(taken)
        points = position[begin + at] + _RADII[shell, None] * directions[direction]
        index = (points / voxel_size_angstrom + n // 2)[:, ::-1].T
        values = np.zeros(taken.shape)
        values[taken] = ndimage.map_coordinates(volume, index, order=1, mode="nearest")
        weight = taken / np.maximum(taken.sum(2, keepdims=True), 1)  # each shell counts once
        out[begin:end] = _correlation(values, np.broadcast_to(reference, values.shape), weight)
    outside = (np.abs(position / voxel_size_angstrom) > n // 2 - 1).any(1)
    out[outside] = np.nan
    return out


def expected_q(resolution_angstrom: float) -> float:
    """Mean Q-score of a protein's atoms in maps of a resolution: the linear fit of MapQ's authors, at least 0."""
    return max(0.0, 1.1192 - 0.1775 * resolution_angstrom)


def _sphere(count: int) -> np.ndarray:
    """Even directions (count, 3), ordered so that the first ones are spread over the sphere too."""
    i = np.arange(count) + 0.5
    z, angle = 1 - 2 * i / count, np.pi * (1 + 5**0.5) * i
    across = np.sqrt(1 - z * z)
    spread = np.stack([across * np.cos(angle), across * np.sin(angle), z], 1)
    # multiples of a number prime to the count, near the golden section of it, jump over the whole spiral
    return spread[(np.arange(count) * 25) % count]


def _correlation(a: np.ndarray, b: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Weighted correlation about the mean over the last two axes; NaN where one is constant."""
    total = weight.sum((1, 2), keepdims=True)
    a = a - (weight * a).sum((1, 2), keepdims=True) / total
    b = b - (weight * b).sum((1, 2), keepdims=True) / total
    norm = np.sqrt((weight * a * a).sum((1, 2)) * (weight * b * b).sum((1, 2)))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(norm > 0, (weight * a * b).sum((1, 2)) / norm, np.nan)
