"""How many blocks a volume is restored in, and which of them a job does; without torch, since plans ask for it."""

from __future__ import annotations

import math

from emflow.vem.config import VemParts, VemRestore


def number_of_blocks(shape: tuple[int, int, int], cfg: VemRestore) -> int:
    """Blocks of a measured volume (slices, rows, columns)."""
    sides = cfg.block_slices, cfg.block_px, cfg.block_px
    return math.prod(-(-length // side) for length, side in zip(shape, sides, strict=True))


def parts_of(shape: tuple[int, int, int], cfg: VemRestore, size: VemParts) -> list[tuple[int, int]]:
    """Blocks of each job, [first, end), in order."""
    count = number_of_blocks(shape, cfg)
    return [(first, min(first + size.blocks, count)) for first in range(0, count, size.blocks)]
