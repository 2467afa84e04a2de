"""How the views of the particles cover the sphere, and Fourier space."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_CHUNK = 4096  # views that are held against all directions at a time


@dataclass(frozen=True)
class Coverage:
    """How well the views fill Fourier space."""

    views: int
    factor: float
    """Sampling compensation factor: 1 for a uniform distribution, towards 0 where directions are missing."""
    empty_fraction: float
    """Fraction of Fourier directions with less than a tenth of the mean coverage."""


def view_directions(rot_deg: Tensor, tilt_deg: Tensor) -> Tensor:
    """Direction of view in the map's frame, (n, 3) as x, y, z, from RELION's rot and tilt (ZYZ)."""
    rot, tilt = torch.deg2rad(rot_deg.double()), torch.deg2rad(tilt_deg.double())
    return torch.stack([tilt.sin() * rot.cos(), tilt.sin() * rot.sin(), tilt.cos()], -1)


def symmetric_views(views: Tensor, operations: Tensor) -> Tensor:
    """Views (n, 3) under each rotation (m, 3, 3) of the point group: (n·m, 3)."""
    return torch.einsum("mij,nj->nmi", operations.double(), views).reshape(-1, 3)


def sphere_points(count: int) -> Tensor:
    """Nearly even points on the sphere, (count, 3): a Fibonacci lattice (Gonzalez, Math. Geosci. 42, 49, 2010)."""
    i = torch.arange(count, dtype=torch.float64) + 0.5
    z, azimuth = 1 - 2 * i / count, math.pi * (1 + math.sqrt(5)) * i
    radius = (1 - z * z).sqrt()
    return torch.stack([radius * azimuth.cos(), radius * azimuth.sin(), z], -1)


def view_density(views: Tensor, directions: Tensor, width_deg: float = 7.0) -> Tensor:
    """Density of views around each direction, relative to a uniform distribution: (k,).

    Smoothed with a von Mises–Fisher kernel of about ``width_deg``.
    """
    kappa = 1 / math.radians(width_deg) ** 2
    total = torch.zeros(len(directions), dtype=torch.float64)
    for part in views.split(_CHUNK):
        total += torch.exp(kappa * (directions @ part.T - 1)).sum(1)
    # mean of exp(κ(cos − 1)) over the sphere
    return total / max(len(views), 1) / ((1 - math.exp(-2 * kappa)) / (2 * kappa))


def fourier_coverage(views: Tensor, directions: Tensor, half_width_deg: float = 3.0) -> Tensor:
    """Central slices through each Fourier direction, relative to a uniform distribution of views: (k,).

    A view samples the directions perpendicular to it; those within ``half_width_deg`` are counted.
    """
    sine = math.sin(math.radians(half_width_deg))
    total = torch.zeros(len(directions), dtype=torch.float64)
    for part in views.split(_CHUNK):
        total += ((directions @ part.T).abs() < sine).sum(1)
    return total / max(len(views), 1) / sine


def judge_coverage(views: Tensor, directions: int = 2000) -> Coverage:
    """Sampling compensation factor: the harmonic mean of the coverage over Fourier directions.

    Where nothing was counted, half a count is put (at most 0.05), so that few views do not make it 0.

    Source: Baldwin and Lyumkis, Prog. Biophys. Mol. Biol. 150, 160 (2020) and 161, 53 (2021).
    """
    coverage = fourier_coverage(views, sphere_points(directions))
    least = min(0.05, 0.5 / max(len(views), 1) / math.sin(math.radians(3.0)))
    factor = float(1 / (1 / coverage.clamp_min(least)).mean())
    return Coverage(len(views), factor, float((coverage < 0.1).double().mean()))
