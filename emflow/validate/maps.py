"""Compare two half maps: FSC curves, resolution, and how far the mask is to blame."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from emflow.device import generator
from emflow.em.fsc import (
    corrected_fsc,
    first_below,
    fourier_correlation,
    normalised,
    randomise_spectrum,
    resolution_at,
    shell_cross,
    shell_index,
)
from emflow.em.radial import subtract_spherical_part
from emflow.em.symmetry import symmetry_operators
from emflow.validate.band import Independent, sign_test
from emflow.validate.config import HalfMaps

THRESHOLD = 0.143
"""FSC between half maps at which the full map correlates 0.5 with the truth (Rosenthal and Henderson 2003)."""
_AXES = (-3, -2, -1)
_SLAB = 16  # planes that are looked at a time
_PAIRED = 3  # random draws of each half that are held against each other, all with all


@dataclass(frozen=True)
class HalfMapCurves:
    """FSC curves of two half maps, each (shells,), float64, on the CPU; shell i stands at i/(box·voxel)."""

    unmasked: Tensor
    masked: Tensor
    randomised: Tensor
    """FSC of the masked maps with random phases (mean of several draws); ``masked`` where nothing was randomised."""
    corrected: Tensor
    aspherical: Tensor
    """Unmasked FSC of what is left without the spherically symmetric parts. Half maps that share nothing but a
    ball or a hollow shell agree well, to any resolution; what is left is structure that orientations show in."""
    random_from_shell: int | None
    """First randomised shell; None where the unmasked curve never falls below the limit."""
    box: int
    voxel_size_angstrom: float
    mask_fraction: float
    """Fraction of the box that the mask holds."""
    independent: Independent
    """Independent numbers in the shells of the unmasked maps."""
    independent_masked: Independent
    random_pairs: int = 1
    """Pairs of maps with random phases whose curves ``randomised`` is the mean of."""
    sign_probability: float = 1.0
    """Probability that noise agrees as well, by random signs; see :func:`emflow.validate.band.sign_test`."""

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
        """Standard deviation that the unmasked FSC of pure noise has in each shell, at most 1."""
        return self.independent.noise_deviation

    def band(self, curve: str = "corrected") -> tuple[Tensor, Tensor]:
        """95 % confidence band of a curve: lower and upper limit, each (shells,).

        The corrected curve's is that of the masked one, carried through the correction, and wider by the
        noise that the random phases bring in.
        """
        if curve == "unmasked":
            return self.independent.band(self.unmasked)
        if curve == "masked" or self.random_from_shell is None:
            return self.independent_masked.band(self.masked)
        limits = self.independent_masked.band(self.masked, 1 / self.random_pairs)
        low, high = (corrected_fsc(limit, self.randomised, self.random_from_shell) for limit in limits)
        return low, high

    def resolution_interval(self, threshold: float = THRESHOLD) -> tuple[float | None, float | None]:
        """Resolutions, in ångström, where the band's upper and lower limit cross a threshold: finer, coarser.

        Shells with fewer than ten independent numbers have no band worth the name: there the curve itself counts.
        """
        size = (self.box, self.voxel_size_angstrom)
        few = self.independent_masked.numbers < 10
        low, high = (torch.where(few, self.corrected, limit) for limit in self.band())
        fine, coarse = (resolution_at(limit, threshold, *size, interpolate=True) for limit in (high, low))
        return fine, coarse

    def bit_resolution(self, bits: float) -> float | None:
        """Resolution of the corrected curve at the half-bit or one-bit threshold; None where it never holds it."""
        margin = self.corrected - self.independent_masked.bit_threshold(bits)
        return resolution_at(margin, 0.0, self.box, self.voxel_size_angstrom)

    def significance(self, last_shell: int | None = None, curve: str = "unmasked") -> float:
        """Weighted mean of the unmasked (or aspherical) FSC from shell 1 to a shell, in standard deviations.

        Under pure noise about a standard normal number, whatever the mask. ``last_shell`` is by default the
        resolution's, and at least 3.
        """
        last = max(self.last_shell() if last_shell is None else last_shell, 3)
        weight = self.noise_deviation[1 : last + 1] ** -2
        values = getattr(self, curve)[1 : last + 1]
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
    box, order = half1.shape[-1], len(symmetry_operators(cfg.symmetry))
    halves, index = (half1, half2), shell_index(box, device=half1.device).short()  # a quarter of the memory
    spectra = (torch.fft.rfftn(half1, dim=_AXES), torch.fft.rfftn(half2, dim=_AXES))
    unmasked = fourier_correlation(*spectra, index).cpu()
    shell = first_below(unmasked, cfg.randomise_below)
    masked, signal = _masked(halves, mask, index)
    randomised, corrected, pairs = masked, masked, 1
    if shell is not None:
        randomised, pairs = _randomised(spectra, mask, index, shell, cfg)
        corrected = corrected_fsc(masked, randomised, shell)
    rest = [subtract_spherical_part(s, half) for s, half in zip(spectra, halves, strict=True)]
    aspherical = fourier_correlation(rest[0], rest[1], index).cpu()
    del rest, index
    filled = _filled(halves)
    curves = HalfMapCurves(
        unmasked,
        masked,
        randomised,
        corrected,
        aspherical,
        shell,
        box,
        voxel_size_angstrom,
        float(mask.double().mean()),
        Independent.count(filled, None, order),
        Independent.count(mask, signal, order),
        pairs,
    )
    # neighbours in a ball of noise share theirs
    block = 1 if bool(filled.all()) else 2
    last = min(max(curves.last_shell(), 3), box // 2)
    return replace(curves, sign_probability=sign_test(*spectra, last, block, order, cfg.seed))


def _masked(halves: tuple[Tensor, Tensor], mask: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """FSC of the masked half maps, and their product in real space."""
    maps = [half * mask for half in halves]
    spectra = [torch.fft.rfftn(half, dim=_AXES) for half in maps]
    return fourier_correlation(spectra[0], spectra[1], index).cpu(), maps[0].mul_(maps[1])


def _randomised(
    spectra: tuple[Tensor, Tensor], mask: Tensor, index: Tensor, from_shell: int, cfg: HalfMaps
) -> tuple[Tensor, int]:
    """Mean FSC of the masked maps with random phases, and of how many pairs.

    Few draws of each half are held each against each: the pairs' noises are uncorrelated, and cost little.
    """

    def draw(half: int, number: int) -> tuple[Tensor, Tensor]:
        turned = randomise_spectrum(spectra[half], from_shell, generator(cfg.seed, number, half + 1))
        volume = torch.fft.irfftn(turned, s=tuple(mask.shape), dim=_AXES).mul_(mask)
        del turned
        spectrum = torch.fft.rfftn(volume, dim=_AXES)
        return spectrum, shell_cross(spectrum, spectrum, index)

    total, pairs = torch.zeros(mask.shape[-1] // 2 + 1, dtype=torch.float64, device=mask.device), 0
    for numbers in torch.arange(cfg.randomisations).split(_PAIRED):
        others = [draw(1, int(number)) for number in numbers]
        for number in numbers:
            one, power = draw(0, int(number))
            for other, power_other in others:
                total += normalised(shell_cross(one, other, index), power, power_other)
                pairs += 1
            del one
    return (total / pairs).cpu(), pairs


def _filled(halves: tuple[Tensor, Tensor]) -> Tensor:
    """1 where the half maps are not zero, 0 elsewhere: (n, n, n), float32."""
    limit = 1e-6 * max(float(torch.maximum(half.max(), -half.min())) for half in halves)
    filled = torch.zeros_like(halves[0])
    for half in halves:
        filled.masked_fill_((half > limit) | (half < -limit), 1.0)
    return filled


def mask_edge_width(mask: Tensor) -> float:
    """Mean width of a mask's soft edge, in voxels: the edge's volume over the mask's surface.

    The surface is the integral of the gradient's magnitude (co-area formula).
    """
    between, surface = 0, 0.0
    # slabs that overlap by a plane, so that the differences are those of the whole
    for start in range(0, len(mask), _SLAB):
        first, last = max(start - 1, 0), min(start + _SLAB + 1, len(mask))
        part, kept = mask[first:last].float(), slice(start - first, start - first + _SLAB)
        squared = torch.zeros_like(part[kept])
        for axis in range(3):
            squared += torch.gradient(part, dim=axis)[0][kept].square_()
        surface += float(squared.sqrt_().sum(dtype=torch.float64))
        between += int(((part[kept] > 0.01) & (part[kept] < 0.99)).sum())
    return between / surface if surface > 0 else 0.0
