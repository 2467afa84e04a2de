"""Which blocks of a volume a job restores; without torch, since plans ask for it."""

from __future__ import annotations

import math

from emflow.vem.config import VemParts, VemRestore


def number_of_parts(shape: tuple[int, int, int], cfg: VemRestore, size: VemParts) -> int:
    """Jobs for a measured volume (slices, rows, columns), so that each does about as many blocks as wished."""
    sides = cfg.block_slices, cfg.block_px, cfg.block_px
    blocks = math.prod(-(-length // side) for length, side in zip(shape, sides, strict=True))
    return -(-blocks // size.blocks)


def blocks_of_part(number: int, parts: int, blocks: int) -> range:
    """Blocks of a part (from 1); each block belongs to one part, whatever their number turns out to be."""
    return range((number - 1) * blocks // parts, number * blocks // parts)
