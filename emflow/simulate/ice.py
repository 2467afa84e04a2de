"""The grain of the ice: white, or structured by one of two generators that have nothing in common.

One may train a network and the other judge it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_FIELD_LENGTHS_ANGSTROM = (15.0, 60.0)
_FIELD_RISE = (3.0, 10.0)  # amplitude of low frequencies over high ones, less 1
_GRAIN_RADII_ANGSTROM = (4.0, 7.0, 12.0, 20.0, 32.0)
_GRAINS_PER_AREA = 0.15  # of a grain's area
_GRAIN_WHITE = 0.6  # deviation of the white part over that of the grains


def ice_texture(kind: str, side: int, pixel: float, generator: torch.Generator) -> Tensor:
    """Random texture of deviation 1, (side, side), on a torus.

    ``white``: independent pixels. ``fields``: a Gaussian field whose spectrum rises towards low frequencies,
    modulated slowly. ``grains``: soft discs of five sizes, either sign, with heavy-tailed strengths and in
    clusters, over a white ground: far from Gaussian.
    """
    if kind == "white":
        return torch.randn(side, side, generator=generator)
    texture = _fields(side, pixel, generator) if kind == "fields" else _grains(side, pixel, generator)
    texture = texture - texture.mean()
    return texture / texture.std()


def shaped(field: Tensor, amplitude: Tensor) -> Tensor:
    """Multiply a field's transform (rfft2) by real amplitudes."""
    return torch.fft.irfft2(torch.fft.rfft2(field) * amplitude, s=field.shape)


def frequency(side: int, pixel: float) -> Tensor:
    """Spatial frequency, 1/Å, on the grid of ``rfft2``."""
    return torch.hypot(torch.fft.fftfreq(side, pixel)[:, None], torch.fft.rfftfreq(side, pixel)[None])


def _between(low: float, high: float, generator: torch.Generator) -> float:
    return low * (high / low) ** float(torch.rand(1, generator=generator))


def _fields(side: int, pixel: float, generator: torch.Generator) -> Tensor:
    s = frequency(side, pixel)
    length = _between(*_FIELD_LENGTHS_ANGSTROM, generator)
    rise = _between(*_FIELD_RISE, generator)
    field = shaped(
        torch.randn(side, side, generator=generator), 1 + rise / (1 + (2 * math.pi * s * length) ** 2)
    )
    slow = shaped(torch.randn(side, side, generator=generator), torch.exp(-2 * (math.pi * s * 400) ** 2))
    return field * torch.exp(0.3 * slow / slow.std())


def _grains(side: int, pixel: float, generator: torch.Generator) -> Tensor:
    s = frequency(side, pixel)
    density = shaped(torch.randn(side, side, generator=generator), torch.exp(-2 * (math.pi * s * 150) ** 2))
    density = torch.exp(density / density.std() - 0.5)  # of mean about 1: grains cluster
    total = torch.zeros(side, side)
    for radius in _GRAIN_RADII_ANGSTROM:
        area = math.pi * (radius / pixel) ** 2
        number = torch.poisson((_GRAINS_PER_AREA / max(area, 1.0) * density), generator=generator)
        strength = torch.empty(side, side).exponential_(generator=generator)
        sign = 2.0 * torch.randint(0, 2, (side, side), generator=generator) - 1
        x = 2 * math.pi * s * radius
        disc = torch.where(x > 1e-3, 2 * torch.special.bessel_j1(x) / x.clamp(min=1e-3), 1.0)  # of sum 1
        soft = torch.exp(-2 * (math.pi * s * 0.15 * radius) ** 2)
        total += shaped(number * strength * sign, disc * soft * area)
    return total / total.std() + _GRAIN_WHITE * torch.randn(side, side, generator=generator)
