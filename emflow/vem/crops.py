"""Planes to learn from: crops of measured slices, or of an isotropic volume across any of its axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from emflow.device import generator
from emflow.step import EmflowError
from emflow.vem.gaps import COLUMNS, between, divide
from emflow.vem.grid import interpolate

GAPS = 12
"""Gaps in a crop; fewer where slices are small."""
_SPREAD_CROPS = 48


def crop_shape(side: int, factor: int, width: int, stretch: float = 1.0) -> tuple[int, int]:
    """Gaps and width of the crops that slices of a side (the shorter one) allow.

    Parameters
    ----------
    stretch
        Steps in a pixel, as for :func:`crops`.

    Raises
    ------
    EmflowError
        If slices are too small for the factor.
    """
    gaps = min(GAPS, int((side - 1 - (stretch != 1)) * stretch // factor)) // 2 * 2
    width = min(width, side) // (4 * COLUMNS) * (4 * COLUMNS)
    if gaps < 2 or width < 16:
        raise EmflowError(
            f"Slices of {side} pixels are too small to learn a factor of {factor / stretch:.4g} from: expected at least "
            f"{max(math.ceil(2 * factor / stretch) + 1, 16)} a side. Use weights of another volume."
        )
    return gaps, width


def crops(
    slices: Tensor,
    factor: int,
    number: int,
    shape: tuple[int, int],
    rng: torch.Generator,
    stretch: float = 1.0,
) -> Tensor:
    """Draw planes from measured slices, one axis of which will be thinned out; turned and flipped at random.

    Parameters
    ----------
    slices
        (S, H, W).
    shape
        Gaps L and width, from :func:`crop_shape`.
    stretch
        Steps in a pixel: unless 1, that axis is interpolated, so that rows are as far apart as slices are.

    Returns
    -------
    (number, factor·L + 1, width).
    """
    gaps, width = shape
    out = [slices.new_empty(0, factor * gaps + 1, width)]
    for _ in range(number):
        chosen, turned, flips = (int(torch.randint(n, (1,), generator=rng)) for n in (len(slices), 2, 4))
        plane = slices[chosen].T if turned else slices[chosen]
        height = gaps * factor + 1 if stretch == 1 else math.ceil(gaps * factor / stretch) + 2
        y = int(torch.randint(plane.shape[0] - height + 1, (1,), generator=rng))
        x = int(torch.randint(plane.shape[1] - width + 1, (1,), generator=rng))
        part = plane[y : y + height, x : x + width]
        if stretch != 1:
            phase = torch.rand(1, generator=rng, dtype=torch.float64)
            part = interpolate(part, phase + torch.arange(gaps * factor + 1, dtype=torch.float64) / stretch)
        axes = [axis for axis in (0, 1) if flips >> axis & 1]
        out.append((part.flip(axes) if axes else part)[None])
    return torch.cat(out)


@dataclass(frozen=True)
class Isotropic:
    """An isotropic volume to learn from, in units of its deviation about its mean."""

    views: tuple[Tensor, ...]
    """It as slices (S, H, W) across each of its axes."""
    spreads: dict[int, float]
    """Root mean square of what linear interpolation misses, for each factor."""


def isotropic(
    pixels: Tensor, factors: Sequence[int], crop_px: int, seed: int, stretch: float = 1.0
) -> Isotropic:
    """Prepare an isotropic volume (Z, Y, X).

    Raises
    ------
    EmflowError
        If it is constant, or too small for a factor.
    """
    deviation = float(pixels.std())
    if deviation == 0:
        raise EmflowError("An isotropic volume to learn from is constant.")
    units = (pixels - pixels.mean()) / deviation
    views = units, units.permute(1, 0, 2), units.permute(2, 0, 1)
    spreads = {}
    for factor in factors:
        rng = generator(seed, 43, factor)
        shape = crop_shape(min(units.shape), factor, crop_px, stretch)
        planes = torch.cat([crops(view, factor, _SPREAD_CROPS // 3, shape, rng, stretch) for view in views])
        rows, missing = divide(planes, factor)
        spreads[factor] = max(float((missing - between(rows, factor)).square().mean().sqrt()), 1e-6)
    return Isotropic(views, spreads)


def draw(
    volumes: Sequence[Isotropic],
    factor: int,
    number: int,
    shape: tuple[int, int],
    rng: torch.Generator,
    stretch: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Draw planes across random axes of random volumes; (number, factor·L + 1, width), and their spreads (number)."""
    planes, spreads = [volumes[0].views[0].new_empty(0, factor * shape[0] + 1, shape[1])], []
    for _ in range(number):
        chosen = volumes[int(torch.randint(len(volumes), (1,), generator=rng))]
        view = chosen.views[int(torch.randint(3, (1,), generator=rng))]
        planes.append(crops(view, factor, 1, shape, rng, stretch))
        spreads.append(chosen.spreads[factor])
    return torch.cat(planes), torch.tensor(spreads)
