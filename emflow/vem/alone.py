"""Learn from noisy images alone: the noise is measured on what a first denoiser takes away, and drawn anew.

Blind spots fail on electron microscopes' images, since their noise is correlated from pixel to pixel. What a first
denoiser takes away has that correlation. So noise of the same kind is added to what it leaves, and the network learns to
take it away again: it comes to know the specimen's shapes and the detector's noise.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from emflow.device import generator
from emflow.nn.tiles import crop
from emflow.vem.train_images import Batch

REACH = 4
"""Pixels beyond which noise is taken as independent."""


def noise_kernel(residuals: Sequence[Tensor]) -> Tensor:
    """Kernel that gives white noise the correlation, and the deviation, of what was taken away.

    Parameters
    ----------
    residuals
        Noisy less denoised images, (H, W) each.

    Returns
    -------
    (2 · REACH + 1, 2 · REACH + 1).
    """
    side = 4 * REACH
    total, weight = torch.zeros(side, side), 0
    at = torch.arange(-REACH, REACH + 1)
    taper = 0.5 + 0.5 * torch.cos(torch.pi * at / (REACH + 1))
    for image in residuals:
        power = torch.fft.rfft2(image - image.mean()).abs() ** 2
        covariance = torch.fft.irfft2(power, s=image.shape)
        total[at[:, None] % side, at % side] += covariance[at[:, None] % image.shape[0], at % image.shape[1]]
        weight += image.numel()
    total[at[:, None] % side, at % side] *= taper[:, None] * taper / weight
    amplitude = torch.fft.rfft2(total).real.clamp_min(0).sqrt()
    kernel = torch.fft.irfft2(amplitude, s=(side, side))
    return kernel[at[:, None] % side, at % side]


def noisy_again(
    denoised: Sequence[Tensor], kernel: Tensor, step: int, seed: int, size: tuple[int, int]
) -> Batch:
    """Draw a step's crops of denoised images with fresh noise; ``size`` is their number and side."""
    rng = generator(seed, 44, step)
    batch, side = size
    areas = torch.tensor([float(image.numel()) for image in denoised])
    chosen = torch.multinomial(areas, batch, replacement=True, generator=rng).tolist()
    parts = torch.stack([crop(denoised[i][None], side, rng)[0] for i in chosen])
    white = torch.randn(batch, 1, side + 2 * REACH, side + 2 * REACH, generator=rng)
    noise = functional.conv2d(white, kernel[None, None])[:, 0]
    return parts + noise, parts, torch.ones_like(parts)
