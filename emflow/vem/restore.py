"""Fill the gaps of a block of measured slices from two families of planes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from emflow.nn.tiles import mirror
from emflow.vem.blocks import Block
from emflow.vem.gaps import COLUMNS
from emflow.vem.model import Filler

_PLANE_PIXELS = 2**21
"""Output pixels of the planes that are worked on at once; bounds the memory."""


@dataclass(frozen=True)
class Restored:
    """Voxels of a block in the volume's own unit, (Z, H, W): the measured slices and what lies between them."""

    values: Tensor
    error: Tensor
    """Half-width of the interval about them; 0 in measured slices."""


def restore_block(filler: Filler, slices: Tensor, block: Block) -> Restored:
    """Restore a block: its measured slices as they are, the missing ones filled in.

    Parameters
    ----------
    slices
        What the block sees, in the volume's own unit, (L + 1, H, W).

    Returns
    -------
    The block's core; Z is ``factor`` for each of its slices, and 1 for the volume's last.
    """
    first, end = (at - block.seen[0][0] for at in block.core[0])
    inner = [slice(a - s, b - s) for (a, b), (s, _) in zip(block.core[1:], block.seen[1:], strict=True)]
    measured = slices[first:end, inner[0], inner[1]]
    last = block.core[0][1] == block.seen[0][1]  # no slice above: no gap follows
    gaps = len(measured) - last
    factor = filler.factor
    values = measured.new_empty((gaps * factor + last, *measured.shape[1:]))
    error = torch.zeros_like(values)
    values[::factor] = measured
    if gaps:
        filled, scale = fill_block(filler, (slices - filler.mean) / filler.deviation)
        kept = slice(first, first + gaps), slice(None), inner[0], inner[1]
        shape = (gaps, factor, *measured.shape[1:])
        gap_values = values[: gaps * factor].view(shape)
        gap_values[:, 1:] = filled[kept] * filler.deviation + filler.mean
        error[: gaps * factor].view(shape)[:, 1:] = scale[kept] * (filler.quantile * filler.deviation)
    return Restored(values, error)


@torch.no_grad()
def fill_block(filler: Filler, slices: Tensor) -> tuple[Tensor, Tensor]:
    """Missing slices of a block, as the mean of what xz and yz planes say, and the scale of their error.

    Parameters
    ----------
    slices
        Measured slices in the filler's units, (L + 1, H, W), any size.

    Returns
    -------
    Two (L, factor - 1, H, W).
    """
    across = _fill_planes(filler, slices.permute(1, 0, 2)).permute(0, 2, 3, 1, 4)
    along = _fill_planes(filler, slices.permute(2, 0, 1)).permute(0, 2, 3, 4, 1)
    mean, scale = (across + along) / 2
    return mean, scale


def _fill_planes(filler: Filler, rows: Tensor) -> Tensor:
    """Predict planes (N, L + 1, W) in groups; (2, N, L, factor - 1, W): values and scales."""
    number, height, width = rows.shape
    down, across = filler.network.strides
    more = -(height - 1) % down, -width % (across * COLUMNS)
    out = torch.empty((2, number, height - 1, filler.factor - 1, width), device=rows.device)
    step = max(1, _PLANE_PIXELS // ((height - 1) * filler.factor * width))
    for first in range(0, number, step):
        part = rows[first : first + step]
        if any(more):
            part = _continued(part, more)
        for place, found in enumerate(filler.predict(part)):
            out[place, first : first + step] = found[:, : height - 1, :, :width]
    return out


def _continued(planes: Tensor, more: tuple[int, int]) -> Tensor:
    """Planes (N, L + 1, W) continued at their far ends by their mirror image."""
    return mirror(planes.permute(1, 2, 0), (0, more[0]), (0, more[1])).permute(2, 0, 1)
