"""Choose on held-out parts of labelled slices where to cut, and judge there what a model is worth."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from emflow.vem.agreement import Agreement, MaskOverlap, agreement, joint_of
from emflow.vem.watershed import Cut, components, merged, segments

Array = np.ndarray[Any, np.dtype[Any]]

THRESHOLDS = tuple(round(0.1 + 0.05 * i, 2) for i in range(15))
_INSIDE = (0.3, 0.4, 0.5, 0.6, 0.7)
_MERGE = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
_BINS = 10


def mean_agreement(pairs: Iterable[tuple[Array, Array]]) -> dict[str, float]:
    """Mean of the scores of planes, each compared on its own.

    Parameters
    ----------
    pairs
        Found and true labels, plane by plane; planes without true foreground are left out.

    Raises
    ------
    ValueError
        If no plane has any.
    """
    scores = [agreement(joint_of([pair])) for pair in pairs if pair[1].any()]
    if not scores:
        raise ValueError("the truth has no foreground: all its labels are 0")
    return {name: float(np.mean([getattr(s, name) for s in scores])) for name in Agreement.__annotations__}


def _worth(found: Sequence[Array], true: Sequence[Array]) -> float:
    scores = mean_agreement(zip(found, true, strict=True))
    return (scores["rand"] + scores["info"]) / 2


def choose_cut(probability: Sequence[Array], true: Sequence[Array], least_pixels: int) -> Cut:
    """The cut whose segments have the largest mean of V_rand and V_info on held-out planes."""
    best, worth = Cut(), -1.0
    for threshold in _INSIDE:
        many = [segments(p, Cut(threshold, merge=0.0), least_pixels) for p in probability]
        for merge in _MERGE:
            found = [merged(m, p, merge, least_pixels) for m, p in zip(many, probability, strict=True)]
            if (now := _worth(found, true)) > worth:
                best, worth = Cut(threshold, merge=merge), now
    return best


def choose_threshold(probability: Sequence[Array], true: Sequence[Array]) -> float:
    """The threshold whose connected components have the largest mean of V_rand and V_info."""
    return max(THRESHOLDS, key=lambda t: _worth([components(p, t) for p in probability], true))


@dataclass(frozen=True)
class HeldOut:
    """What held-out parts of the labelled slices tell."""

    scores: dict[str, float]
    by_components: dict[str, float]
    as_one: dict[str, float]
    """Of one segment that holds everything."""
    overlap: MaskOverlap
    calibration_error: float
    clear_level: float
    clear_share: float
    """See :func:`clear_level`."""


def judged(probability: Sequence[Array], true: Sequence[Array], cut: Cut, least_pixels: int) -> HeldOut:
    """Score held-out planes.

    Parameters
    ----------
    probability, true
        Membrane probability and true labels (0 for membrane) of planes.
    """
    overlap = MaskOverlap()
    for p, t in zip(probability, true, strict=True):
        overlap.add(p >= 0.5, t == 0)
    threshold = choose_threshold(probability, true)
    segmented = (
        [segments(p, cut, least_pixels) for p in probability],
        [components(p, threshold) for p in probability],
    )
    scores, by_components = (mean_agreement(zip(found, true, strict=True)) for found in segmented)
    as_one = mean_agreement((np.ones(t.shape, np.int32), t) for t in true)
    error = calibration_error(np.stack(probability), np.stack(true) == 0)
    return HeldOut(scores, by_components, as_one, overlap, error, *clear_level(np.stack(probability)))


def clear_level(probability: Array) -> tuple[float, float]:
    """The probability that membranes reach where they are clear, and the share of pixels that reach it.

    Half of the pixels that are expected to be membrane do, on the pixels given. Elsewhere far fewer do where nothing is
    to be seen, however sure the network is at its best.
    """
    level = float(np.quantile(probability, 1 - probability.mean() / 2, method="higher"))
    return level, float((probability >= level).mean())


def calibration_error(probability: Array, happened: Array) -> float:
    """Expected calibration error (M. P. Naeini et al., AAAI 2015): mean distance of stated from found frequency.

    Parameters
    ----------
    probability, happened
        Of pixels, one shape; ten bins of equal width.
    """
    place = np.minimum((probability * _BINS).astype(int), _BINS - 1).ravel()
    stated = np.bincount(place, weights=probability.ravel().astype(np.float64), minlength=_BINS)
    found = np.bincount(place, weights=happened.ravel().astype(np.float64), minlength=_BINS)
    return float(np.abs(stated - found).sum() / probability.size)
