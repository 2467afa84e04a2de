"""The spherically symmetric part of a volume, taken away in Fourier space."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_FINE = 16  # steps per pixel in which radii and spatial frequencies are tabulated
_SLAB = 16  # planes of a volume or spectrum that are looked at a time


def radial_sums(volume: Tensor) -> Tensor:
    """Sum a cube (n, n, n) by distance from n//2 in steps of 1/16 pixel, float64.

    A voxel between two steps is shared, so that its distance is kept on average.
    """
    n = volume.shape[-1]
    axis = (torch.arange(n, device=volume.device, dtype=torch.float32) - n // 2).square()
    flat = axis[:, None] + axis
    steps = int(_FINE * math.sqrt(3) * (n // 2)) + 3
    sums = torch.zeros(steps, dtype=torch.float64, device=volume.device)
    for part, height in zip(volume.split(_SLAB), axis.split(_SLAB), strict=True):
        place = (height[:, None, None] + flat).sqrt_().mul_(_FINE).reshape(-1)
        low = place.long()
        share, values = (place - low).double(), part.reshape(-1).double()
        sums += torch.bincount(low, values * (1 - share), minlength=steps)
        sums += torch.bincount(low + 1, values * share, minlength=steps)
    return sums


def spherical_transform(volume: Tensor, last: float) -> Tensor:
    """Spherical mean of a cube's Fourier transform (about n//2), in steps of 1/16 Fourier pixel, float64.

    The mean of exp(−2πi k·r/n) over all directions is sinc(2kr/n), so each voxel adds its value times that.

    Parameters
    ----------
    volume
        Real, (n, n, n).
    last
        Largest spatial frequency wanted, in Fourier pixels.
    """
    n = volume.shape[-1]
    sums = radial_sums(volume)
    radius = torch.arange(len(sums), dtype=torch.float64, device=volume.device) / _FINE
    table = torch.empty(int(_FINE * last) + 2, dtype=torch.float64, device=volume.device)
    for frequency, out in zip(
        (torch.arange(len(table), device=volume.device).double() / _FINE).split(256),
        table.split(256),
        strict=True,
    ):
        out.copy_(torch.sinc(2 / n * frequency[:, None] * radius) @ sums)
    return table


def subtract_spherical_part(spectrum: Tensor, volume: Tensor) -> Tensor:
    """Spectrum (n, n, n//2 + 1) of a volume (n, n, n) less that of its mean over spheres about n//2.

    Exact up to the shell n//2 for the continuous sphere; the corners beyond are left as they are.
    """
    n = volume.shape[-1]
    device = volume.device
    table = spherical_transform(volume, n // 2 + 1).to(volume.dtype)
    full = torch.fft.fftfreq(n, 1 / n, device=device)
    half = torch.fft.rfftfreq(n, 1 / n, device=device)
    # the sphere's centre is at n//2, the transform's origin at 0
    phase_full, phase_half = (
        torch.polar(torch.ones_like(k), -2 * math.pi * (n // 2) / n * k) for k in (full, half)
    )
    plane_radius = full.square()[:, None] + half.square()
    plane_phase = phase_full[:, None] * phase_half
    rest = torch.empty_like(spectrum)
    for k, phase, part, out in zip(
        full.split(_SLAB), phase_full.split(_SLAB), spectrum.split(_SLAB), rest.split(_SLAB), strict=True
    ):
        place = (k.square()[:, None, None] + plane_radius).sqrt_().mul_(_FINE)
        inside = place < len(table) - 1
        low = place.long().clamp_(max=len(table) - 2)
        mean = torch.lerp(table[low], table[low + 1], (place - low).to(table.dtype)) * inside
        torch.sub(part, mean * (phase[:, None, None] * plane_phase), out=out)
    return rest
