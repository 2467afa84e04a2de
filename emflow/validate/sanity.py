"""Are two maps what raw half maps look like: spectra, filters, interpolation, masks, contrast."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from emflow.em.fsc import first_below, shell_index, shell_sum
from emflow.em.masks import background, local_mean, lowpass, radius_grid

_BANDS = 10
"""Shells are pooled into about this many bands: the noise of few particles is uneven."""


@dataclass(frozen=True)
class PairSpectra:
    """Two half maps shell by shell, each (n//2 + 1,), float64, on the CPU."""

    power1: Tensor
    power2: Tensor
    """Mean power |F|² of each half."""
    noise: Tensor
    """Mean power of half the difference, |F₁ − F₂|²/4: what independent noise leaves in the mean of the halves."""
    fsc: Tensor
    count: Tensor
    """Fourier pixels."""
    directional: Tensor
    """Noise power near each axis (z, y, x) over that near the body's diagonals, in the last sixth below Nyquist."""

    @property
    def last_shell(self) -> int:
        """Last shell before the FSC first falls below 0.143."""
        shell = first_below(self.fsc, 0.143)
        return (len(self.fsc) if shell is None else shell) - 1

    @property
    def usable(self) -> int:
        """Number of shells to judge by: reconstructions often end one or two before Nyquist."""
        return len(self.fsc) - 2


def pair_spectra(half1: Tensor, half2: Tensor) -> PairSpectra:
    """Compute the spectra of two half maps (n, n, n); two FFTs."""
    n = half1.shape[-1]
    index = shell_index(n, device=half1.device)
    first, second = torch.fft.rfftn(half1), torch.fft.rfftn(half2)
    cross = shell_sum(first.real * second.real + first.imag * second.imag, index)
    first_power = shell_sum(first.real.square() + first.imag.square(), index)
    second_power = shell_sum(second.real.square() + second.imag.square(), index)
    difference = first.sub_(second)
    power = difference.real.square() + difference.imag.square()
    count = shell_sum(torch.ones_like(power), index)
    product = (first_power * second_power).sqrt()
    curve = torch.where(product > 0, cross / product.clamp_min(1e-300), 0.0)
    noise = shell_sum(power, index) / count / 4
    directional = _axes_over_diagonals(power, index)
    parts = (first_power / count, second_power / count, noise, curve, count, directional)
    return PairSpectra(*(part.cpu() for part in parts))


def _axes_over_diagonals(power: Tensor, index: Tensor) -> Tensor:
    """Mean power within 25° of each axis (z, y, x) over that within 25° of the body's diagonals, near Nyquist."""
    n = index.shape[0]
    keep = (index > n // 2 * 5 // 6) & (index < n // 2 - 1)
    at = keep.nonzero()
    values, shell = power[keep].double(), index[keep]
    signed = torch.where(at > n // 2, at - n, at).double()
    k = signed.abs()
    k = k / signed.norm(dim=1, keepdim=True)
    means = torch.zeros(4, dtype=torch.float64)
    near = math.cos(math.radians(25))
    shells = torch.zeros(n // 2 + 2, dtype=torch.float64, device=power.device)
    # each shell weighs alike, so that a spectrum that rises or falls does not mix in
    total = shells.clone().index_add_(0, shell, values)
    values = (
        values / (total / torch.bincount(shell, minlength=len(shells)).clamp_min(1)).clamp_min(1e-300)[shell]
    )
    for axis in range(3):
        # on the axis itself symmetric maps are noisier
        chosen = (k[:, axis] > near) & (k[:, axis] < math.cos(math.radians(4)))
        means[axis] = values[chosen].mean() if bool(chosen.any()) else math.nan
    chosen = k.sum(1) / math.sqrt(3) > near
    means[3] = values[chosen].mean() if bool(chosen.any()) else math.nan
    return means[:3] / means[3]


@dataclass(frozen=True)
class Likeness:
    """How alike the spectra of two halves are."""

    scale: float
    """Amplitude of half 1 over that of half 2 where both hold signal."""
    signal_range: float
    """Largest over smallest power ratio among the bands where both hold signal."""
    noise_range: float
    """The same among the bands of noise."""
    noise_ratio: float
    """Noise power of half 1 over that of half 2, relative to the signal's; 1 for equal numbers of particles."""


def likeness(spectra: PairSpectra) -> Likeness:
    """Compare the halves' power spectra, pooled into bands of shells.

    Equal halves have equal power. Unequal numbers of particles change the noise by one factor in all
    shells; a filter on one half changes the ratio from shell to shell.
    """
    usable, fsc = spectra.usable, spectra.fsc
    ratio = (spectra.power1.clamp_min(1e-300) / spectra.power2.clamp_min(1e-300)).log()
    width = max(3, usable // _BANDS)
    signal, noise = [], []
    last = spectra.last_shell
    for start in range(2, usable - width + 1, width):
        here = slice(start, start + width)
        weight = spectra.count[here]
        band, level = float((ratio[here] * weight).sum() / weight.sum()), float(fsc[here].mean())
        if level > 0.7:
            signal.append(band)
        elif start > last:
            noise.append(band)
    zero = float(ratio[1 : max(2, min(4, last + 1))].mean()) if not signal else sum(signal) / len(signal)
    return Likeness(
        math.exp(zero / 2),
        math.exp(max(signal) - min(signal)) if signal else 1.0,
        math.exp(max(noise) - min(noise)) if noise else 1.0,
        math.exp(float(np.median(noise)) - zero) if noise else 1.0,
    )


def chance_ratio(box: int, order: int) -> float:
    """Factor that the halves' power ratios scatter by, over what they do in a box of 64 voxels without symmetry.

    A band at a quarter of Nyquist holds about ν = (box/8)²·box/10 independent numbers, for a point group
    of ``order`` rotations as many times fewer; the logarithm of a ratio scatters by √(4/ν).
    """

    def deviation(side: int, mates: int) -> float:
        return math.sqrt(4 * mates / (4 * math.pi * (side / 8) ** 2 * max(3, side / 20) * 0.2))

    return math.exp(2 * max(0.0, deviation(box, order) - deviation(64, 1)))


@dataclass(frozen=True)
class Filtering:
    """What the noise of the halves tells of filters."""

    cut_shell: int | None
    """First shell from which on the noise stays below 3 % of its level before; None if it does not fall so."""
    rise: float
    """Noise power per shell number near Nyquist over that at an eighth to a quarter of the box."""
    modulation: float
    """Largest periodic modulation of the noise variance in space: 0.15 for linear interpolation of white noise."""
    modulation_significance: float
    """That over the root mean square of its surroundings in Fourier space."""


def filtering(half1: Tensor, half2: Tensor, spectra: PairSpectra) -> Filtering:
    """Look for low-passes, sharpening and interpolation in the difference of the halves.

    Noise of a raw half map rises about in proportion to frequency, as the views thin out. Interpolation
    with neighbours at varying distance leaves noise whose variance is periodic in space.
    """
    noise, usable = spectra.noise, spectra.usable
    first = max(2, len(noise) // 4)
    cut = None
    for shell in range(first + 2, usable):
        # what lies before: noise of raw maps rises, so a fall of this size is a filter's
        if float(noise[shell:usable].max()) < 0.03 * float(noise[first:shell].median()):
            cut = shell
            break
    shells = torch.arange(len(noise), dtype=torch.float64).clamp_min(1)
    scaled = noise / shells
    end = usable if cut is None else cut
    low = scaled[first : max(2 * first, first + 2)].median()
    rise = float(scaled[max(first + 1, end - max(2, end // 10)) : end].median() / low.clamp_min(1e-300))
    return Filtering(cut, rise, *_modulation(half1 - half2))


def _modulation(difference: Tensor) -> tuple[float, float]:
    """Largest periodic modulation of a noise map's local variance, and how far it stands out.

    The squares are divided by their local mean; a peak of their transform is a periodic variance. Source of
    the idea: Gallagher 2005 (Canadian Conf. Computer and Robot Vision, 65), for images.
    """
    n = difference.shape[-1]
    squares = difference.square()
    kernel = max(5, n // 12) | 1
    smooth = local_mean(squares, kernel)
    inside = smooth > 0.05 * smooth.median() if float(smooth.median()) > 0 else smooth > 0
    radius = radius_grid(n, device=difference.device)
    inside &= radius < 0.9 * n / 2
    if int(inside.sum()) < 1000:
        return 0.0, 0.0
    relative = torch.where(inside, (squares / smooth.clamp_min(1e-30)).clamp_max(12) - 1, 0.0)
    relative = torch.where(inside, relative - relative[inside].mean(), 0.0)
    magnitude = torch.fft.rfftn(relative).abs() / float(inside.sum())
    full = torch.fft.fftfreq(n, 1 / n, device=difference.device).abs()
    low = torch.maximum(torch.maximum(full[:, None, None], full[:, None]), full[: n // 2 + 1]) <= max(
        3, n // kernel
    )
    magnitude[low] = 0
    level = float(magnitude[~low].square().mean().sqrt())
    peak = float(magnitude.max())
    return peak, peak / max(level, 1e-30)


@dataclass(frozen=True)
class Solvent:
    """What lies around the particle."""

    flat_fraction: float
    """Fraction of the solvent, within the inscribed sphere and outside of the mask, where the halves hold no noise."""
    support_fraction: float
    """Fraction of the box, within the inscribed sphere, where they do."""


def solvent(half1: Tensor, half2: Tensor, mask: Tensor) -> Solvent:
    """Find where the difference of the halves is flat, as a mask leaves it."""
    n = half1.shape[-1]
    local = local_mean((half1 - half2).square(), 3)
    inside = radius_grid(n, device=half1.device) < 0.95 * n / 2
    core = inside & (mask > 0.9)
    if not bool(core.any()):
        core = inside
    filled = local > 1e-2 * float(local[core].median())
    around = inside & (mask < 0.01)
    volume = float((filled & inside).double().sum())
    flat = float((~filled & around).double().sum() / around.double().sum().clamp_min(1))
    return Solvent(flat if int(around.sum()) >= 100 else math.nan, volume / n**3)


def skewness(volume: Tensor, voxel_size_angstrom: float) -> tuple[float, float]:
    """Skewness of the low-passed map in the inscribed sphere, and of its voxels beyond 3 deviations of solvent.

    Returns
    -------
    (skewness about the solvent's level, bright excess): the second is the sum of what rises above three
    deviations minus what falls below, over both; 1 for bright protein, −1 for dark, near 0 for noise.
    """
    n = volume.shape[-1]
    smooth = lowpass(volume, voxel_size_angstrom, max(10.0, 3 * voxel_size_angstrom))
    values = smooth[radius_grid(n, device=volume.device) < n / 2 - 2]
    values = values[values.abs() > 1e-6 * values.abs().amax()]
    if values.numel() < 100:
        return 0.0, 0.0
    level = float(values.median())
    # the solvent is the majority; its deviation from both sides, whichever way the protein points
    deviation = min(background(values)[1], background(-values)[1])
    away = (values - level) / max(deviation, 1e-30)
    high, low = float((away - 3).clamp_min(0).sum()), float((-away - 3).clamp_min(0).sum())
    skew = float((values - level).double().pow(3).mean() / (values - level).double().square().mean().pow(1.5))
    return skew, (high - low) / max(high + low, 1e-30)


@dataclass(frozen=True)
class MaskShape:
    """What a mask looks like."""

    components: int
    largest_fraction: float
    """Part of the mask's volume (above one half) in its largest component."""
    surface_ratio: float
    """Its surface over that of a ball of its volume."""
    noise_correlation: float
    """FSC of the mask with the mean of the halves beyond the resolution; 0 for a mask that knows no noise."""
    noise_deviations: float
    """The same in standard errors, from the scatter among shells."""


def mask_shape(mask: Tensor, mean: Tensor, last_shell: int) -> MaskShape:
    """Measure a mask; FSC of mask and map from a fifth beyond ``last_shell`` to Nyquist."""
    solid = (mask > 0.5).cpu().numpy()
    labels, count = ndimage.label(solid)
    sizes = np.bincount(labels.ravel())[1:]
    volume = float(sizes.sum())
    gradient = torch.stack(torch.gradient(mask.float()))
    surface = float(gradient.square().sum(0).sqrt().double().sum())
    ball = (36 * math.pi) ** (1 / 3) * max(volume, 1.0) ** (2 / 3)
    n = mask.shape[-1]
    index = shell_index(n, device=mask.device)
    first, second = torch.fft.rfftn(mask), torch.fft.rfftn(mean)
    cross = shell_sum(first.real * second.real + first.imag * second.imag, index)
    power = shell_sum(first.abs().square(), index) * shell_sum(second.abs().square(), index)
    curve = torch.where(power > 0, cross / power.clamp_min(1e-300).sqrt(), 0.0)
    start = min(int(1.2 * last_shell) + 1, len(curve) * 3 // 4)
    part = curve[start : len(curve) - 2]
    error = float(part.std() / math.sqrt(len(part))) if len(part) > 2 else 1.0
    correlation = float(part.mean()) if len(part) > 2 else 0.0
    return MaskShape(
        int(count),
        float(sizes.max(initial=0) / max(volume, 1.0)),
        surface / ball,
        correlation,
        correlation / max(error, 1e-12),
    )
