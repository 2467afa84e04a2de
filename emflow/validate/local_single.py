"""Local resolution from one map: monogenic amplitudes, band by band, against those of noise."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from emflow.em.bands import FINE, Band, Windows, critical_power, make_bands, radial_frequency
from emflow.em.fourier import crop_spectrum
from emflow.em.local_resolution import LocalResolution, March, finish
from emflow.em.masks import soft_sphere
from emflow.validate.config import ValidateLocal


def monogenic_power(spectrum: Tensor, frequency: tuple[Tensor, Tensor, Tensor], gain: Tensor) -> Tensor:
    """Squared monogenic amplitude of a band-passed map: v² + (R₁v)² + (R₂v)² + (R₃v)².

    The Riesz transform in direction j multiplies by −i k_j/|k|; like the Hilbert transform of a signal it
    holds what v misses where it crosses zero, so the amplitude is smooth.

    Parameters
    ----------
    spectrum
        Half-complex (n, n, n//2 + 1), ``norm="forward"``.
    frequency
        k_z, k_y, k_x over |k|, each broadcasting to the spectrum.
    gain
        Amplitude of the band, of the spectrum's shape.

    Source: Felsberg and Sommer, IEEE Trans. Signal Process. 49, 3136 (2001); Vilas et al., Structure 26, 337 (2018).
    """
    shape = (spectrum.shape[0],) * 3
    banded = spectrum * gain
    power = torch.fft.irfftn(banded, s=shape, norm="forward").square_()
    for direction in frequency:
        part = torch.fft.irfftn(banded * (direction * -1j), s=shape, norm="forward")
        power.addcmul_(part, part)
    return power


def solvent_noise(volume: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Cut the solvent out of a map before any filter, so that no density leaks into it.

    Returns
    -------
    The map less the solvent's mean, times the solvent's weight; and that weight: one less the mask, squared, in
    the inscribed sphere (beyond it most programs leave nothing). Both (n, n, n).
    """
    n = mask.shape[-1]
    weight = (1 - mask).square() * soft_sphere(n, n / 2 - 4, 3, device=mask.device)
    mean = (volume * weight).double().sum() / weight.double().sum().clamp_min(1e-9)
    return (volume - mean.float()) * weight, weight


def monogenic_bands(
    volume: Tensor, noise: Tensor | None, mask: Tensor, windows: Windows, bands: list[Band], level: float
) -> Iterator[tuple[Band, Tensor, Tensor, float]]:
    """Compare a map's monogenic power with that of noise, from the coarsest band on.

    Powers are means under half of the band's window. With ``noise`` the reference at a point is the noise's mean
    in the mask around it (under its full window); without, the mean over the
    solvent.

    Yields
    ------
    The band; the power over the reference, (g, g, g); the ratio that noise exceeds with probability ``level``,
    (g, g, g) or (1,); and the ratio of the means over the mask.
    """
    reference, weight = solvent_noise(volume, mask) if noise is None else (noise, mask)
    spectra = [torch.fft.rfftn(v, norm="forward") for v in (volume, reference)]
    inside = windows.sample(mask) > 0.5
    square = weight.square()
    square_mean = square.double().mean().clamp_min(1e-9)
    for band in bands:
        sigma = FINE * band.sigma_angstrom
        gain, directions = _riesz(windows, band, windows.fine_grid(band), volume.device)
        size = len(gain)
        power, other = (
            windows.smooth(
                monogenic_power(crop_spectrum(s, windows.size, size), directions, gain), sigma
            ).clamp_min_(0)
            for s in spectra
        )
        tiny = 1e-6 * float(power.max()) + 1e-30
        if noise is None:
            share = windows.smooth(square, sigma)
            well_inside = share >= share.quantile(1 - 0.5 * float(weight.double().mean()))
            seen = other[well_inside] / share[well_inside]
            seen = (seen / seen.mean().clamp_min(tiny)).quantile(1 - level)
            # a band spreads the power over its wavelength and beyond; the sum over the box keeps all of it
            around = (other.double().mean() / square_mean).float().reshape(1).clamp_min(tiny)
            count = band.fine_samples * _windows_in(weight, windows, sigma)
            one = torch.ones(1, device=power.device)
            limit = critical_power(band.fine_samples * one, count * one, level).maximum(seen)
        else:
            held, samples = windows.share(band)
            around = windows.smooth(other * inside, band.sigma_angstrom) / held.clamp_min(1e-3)
            limit = critical_power(samples.clamp_max(band.fine_samples), samples, level)
        overall = power[inside].mean() / (around if noise is None else other[inside].mean()).clamp_min(tiny)
        yield band, power / around.clamp_min(tiny), limit, float(overall)


def _windows_in(weight: Tensor, windows: Windows, sigma: float) -> float:
    """Number of Gaussian windows that the volume of a weight holds, at least 1."""
    volume = float(weight.double().mean()) * windows.box**3
    return max(1.0, volume / (4 * math.pi * sigma**2) ** 1.5)


def _riesz(
    windows: Windows, band: Band, size: int, device: torch.device
) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
    """Gain of a band, and direction cosines of the frequencies, on the grid of ``size`` samples."""
    full = torch.fft.fftfreq(size, 1 / size, device=device) / windows.box
    half = torch.fft.rfftfreq(size, 1 / size, device=device) / windows.box
    radius = radial_frequency(size, windows.box, device)
    gain = band.gain(radius, windows.nyquist)
    radius.clamp_min_(0.5 / windows.box)
    return gain, (full[:, None, None] / radius, full[:, None] / radius, half / radius)


def monogenic_resolution(
    volume: Tensor, noise: Tensor | None, mask: Tensor, voxel_size_angstrom: float, cfg: ValidateLocal
) -> LocalResolution:
    """Local resolution of one map.

    Power is signal and noise; half maps with FSC F would leave, in their mean, (1 + F)/(1 − F) times the noise's
    power. A band holds where the ratio reaches that at ``cfg.threshold`` and also exceeds what noise alone does
    with probability ``cfg.noise_level``. So both methods ask the same of a map.

    Parameters
    ----------
    volume
        The map, shape (n, n, n), unmasked.
    noise
        Half the difference of two half maps, whose mean ``volume`` is; None takes the noise of the solvent.
    mask
        Values 0…1, shape (n, n, n).
    voxel_size_angstrom
        Voxel size.
    """
    windows = Windows(mask, voxel_size_angstrom)
    bands = make_bands(mask.shape[-1], voxel_size_angstrom, cfg.window_wavelengths)
    march, whole = March(windows.nyquist), March(windows.nyquist)
    least = (1 + cfg.threshold) / (1 - cfg.threshold)
    for band, ratio, limit, overall in monogenic_bands(volume, noise, mask, windows, bands, cfg.noise_level):
        going_on = march.take((ratio / limit.clamp_min(least)).clamp_min(1e-9).log(), band.frequency)
        if not (whole.take(torch.tensor(math.log(max(overall, 1e-9) / least)), band.frequency) or going_on):
            break
    return finish(march, whole, mask, windows, bands)
