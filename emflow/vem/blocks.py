"""Divide a volume into blocks that are restored one by one, and give the same values as the whole."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Protocol

from emflow.vem.gaps import COLUMNS

Span = tuple[int, int]


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
    """A block of measured slices, rows and columns, and the wider one that the network must see for it."""

    number: int
    core: tuple[Span, Span, Span]
    """Measured slices, rows and columns whose restored voxels this block makes, [first, end)."""
    seen: tuple[Span, Span, Span]
    """The same with the network's margins, within the volume."""

    def region(self, of: tuple[Span, Span, Span]) -> tuple[slice, slice, slice]:
        """Return spans as slices."""
        (a, b), (c, d), (e, f) = of
        return slice(a, b), slice(c, d), slice(e, f)


def blocks_of(
    shape: tuple[int, int, int], size: tuple[int, int, int], network: Reaching
) -> tuple[tuple[int, int, int], list[Block]]:
    """Divide a measured volume.

    Parameters
    ----------
    shape
        Measured slices, rows, columns.
    size
        Wished sides of a block; raised to multiples of the network's strides, so that blocks see what the
        whole sees.

    Returns
    -------
    The sides taken, and the blocks in order.
    """
    strides, margins = [], []
    down, across = network.strides
    for axis in range(3):
        step = down if axis == 0 else across * COLUMNS
        strides.append(step)
        margins.append(network.margins[0] if axis == 0 else network.margins[1] * COLUMNS)
    sides = [-(-max(1, wished) // step) * step for wished, step in zip(size, strides, strict=True)]
    spans = [
        [(first, min(first + side, length)) for first in range(0, length, side)]
        for side, length in zip(sides, shape, strict=True)
    ]
    out = []
    for number, (z, y, x) in enumerate(itertools.product(*spans)):
        # one slice more above: the last gap of a block ends on its neighbour's first slice
        seen = [
            (max(0, first - margin), min(length, end + margin + (axis == 0)))
            for axis, ((first, end), margin, length) in enumerate(zip((z, y, x), margins, shape, strict=True))
        ]
        out.append(Block(number, (z, y, x), (seen[0], seen[1], seen[2])))
    return (sides[0], sides[1], sides[2]), out
