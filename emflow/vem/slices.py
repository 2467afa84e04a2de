"""What is known of each slice of a volume: which are there and fit to be used, how they lie, how bright they are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Slices:
    """One entry for each place along the axis where a slice was or should have been."""

    stored: np.ndarray
    """Number of the slice in the file, from 0; -1 where none was stored."""
    used: np.ndarray
    """Whether it is used: what is not is treated as missing."""
    reasons: tuple[str, ...]
    """Why it is not used, or what else is odd; empty where nothing is."""
    shifts: np.ndarray
    """(n, 2), along y and x, pixels by which its content is moved to lie in register."""
    scale: np.ndarray
    offset: np.ndarray
    """Brightness that its neighbours have: ``scale`` · value + ``offset``."""

    def __len__(self) -> int:
        return len(self.stored)

    def between_used(self) -> Slices:
        """Return the places from the first used slice to the last: nothing is made beyond them."""
        at = np.flatnonzero(self.used)
        kept = slice(int(at[0]), int(at[-1]) + 1) if len(at) else slice(0, 0)
        return Slices(
            self.stored[kept],
            self.used[kept],
            self.reasons[kept],
            self.shifts[kept],
            self.scale[kept],
            self.offset[kept],
        )

    @property
    def longest_gap(self) -> int:
        """Distance between used slices where it is widest; 1 where none is absent."""
        return int(np.diff(np.flatnonzero(self.used)).max(initial=1))

    @staticmethod
    def plain(count: int) -> Slices:
        """Return what is known without looking: all are used as they are."""
        return Slices(
            np.arange(count),
            np.ones(count, dtype=bool),
            ("",) * count,
            np.zeros((count, 2)),
            np.ones(count),
            np.zeros(count),
        )
