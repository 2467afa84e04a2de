"""Room left on a disk, and when it will be full."""

from __future__ import annotations

import shutil
from collections import deque
from pathlib import Path

_SPACING_S, _WINDOW_S, _LEAST_S = 300.0, 6 * 3600.0, 1800.0


class Space:
    """Free space of the disk that holds a folder, followed over some hours."""

    def __init__(self, name: str, folder: Path) -> None:
        """Name the disk, for people, and a folder on it."""
        self.name, self._folder = name, folder
        self._samples: deque[tuple[float, int]] = deque(maxlen=int(_WINDOW_S / _SPACING_S) + 1)
        self.free_gb: float | None = None

    def look(self, now: float) -> None:
        """Measure; a disk that does not answer leaves no figure."""
        try:
            free = shutil.disk_usage(self._folder).free
        except OSError:
            self.free_gb = None
            return
        self.free_gb = free / 1e9
        if not self._samples or now - self._samples[-1][0] >= _SPACING_S:
            self._samples.append((now, free))

    @property
    def full_in_hours(self) -> float | None:
        """When it is full at the rate of the last hours; None where it does not fill, or is not known yet."""
        if self.free_gb is None or len(self._samples) < 2:
            return None
        (start, before), (end, after) = self._samples[0], self._samples[-1]
        if end - start < _LEAST_S or after >= before:
            return None
        return self.free_gb * 1e9 / ((before - after) / (end - start)) / 3600
