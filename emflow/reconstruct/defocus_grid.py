"""Likelihood of every particle at a whole grid of defocus offsets, exactly and by one matrix product.

An offset δ takes πλδs² off the phase γ, and s² takes few values on the lattice of Fourier pixels: the integers
kx² + ky². Per particle the sums of P*y·cos γ, P*y·sin γ, |P|²·cos 2γ and |P|²·sin 2γ over the pixels of one s² hold all
that any offset can ask for, astigmatism included, since it stands in γ:

    Σ c P*y = −Σ_n [S_n cos θ_n − C_n sin θ_n],  Σ c²|P|² = ½ Σ_n [B_n − C'_n cos 2θ_n − S'_n sin 2θ_n],  θ_n = πλδs²_n.

Pixels with an even and an odd kx² + ky² lie like the fields of a chessboard and have noise of their own: what is found in
one kind is tested in the other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from emflow.em.optics import wavelength_angstrom
from emflow.reconstruct.ctf_match import Geometry, Match

_PER_PERIOD = 16.0
"""Offsets tried in a period of the CTF at the finest detail."""
_COARSEST_ANGSTROM = 40.0
"""Step at most: ice is often no rougher than a few of these."""
_MOST = 2001


@dataclass(frozen=True)
class Grid:
    """Offsets that are tried."""

    offset_angstrom: Tensor
    """(T,), symmetric about 0, even steps."""
    bins: Tensor
    """Number of the squared radius of each pixel, (M,); the even ones first."""
    squared: Tensor
    """s² of each bin, 1/Å², (D,)."""
    even: int
    """How many bins have an even kx² + ky²."""

    @staticmethod
    def build(geometry: Geometry, voltage_kv: float, range_angstrom: float) -> Grid:
        """Grid that reaches ``range_angstrom`` to both sides."""
        plane = geometry.plane
        whole = (plane.kx * plane.kx + plane.ky * plane.ky).round().long()
        values = whole.unique()
        order = torch.argsort(values % 2, stable=True)
        values = values[order]
        position = torch.empty(int(whole.max()) + 1, dtype=torch.long, device=whole.device)
        position[values] = torch.arange(len(values), device=whole.device)
        finest = float(plane.radius[-1]) / geometry.extent_angstrom
        period = 1 / (wavelength_angstrom(voltage_kv) * finest**2)
        step = min(period / _PER_PERIOD, _COARSEST_ANGSTROM)
        half = min(max(4, math.ceil(range_angstrom / step)), _MOST // 2)
        offsets = torch.arange(-half, half + 1, device=whole.device) * (range_angstrom / half)
        squared = values.float() / geometry.extent_angstrom**2
        return Grid(offsets, position[whole], squared, int((values % 2 == 0).sum()))


@dataclass
class Curves:
    """Data terms of particles at all offsets; the log-likelihood with contrast s is 2·s·overlap − s²·energy."""

    overlap: Tensor
    """Σ c P*y/σ², of the even and of the odd pixels, (N, 2, T)."""
    energy: Tensor
    """Σ c²|P|²/σ², (N, 2, T)."""

    @staticmethod
    def empty(particles: int, grid: Grid) -> Curves:
        """Room for particles, on the CPU."""
        shape = (particles, 2, len(grid.offset_angstrom))
        return Curves(torch.zeros(shape), torch.zeros(shape))


def evaluate(match: Match, grid: Grid, voltage_kv: float) -> Curves:
    """Data terms of a batch at all offsets of the grid."""
    real = match.product[:, 0]
    sine, cosine = torch.sin(match.phase), torch.cos(match.phase)
    power = match.power
    sums = [
        _by_bin(values, grid)
        for values in (
            real * sine,
            real * cosine,
            power,
            power * (cosine * cosine - sine * sine),
            power * (2 * sine * cosine),
        )
    ]
    angle = (math.pi * wavelength_angstrom(voltage_kv)) * grid.squared[:, None] * grid.offset_angstrom
    c1, s1, c2, s2 = torch.cos(angle), torch.sin(angle), torch.cos(2 * angle), torch.sin(2 * angle)
    overlap, energy = [], []
    for part in (slice(0, grid.even), slice(grid.even, None)):
        s, c, b, cc, ss = (values[part].t() for values in sums)
        overlap.append(c @ s1[part] - s @ c1[part])
        energy.append(0.5 * (b.sum(1, keepdim=True) - cc @ c2[part] - ss @ s2[part]))
    return Curves(torch.stack(overlap, 1), torch.stack(energy, 1).clamp(min=0))


def _by_bin(values: Tensor, grid: Grid) -> Tensor:
    """Sums of (B, M) over the pixels of each bin: (D, B)."""
    return torch.zeros(len(grid.squared), len(values), device=values.device).index_add_(
        0, grid.bins, values.t().contiguous()
    )


def at(curves: Tensor, grid: Grid, offset_angstrom: Tensor) -> Tensor:
    """Values of curves (N, T) at offsets (N,), by a parabola through the three nearest points; on the CPU."""
    offsets = grid.offset_angstrom.to(curves.device)
    step = offsets[1] - offsets[0]
    place = (offset_angstrom - offsets[0]) / step
    middle = place.round().long().clamp(1, len(offsets) - 2)
    x = (place - middle).clamp(-1, 1)
    low, mid, high = (curves.gather(1, (middle + k)[:, None])[:, 0] for k in (-1, 0, 1))
    return mid + 0.5 * x * (high - low) + 0.5 * x * x * (high - 2 * mid + low)
