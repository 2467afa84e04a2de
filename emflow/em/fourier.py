"""Fourier crop and pad of images and volumes, centre at n//2, mean preserved."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def good_size(least: float) -> int:
    """Return the smallest even number ≥ ``least`` whose FFT is fast (no prime factor above 7)."""
    size = max(2, 2 * math.ceil(least / 2))
    while True:
        rest = size
        for factor in (2, 3, 5, 7):
            while rest % factor == 0:
                rest //= factor
        if rest == 1:
            return size
        size += 2


def _take(spectrum: Tensor, dim: int, size: int, new: int) -> Tensor:
    """Crop or zero-pad one full (unshifted) frequency axis from ``size`` to ``new`` samples."""
    keep = min(size, new)
    low, high = (keep + 1) // 2, keep // 2
    parts = [spectrum.narrow(dim, 0, low)]
    if new > keep:
        shape = list(spectrum.shape)
        shape[dim] = new - keep
        parts.append(spectrum.new_zeros(shape))
    parts.append(spectrum.narrow(dim, size - high, high))
    return torch.cat(parts, dim)


def fourier_resize(images: Tensor, size: int) -> Tensor:
    """Crop (bin) or zero-pad (interpolate) square images in Fourier space.

    Parameters
    ----------
    images
        Real, shape (..., n, n); n and ``size`` even, so that the centre n//2 maps to size//2.
    size
        New side in pixels.

    Returns
    -------
    Real, shape (..., size, size), same mean; the new Nyquist row and column are dropped, so that the
    result is band-limited and real whatever the phase there.
    """
    n = images.shape[-1]
    if images.shape[-2] != n or n % 2 or size % 2:
        raise ValueError(f"expected even square images and size, got {tuple(images.shape)} and {size}")
    if n == size:
        return images
    spectrum = torch.fft.rfft2(torch.fft.ifftshift(images, dim=(-2, -1)))
    half = min(n, size) // 2
    spectrum = _take(spectrum, -2, n, size)
    columns = spectrum[..., :half]
    rows = torch.fft.fftfreq(size, 1 / size, device=images.device).abs() < half
    columns = columns * rows[:, None]
    out = torch.fft.irfft2(columns, s=(size, size)) * (size / n) ** 2
    return torch.fft.fftshift(out, dim=(-2, -1))


def resample(volume: Tensor, voxel_angstrom: float, box: int, new_voxel_angstrom: float) -> Tensor:
    """Put a volume (n, n, n), centre n//2, on another grid of the same centre, by Fourier crop or padding."""
    n = volume.shape[-1]
    side = 2 * round(box * new_voxel_angstrom / voxel_angstrom / 2)  # of the new box, in old voxels
    reach = min(n, side) // 2
    out = torch.zeros(side, side, side, dtype=volume.dtype, device=volume.device)
    to, of = slice(side // 2 - reach, side // 2 + reach), slice(n // 2 - reach, n // 2 + reach)
    out[to, to, to] = volume[of, of, of]
    spectrum = torch.fft.rfftn(torch.fft.ifftshift(out))
    band = min(side, box) // 2 - 1
    index = torch.arange(-band, band + 1, device=volume.device)
    target = torch.zeros(box, box, box // 2 + 1, dtype=spectrum.dtype, device=volume.device)
    rows = index % box
    part = spectrum[index % side][:, index % side][:, :, : band + 1]
    target[rows[:, None], rows[None], : band + 1] = part
    return torch.fft.fftshift(torch.fft.irfftn(target, s=(box, box, box))) * (box / side) ** 3


def crop_spectrum(spectrum: Tensor, size: int, new: int) -> Tensor:
    """Crop or pad half-complex spectra (..., n, n, n//2 + 1) of cubes to those of ``new`` samples a side.

    The scale is kept, so that ``irfftn(…, norm="forward")`` gives values of the old scale. The common Nyquist
    plane is dropped.
    """
    if new == size:
        return spectrum
    reach = (min(size, new) - 1) // 2
    out = spectrum.new_zeros(*spectrum.shape[:-3], new, new, new // 2 + 1)
    for z in ((0, reach + 1), (-reach, 0)):
        for y in ((0, reach + 1), (-reach, 0)):
            zs, ys = slice(z[0], z[1] or None), slice(y[0], y[1] or None)
            out[..., zs, ys, : reach + 1] = spectrum[..., zs, ys, : reach + 1]
    return out
