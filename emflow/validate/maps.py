"""Compare two half maps: FSC curves, resolution, and how far the mask is to blame."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from emflow.device import generator
from emflow.em.fsc import corrected_fsc, first_below, fsc, randomise_phases, resolution_at
from emflow.em.masks import spherical_part
from emflow.validate.config import HalfMaps

THRESHOLD = 0.143
"""FSC between half maps at which the full map correlates 0.5 with the truth (Rosenthal and Henderson 2003)."""


@dataclass(frozen=True)
class HalfMapCurves:
    """FSC curves of two half maps, each (shells,), float64, on the CPU; shell i stands at i/(box·voxel)."""

    unmasked: Tensor
    masked: Tensor
    randomised: Tensor
    """FSC of the masked maps with random phases (mean of several draws); ``masked`` where nothing was randomised."""
    corrected: Tensor
    random_from_shell: int | None
    """First randomised shell; None where the unmasked curve never falls below the limit."""
    box: int
    voxel_size_angstrom: float
    mask_fraction: float
    """Fraction of the box that the mask holds."""
    support_fraction: float
    """Fraction of the box where the half maps are not zero."""

    def resolution(
        self, curve: str = "corrected", threshold: float = THRESHOLD, *, interpolate: bool = False
    ) -> float | None:
        """Resolution of one of the curves, in ångström; None if it is below the threshold from shell 1 on."""
        values = getattr(self, curve)
        return resolution_at(values, threshold, self.box, self.voxel_size_angstrom, interpolate=interpolate)

    def last_shell(self, curve: str = "corrected", threshold: float = THRESHOLD) -> int:
        """Last shell before the curve first falls below the threshold."""
        shell = first_below(getattr(self, curve), threshold)
        return (len(self.unmasked) if shell is None else shell) - 1

    @property
    def noise_deviation(self) -> Tensor:
        """Standard deviation that the unmasked FSC of pure noise has in each shell.

        A shell of radius i holds 4πi² Fourier pixels, half of them independent complex numbers; of these
        the fraction of the box that is filled counts. So 1/√(4πi²·fraction), at most 1.
        """
        shells = torch.arange(len(self.unmasked), dtype=torch.float64).clamp_min(1)
        return (4 * math.pi * shells**2 * max(self.support_fraction, 1e-6)).rsqrt().clamp_max(1)

    def significance(self, last_shell: int | None = None) -> float:
        """Weighted mean of the unmasked FSC from shell 1 to a shell, in standard deviations.

        Under pure noise about a standard normal number, whatever the mask. ``last_shell`` is by default the
        resolution's, and at least 3.
        """
        last = max(self.last_shell() if last_shell is None else last_shell, 3)
        weight = self.noise_deviation[1 : last + 1] ** -2
        values = self.unmasked[1 : last + 1]
        return float((weight * values).sum() / weight.sum().sqrt()) if len(values) else 0.0

    @property
    def band_limit_shell(self) -> int | None:
        """Last shell with any signal, where the maps hold nothing beyond it."""
        filled = self.unmasked.abs().nonzero()
        last = int(filled[-1, 0]) if len(filled) else 0
        return last if last < len(self.unmasked) - 1 else None

    @property
    def mask_effect(self) -> float:
        """Mean FSC with random phases, from two shells after they begin to the masked resolution.

        Random phases have nothing in common: what is left is the mask's doing. 0 where no shell lies there.
        """
        if self.random_from_shell is None:
            return 0.0
        first = self.random_from_shell + 2
        last = max(self.last_shell("masked"), first + 2)
        part = self.randomised[first : last + 1]
        return float(part.mean()) if len(part) else 0.0

    @property
    def residue(self) -> tuple[float, float] | None:
        """Mean unmasked FSC beyond 1.4 times the masked resolution, and its standard deviation under noise."""
        first = int(1.4 * self.last_shell("masked")) + 1
        last = self.band_limit_shell or len(self.unmasked) - 1
        if last - first < 4:
            return None
        sigma = self.noise_deviation[first : last + 1]
        return float(self.unmasked[first : last + 1].mean()), float((sigma**2).sum().sqrt() / len(sigma))


def compare_halves(
    half1: Tensor, half2: Tensor, mask: Tensor, voxel_size_angstrom: float, cfg: HalfMaps
) -> HalfMapCurves:
    """Compute the FSC of two half maps without a mask, with it, with random phases, and corrected.

    Parameters
    ----------
    half1, half2
        Raw half maps, shape (n, n, n).
    mask
        Values 0…1, shape (n, n, n); multiplied to both, no mean is subtracted.
    voxel_size_angstrom
        Voxel size.

    Source: Chen et al. 2013; conventions of RELION's postprocess, except that several draws of random
    phases are averaged.
    """
    unmasked, masked = fsc(half1, half2).cpu(), fsc(half1 * mask, half2 * mask).cpu()
    shell = first_below(unmasked, cfg.randomise_below)
    randomised = corrected = masked
    if shell is not None:
        total = torch.zeros_like(masked)
        for draw in range(cfg.randomisations):
            a = randomise_phases(half1, shell, generator(cfg.seed, draw, 1)) * mask
            b = randomise_phases(half2, shell, generator(cfg.seed, draw, 2)) * mask
            total += fsc(a, b).cpu()
        randomised = total / cfg.randomisations
        corrected = corrected_fsc(masked, randomised, shell)
    peak = max(float(half1.abs().max()), float(half2.abs().max()))
    filled = (half1.abs() > 1e-6 * peak) | (half2.abs() > 1e-6 * peak)
    return HalfMapCurves(
        unmasked,
        masked,
        randomised,
        corrected,
        shell,
        half1.shape[-1],
        voxel_size_angstrom,
        float(mask.double().mean()),
        float(filled.double().mean()),
    )


def compare_aspherical(
    half1: Tensor, half2: Tensor, mask: Tensor, voxel_size_angstrom: float, cfg: HalfMaps
) -> HalfMapCurves:
    """Compare the half maps without their spherically symmetric parts; see :func:`compare_halves`.

    Half maps that share nothing but a ball or a hollow shell agree well, to any resolution; what is left
    here is structure that orientations can be assigned by.
    """
    once = cfg.model_copy(update={"randomisations": 1})
    rest = [half - spherical_part(half) for half in (half1, half2)]
    return compare_halves(rest[0], rest[1], mask, voxel_size_angstrom, once)


def mask_edge_width(mask: Tensor) -> float:
    """Mean width of a mask's soft edge, in voxels: the edge's volume over the mask's surface.

    The surface is the integral of the gradient's magnitude (co-area formula).
    """
    between = float(((mask > 0.01) & (mask < 0.99)).double().sum())
    steps = torch.stack(torch.gradient(mask.float()))
    surface = float(steps.square().sum(0).sqrt().double().sum())
    return between / surface if surface > 0 else 0.0
