"""Fill the gaps of a block of measured slices from two families of planes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from emflow.nn.tiles import mirror
from emflow.vem.blocks import Block
from emflow.vem.gaps import COLUMNS, between
from emflow.vem.grid import between_steps, interpolate
from emflow.vem.lacking import Lacking
from emflow.vem.model import Filler

_SHARED = 0.4
"""Part of what is known beforehand that is taken off when two families are joined: 1 if they shared nothing else. Chosen
on simulated volumes (benchmarks/volume/mosaic.py), where 0.3 to 0.6 differ by 0.02 dB and 0 loses 0.05."""
_MIRRORED: dict[int, list[tuple[list[int], list[int]]]] = {
    1: [],
    2: [([1], [2])],
    4: [([1], [2]), ([1], []), ([], [2])],
}
"""Axes of planes (N, L + 1, W), along the volume's axis and across, that are mirrored, for each number of orientations."""
_PLANE_PIXELS = 2**21
"""Output pixels of the planes that are worked on at once; bounds the memory."""


@dataclass(frozen=True)
class Restored:
    """Voxels of a block in the volume's own unit, (Z, H, W): the measured slices and what lies between them."""

    values: Tensor
    error: Tensor
    """Half-width of the interval about them; 0 in measured slices."""


def restore_block(filler: Filler, slices: Tensor, block: Block, lacking: Lacking | None = None) -> Restored:
    """Restore a block: its measured slices as they are, the missing ones filled in.

    Where slices are no whole number of voxels apart, both are interpolated at the restored voxels.

    Parameters
    ----------
    slices
        What the block sees, in the volume's own unit, (L + 1, H, W); absent ones interpolated linearly.
    lacking
        Which slices are absent, and how their gaps are filled; without it none is.

    Returns
    -------
    What the block makes.
    """
    low = block.seen[0][0]
    a, b = (at - low for at in block.gaps)
    y, x = (slice(a - s, b - s) for (a, b), (s, _) in zip(block.made[1:], block.seen[1:], strict=True))
    values, error = _steps(filler, slices, (a, b), (y, x))
    if lacking is not None:
        _fill_lacking(filler, slices, (low, a, b, y, x), lacking, values, error)
    at = filler.grid.steps(*block.made[0]) - block.gaps[0] * filler.factor
    if filler.grid.whole:
        return Restored(values[: len(at)], error[: len(at)])
    return Restored(interpolate(values, at), between_steps(error, at))


def _steps(
    filler: Filler, slices: Tensor, span: tuple[int, int], inner: tuple[slice, slice]
) -> tuple[Tensor, Tensor]:
    """All steps from one slice to another, (K, h, w), and their half-widths."""
    a, b = span
    measured = slices[a : b + 1, inner[0], inner[1]]
    gaps, factor = b - a, filler.factor
    values = measured.new_empty((gaps * factor + 1, *measured.shape[1:]))
    error = torch.zeros_like(values)
    values[::factor] = measured
    if gaps:
        filled, scale = _fill_gaps(filler, slices, span, inner)
        shape = (gaps, factor, *measured.shape[1:])
        values[:-1].view(shape)[:, 1:] = filled
        error[:-1].view(shape)[:, 1:] = scale
    return values, error


