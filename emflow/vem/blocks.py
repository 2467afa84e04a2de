"""Divide a volume into blocks that are restored one by one, and give the same values as the whole."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Protocol

from emflow.vem.gaps import COLUMNS
from emflow.vem.grid import Grid

Span = tuple[int, int]

_HANDY = 16
"""Deep blocks of a fractional grid are multiples of this, so that they can be stored in chunks of a handy size."""


class Reaching(Protocol):
    """What depends on its surroundings as a network does, on the folded grid."""

    @property
    def strides(self) -> tuple[int, int]:
        """Shifts (down, across) by multiples of these shift the output alike."""
        ...

    @property
    def margins(self) -> tuple[int, int]:
        """Places (down, across) beyond which an input cannot change an output."""
        ...


@dataclass(frozen=True)
class Block:
    """A block of restored slices, rows and columns, and the wider one that the network must see for it."""

    number: int
    made: tuple[Span, Span, Span]
    """Restored slices, rows and columns that this block makes, [first, end)."""
    gaps: Span
    """Measured slices between which these lie; the last is one of them."""
    seen: tuple[Span, Span, Span]
    """Measured slices, rows and columns with the network's margins, within the volume."""

    @property
    def region(self) -> tuple[slice, slice, slice]:
        """What it makes, as slices."""
        (a, b), (c, d), (e, f) = self.made
        return slice(a, b), slice(c, d), slice(e, f)

    @property
    def window(self) -> tuple[slice, slice, slice]:
        """What it sees, as slices."""
        (a, b), (c, d), (e, f) = self.seen
        return slice(a, b), slice(c, d), slice(e, f)

    def core(self, factor: int) -> tuple[Span, Span, Span]:
        """Measured slices, rows and columns that it makes, where slices are a whole number of voxels apart."""
        first, end = self.made[0]
        return (first // factor, (end - 1) // factor + 1), self.made[1], self.made[2]


def blocks_of(
    shape: tuple[int, int, int],
    size: tuple[int, int, int],
    network: Reaching,
    grid: Grid,
    doubled: bool = False,
) -> tuple[tuple[int, int, int], list[Block]]:
    """Divide a measured volume.

    Parameters
    ----------
    shape
        Measured slices, rows, columns.
    size
        Wished measured slices, rows and columns of a block; raised to multiples of the network's strides, so that
        blocks see what the whole sees.
    doubled
        Whether every second slice is looked at as well, by a network of the same kind.

    Returns
    -------
    Restored slices, rows and columns of a block, and the blocks in order.
    """
    (down, across), (above, beside) = network.strides, (network.margins[0], network.margins[1] * COLUMNS)
    if doubled:
        down, above = 2 * down, 2 * above + 2 * down
    strides = down, across * COLUMNS, across * COLUMNS
    wished = [-(-max(1, n) // step) * step for n, step in zip(size, strides, strict=True)]
    deep = math.floor(wished[0] * grid.ratio)
    if not grid.whole and deep > _HANDY:
        deep -= deep % _HANDY
    sides = deep, wished[1], wished[2]
    lengths = grid.slices(shape[0]), *shape[1:]
    spans = [
        [(first, min(first + side, length)) for first in range(0, length, side)]
        for side, length in zip(sides, lengths, strict=True)
    ]
    out = []
    for number, (z, y, x) in enumerate(itertools.product(*spans)):
        gaps = grid.gaps(z, shape[0])
        low = max(0, (gaps[0] - above) // down * down)
        # where gaps are doubled, one may end a slice further on
        high = min(shape[0], gaps[1] + above + 1 + doubled)
        (rows, columns) = (
            (max(0, first - beside), min(length, end + beside))
            for (first, end), length in zip((y, x), shape[1:], strict=True)
        )
        out.append(Block(number, (z, y, x), gaps, ((low, high), rows, columns)))
    return sides, out
