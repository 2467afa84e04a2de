"""Radial templates: soft disks to begin with, then the mean profile of the best picks."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from emflow.pick.filters import gaussian_blur

SIZES = (0.4, 0.5, 0.6, 0.7, 0.85, 1.0)
"""Diameters of the disks tried first, in longest diameters: most particles are thinner than they are long."""


def _radii(half: int, device: torch.device) -> Tensor:
    axis = torch.arange(-half, half + 1, dtype=torch.float32, device=device)
    return torch.sqrt(axis[:, None] ** 2 + axis[None, :] ** 2)


def disks(diameter_px: float, device: torch.device) -> Tensor:
    """Soft disks of several sizes, each in a ring that makes its sum zero; shape (sizes, k, k), bright on dark."""
    half = math.ceil(diameter_px)
    radius = _radii(half, device)
    kernels = []
    for size in SIZES:
        width = 0.03 * size * diameter_px + 0.3
        inner = torch.sigmoid((0.5 * size * diameter_px - radius) / width)
        ring = torch.sigmoid((0.75 * size * diameter_px - radius) / width) - inner
        kernels.append(inner / inner.sum() - ring / ring.sum())
    stack = torch.stack(kernels)
    return stack / torch.linalg.vector_norm(stack, dim=(-2, -1), keepdim=True)


def learn_profile(image: Tensor, weight: Tensor, centres: Tensor, half: int) -> Tensor:
    """Mean over picks of the rotationally averaged image around them.

    Parameters
    ----------
    image, weight
        Shape (y, x); masked pixels (weight 0) do not count.
    centres
        Pixels (n, 2) as y, x; integers.
    half
        Largest radius, in pixels.

    Returns
    -------
    Profile at radii 0 … half, shape (half + 1,).
    """
    device = image.device
    axis = torch.arange(-half, half + 1, device=device)
    y = (centres[:, 0, None, None] + axis[:, None]).expand(-1, -1, 2 * half + 1)
    x = (centres[:, 1, None, None] + axis[None, :]).expand(-1, 2 * half + 1, -1)
    inside = (y >= 0) & (y < image.shape[0]) & (x >= 0) & (x < image.shape[1])
    y, x = y.clamp(0, image.shape[0] - 1), x.clamp(0, image.shape[1] - 1)
    valid = (weight[y, x] * inside).sum(0)
    values = (image[y, x] * inside).sum(0)
    ring = _radii(half, device).round().long().clamp(max=half).flatten()
    zeros = torch.zeros(half + 1, device=device)
    total = zeros.index_add(0, ring, values.flatten())
    return total / zeros.index_add(0, ring, valid.flatten()).clamp_min(1)


def render(profile: Tensor, diameter_px: float, smooth: float = 0.0) -> Tensor:
    """Template image (k, k) of unit norm from a radial profile.

    Smoothed by a Gaussian of deviation ``smooth`` diameters; fades to zero from 0.8 to 1 diameter of radius.
    """
    half = profile.shape[0] - 1
    radius = _radii(half, profile.device)
    below = radius.floor().long().clamp(max=half - 1)
    values = torch.lerp(profile[below], profile[below + 1], (radius - below).clamp(max=1))
    if smooth > 0:
        values = gaussian_blur(values, smooth * diameter_px)
    fade = ((radius / diameter_px - 0.8) / 0.2).clamp(0, 1)
    kernel = values * 0.5 * (1 + torch.cos(math.pi * fade))
    return kernel / torch.linalg.vector_norm(kernel).clamp_min(1e-12)
