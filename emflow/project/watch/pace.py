"""How fast micrographs come and go, and when the run will have caught up."""

from __future__ import annotations

from collections import deque

_WINDOW_S, _SAMPLES = 3600.0, 240
_LEAST_S = 60.0


class Pace:
    """Rates over the last hour, and what the steps manage while they work."""

    def __init__(self) -> None:
        """Know nothing yet."""
        self._samples: deque[tuple[float, int, int]] = deque()
        self._cycles: deque[tuple[int, float]] = deque(maxlen=10)

    def look(self, now: float, arrived: int, processed: int) -> None:
        """Take note of how many have come and how many are done, in total."""
        if self._samples and now - self._samples[-1][0] < _WINDOW_S / _SAMPLES:
            return
        self._samples.append((now, arrived, processed))
        while now - self._samples[0][0] > _WINDOW_S:
            self._samples.popleft()

    def cycle(self, processed: int, seconds: float) -> None:
        """Take note of what a run of snakemake did."""
        if processed > 0:
            self._cycles.append((processed, max(seconds, 1e-3)))

    def per_hour(self) -> tuple[float, float] | None:
        """Micrographs an hour that came, and that were processed; None in the first minute."""
        if not self._samples:
            return None
        (start, arrived, processed), (end, now_arrived, now_processed) = self._samples[0], self._samples[-1]
        if end - start < _LEAST_S:
            return None
        hours = (end - start) / 3600
        return (now_arrived - arrived) / hours, (now_processed - processed) / hours

    @property
    def capacity_per_hour(self) -> float | None:
        """Micrographs an hour that the last runs managed while they worked."""
        if not self._cycles:
            return None
        return sum(done for done, _ in self._cycles) / sum(seconds for _, seconds in self._cycles) * 3600

    def catch_up_s(self, behind: int) -> float | None:
        """Seconds until nothing is left to do; None where more comes than is done, or nothing is known."""
        if behind == 0:
            return 0.0
        capacity, rates = self.capacity_per_hour, self.per_hour()
        if capacity is None:
            return None
        left = capacity - (rates[0] if rates else 0.0)
        return behind / left * 3600 if left > 0 else None
