"""Symmetry expansion: every particle once for each operator of its point group."""

from __future__ import annotations

import torch
from torch import Tensor

from emflow.em.symmetry import symmetry_operators


def expand_poses(rotations: Tensor, symmetry: str) -> tuple[Tensor, Tensor, Tensor]:
    """All symmetry-equivalent poses.

    Parameters
    ----------
    rotations
        A, (N, 3, 3); A and A·g show the same view of a particle of this symmetry.
    symmetry
        Point group of order G.

    Returns
    -------
    The row that each copy comes from (N·G,), the number of its operator from 1 (N·G,), and its pose
    (N·G, 3, 3); the copies of a particle stand together.
    """
    operators = symmetry_operators(symmetry).to(rotations)
    order = len(operators)
    row = torch.arange(len(rotations)).repeat_interleave(order)
    number = torch.arange(1, order + 1).repeat(len(rotations))
    return row, number, (rotations[:, None] @ operators).flatten(0, 1)
