"""Compare a restored volume with the truth: signal to noise, structure, resolution, texture, coverage."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

HIGH_BAND = 0.5
"""High frequencies: beyond this part of Nyquist."""


def psnr(values: Tensor, truth: Tensor, peak: float) -> float:
    """Peak signal-to-noise ratio in decibel; ``peak`` is the range of intensities."""
    error = float((values.double() - truth.double()).square().mean())
    return 10 * math.log10(peak**2 / error) if error else math.inf


def ssim(values: Tensor, truth: Tensor, peak: float) -> float:
    """Mean structural similarity of planes (N, H, W) (Z. Wang et al., IEEE Trans. Image Process. 13, 600, 2004).

    With the paper's Gaussian window (11 pixels, deviation 1.5) and constants.
    """
    x = torch.arange(11, dtype=torch.float64, device=values.device) - 5
    bell = torch.exp(-(x**2) / (2 * 1.5**2))
    bell /= bell.sum()

    def blur(image: Tensor) -> Tensor:
        rows = functional.conv2d(image, bell.view(1, 1, -1, 1))
        return functional.conv2d(rows, bell.view(1, 1, 1, -1))

    total, number = 0.0, 0
    for a, b in zip(values, truth, strict=True):
        a, b = a.double()[None, None], b.double()[None, None]
        mean_a, mean_b = blur(a), blur(b)
        var_a, var_b = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2
        both = blur(a * b) - mean_a * mean_b
        c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
        similar = (2 * mean_a * mean_b + c1) * (2 * both + c2)
        similar /= (mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2)
        total, number = total + float(similar.sum()), number + similar.numel()
    return total / number


def axial_spectra(values: Tensor, truth: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Correlation and powers along the axis, over planes that hold it.

    Parameters
    ----------
    values, truth
        Planes, (N, Z, W).

    Returns
    -------
    Frequencies along the axis in units of Nyquist; Fourier correlation of the two (over all lateral
    frequencies up to the same); power of ``values`` as a part of the truth's.
    """
    window = torch.outer(
        *(torch.hann_window(n, periodic=False, dtype=torch.float64) for n in values.shape[1:])
    ).to(values.device)
    cross, own, other = 0.0, 0.0, 0.0
    for a, b in zip(values, truth, strict=True):
        fa, fb = (torch.fft.rfft2((image.double() - image.double().mean()) * window) for image in (a, b))
        cross = cross + (fa * fb.conj()).real
        own, other = own + fa.abs() ** 2, other + fb.abs() ** 2
    fz = 2 * torch.fft.fftfreq(values.shape[1], device=values.device).abs()[:, None]
    fx = 2 * torch.fft.rfftfreq(values.shape[2], device=values.device)[None]
    bins = values.shape[1] // 2
    ring = (fz * bins).round().long().expand(-1, fx.shape[1])
    ring = torch.where(fx <= fz, ring, torch.full_like(ring, bins + 1)).flatten()

    def summed(power: Tensor) -> Tensor:
        out = torch.zeros(bins + 2, dtype=torch.float64, device=power.device)
        return out.index_add_(0, ring, power.flatten())[: bins + 1]

    c, p, q = (summed(part) for part in (cross, own, other))  # type: ignore[arg-type]
    frequency = torch.arange(bins + 1, dtype=torch.float64) / bins
    tiny = 1e-30
    return frequency, (c / (p * q).sqrt().clamp_min(tiny)).cpu(), (p / q.clamp_min(tiny)).cpu()


def axial_resolution(frequency: Tensor, correlation: Tensor, threshold: float = 0.5) -> float:
    """Detail along the axis, in voxels, at which the correlation first falls below the threshold; 2 if it never does."""
    below = (correlation < threshold).nonzero().flatten()
    below = below[below > 0]
    if not len(below):
        return 2.0
    i = int(below[0])
    a, b = float(correlation[i - 1]), float(correlation[i])
    part = (a - threshold) / (a - b) if a > threshold else 0.0
    at = float(frequency[i - 1]) + part * float(frequency[i] - frequency[i - 1])
    return 2 / max(at, float(frequency[1]) / 2)


def high_frequency_power(frequency: Tensor, power: Tensor) -> float:
    """Power beyond half of Nyquist along the axis as a part of the truth's: 1 is its texture, less is smoother."""
    return float(power[frequency > HIGH_BAND].mean())
