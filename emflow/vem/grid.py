"""Places along the axis: measured slices, the steps between them, and the voxels of the restored volume.

Where slices are a whole number of pixels apart, every restored voxel is one of the steps that the network
predicts. Otherwise the network divides each gap into the next larger number of steps, and these are interpolated
at the isotropic voxels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

LARGEST = 16
"""Largest distance of slices, in pixels."""
SMALLEST = 1.2
TOLERANCE = 0.02
"""A distance this near to a whole number of pixels, as its part, counts as whole."""
TAPS = 3
"""Samples on either side that the interpolation takes."""
_FUZZ = 1e-6


@dataclass(frozen=True)
class Grid:
    """How measured slices lie among restored ones."""

    factor: int
    """Steps into which the network divides a gap."""
    ratio: float
    """Distance of measured slices in restored voxels; the factor where that is whole."""

    @staticmethod
    def of(ratio: float) -> Grid:
        """Return the grid of slices that are ``ratio`` pixels apart."""
        near = round(ratio)
        if near >= 2 and abs(ratio / near - 1) <= TOLERANCE:
            return Grid(near, float(near))
        return Grid(math.ceil(ratio), ratio)

    @property
    def whole(self) -> bool:
        """Whether each restored voxel is a step, so that measured slices are kept."""
        return self.factor == self.ratio

    @property
    def stretch(self) -> float:
        """Steps in a pixel: 1 where whole, else between 1 and 2."""
        return self.factor / self.ratio

    def slices(self, measured: int) -> int:
        """Restored slices of so many measured ones; none lies beyond the last."""
        return math.floor((measured - 1) * self.ratio + _FUZZ) + 1

    def gaps(self, made: tuple[int, int], measured: int) -> tuple[int, int]:
        """Measured slices between which the steps lie that restored slices [first, end) are made from."""
        at = self.steps(*made)
        reach = 0 if self.whole else TAPS
        first, last = math.floor(float(at[0])) - reach, math.ceil(float(at[-1])) + reach
        return max(0, first // self.factor), min(measured - 1, -(-last // self.factor))

    def steps(self, first: int, end: int) -> Tensor:
        """Where restored slices lie, in steps from the volume's first slice."""
        at = torch.arange(first, end, dtype=torch.float64) * self.stretch
        near = at.round()
        return torch.where((at - near).abs() < _FUZZ, near, at)


def interpolate(values: Tensor, at: Tensor, axis: int = 0) -> Tensor:
    """Values between samples by Lanczos' kernel of three lobes; samples themselves where ``at`` is whole.

    Parameters
    ----------
    values
        Any shape.
    at
        Where, in samples from the first; beyond the ends the last sample goes on.

    Returns
    -------
    The same shape, as many along the axis as ``at`` has.
    """
    below = at.floor()
    offsets = torch.arange(1 - TAPS, TAPS + 1, dtype=torch.float64, device=at.device)
    distance = (at - below)[:, None] - offsets
    weights = torch.sinc(distance) * torch.sinc(distance / TAPS)
    weights = (weights / weights.sum(1, keepdim=True)).to(values)
    index = (below[:, None] + offsets).long().clamp(0, values.shape[axis] - 1).to(values.device)
    across = [1] * values.ndim
    across[axis] = -1
    out: Tensor | None = None
    for tap in range(2 * TAPS):
        part = values.index_select(axis, index[:, tap]) * weights[:, tap].view(across)
        out = part if out is None else out + part
    assert out is not None
    return out


def between_steps(values: Tensor, at: Tensor) -> Tensor:
    """Half-widths between steps, along the first axis: the larger neighbour's, since a measured slice has none.

    A step where ``at`` is whole keeps its own. Beside a measured slice linear interpolation would state nearly nothing,
    where noise differs as much as anywhere.
    """
    last = len(values) - 1
    below = at.floor().long().clamp(0, last)
    above = at.ceil().long().clamp(0, last)
    return torch.maximum(values[below.to(values.device)], values[above.to(values.device)])
