"""Resolution against the number of particles (Rosenthal and Henderson 2003)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from emflow.device import generator
from emflow.em.symmetry import symmetry_operators
from emflow.validate.config import ValidateParticles
from emflow.validate.judge import is_resolved
from emflow.validate.maps import HalfMapCurves, compare_halves

COVERED = 16.0
"""Slices through each Fourier voxel from which on the signal grows with the number of particles as it should: with
fewer, voxels that hardly any slice goes through spoil the map (B came out 40 % too low where 2 did, 20 % where 8 did)."""
_RESAMPLES = 1000


@dataclass(frozen=True)
class Draw:
    """Half maps of some of the particles."""

    particles: int
    """Of both halves together."""
    resolution_angstrom: float | None
    """Corrected FSC 0.143, interpolated; None where the halves agree no more than noise."""
    limited: bool
    """Whether the FSC does not fall before the last shell: the pixel or the band limits, not the number."""
    slices: float
    """Mean number of slices, symmetry mates included, through a Fourier voxel at the resolution, of each half."""

    @property
    def usable(self) -> bool:
        """Whether the number of particles sets the resolution."""
        return self.resolution_angstrom is not None and not self.limited and self.slices >= COVERED


def draw_of(
    particles: int,
    half1: Tensor,
    half2: Tensor,
    mask: Tensor,
    voxel_size_angstrom: float,
    cfg: ValidateParticles,
) -> Draw:
    """Resolution of two half maps of some of the particles, (n, n, n) each."""
    once = cfg.model_copy(update={"randomisations": 1})
    curves = compare_halves(half1, half2, mask, voxel_size_angstrom, once)
    found = curves.resolution(interpolate=True) if is_resolved(curves) else None
    order = len(symmetry_operators(cfg.symmetry))
    slices = particles / 2 * order / (2 * max(curves.last_shell(), 1))
    return Draw(particles, found, curves.last_shell() >= last_filled(curves) - 1, slices)


def last_filled(curves: HalfMapCurves) -> int:
    """Last shell that the half maps fill."""
    return curves.band_limit_shell or len(curves.corrected) - 1


@dataclass(frozen=True)
class NumberFit:
    """ln(N·d) = a + B/(2d²): particles N that resolution d asks for."""

    intercept: float
    bfactor_angstrom2: float
    bfactor_low_angstrom2: float
    """95 % of the resampled fits lie between this and the next."""
    bfactor_high_angstrom2: float

    def particles_for(self, resolution_angstrom: float) -> float:
        """Particles that a resolution asks for."""
        exponent = self.intercept + self.bfactor_angstrom2 / (2 * resolution_angstrom**2)
        return math.exp(min(exponent, 700.0)) / resolution_angstrom

    def resolution_with(self, particles: float) -> float:
        """Resolution that a number of particles gives, in ångström: the finest that asks for no more."""
        low, high = 0.1, 1000.0
        # particles_for falls with d while B > d² of the coarse end; bisect on the fine branch
        for _ in range(80):
            middle = math.sqrt(low * high)
            low, high = (middle, high) if self.particles_for(middle) > particles else (low, middle)
        return high


def fit_number(draws: list[Draw], seed: int) -> NumberFit | None:
    """Fit the line of resolution against number.

    The number of particles that resolution d asks for grows as exp(B/(2d²))/d, where B says how fast the
    signal falls: amplitudes as exp(−B/(4d²)). So 1/d² is fitted against ln(N·d), with slope 2/B; the spread of
    the slope comes from refitting with residuals drawn anew.

    Parameters
    ----------
    draws
        Resolutions of several numbers of particles, several of each where there are.
    seed
        Of the resampling.

    Returns
    -------
    None where fewer than three numbers of particles have a resolution that the number limits, or where the
    resolution does not improve with the number beyond doubt (97.5 % of the resampled slopes).

    Source: Rosenthal and Henderson, J. Mol. Biol. 333, 721 (2003), eq. 13 and fig. 11.
    """
    points = [(d.particles, d.resolution_angstrom) for d in draws if d.usable and d.resolution_angstrom]
    sizes = {round(math.log2(count)) for count, _ in points}
    if len(sizes) < 3 or len(points) < 5:
        return None
    count, resolution = torch.tensor(points, dtype=torch.float64).T
    x, y = (count * resolution).log(), resolution**-2
    slope, intercept = _line(x, y)
    rest = (y - intercept - slope * x) * math.sqrt(len(x) / (len(x) - 2))
    chosen = torch.randint(len(x), (_RESAMPLES, len(x)), generator=generator(seed, 5))
    slopes, _ = _line(x, intercept + slope * x + rest[chosen])
    low, high = torch.quantile(slopes, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    if low <= 0:
        return None
    return NumberFit(float(-intercept / slope), float(2 / slope), 2 / high, 2 / low)


def _line(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Slope and intercept of lines through (n,) and (..., n)."""
    away = x - x.mean()
    slope = (away * y).sum(-1) / (away * away).sum()
    return slope, y.mean(-1) - slope * x.mean()
