"""Directions on the sphere: even points, and cells that many directions are pooled into."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def sphere_points(count: int) -> Tensor:
    """Nearly even points on the sphere, (count, 3): a Fibonacci lattice (Gonzalez, Math. Geosci. 42, 49, 2010)."""
    i = torch.arange(count, dtype=torch.float64) + 0.5
    return _spiral(1 - 2 * i / count, i)


def hemisphere_points(count: int) -> Tensor:
    """Nearly even points with z > 0, (count, 3); with their opposites they cover the sphere."""
    i = torch.arange(count, dtype=torch.float64) + 0.5
    return _spiral(1 - i / count, i)


def _spiral(z: Tensor, turns: Tensor) -> Tensor:
    azimuth, radius = math.pi * (1 + math.sqrt(5)) * turns, (1 - z * z).sqrt()
    return torch.stack([radius * azimuth.cos(), radius * azimuth.sin(), z], -1)


def cell_of(directions: Tensor, side: int, *, folded: bool) -> Tensor:
    """Cell of each direction: the sphere is a cube, each face cut into ``side``² cells of about 90°/side.

    Parameters
    ----------
    directions
        Shape (n, 3), of any length but zero (a zero vector falls into some cell of the x faces).
    side
        Cells along a face.
    folded
        Whether a direction and its opposite are the same: three faces; otherwise six.

    Returns
    -------
    Tensor (n,), int64, below 3·side² (6·side² where not folded).
    """
    axis = directions.abs().argmax(1)
    main = directions.gather(1, axis[:, None])
    # the two other axes, seen from a face whose main axis is positive
    others = torch.tensor([[1, 2], [0, 2], [0, 1]], device=directions.device)[axis]
    angle = torch.atan(directions.gather(1, others) / main)
    place = ((angle * (2 / math.pi) + 0.5) * side).floor_().long().clamp_(0, side - 1)
    face = axis if folded else axis + 3 * (main[:, 0] < 0)
    return (face * side + place[:, 0]) * side + place[:, 1]


def cell_centres(side: int) -> Tensor:
    """Unit vectors at the middle of the cells of :func:`cell_of`, folded: (3·side², 3)."""
    angle = ((torch.arange(side, dtype=torch.float64) + 0.5) / side - 0.5) * (math.pi / 2)
    first, second = torch.meshgrid(angle.tan(), angle.tan(), indexing="ij")
    one = torch.ones_like(first)
    faces = [[one, first, second], [first, one, second], [first, second, one]]
    points = torch.stack([torch.stack(face, -1) for face in faces]).reshape(-1, 3)
    return points / points.norm(dim=1, keepdim=True)