def _fill_gaps(
    filler: Filler, slices: Tensor, span: tuple[int, int], inner: tuple[slice, slice]
) -> tuple[Tensor, Tensor]:
    """Missing slices between one slice and another, and their half-widths, in the volume's own unit."""
    a, b = span
    down, margin = filler.network.strides[0], filler.network.margins[0]
    low = max(0, (a - margin) // down * down)
    part = slices[low : b + margin + 1]
    filled, scale = fill_block(filler, (part - filler.mean) / filler.deviation, inner)
    kept = slice(a - low, b - low)
    return (
        filled[kept] * filler.deviation + filler.mean,
        scale[kept] * (filler.quantile * filler.deviation),
    )


def _fill_lacking(
    filler: Filler,
    slices: Tensor,
    place: tuple[int, int, int, slice, slice],
    lacking: Lacking,
    values: Tensor,
    error: Tensor,
) -> None:
    """Write the steps of gaps that are not the network's."""
    low, a, b, y, x = place
    factor = filler.factor
    for left, right in lacking.wide(low + a, low + b):
        # steps of the gap that lie in the block, from the step after the slice on the left
        begin = max(0, (low + a - left) * factor - 1)
        rows = torch.arange(begin, min((right - left) * factor - 1, (low + b - left) * factor))
        to = slice(first := int(rows[0]) + 1 + (left - low - a) * factor, first + len(rows))
        if right - left == 2 and lacking.doubled is not None:
            wide = lacking.doubled
            odd = (left - low) % 2
            gap = (left - low - odd) // 2
            filled, scale = _fill_gaps(wide, slices[odd::2], (gap, gap + 1), (y, x))
            values[to], error[to] = filled[0][rows], scale[0][rows]
            continue
        at = rows + 1 + (left - low) * factor
        part = (at % factor / factor).to(values)[:, None, None]
        below = slices[at // factor][:, y, x]
        values[to] = below + part * (slices[(at // factor + 1).clamp(max=len(slices) - 1)][:, y, x] - below)
        widths = lacking.half_widths(right - left, factor, 2 * filler.deviation).to(error)
        error[to] = widths[rows][:, None, None]
    if (told := lacking.nothing) is not None:
        absent = torch.ones(len(values), dtype=torch.bool)
        absent[::factor] = ~torch.tensor(lacking.used[low + a : low + b + 1])
        values[absent], error[absent] = told.mean, told.half_width


@torch.no_grad()
def fill_block(
    filler: Filler, slices: Tensor, inner: tuple[slice, slice] = (slice(None), slice(None))
) -> tuple[Tensor, Tensor]:
    """Missing slices of a block from what xz and yz planes say, and the scale of the error.

    Each family is an expectation of the same residual: they are joined as two Gaussian ones are, by the inverse squares
    of the scales that they state, less a part of what both know beforehand, its spread (after V. Tresp, Neural Comput.
    12, 2719, 2000). So what both say alike counts for more than what either says.

    Parameters
    ----------
    slices
        Measured slices in the filler's units, (L + 1, H, W), any size.
    inner
        Rows and columns that are wanted; the network sees the others.

    Returns
    -------
    Two (L, factor - 1, H, W), of the wanted rows and columns.
    """
    rows, columns = inner
    across = _fill_planes(filler, slices[:, rows].permute(1, 0, 2))[..., columns].permute(0, 2, 3, 1, 4)
    along = _fill_planes(filler, slices[:, :, columns].permute(2, 0, 1))[..., rows].permute(0, 2, 3, 4, 1)
    line = between(slices[:, rows, columns].permute(1, 0, 2), filler.factor).permute(1, 2, 0, 3)
    certain, more = across[1] ** -2, along[1] ** -2
    both = certain + more
    before = torch.minimum(certain, more).clamp(
        max=2 / filler.spread**2
    )  # Laplace: a spread has two squares of a scale
    residual = ((across[0] - line) * certain + (along[0] - line) * more) / (both - _SHARED * before)
    return line + residual, (2 / both).sqrt()


def _fill_planes(filler: Filler, rows: Tensor) -> Tensor:
    """Predict planes (N, L + 1, W) in groups, mirrored in all ways; (2, N, L, factor - 1, W): values and scales."""
    number, height, width = rows.shape
    down, across = filler.network.strides
    more = -(height - 1) % down, -width % (across * COLUMNS)
    out = torch.empty((2, number, height - 1, filler.factor - 1, width), device=rows.device)
    step = max(1, _PLANE_PIXELS // ((height - 1) * filler.factor * width))
    for first in range(0, number, step):
        part = rows[first : first + step]
        if any(more):
            part = _continued(part, more)
        for place, mean in enumerate(_predict(filler, part)):
            out[place, first : first + step] = mean[:, : height - 1, :, :width]
    return out


def _predict(filler: Filler, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Values and scales, (N, L, factor - 1, W), of planes (N, L + 1, W): the mean over the filler's orientations."""
    values, scales = filler.predict(rows)
    for axis, across in _MIRRORED[filler.orientations]:
        mirrored = filler.predict(rows.flip([*axis, *across]))
        # rows of a gap are mirrored with the gaps
        back = [*axis, *(n + 1 for n in axis), *(n + 1 for n in across)]
        values += mirrored[0].flip(back)
        scales += mirrored[1].flip(back)
    return values / filler.orientations, scales / filler.orientations


def _continued(planes: Tensor, more: tuple[int, int]) -> Tensor:
    """Planes (N, L + 1, W) continued at their far ends by their mirror image."""
    return mirror(planes.permute(1, 2, 0), (0, more[0]), (0, more[1])).permute(2, 0, 1)
