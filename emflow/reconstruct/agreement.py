"""How far two maps agree that were found from separate particles and separate starts."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from emflow.device import generator
from emflow.em.frames import align_frames
from emflow.em.fsc import corrected_fsc, first_below, fsc, randomise_phases, resolution_at
from emflow.em.masks import soft_sphere, spherical_part
from emflow.em.symmetry import symmetry_operators

SIGNIFICANT = 8.0
"""Standard deviations above noise that count as agreement: the best of all frames on noise reaches 5 to 6."""
BEYOND_GIVEN = 0.75
"""Agreement has to reach finer than this part of the resolution of a map that both began from."""
SAME_MAP = 0.7
"""Correlation, without the spheres, of maps that are the same: starts that succeed reach 0.9."""
SAME_HALVES = 0.5
"""Correlation of two half-sets' first maps that hold the same structure: such maps had 0.54 to 0.96; where one was a
false minimum or the particles of two kinds, it was 0.2 to 0.5, and they agreed to 20 Å all the same."""
RANDOMISE_BELOW = 0.8
"""Phases are randomised from the first shell where the FSC within the sphere falls below this, as RELION does."""


@dataclass(frozen=True)
class Agreement:
    """FSC curves of two half maps within the particle's sphere or mask, (S,), float64, on the CPU."""

    whole: Tensor
    aspherical: Tensor
    """Of what is left when each map's mean over spheres is taken away: a ball or a hollow shell agrees with
    any other to fine resolution, and says nothing about orientations."""
    box: int
    voxel_size_angstrom: float
    diameter_angstrom: float
    noise_deviation: Tensor
    """Standard deviation of the FSC of noise in each shell."""
    given_angstrom: float | None = None
    """Resolution of a map that both began from, if they did: agreement to this detail is no evidence."""

    def resolution(self, curve: str = "whole") -> float | None:
        """Resolution of a curve at 0.143, in ångström; None if it falls below at the first shell."""
        return resolution_at(getattr(self, curve), 0.143, self.box, self.voxel_size_angstrom)

    def significance(self, curve: str) -> float:
        """Weighted mean of a curve to its resolution (at least 3 shells), in standard deviations of noise."""
        values = getattr(self, curve)
        shell = first_below(values, 0.143)
        last = max((len(values) if shell is None else shell) - 1, 3)
        weight = self.noise_deviation[1 : last + 1] ** -2
        return float((weight * values[1 : last + 1]).sum() / weight.sum().sqrt())

    @property
    def found(self) -> bool:
        """Whether the maps agree in more than chance, more than a sphere, and more than what both began from."""
        rest = self.resolution("aspherical")
        if rest is None or (self.given_angstrom is not None and rest > BEYOND_GIVEN * self.given_angstrom):
            return False
        return self.significance("aspherical") >= SIGNIFICANT

    @property
    def is_sphere(self) -> bool:
        """Whether the maps agree on their mean over spheres at least: to finer than a third of the diameter."""
        whole = self.resolution()
        clear = self.significance("whole") >= SIGNIFICANT / 2
        return clear and whole is not None and whole < self.diameter_angstrom / 3

    @property
    def claim_angstrom(self) -> float | None:
        """Resolution that may be claimed: None without agreement beyond the sphere.

        The coarser of the two curves' limits: where the asymmetric part ends, the rest is a shell's rings.
        """
        if not self.found:
            return None
        limits = [self.resolution(curve) for curve in ("whole", "aspherical")]
        return max((r for r in limits if r is not None), default=None)


def likeness(moving: Tensor, fixed: Tensor, symmetry: str, band: int) -> float:
    """How alike two maps (n, n, n) are beside their spheres: 1 is the same, noise gives about 0.

    Each map's mean over spheres is taken away; what is left is aligned (rotation, shift, hand) and correlated within
    the band, every shell with the same weight.
    """
    if not (bool(moving.any()) and bool(fixed.any())):
        return 0.0
    return align_frames(moving - spherical_part(moving), fixed - spherical_part(fixed), symmetry, band).score


def start_agreement(likeness: list[float]) -> float:
    """Fraction of the starts that went on which came to the chosen map: itself, and those alike to it."""
    return (1 + sum(value > SAME_MAP for value in likeness)) / (1 + len(likeness))


def compare(
    half1: Tensor,
    half2: Tensor,
    voxel_size_angstrom: float,
    diameter_angstrom: float,
    symmetry: str,
    mask: Tensor | None = None,
) -> Agreement:
    """Compare two raw half maps that share a frame.

    Parameters
    ----------
    half1, half2
        Shape (n, n, n).
    voxel_size_angstrom, diameter_angstrom
        Voxel size, and diameter of the particle.
    symmetry
        Point group: its copies say the same thing, so a shell holds fewer independent numbers.
    mask
        Soft mask of the particle; the curves are then corrected for it by random phases (Chen et al. 2013).
        None takes the particle's sphere, whose effect on the curves is small.
    """
    box = half1.shape[-1]
    radius_px = 0.55 * diameter_angstrom / voxel_size_angstrom
    sphere = soft_sphere(box, radius_px, max(3.0, radius_px / 8), device=half1.device)
    held = sphere if mask is None else mask
    filled = float(held.mean()) / len(symmetry_operators(symmetry))
    shells = torch.arange(box // 2 + 1, dtype=torch.float64).clamp(min=1)
    deviation = (4 * math.pi * shells**2 * filled).rsqrt().clamp(max=1.0)
    curves = []
    for spherical in (False, True):
        pair = [half - spherical_part(half) if spherical else half for half in (half1, half2)]
        curve = fsc(pair[0] * held, pair[1] * held).cpu()
        if mask is not None:
            curve = _corrected(pair, mask, curve, fsc(pair[0] * sphere, pair[1] * sphere).cpu())
        curves.append(curve)
    return Agreement(curves[0], curves[1], box, voxel_size_angstrom, diameter_angstrom, deviation)


def _corrected(pair: list[Tensor], mask: Tensor, masked: Tensor, unmasked: Tensor) -> Tensor:
    """Curve corrected for what the mask makes of random phases."""
    shell = first_below(unmasked, RANDOMISE_BELOW)
    if shell is None:
        return masked
    drawn = [randomise_phases(half, shell, generator(0, number)) * mask for number, half in enumerate(pair)]
    return corrected_fsc(masked, fsc(drawn[0], drawn[1]).cpu(), shell)
