"""Join the segments of slices and blocks that belong together, whatever the volume's size."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from emflow.vem.agreement import joint_of

Array = np.ndarray[Any, np.dtype[Any]]
Span = tuple[int, int]
Box = tuple[Span, Span, Span]


@dataclass(frozen=True)
class Block:
    """A block of a volume, numbered in the order in which they are done: along x first, z last."""

    number: int
    core: Box
    """Voxels that it makes, [first, end) along z, y, x."""

    def seen(self, halo: tuple[int, int, int], shape: tuple[int, int, int]) -> Box:
        """The block with a halo, within the volume."""
        z, y, x = (
            (max(0, a - more), min(length, b + more))
            for (a, b), more, length in zip(self.core, halo, shape, strict=True)
        )
        return z, y, x


def region(box: Box, origin: Box | None = None) -> tuple[slice, slice, slice]:
    """A box as slices, of the volume or of a larger box."""
    starts = [first for first, _ in origin] if origin else [0, 0, 0]
    z, y, x = (slice(a - start, b - start) for (a, b), start in zip(box, starts, strict=True))
    return z, y, x


def divided(shape: tuple[int, int, int], sides: tuple[int, int, int]) -> list[Block]:
    """Blocks that cover a volume once."""
    spans = [
        [(first, min(first + side, length)) for first in range(0, length, side)]
        for side, length in zip(sides, shape, strict=True)
    ]
    return [Block(number, (z, y, x)) for number, (z, y, x) in enumerate(itertools.product(*spans))]


def links(one: Array, other: Array, share: float) -> Array:
    """Pairs of labels that are one segment: each shares most with the other, and a part of the smaller.

    Parameters
    ----------
    one, other
        Labels of the same pixels, 0 for none: a block's and its neighbour's, or a slice's and the next one's.
    share
        Part of the smaller, within these pixels, that the two must have in common.

    Returns
    -------
    (N, 2).
    """
    joint = joint_of([(one, other)])
    if not len(joint.pixels):
        return np.empty((0, 2), np.int64)
    order = np.argsort(-joint.pixels, kind="stable")
    found, true = joint.found[order], joint.true[order]
    _, first_found, at_found = np.unique(found, return_index=True, return_inverse=True)
    _, first_true, at_true = np.unique(true, return_index=True, return_inverse=True)
    rows = np.arange(len(order))
    mutual = (first_found[at_found] == rows) & (first_true[at_true] == rows)
    # of all pixels, also where the other one is 0
    sizes = [np.unique(labels, return_counts=True) for labels in (one, other)]
    smaller = np.minimum(
        *(
            counts[np.searchsorted(names, chosen)]
            for (names, counts), chosen in zip(sizes, (found, true), strict=True)
        )
    )
    kept = mutual & (joint.pixels[order] >= share * smaller)
    return np.stack([found[kept], true[kept]], 1).astype(np.int64)


def linked_slices(slices: Array, share: float) -> Array:
    """Pairs of labels of neighbouring slices (Z, H, W) that are one segment, (N, 2)."""
    found = [links(a, b, share) for a, b in zip(slices[:-1], slices[1:], strict=True)]
    return np.concatenate(found) if found else np.empty((0, 2), np.int64)


def names(number: int, pairs: Array) -> Array:
    """Final label of each provisional one (1 … number): linked ones get one, from 1 without gaps; 0 stays.

    Returns
    -------
    (number + 1,), uint32.
    """
    at = pairs.reshape(-1, 2).T - 1
    graph = coo_matrix((np.ones(at.shape[1], bool), (at[0], at[1])), shape=(number, number))
    _, group = connected_components(graph, directed=False)
    return np.concatenate([[0], group + 1]).astype(np.uint32)
