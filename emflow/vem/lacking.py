"""Slices that a volume lacks: the gaps that they leave, and what is known of those."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor

from emflow.vem.axial import Told
from emflow.vem.model import Filler


@dataclass(frozen=True)
class Lacking:
    """What fills a gap that the network does not.

    Values and half-widths are in the volume's own unit.
    """

    used: tuple[bool, ...]
    """Of each place along the axis, whether a slice is there to be used; the first and last are."""
    doubled: Filler | None = None
    """Network for gaps twice as wide: those about one absent slice."""
    misses: dict[int, list[float]] = field(default_factory=dict)
    """Gap in slices → half-width of linear interpolation at each absent slice of it."""
    nothing: Told | None = None
    """Set where neighbouring slices tell nothing of one another: gaps are flat then."""

    def wide(self, first: int, end: int) -> list[tuple[int, int]]:
        """Gaps about absent slices that overlap with [first, end]: the slices on either side."""
        present = [z for z, there in enumerate(self.used) if there]
        return [(a, b) for a, b in pairwise(present) if b - a > 1 and b > first and a < end]

    def within_wide(self, made: tuple[int, int], factor: int) -> Tensor:
        """Which of the restored slices [first, end) lie within a gap about absent slices; bool."""
        found = torch.zeros(made[1] - made[0], dtype=torch.bool)
        for left, right in self.wide(made[0] // factor, -(-made[1] // factor)):
            found[max(0, left * factor + 1 - made[0]) : max(0, right * factor - made[0])] = True
        return found

    def half_widths(self, gap: int, factor: int, unknown: float) -> Tensor:
        """Half-widths in the rows of a wide gap, the larger of those at the slices on either side.

        Parameters
        ----------
        unknown
            Taken where the volume is too short to tell.
        """
        told = self.misses.get(gap) or [unknown] * (gap - 1)
        ends = [told[0], *told, told[-1]]
        return torch.tensor(
            [max(ends[row // factor], ends[-(-row // factor)]) for row in range(1, gap * factor)]
        )

    @property
    def gaps(self) -> list[int]:
        """Widths of wide gaps, in slices, each once."""
        return sorted({b - a for a, b in self.wide(0, len(self.used))})
