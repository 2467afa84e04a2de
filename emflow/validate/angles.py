"""How the views of the particles cover the sphere, and Fourier space."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from emflow.validate.sphere import cell_of, hemisphere_points

_CHUNK = 4096  # views that are held against all directions at a time
_SIDE = 60  # cells along a face that views are pooled into: 1.5°
_HALF_WIDTH_DEG = 3.0  # of a slice
_STEADY_VIEWS = 50.0  # that should lie in a slice, so that chance does not empty it


@dataclass(frozen=True)
class Views:
    """Directions of view, those close to each other pooled: what any number of particles comes down to."""

    directions: Tensor
    """Unit vectors x, y, z, (m, 3), float64."""
    weights: Tensor
    """Views that each of them stands for, (m,)."""
    particles: int
    """Particles they are of."""
    rotations: int
    """Rotations of the point group under which each was counted."""

    @property
    def count(self) -> int:
        """All views, those of symmetry mates included."""
        return self.particles * self.rotations


@dataclass(frozen=True)
class Coverage:
    """How well the views fill Fourier space."""

    views: int
    """Views, those of symmetry mates included."""
    particles: int
    factor: float
    """Sampling compensation factor: 1 for a uniform distribution, towards 0 where directions are missing."""
    empty_fraction: float
    """Fraction of Fourier directions with less than a tenth of the mean coverage."""


def view_directions(rot_deg: Tensor, tilt_deg: Tensor) -> Tensor:
    """Direction of view in the map's frame, (n, 3) as x, y, z, from RELION's rot and tilt (ZYZ)."""
    rot, tilt = torch.deg2rad(rot_deg.double()), torch.deg2rad(tilt_deg.double())
    return torch.stack([tilt.sin() * rot.cos(), tilt.sin() * rot.sin(), tilt.cos()], -1)


def pool_views(directions: Tensor, operations: Tensor | None = None) -> Views:
    """Pool views (n, 3) under each rotation (m, 3, 3) of the point group in cells of 1.5°.

    A cell is represented by the mean of its views, so few views stay as they are.
    """
    cells = 6 * _SIDE**2
    sums = torch.zeros(cells, 4, dtype=torch.float64)
    group = torch.eye(3, dtype=torch.float64)[None] if operations is None else operations.double()
    for (
        operation
    ) in group:  # one at a time: a million particles with icosahedral symmetry are 60 million views
        turned = directions.double() @ operation.T
        values = torch.cat([turned, torch.ones(len(turned), 1, dtype=torch.float64)], 1)
        sums.index_add_(0, cell_of(turned, _SIDE, folded=False), values)
    kept = sums[sums[:, 3] > 0]
    mean = kept[:, :3] / kept[:, :3].norm(dim=1, keepdim=True)
    return Views(mean, kept[:, 3], len(directions), len(group))


def view_density(views: Views, directions: Tensor, width_deg: float = 7.0) -> Tensor:
    """Density of views around each direction (k, 3), relative to a uniform distribution: (k,).

    Smoothed with a von Mises–Fisher kernel of about ``width_deg``.
    """
    kappa = 1 / math.radians(width_deg) ** 2
    total = torch.zeros(len(directions), dtype=torch.float64)
    for part, weight in zip(views.directions.split(_CHUNK), views.weights.split(_CHUNK), strict=True):
        total += torch.exp(kappa * (directions @ part.T - 1)) @ weight
    # mean of exp(κ(cos − 1)) over the sphere
    return total / max(views.count, 1) / ((1 - math.exp(-2 * kappa)) / (2 * kappa))


def fourier_coverage(views: Views, directions: Tensor, half_width_deg: float = _HALF_WIDTH_DEG) -> Tensor:
    """Central slices through each Fourier direction (k, 3), relative to a uniform distribution of views: (k,).

    A view samples the directions perpendicular to it; those within ``half_width_deg`` are counted.
    """
    sine = math.sin(math.radians(half_width_deg))
    total = torch.zeros(len(directions), dtype=torch.float64)
    for part, weight in zip(views.directions.split(_CHUNK), views.weights.split(_CHUNK), strict=True):
        total += ((directions @ part.T).abs() < sine).double() @ weight
    return total / max(views.count, 1) / sine


def judge_coverage(views: Views, directions: int = 1000) -> Coverage:
    """Sampling compensation factor: the harmonic mean of the coverage over Fourier directions.

    Few particles would leave gaps by chance alone, so their slices are counted thicker, up to 15°: as thick as it
    takes for fifty particles in a slice. Where nothing was counted, half a count is put (at most 0.05).

    Source: Baldwin and Lyumkis, Prog. Biophys. Mol. Biol. 150, 160 (2020) and 161, 53 (2021).
    """
    sine = min(_STEADY_VIEWS / max(views.particles, 1), math.sin(math.radians(15.0)))
    width = max(math.degrees(math.asin(sine)), _HALF_WIDTH_DEG)
    coverage = fourier_coverage(views, hemisphere_points(directions), width)
    least = min(0.05, 0.5 / max(views.count, 1) / math.sin(math.radians(width)))
    factor = float(1 / (1 / coverage.clamp_min(least)).mean())
    return Coverage(views.count, views.particles, factor, float((coverage < 0.1).double().mean()))
