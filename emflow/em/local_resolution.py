"""Local resolution from two half maps: Fourier correlation in a window around each point, band by band."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from emflow.em.bands import (
    Band,
    Windows,
    critical_correlation,
    enlarge,
    make_bands,
    radial_frequency,
)
from emflow.em.fourier import crop_spectrum
from emflow.em.fsc import shell_index, shell_sum


class Resolved(Protocol):
    """What counts as resolved, by a room's settings."""

    @property
    def threshold(self) -> float:
        """Local FSC that a band must reach."""

    @property
    def noise_level(self) -> float:
        """Probability with which noise alone may pass a band."""

    @property
    def window_wavelengths(self) -> float:
        """Standard deviation of the window, in wavelengths of each band."""


@dataclass(frozen=True)
class LocalResolution:
    """Resolution of every voxel."""

    angstrom: Tensor
    """Shape (n, n, n), in ångström, also around the mask; ``coarsest`` where nothing is resolved."""
    inside: Tensor
    """Bool (n, n, n): where the mask is above one half."""
    resolved: Tensor
    """Bool (n, n, n): where the first band, at least, stands above threshold and noise."""
    coarsest_angstrom: float
    """Resolution of the coarsest band."""
    nyquist_angstrom: float
    whole_angstrom: float | None
    """The same of all of the mask as one window; None where nothing is resolved."""


@dataclass
class March:
    """Follow the bands from coarse to fine at every point, until one of them fails.

    The resolution stands where the straight line between the margins (value over what is asked, less one) of the
    last band that held and the first that failed crosses zero.
    """

    finest: float
    reached: Tensor | None = None
    alive: Tensor | None = None
    margin: Tensor | None = None
    before: float = 0.0

    def take(self, margin: Tensor, frequency: float) -> bool:
        """Take one band; False if no point holds any longer."""
        if self.reached is None or self.alive is None or self.margin is None:
            self.alive, self.margin = margin >= 0, margin
            self.reached = torch.where(self.alive, frequency, 0.0)
        else:
            holds = self.alive & (margin >= 0)
            fails = self.alive & ~holds
            part = self.margin / (self.margin - margin).clamp_min(1e-6)
            between = self.before + part.clamp(0, 1) * (frequency - self.before)
            self.reached = torch.where(holds, frequency, torch.where(fails, between, self.reached))
            self.alive, self.margin = holds, margin
        self.before = frequency
        return bool(self.alive.any())

    def frequencies(self) -> Tensor:
        """Frequency that was reached, in 1/Å; the finest where no band failed, 0 where the first did."""
        assert self.reached is not None
        assert self.alive is not None
        return torch.where(self.alive, self.finest, self.reached)


