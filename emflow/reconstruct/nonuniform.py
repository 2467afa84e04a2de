"""Regularisation that follows the map: each region of the references is filtered by what it predicts.

The particle is seldom equally well resolved everywhere. One filter for all (the shells' SSNR) leaves noise where
a domain moves and takes signal where the map is rigid. Here the filter of each region is found by
cross-validation between the halves (Punjani, Zhang & Fleet, Nat. Methods 17, 1214, 2020), band by band.
"""

from __future__ import annotations

import torch
from torch import Tensor

from emflow.em.bands import Band, Windows, critical_correlation, make_bands, radial_frequency
from emflow.em.fourier import crop_spectrum
from emflow.em.local_filter import blend_bands

WINDOW_WAVELENGTHS = 0.7
"""Standard deviation of the window, in wavelengths of the band: 0.5 to 1 were tried on hinges and do alike."""
NOISE_LEVEL = 0.01
"""Share of points of pure noise that may pass a band."""
LARGEST_GAIN = 2.0
"""Most by which a region's amplitude may exceed that of the shells' filter, which is cautious where all else is poor."""


def regularise_locally(
    filtered: tuple[Tensor, Tensor],
    raw: tuple[Tensor, Tensor],
    inside: Tensor,
    voxel_size_angstrom: float,
) -> tuple[Tensor, Tensor]:
    """Filter both half maps, in each region and band, by the gain that predicts the other raw half best.

    In a band, the gain g(x) makes ⟨w (g f₁ − r₂)²⟩ + ⟨w (g f₂ − r₁)²⟩ smallest, w a Gaussian window around x:
    g = ⟨w (f₁ r₂ + f₂ r₁)⟩ / ⟨w (f₁² + f₂²)⟩. Its noise is that of the other half, so over-fitting cannot
    lower the error. From the first band in which the halves do not correlate beyond noise, g is 0.

    What the halves share is g alone: one smooth number per band and window, between 0 and 2. No map, mask or noise
    of one half enters the other's reference.

    Parameters
    ----------
    filtered
        Half maps filtered by the shells' SSNR, each (n, n, n).
    raw
        The same, unfiltered.
    inside
        Sphere or mask of values 0…1 that was made from neither half, (n, n, n).
    voxel_size_angstrom
        Voxel size.

    Returns
    -------
    Both references, (n, n, n).
    """
    windows = Windows(inside, voxel_size_angstrom)
    spectra = torch.stack([torch.fft.rfftn(volume, norm="forward") for volume in (*filtered, *raw)])
    gains: list[tuple[float, Tensor]] = []
    going_on: Tensor | None = None
    for band in make_bands(inside.shape[-1], voxel_size_angstrom, WINDOW_WAVELENGTHS):
        gain, holds = _band_gain(spectra, windows, band)
        going_on = holds if going_on is None else going_on & holds
        gains.append((band.frequency, torch.where(going_on, gain, 0.0)))
    del spectra
    one, two = blend_bands(filtered, gains, voxel_size_angstrom)
    return one, two


def _band_gain(spectra: Tensor, windows: Windows, band: Band) -> tuple[Tensor, Tensor]:
    """Gain of a band, and whether its halves correlate beyond noise; both on the grid of ``windows``."""
    size = windows.fine_grid(band)
    shape = band.gain(radial_frequency(size, windows.box, spectra.device), windows.nyquist)
    f1, f2, r1, r2 = (
        torch.fft.irfftn(crop_spectrum(s, windows.size, size) * shape, s=(size,) * 3, norm="forward")
        for s in spectra
    )
    products = torch.stack([f1 * r2 + f2 * r1, f1.square() + f2.square(), 2 * f1 * f2])
    predicted, power, shared = windows.smooth(products.mul_(windows.mask(size)), band.sigma_angstrom)
    held, samples = windows.share(band)
    # far from the sphere rounding is all that is left
    sound = (held > 1e-3) & (power > 1e-6 * power.max())
    power = power.clamp_min(torch.finfo(power.dtype).tiny)
    gain = torch.where(sound, predicted / power, 0.0).clamp_(0, LARGEST_GAIN)
    return gain, sound & (shared / power > critical_correlation(samples, NOISE_LEVEL))
