"""Convolutions that never wrap, radial spectra, matched filters that know what was masked."""

from __future__ import annotations

import math

import torch
from torch import Tensor

MIN_COVERAGE = 0.25
"""Part of a template's energy that must be on valid pixels before its score is no longer scaled up."""


def _fast_size(n: int) -> int:
    """Smallest size ≥ n with no prime factor above 5, for which Fourier transforms are fast."""
    while True:
        rest = n
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return n
        n += 1


def _padded(shape: torch.Size, margin: int) -> tuple[int, int]:
    return _fast_size(shape[-2] + margin), _fast_size(shape[-1] + margin)


def _radius(size: tuple[int, int], device: torch.device) -> Tensor:
    """Spatial frequency of ``rfft2`` in cycles per pixel."""
    fy = torch.fft.fftfreq(size[0], device=device)[:, None]
    fx = torch.fft.rfftfreq(size[1], device=device)[None]
    return torch.sqrt(fy * fy + fx * fx)


def gaussian_blur(images: Tensor, sigma: float) -> Tensor:
    """Convolve with a Gaussian of standard deviation ``sigma`` pixels; zeros beyond the border, shape (..., y, x)."""
    height, width = images.shape[-2:]
    size = _padded(images.shape, math.ceil(4 * sigma))
    transfer = torch.exp(-2 * (math.pi * sigma * _radius(size, images.device)) ** 2)
    return torch.fft.irfft2(torch.fft.rfft2(images, s=size) * transfer, s=size)[..., :height, :width]


def noise_spectrum(image: Tensor, weight: Tensor, bins: int) -> Tensor:
    """Radially averaged power spectrum of the weighted image.

    Parameters
    ----------
    image, weight
        Shape (y, x); the weight is 1 on noise, 0 on what shall not count, with smooth edges.
    bins
        Number of rings up to Nyquist.

    Returns
    -------
    Power per pixel at radii 0 … Nyquist, shape (bins + 1,): 1 everywhere for white noise of deviation 1.
    """
    size = _padded(image.shape, image.shape[-1])
    power = torch.fft.rfft2(image * weight, s=size).abs() ** 2 / (weight * weight).sum().clamp_min(1e-6)
    ring = (_radius(size, image.device) * 2 * bins).round().long().clamp(max=bins).flatten()
    count = torch.zeros(bins + 1, device=image.device).index_add_(0, ring, torch.ones_like(power).flatten())
    total = torch.zeros(bins + 1, device=image.device).index_add_(0, ring, power.flatten())
    return total / count


def filter_radially(image: Tensor, transfer: Tensor) -> Tensor:
    """Multiply the Fourier transform by a radial function given at radii 0 … Nyquist (linear in between)."""
    height, width = image.shape[-2:]
    bins = transfer.shape[0] - 1
    size = _padded(image.shape, 2 * bins)
    radius = (_radius(size, image.device) * 2 * bins).clamp(max=bins - 1e-3)
    below = radius.floor().long()
    values = torch.lerp(transfer[below], transfer[below + 1], radius - below)
    return torch.fft.irfft2(torch.fft.rfft2(image, s=size) * values, s=size)[..., :height, :width]


def correlate(image: Tensor, kernels: Tensor) -> Tensor:
    """Correlate an image (y, x) with point-symmetric kernels (..., k, k), k odd; zeros beyond the border."""
    height, width = image.shape
    half = kernels.shape[-1] // 2
    size = _padded(image.shape, 2 * half)
    product = torch.fft.rfft2(image, s=size) * torch.fft.rfft2(kernels, s=size)
    return torch.fft.irfft2(product, s=size)[..., half : half + height, half : half + width]


def matched_filter(white: Tensor, weight: Tensor, kernels: Tensor) -> Tensor:
    """Score of radial templates at each pixel, in deviations of white noise, where pixels may be missing.

    Σ t·x / √(Σ t²·w): the optimal detector of a known shape in white noise of deviation 1 whose pixels are
    valid with weight w.

    Parameters
    ----------
    white
        Whitened image, zero where masked, shape (y, x).
    weight
        1 on valid pixels, 0 on masked ones, shape (y, x).
    kernels
        Templates, shape (..., k, k), k odd.
    """
    energy = correlate(weight, kernels * kernels)
    least = MIN_COVERAGE * (kernels * kernels).sum((-2, -1))[..., None, None]
    return correlate(white, kernels) / torch.sqrt(torch.maximum(energy, least))