def whitened(halves: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Spectra of both halves, divided by one radial amplitude: no band is ruled by its coarse end."""
    spectra = [torch.fft.rfftn(half, norm="forward") for half in halves]
    index = shell_index(halves[0].shape[-1], device=halves[0].device)
    power = sum(shell_sum(s.real.square() + s.imag.square(), index) for s in spectra)
    assert isinstance(power, Tensor)
    count = shell_sum(torch.ones_like(index, dtype=torch.float32), index)
    mean = power / count
    # an empty shell stays empty; the corners are not used
    scale = torch.where(mean > 1e-12 * mean.max(), mean.clamp_min(1e-300).rsqrt(), 0.0)
    scale = torch.cat([scale, scale.new_zeros(1)]).float()[index]
    return spectra[0].mul_(scale), spectra[1].mul_(scale)


def local_fsc(
    halves: tuple[Tensor, Tensor], windows: Windows, bands: list[Band]
) -> Iterator[tuple[Band, Tensor, Tensor, float]]:
    """Correlate the halves in a window around each point, from the coarsest band on.

    Both maps are band-passed first and weighted by the mask after that, so that the mask adds no correlation
    and noise has none to be corrected for: FSC(x) = ⟨m h₁h₂⟩/√(⟨m h₁²⟩⟨m h₂²⟩), ⟨⟩ the mean under the window
    at x (Cardone, Heymann and Steven, J. Struct. Biol. 184, 226, 2013, for the windowed FSC).

    Yields
    ------
    The band; the correlation and the independent samples behind it, each (g, g, g) on the grid of ``windows``;
    and the correlation in all of the mask.
    """
    spectra = whitened(halves)
    for band in bands:
        size = windows.fine_grid(band)
        gain = band.gain(radial_frequency(size, windows.box, halves[0].device), windows.nyquist)
        one, two = (
            torch.fft.irfftn(crop_spectrum(s, windows.size, size) * gain, s=(size,) * 3, norm="forward")
            for s in spectra
        )
        del gain
        mask = windows.mask(size)
        products = torch.stack([one * two, one.square_(), two.square_()]).mul_(mask)
        del one, two, mask
        cross, power1, power2 = windows.smooth(products, band.sigma_angstrom)
        total = (
            products.double().sum((1, 2, 3))
            if products.numel() < 1 << 24
            else products.sum((1, 2, 3)).double()
        )
        del products
        held, samples = windows.share(band)
        norm = (power1.clamp_min_(0) * power2.clamp_min_(0)).sqrt_()
        # far from the mask rounding is all that is left
        sound = (held > 1e-4) & (norm > 1e-4 * float(norm.max()) * held)
        value = torch.where(sound, cross / norm.clamp_min(torch.finfo(norm.dtype).tiny), 0.0)
        yield band, value, samples, float(total[0] / (total[1] * total[2]).sqrt().clamp_min(1e-300))


def windowed_resolution(
    half1: Tensor, half2: Tensor, mask: Tensor, voxel_size_angstrom: float, cfg: Resolved
) -> LocalResolution:
    """Local resolution of two half maps.

    A band holds at a point where the local FSC is at or above both ``cfg.threshold`` and what unrelated noise
    exceeds with probability ``cfg.noise_level`` in as many independent samples as window and mask leave.

    Parameters
    ----------
    half1, half2
        Raw half maps, shape (n, n, n).
    mask
        Values 0…1, shape (n, n, n).
    voxel_size_angstrom
        Voxel size.
    """
    windows = Windows(mask, voxel_size_angstrom)
    bands = make_bands(mask.shape[-1], voxel_size_angstrom, cfg.window_wavelengths)
    march, whole = March(windows.nyquist), March(windows.nyquist)
    for band, value, samples, overall in local_fsc((half1, half2), windows, bands):
        asked = critical_correlation(samples, cfg.noise_level).clamp_min_(cfg.threshold)
        whole_asked = max(cfg.threshold, float(critical_correlation(samples.max(), cfg.noise_level)))
        going_on = march.take(value / asked - 1, band.frequency)
        if not (whole.take(torch.tensor(overall / whole_asked - 1), band.frequency) or going_on):
            break
    return finish(march, whole, mask, windows, bands)


def finish(march: March, whole: March, mask: Tensor, windows: Windows, bands: list[Band]) -> LocalResolution:
    """Put what was reached on the grid of points onto all voxels."""
    coarsest = 1 / bands[0].frequency
    reached = enlarge(march.frequencies(), windows.size)
    resolved = reached >= bands[0].frequency * 0.999
    overall = float(whole.frequencies())
    return LocalResolution(
        angstrom=torch.where(resolved, 1 / reached.clamp_min(1e-6), coarsest),
        inside=mask > 0.5,
        resolved=resolved,
        coarsest_angstrom=coarsest,
        nyquist_angstrom=1 / windows.nyquist,
        whole_angstrom=1 / overall if overall > 0 else None,
    )


def local_weights(
    half1: Tensor, half2: Tensor, mask: Tensor, voxel_size_angstrom: float, cfg: Resolved
) -> tuple[list[tuple[float, Tensor]], LocalResolution]:
    """Weight √(2F/(1 + F)) of every band at every point, F the local FSC, to the local resolution and 0 beyond.

    Parameters
    ----------
    half1, half2, mask, voxel_size_angstrom, cfg
        As for :func:`windowed_resolution`.

    Returns
    -------
    Frequencies, in 1/Å, with the weight on a grid (g, g, g), as :func:`emflow.em.local_filter.blend_bands` takes
    them; and the local resolution.
    """
    windows = Windows(mask, voxel_size_angstrom)
    bands = make_bands(mask.shape[-1], voxel_size_angstrom, cfg.window_wavelengths)
    march, whole = March(windows.nyquist), March(windows.nyquist)
    weights: list[tuple[float, Tensor]] = []
    for band, value, samples, overall in local_fsc((half1, half2), windows, bands):
        asked = critical_correlation(samples, cfg.noise_level).clamp_min_(cfg.threshold)
        whole_asked = max(cfg.threshold, float(critical_correlation(samples.max(), cfg.noise_level)))
        whole.take(torch.tensor(overall / whole_asked - 1), band.frequency)
        going_on = march.take(value / asked - 1, band.frequency)
        assert march.alive is not None
        kept = value.clamp(0, 1)
        weights.append((band.frequency, torch.where(march.alive, (2 * kept / (1 + kept)).sqrt(), 0.0)))
        if not going_on:
            break
    return weights, finish(march, whole, mask, windows, bands)
