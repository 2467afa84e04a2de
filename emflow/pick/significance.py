"""How likely is a peak to be noise? Peaks of Gaussian fields, false-discovery rates, calibrated probabilities."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Noise:
    """What peaks noise would give: a Gaussian field seen through the template.

    Expected number of maxima above u standard deviations, per pixel: λ·(2π)^(−3/2)·u·exp(−u²/2), the Euler
    characteristic of the excursion set of a smooth Gaussian field in two dimensions (Adler 1981; Worsley et
    al. 1992), where λ is the variance of the field's derivative along an axis for unit variance.
    """

    roughness: float
    """λ, per square pixel."""
    area: float
    """Pixels in which noise could peak."""
    scale: float = 1.0
    """Factor by which the noise's peaks are higher than a Gaussian field's (heavier tails); at least 1."""

    def expected(self, score: np.ndarray) -> np.ndarray:
        """Expected number of noise peaks above each score; falls with the score."""
        u = np.maximum(np.asarray(score, dtype=np.float64) / self.scale, 1.0)  # the maximum of u·exp(−u²/2)
        return self.area * self.roughness * (2 * math.pi) ** -1.5 * u * np.exp(-0.5 * u * u)

    def level(self, count: float) -> float:
        """Score above which ``count`` noise peaks are expected."""
        low, high = self.scale, 40 * self.scale
        if self.expected(np.array([low]))[0] <= count:
            return low
        for _ in range(60):
            middle = 0.5 * (low + high)
            low, high = (middle, high) if self.expected(np.array([middle]))[0] > count else (low, middle)
        return high


def roughness(kernel: np.ndarray) -> float:
    """λ of white noise filtered by a template: its squared derivative along one axis over its squared norm."""
    dy, dx = (np.diff(kernel, axis=axis) for axis in (0, 1))
    norm = float((kernel.astype(np.float64) ** 2).sum())
    return float(((dy.astype(np.float64) ** 2).sum() + (dx.astype(np.float64) ** 2).sum()) / (2 * norm))


def tail_scale(null_peaks: np.ndarray, noise: Noise, count: int = 20) -> float:
    """Factor by which known noise peaks are higher than a Gaussian field's; never below 1.

    Compares the j-th highest peak with the score above which j − ½ are expected, for the ``count`` highest,
    and takes the median.
    """
    highest = np.sort(null_peaks)[::-1][:count]
    if len(highest) < 5:
        return 1.0
    expected = np.array([noise.level(j + 0.5) for j in range(len(highest))])
    return max(1.0, float(np.median(highest / expected)))


def isotonic(values: np.ndarray) -> np.ndarray:
    """Least-squares fit of a non-decreasing sequence (pool adjacent violators)."""
    from scipy.optimize import isotonic_regression

    return np.asarray(isotonic_regression(values, increasing=True).x) if len(values) else values


def probabilities(scores: np.ndarray, noise: Noise) -> np.ndarray:
    """Probability that each peak is a particle: 1 − local false-discovery rate.

    Between one peak and the next better one, noise is expected to give E(s_i) − E(s_{i−1}) peaks where one was
    found; the non-decreasing fit of these numbers is Grenander's estimate of the ratio of the two densities,
    the local false-discovery rate (Efron 2008; Strimmer 2008). Interpolated between the middles of the
    fit's steps, so that it falls smoothly.

    Parameters
    ----------
    scores
        Peaks, highest first, in deviations of the noise.
    """
    if len(scores) == 0:
        return np.zeros(0)
    expected = noise.expected(scores)
    ratio = isotonic(np.diff(expected, prepend=0.0))
    starts = np.flatnonzero(np.diff(ratio, prepend=-1.0) > 0)
    ends = np.append(starts[1:], len(ratio)) - 1
    middle = 0.5 * (scores[starts] + scores[ends])
    smooth = np.interp(-scores, -middle, ratio[starts]) if len(starts) > 1 else ratio
    return 1.0 - np.clip(smooth, 0.0, 1.0)


def threshold(scores: np.ndarray, chance: np.ndarray, noise: Noise, rate: float, least: float) -> float:
    """Lowest score to take: noise is expected to be at most ``rate`` of the picks, and each is likely a particle.

    The first is Benjamini and Hochberg's rule with the null above: a single pick needs ``rate`` or fewer noise
    peaks expected above it, so a micrograph of noise has a pick with about that probability. The second
    leaves out what lies between well-separated particles and the bulk of the noise, of which the first
    would admit its share.

    Parameters
    ----------
    scores, chance
        Peaks, highest first, and their probabilities.
    rate
        Largest expected fraction of noise among all that are taken.
    least
        Lowest probability of each.

    Returns
    -------
    The score; if none will do, what a single pick would need.
    """
    fraction = noise.expected(scores) / np.arange(1, len(scores) + 1)
    good = np.flatnonzero((fraction <= rate) & (chance >= least))
    return (
        float(scores[good[-1]])
        if len(good)
        else max(noise.level(rate), float(np.max(scores, initial=0)) + 1e-6)
    )
