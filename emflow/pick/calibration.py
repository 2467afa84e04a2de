"""From a network's score to the probability of being a particle; from probabilities to the threshold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import isotonic_regression

KNOTS = 24
"""Groups of as many candidates each, by score, whose part of particles is counted."""


@dataclass(frozen=True)
class Calibration:
    """Probability of a candidate by its score: linear between knots, never falling."""

    score: tuple[float, ...]
    chance: tuple[float, ...]

    @classmethod
    def fit(cls, score: np.ndarray, true: np.ndarray) -> Calibration:
        """Count among candidates (n,) of which it is known what they are; make it monotone (Zadrozny & Elkan 2002)."""
        groups = np.array_split(np.argsort(score, kind="stable"), KNOTS)
        middle = [float(score[group].mean()) for group in groups]
        part = [(true[group].sum() + 0.5) / (len(group) + 1) for group in groups]
        rising = isotonic_regression(part, increasing=True).x
        return cls(tuple(round(s, 4) for s in middle), tuple(round(float(p), 4) for p in rising))

    @classmethod
    def of(cls, facts: dict[str, Any]) -> Calibration:
        """Read what the weights' manifest says."""
        return cls(*(tuple(map(float, facts["calibration"][name])) for name in ("score", "chance")))

    def probabilities(self, score: np.ndarray) -> np.ndarray:
        """Probability of each candidate (n,)."""
        return np.interp(score, self.score, self.chance)


def count_taken(chance: np.ndarray, rate: float, least: float) -> int:
    """How many of the candidates, best first, are taken.

    As many as are expected to hold at most a part ``rate`` of others than particles (the mean of 1 − p over those
    that are taken, the Bayesian false-discovery rate; M. Newton et al., Biostatistics 5 (2004) 155), each with at
    least the probability ``least``.

    Parameters
    ----------
    chance
        Probabilities (n,), highest first.
    """
    wrong = np.cumsum(1 - chance) / np.arange(1, len(chance) + 1)
    good = np.flatnonzero((wrong <= rate) & (chance >= least))
    return int(good[-1]) + 1 if len(good) else 0
