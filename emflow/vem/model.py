"""What fills the gaps between measured slices: a network with all that belongs to its numbers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from emflow.nn.unet import UNet
from emflow.vem.gaps import COLUMNS, between, neighbours, unfold
from emflow.vem.grid import Grid

WIDTHS = (48, 64, 96)
HALVINGS = ((1, 2), (2, 2))
"""The axis is already short on the folded grid; it is halved once."""
LOG_SCALE = (-5.0, 3.0)
"""Bounds of the logarithm of the stated error, in units of the residual's spread."""


@dataclass
class Filler:
    """A network that predicts the missing rows of planes that hold the axis.

    It predicts the residual to linear interpolation in units of its spread, and the scale of a Laplace
    distribution about it. All statistics are the volume's: none belongs to an image or a block.
    """

    network: UNet
    factor: int
    mean: float
    deviation: float
    """Of the measured pixels."""
    spread: float
    """Root mean square of what linear interpolation misses, in units of ``deviation``."""
    quantile: float = 1.0
    """Half-width of the 90 % interval in units of the stated scale; found on slices kept from training."""
    ratio: float | None = None
    """Distance of measured slices in pixels, where it is not the factor."""
    orientations: int = 1
    """Ways to mirror a plane that are averaged when a volume is filled: 1, 2 (as it is, and turned by 180°) or 4."""

    @staticmethod
    def begin(
        factor: int, mean: float, deviation: float, spread: float, ratio: float | None = None
    ) -> Filler:
        """Return one with first weights."""
        return Filler(build(factor), factor, mean, deviation, spread, ratio=ratio)

    @property
    def grid(self) -> Grid:
        """How measured slices lie among restored ones."""
        return Grid(self.factor, self.ratio or float(self.factor))

    def predict(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Missing rows of planes, and the scale of their error.

        Parameters
        ----------
        rows
            Measured rows in units of the volume's deviation about its mean, (N, L + 1, W). L and W/2 must be
            multiples of the network's strides.

        Returns
        -------
        Two (N, L, factor - 1, W), in the same units.
        """
        out = self.network(neighbours(rows).contiguous(memory_format=torch.channels_last))
        residual, log_scale = out.float().chunk(2, dim=1)
        scale = self.spread * log_scale.clamp(*LOG_SCALE).exp()
        return between(rows, self.factor) + self.spread * unfold(residual), unfold(scale)


def build(factor: int) -> UNet:
    """Return the network for a factor, with random first weights."""
    channels = (factor - 1) * COLUMNS
    return UNet(WIDTHS, (2 * COLUMNS, 2 * channels), HALVINGS)
