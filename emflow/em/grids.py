"""Grids of orientations and of shifts: global ones, and neighbours for refinement."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from emflow.em.poses import quaternion_to_matrix, rotation_vector_to_matrix
from emflow.em.symmetry import in_asymmetric_unit

_PHI = math.sqrt(2.0)
_PSI = 1.533751168755204288118041  # root of ψ⁴ = ψ + 4


def super_fibonacci(count: int) -> Tensor:
    """Evenly spread unit quaternions (w, x, y, z) on a super-Fibonacci spiral.

    Alexa, Super-Fibonacci Spirals, CVPR 2022: as even as the best known sets, for any number, without a
    hierarchy to be built.

    Returns
    -------
    Shape (count, 4), float64.
    """
    i = torch.arange(count, dtype=torch.float64) + 0.5
    s = i / count
    alpha, beta = 2 * math.pi * i / _PHI, 2 * math.pi * i / _PSI
    inner, outer = s.sqrt(), (1 - s).sqrt()
    return torch.stack([inner * alpha.sin(), inner * alpha.cos(), outer * beta.sin(), outer * beta.cos()], -1)


def orientation_count(spacing_deg: float) -> int:
    """How many orientations cover all rotations at a spacing: 8π²/δ³, one per cube of side δ (radian)."""
    return max(1, math.ceil(8 * math.pi**2 / math.radians(spacing_deg) ** 3))


def orientation_grid(spacing_deg: float, symmetry: str = "C1") -> Tensor:
    """Orientations at an angular spacing, restricted to the asymmetric unit of a point group.

    Returns
    -------
    Matrices A, shape (N, 3, 3), float32; about 8π²/δ³ over the group's order of them, at least one.
    """
    rotations = quaternion_to_matrix(super_fibonacci(orientation_count(spacing_deg)))
    kept = rotations[in_asymmetric_unit(rotations, symmetry)]
    return (kept if len(kept) else rotations[:1]).float()


def shift_grid(radius_px: float, step_px: float) -> Tensor:
    """Shifts (x, y) on a square lattice within a circle, the zero shift first: shape (T, 2), pixels."""
    reach = int(radius_px / step_px + 1e-6)
    line = torch.arange(-reach, reach + 1) * float(step_px)
    grid = torch.cartesian_prod(line, line)
    grid = grid[grid.norm(dim=1) <= radius_px + 1e-6]
    return grid[torch.argsort(grid.norm(dim=1), stable=True)].float()


def local_rotations(step_deg: float, rings: int = 1) -> Tensor:
    """Small rotations around an orientation, on a body-centred cubic lattice of rotation vectors.

    Left-multiply them to a pose. The first is the identity. One ring has 15 members (the centre, 8 at
    distance δ·√3/2 and 6 at δ), two have 65.

    Returns
    -------
    Shape (L, 3, 3), float32.
    """
    line = torch.arange(-2 * rings, 2 * rings + 1)
    lattice = torch.cartesian_prod(line, line, line)
    same_parity = (lattice % 2 == lattice[:, :1] % 2).all(1)
    lattice = lattice[same_parity].double() / 2
    lattice = lattice[lattice.norm(dim=1) <= rings + 1e-6]
    lattice = lattice[torch.argsort(lattice.norm(dim=1), stable=True)]
    return rotation_vector_to_matrix(lattice * math.radians(step_deg)).float()
