"""Which blocks of a volume a job restores; without torch, since plans ask for it."""

from __future__ import annotations

import math
from typing import Any

from emflow.vem.config import VemParts


def parts_of(shape: tuple[int, int, int], identity: str, cfg: VemParts) -> dict[str, dict[str, Any]]:
    """Divide a measured volume (slices, rows, columns); number of each part → what ``vem fill`` is told of it."""
    parts = math.ceil(math.prod(shape) / 1e6 / cfg.megavoxels)
    about = {"identity": identity, "shape": list(shape), "of": parts}
    return {f"{number:05d}": {**about, "part": number} for number in range(1, parts + 1)}


def blocks_of_part(number: int, parts: int, blocks: int) -> range:
    """Blocks of a part (from 1); each block belongs to one part, whatever their number turns out to be."""
    return range((number - 1) * blocks // parts, number * blocks // parts)
