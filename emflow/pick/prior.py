"""How many of the peaks are particles, and how likely is each? From labels of some particles, without negatives."""

from __future__ import annotations

import math

import numpy as np
from scipy.optimize import isotonic_regression

from emflow.pick.calibration import Calibration

SUREST = 0.99
"""Highest probability: a few hundred labels tell no more."""
BIN_LABELS = 3
"""Labels in a bin of scores; neighbouring bins are pooled as far as needed."""
DOUBT = 0.1
"""Chance that a part above any score is off by more than the margin that keeps luck from choosing the score."""


def part_of_particles(peaks: np.ndarray, labels: np.ndarray) -> float:
    """Part of the peaks that are particles.

    If p of the particles and u of all peaks are above a score, at most u/p of the peaks are particles, and exactly so
    where all peaks above it are: the least u/p over all scores is the estimate (best bin estimation, S. Garg et al.,
    NeurIPS 2021). The score is chosen by a bound that holds for all scores at once (Dvoretzky, Kiefer and
    Wolfowitz), so that a few lucky labels do not choose it. Assumes that labels were chosen among the particles
    without regard to how easily they are found.

    Parameters
    ----------
    peaks
        Scores of all peaks, shape (n,).
    labels
        Scores of labelled particles that the scores were not learned from, shape (m,); −inf where no peak is near.
    """
    if len(peaks) == 0 or not np.isfinite(labels).any():
        return 0.0
    levels = np.unique(labels[np.isfinite(labels)])
    part = np.array([(labels >= level).mean() for level in levels])
    above = np.array([(peaks >= level).mean() for level in levels])
    doubt_labels, doubt_peaks = (math.sqrt(math.log(1 / DOUBT) / (2 * n)) for n in (len(labels), len(peaks)))
    bound = np.where(
        part > doubt_labels, (above + doubt_peaks) / np.maximum(part - doubt_labels, 1e-9), np.inf
    )
    best = int(np.argmin(bound)) if np.isfinite(bound).any() else 0
    return float(min(1.0, above[best] / part[best]))


def calibrate(peaks: np.ndarray, labels: np.ndarray) -> Calibration:
    """Probability of a peak to be a particle, as a function of its score.

    By Bayes' rule it is α·f_p(s)/f(s): the part of particles α (:func:`part_of_particles`), the density of labels and
    that of all peaks. Both are counted in bins that hold three labels each, and their ratio is made not to fall with
    the score (weighted isotonic regression). Nothing is surer than ``SUREST``.

    Parameters
    ----------
    peaks, labels
        See :func:`part_of_particles`.
    """
    part = part_of_particles(peaks, labels)
    if part <= 0.0:
        return Calibration((0.0,), (0.0,))
    bins = max(2, len(labels) // BIN_LABELS)
    edges = np.quantile(labels, np.arange(1, bins) / bins, method="lower")
    edges = np.unique(edges[np.isfinite(edges)])
    of_peaks, of_labels = (np.searchsorted(edges, values, side="right") for values in (peaks, labels))
    count = np.bincount(of_peaks, minlength=len(edges) + 1).astype(float)
    shares = np.bincount(of_labels, minlength=len(edges) + 1) / len(labels)
    some = (count > 0) & (np.bincount(of_labels[np.isfinite(labels)], minlength=len(count)) > 0)
    finite = np.isfinite(labels)
    middle = [float(np.median(labels[finite & (of_labels == index)])) for index in np.flatnonzero(some)]
    ratio = part * len(peaks) * shares[some] / count[some]
    fitted = isotonic_regression(ratio, weights=count[some], increasing=True).x[::-1]
    # more labels than peaks above a score is luck: what is too many counts among the next
    above = np.cumsum(count[some][::-1])
    particles = np.minimum(SUREST * above, np.cumsum(fitted * count[some][::-1]))
    chances = np.minimum.accumulate(np.diff(particles, prepend=0.0) / count[some][::-1])
    return Calibration(tuple(middle), tuple(chances[::-1].tolist()))
