"""A bank of soft shells in Fourier space, the windows that go with them, and what noise does in them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats
from scipy.interpolate import RectBivariateSpline
from torch import Tensor

from emflow.em.fourier import crop_spectrum, good_size

HALF_WIDTH = 0.2
"""A band reaches this far to either side of its centre, in the logarithm of the frequency."""
STEP = 1.1
"""Ratio of the centres of neighbouring bands."""
FINE = 0.5
"""Width of the window of the single-map method, in widths of that of the half maps."""


@dataclass(frozen=True)
class Band:
    """A soft shell: amplitude cos(π/2 · ln(f/centre)/0.2) within 0.2 of the centre, nothing beyond Nyquist."""

    centre: float
    """Frequency of its top, in 1/Å."""
    frequency: float
    """Mean frequency of what it lets through, in 1/Å; below the centre where Nyquist cuts it."""
    sigma_angstrom: float
    """Standard deviation of its Gaussian window."""
    samples: float
    """Independent samples of white noise in one window; two such fields correlate by 1/√samples."""

    fine_samples: float
    """The same in a window of half the width, which the single-map method uses."""

    def gain(self, frequency: Tensor, nyquist: float) -> Tensor:
        """Amplitude at a frequency (any shape), in 1/Å."""
        tiny = torch.finfo(frequency.dtype).tiny
        off = (frequency.clamp_min(tiny) / self.centre).log_().div_(HALF_WIDTH).abs_()
        inside = (off < 1) & (frequency <= nyquist)
        return torch.where(inside, off.mul_(math.pi / 2).cos_(), 0.0)


def make_bands(box_px: int, voxel_size_angstrom: float, window_wavelengths: float) -> list[Band]:
    """Bands from a third of the box to Nyquist, each 1.1 times as fine as the one before.

    Parameters
    ----------
    box_px, voxel_size_angstrom
        Side of the map and its voxel.
    window_wavelengths
        Standard deviation of the window over the wavelength of the band; at most a fifth of the box.
    """
    nyquist, box = 0.5 / voxel_size_angstrom, box_px * voxel_size_angstrom
    count = int(math.log(nyquist * box / 3) / math.log(STEP)) + 1
    bands = []
    for k in reversed(range(count)):
        centre = nyquist / STEP**k
        sigma = min(window_wavelengths / centre, box / 5)
        grid = np.linspace(centre * math.exp(-HALF_WIDTH), min(centre * math.exp(HALF_WIDTH), nyquist), 201)
        power = np.cos(np.pi / 2 * np.log(grid / centre) / HALF_WIDTH) ** 2 * grid**2
        frequency = float((power * grid).sum() / power.sum())
        samples = [noise_samples(grid, power, width) for width in (sigma, FINE * sigma)]
        bands.append(Band(centre, frequency, sigma, samples[0], max(3.0, samples[1])))
    return bands


def noise_samples(frequency: np.ndarray, power: np.ndarray, sigma_angstrom: float) -> float:
    """Independent samples of band-passed white noise under a Gaussian window.

    The local correlation of two independent fields is a window's mean of their product, over their power.
    Its variance is ∫ C(r)² w(r) d³r, with C their autocorrelation, C(0) = 1, and w the window's own, a
    Gaussian of √2 its width; the number of samples is one over it.

    Parameters
    ----------
    frequency, power
        Radial frequencies, in 1/Å, and the power in each shell (4πf² included, any scale).
    sigma_angstrom
        Standard deviation of the window.
    """
    r = np.linspace(0, 7 * sigma_angstrom, 1500)
    correlation = np.sinc(2 * r[:, None] * frequency) @ (power / power.sum())
    window = np.exp(-(r**2) / (4 * sigma_angstrom**2)) / (4 * np.pi * sigma_angstrom**2) ** 1.5
    return float(1 / np.trapezoid(4 * np.pi * r**2 * correlation**2 * window, r))


def critical_correlation(samples: Tensor, level: float) -> Tensor:
    """Correlation that ``samples`` independent pairs without any relation exceed with probability ``level``.

    Student's t: r = t/√(n − 1 + t²) at known means; Gaussian above 2 000 samples.
    """
    n = samples.clamp(2, 2000).double().cpu().numpy()
    grid = np.geomspace(2, 2000, 200)
    t = np.interp(n, grid, stats.t.isf(level, grid - 1))
    t = torch.from_numpy(np.asarray(t)).to(samples)
    return t / (samples.clamp_min(2) - 1 + t.square()).sqrt()


def critical_power(samples: Tensor, reference: Tensor, level: float) -> Tensor:
    """Ratio of two mean powers of equal noise that is exceeded with probability ``level``.

    Both are means of squares over independent samples, so the ratio is distributed as Fisher's F.

    Parameters
    ----------
    samples, reference
        Independent samples of the upper and the lower mean, of one shape.
    """
    upper, lower = (v.clamp(1, 1e4).double().cpu().numpy() for v in (samples, reference))
    # F's quantile is smooth in log n: a table, not a root for each point
    grid = np.linspace(0, math.log(1e4), 40)
    table = np.log(stats.f.isf(level, np.exp(grid)[:, None], np.exp(grid)))
    spline = RectBivariateSpline(grid, grid, table, kx=1, ky=1)
    return torch.from_numpy(np.exp(spline(np.log(upper), np.log(lower), grid=False))).to(samples)


def radial_frequency(size: int, box_angstrom: float, device: torch.device | None = None) -> Tensor:
    """Frequency, in 1/Å, of each element of ``rfftn`` of a cube of ``size`` samples over a box."""
    full = torch.fft.fftfreq(size, 1 / size, device=device).square()
    half = torch.fft.rfftfreq(size, 1 / size, device=device).square()
    return (full[:, None, None] + full[:, None] + half).sqrt_().div_(box_angstrom)


class Windows:
    """Means of fields under the Gaussian window of a band, on a common grid of half the voxels a side."""

    def __init__(self, mask: Tensor, voxel_size_angstrom: float) -> None:
        self.size = mask.shape[-1]
        self.box = self.size * voxel_size_angstrom
        self.nyquist = 0.5 / voxel_size_angstrom
        self.grid = min(self.size, good_size(max(self.size / 2, 24)))
        self._mask = torch.fft.rfftn(mask, norm="forward")
        self._square = torch.fft.rfftn(mask.square(), norm="forward")
        self._mask_on_grid = crop_spectrum(self._mask, self.size, self.grid)
        self._square = crop_spectrum(self._square, self.size, self.grid)

    def fine_grid(self, band: Band) -> int:
        """Samples a side on which products of a band's fields are made.

        The sums of two of its frequencies must not fold back to the window's low ones: a fifth more than
        its upper edge needs, or all voxels.
        """
        edge = min(band.centre * math.exp(HALF_WIDTH), self.nyquist)
        return min(self.size, good_size(2.4 * edge * self.box))

    def mask(self, size: int) -> Tensor:
        """The mask on a grid of ``size`` samples a side."""
        coarse = torch.fft.irfftn(crop_spectrum(self._mask, self.size, size), s=(size,) * 3, norm="forward")
        return coarse.clamp_(0, 1)

    def sample(self, values: Tensor) -> Tensor:
        """Values (n, n, n) of the nearest voxels, on the common grid."""
        place = torch.arange(self.grid, device=values.device, dtype=torch.float64) * (self.size / self.grid)
        index = place.round().long() % self.size
        return values[index[:, None, None], index[:, None], index]

    def smooth(self, fields: Tensor, sigma_angstrom: float) -> Tensor:
        """Means (..., g, g, g) on the common grid of fields (..., n, n, n) on any grid."""
        size = fields.shape[-1]
        spectrum = crop_spectrum(torch.fft.rfftn(fields, dim=(-3, -2, -1), norm="forward"), size, self.grid)
        return self._window(spectrum, sigma_angstrom)

    def share(self, band: Band) -> tuple[Tensor, Tensor]:
        """Window mean of the mask, and the independent samples that the mask leaves in each window."""
        held = self._window(self._mask_on_grid, band.sigma_angstrom).clamp_min_(0)
        # the square of the window is a Gaussian of 1/√2 of its width
        square = self._window(self._square, band.sigma_angstrom / math.sqrt(2)).clamp_min_(1e-9)
        return held, (band.samples * held.square() / square).clamp_(1, band.samples)

    def _window(self, spectrum: Tensor, sigma: float) -> Tensor:
        index = torch.fft.fftfreq(self.grid, 1 / self.grid, device=spectrum.device).square()
        fall = torch.exp(index * (-2 * math.pi**2 * sigma**2 / self.box**2))
        half = fall[: self.grid // 2 + 1]
        weighted = spectrum * fall[:, None, None] * fall[:, None] * half
        return torch.fft.irfftn(weighted, s=(self.grid,) * 3, dim=(-3, -2, -1), norm="forward")


def enlarge(values: Tensor, size: int) -> Tensor:
    """Values (g, g, g) that stand at every size/g-th voxel, on all voxels (size, size, size); linear, periodic."""
    grid = values.shape[-1]
    if grid == size:
        return values
    place = torch.arange(size, device=values.device, dtype=torch.float64) * (grid / size)
    low = place.floor().long()
    rest = (place - low).to(values.dtype)
    for axis in (2, 1, 0):
        shape = [1, 1, 1]
        shape[axis] = size
        one = values.index_select(axis, low % grid)
        values = one.lerp(values.index_select(axis, (low + 1) % grid), rest.reshape(shape))
    return values
