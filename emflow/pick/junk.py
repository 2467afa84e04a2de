"""Contamination of no particular origin, painted on micrographs from which a network learns."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from emflow.pick.filters import gaussian_blur

MOST, MOST_SPECKS = 6, 24
"""Most pieces on a micrograph; most spots of a piece beside the first four."""


def add_junk(image: Tensor, diameter_px: float, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Paint one to six pieces of contamination: patches, bands with an edge, spots, and what a random field cuts out.

    They are denser or thinner than ice, and may hide what lies beneath them.

    What a picker will meet is not known when it learns, so the pieces have few things in common: any size from
    dust on, any grain, an outline and a strength above the noise.

    Parameters
    ----------
    image
        (y, x).
    diameter_px
        The particle's, in pixels.

    Returns
    -------
    The image with them, and where they are (1, else 0).
    """
    spread = float(image.std())
    number = 1 + int(torch.randint(MOST, (1,), generator=random))
    mask = torch.zeros_like(image)
    for _ in range(number):
        kind = int(torch.randint(len(KINDS), (1,), generator=random))
        cover = KINDS[kind](image.shape, diameter_px, random)
        strength = _between(0.4, 4.0, random) * (1 if _uniform(random) < 0.75 else -1)
        grain = _field(image.shape, _between(0.05, 0.6, random) * diameter_px, random)
        rough = _between(0.2, 1.5, random) * abs(strength)
        hidden = _between(0.3, 1.0, random) if _uniform(random) < 0.5 else 1.0
        image = image * (1 - (1 - hidden) * cover.clamp(max=1)) + spread * cover * (strength + rough * grain)
        mask = torch.maximum(mask, (cover > 0.3).to(mask))
    return image, mask


def _patch(shape: torch.Size, diameter_px: float, random: torch.Generator) -> Tensor:
    """Region of irregular outline, some particles wide."""
    radius = _between(0.6, 4.0, random) * diameter_px
    outline = 0.35 * radius * _field(shape, _between(0.2, 1.0, random) * diameter_px, random)
    return torch.sigmoid((radius - _distance(shape, random) + outline) / (0.06 * diameter_px))


def _band(shape: torch.Size, diameter_px: float, random: torch.Generator) -> Tensor:
    """What lies beyond a wavy line, or between two."""
    y, x = _grid(shape)
    angle = 2 * math.pi * _uniform(random)
    along = (y - shape[0] / 2) * math.sin(angle) + (x - shape[1] / 2) * math.cos(angle)
    wave = 0.5 * diameter_px * _field(shape, _between(0.5, 3.0, random) * diameter_px, random)
    start = _between(0.1, 0.45, random) * max(shape)
    width = _between(0.3, 8.0, random) * diameter_px
    inside = torch.minimum(along + wave - start, start + width - along - wave)
    return torch.sigmoid(inside / (0.08 * diameter_px))


def _spot(shape: torch.Size, diameter_px: float, random: torch.Generator) -> Tensor:
    """Disk or cornered piece, from dust to twice a particle."""
    radius = _between(0.04, 0.9, random) * diameter_px
    return torch.sigmoid((radius - _distance(shape, random)) / (0.04 * diameter_px)) * 1.5


def _specks(shape: torch.Size, diameter_px: float, random: torch.Generator) -> Tensor:
    """Many small spots, in a heap or all over."""
    cover = torch.zeros(shape)
    wide = _between(0.1, 1.0, random) * max(shape)
    at = torch.tensor(shape) * torch.rand(2, generator=random)
    y, x = _grid(shape)
    for _ in range(4 + int(torch.randint(MOST_SPECKS, (1,), generator=random))):
        place = at + wide * torch.randn(2, generator=random)
        radius = _between(0.05, 0.4, random) * diameter_px
        distance = ((y - place[0]) ** 2 + (x - place[1]) ** 2).sqrt()
        cover = torch.maximum(cover, torch.sigmoid((radius - distance) / (0.04 * diameter_px)))
    return cover


def _cut(shape: torch.Size, diameter_px: float, random: torch.Generator) -> Tensor:
    """Where a smooth random field is high (islands) or near a level (winding lines), in a part of the image."""
    length = _between(0.15, 1.5, random) * diameter_px
    field = _field(shape, length, random)
    level = _between(0.5, 2.0, random)
    edge = 0.06 * diameter_px / length
    lines = torch.sigmoid((_between(0.05, 0.35, random) - (field - level).abs()) / edge)
    cover = lines if _uniform(random) < 0.5 else torch.sigmoid((field - level) / edge)
    radius = _between(1.0, 10.0, random) * diameter_px
    return cover * torch.sigmoid((radius - _distance(shape, random)) / (0.1 * diameter_px))


KINDS = (_patch, _band, _spot, _specks, _cut)


def _distance(shape: torch.Size, random: torch.Generator) -> Tensor:
    """Distance from a random place, by a norm between the round and the square, stretched."""
    y, x = _grid(shape)
    y, x = y - _uniform(random) * shape[0], x - _uniform(random) * shape[1]
    angle, stretch = math.pi * _uniform(random), _between(0.6, 1.7, random)
    u = (x * math.cos(angle) + y * math.sin(angle)) * stretch
    v = (y * math.cos(angle) - x * math.sin(angle)) / stretch
    power = _between(1.2, 5.0, random)
    return (u.abs() ** power + v.abs() ** power) ** (1 / power)


def _grid(shape: torch.Size) -> tuple[Tensor, Tensor]:
    return torch.arange(shape[0], dtype=torch.float32)[:, None], torch.arange(shape[1], dtype=torch.float32)


def _field(shape: torch.Size, length_px: float, random: torch.Generator) -> Tensor:
    """Smooth Gaussian noise of deviation about 1."""
    field = gaussian_blur(torch.randn(shape, generator=random), max(length_px, 0.3))
    return field / field.std()


def _uniform(random: torch.Generator) -> float:
    return float(torch.rand(1, generator=random))


def _between(low: float, high: float, random: torch.Generator) -> float:
    return low * (high / low) ** _uniform(random)
