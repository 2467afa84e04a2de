"""What a micrograph's own candidates say of its particles' scores: the threshold where data differ from training's."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, log_expit, logit

HIGHEST, LOWEST = 3.05, -6.0
"""Scores beyond which there is none: a whole particle's, and the weakest candidate's."""
CELLS = 256
FREEDOM = 5
"""Degrees of freedom of the particles' Student distribution: some lie far below the others."""
BOUND = 0.5
"""How much faster than a Gaussian the others' density falls at high scores, where the network itself excludes them."""
NAMES = ("others", "log_spread_of_others", "particles", "log_spread", "log_odds")
MEAN = np.array([-6.5, math.log(3.0), 0.4, math.log(0.7), -0.7])
DEVIATION = np.array([1.7, 0.18, 0.8, 0.25, 1.6])
"""What is expected of a micrograph: from the sessions by which the network was calibrated, raw and denoised."""
BOUNDS = ((-14.0, -2.0), (0.3, 2.0), (-2.5, 3.0), (-1.2, 0.5), (-7.0, 3.0))
STARTS = (-0.8, 0.8)
"""Places of the particles from which the fit starts."""
LEAST_EVIDENCE = 10.0
"""Logarithm of how much better candidates of two kinds explain the scores than one kind, from which they are believed."""
LEAST_FOR_EACH = 0.04
"""The same for each candidate: of many, noise's own departure from one kind would do (0.02 at most for smoothed noise)."""


def stretched(score: np.ndarray) -> np.ndarray:
    """Scores without their upper bound: the log-odds of what a score is to that of a whole particle."""
    return np.asarray(logit(np.exp(np.clip(score, LOWEST, HIGHEST - 0.02) - HIGHEST)))


_GRID = np.linspace(stretched(np.array(LOWEST)), stretched(np.array(HIGHEST)), CELLS)
_STEP = float(_GRID[1] - _GRID[0])


@dataclass(frozen=True)
class Mixture:
    """Two kinds of candidates, particles and others, with a density of scores each."""

    values: np.ndarray
    """As :data:`NAMES`, of stretched scores."""
    evidence: float
    """Log ratio of the posterior densities of two kinds and one."""
    candidates: int
    """How many there were."""

    @property
    def believed(self) -> bool:
        """Whether there are enough particles that stand out for their scores to be known."""
        return self.evidence >= max(LEAST_EVIDENCE, LEAST_FOR_EACH * self.candidates)

    def probabilities(self, score: np.ndarray) -> np.ndarray:
        """Probability (n,) that a candidate is a particle (1 − local false-discovery rate); never falls with the score."""
        others, particles = _densities(self.values)
        rising = np.maximum.accumulate(expit(particles - others))
        return np.interp(stretched(score), _GRID, rising)


def fit_mixture(score: np.ndarray) -> Mixture:
    """Tell particles from others by the distribution of their scores, without labels.

    Local false-discovery rate (B. Efron, JASA 99 (2004) 96) with both densities parametric: others a Gaussian that is cut
    off where candidates begin and falls faster where scores are bound, particles a Student distribution. Place and
    width of both and the particles' part are the most probable ones, with priors on all five.

    Parameters
    ----------
    score
        All candidates of one micrograph (n,).
    """
    counts = _counts(stretched(score))

    def two(values: np.ndarray) -> float:
        return float(_prior(values) - counts @ np.logaddexp(*_densities(values)))

    def one(values: np.ndarray) -> float:
        return float(_prior(values) - counts @ _others(values))

    found = [_minimum(two, np.array([*MEAN[:2], start, *MEAN[3:]])) for start in STARTS]
    best = min(found, key=lambda each: each[1])
    return Mixture(best[0], _minimum(one, MEAN[:2])[1] - best[1], len(score))


def _minimum(cost, start: np.ndarray) -> tuple[np.ndarray, float]:  # type: ignore[no-untyped-def]
    found = minimize(cost, start, method="L-BFGS-B", bounds=BOUNDS[: len(start)])
    return found.x, float(found.fun)


def _prior(values: np.ndarray) -> float:
    n = len(values)
    return float(0.5 * (((values - MEAN[:n]) / DEVIATION[:n]) ** 2).sum())


def _counts(place: np.ndarray) -> np.ndarray:
    """Candidates shared out to the nearest two cells: the cost of a fit does not grow with their number."""
    at = np.clip((place - _GRID[0]) / _STEP, 0, CELLS - 1.001)
    low = at.astype(int)
    part = at - low
    return np.bincount(low, 1 - part, CELLS) + np.bincount(low + 1, part, CELLS)


def _densities(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Logarithms of the densities of others and particles, times their parts."""
    z = (_GRID - values[2]) / math.exp(values[3])
    particles = _normalised(-(FREEDOM + 1) / 2 * np.log1p(z * z / FREEDOM))
    return log_expit(-values[4]) + _others(values), log_expit(values[4]) + particles


def _others(values: np.ndarray) -> np.ndarray:
    z = (_GRID - values[0]) / math.exp(values[1])
    return _normalised(-0.5 * z * z + BOUND * log_expit(-_GRID))


def _normalised(log_density: np.ndarray) -> np.ndarray:
    return np.asarray(log_density - np.logaddexp.reduce(log_density) - math.log(_STEP))
