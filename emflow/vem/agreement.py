"""How well segments agree with true ones: what pairs of pixels, and what information, the two have in common.

Definitions: I. Arganda-Carreras et al., Front. Neuroanat. 9, 142 (2015), equations 1 to 6, as M. Treder et al. use
them. With the fractions p_ij of the true foreground that lie in found segment i and true segment j, and their sums
s_i and t_j, the Rand scores are Σp² over Σt² (split), over Σs² (merge), over the mean of the two (F); the information
scores are I(S;T) over H(S) (split), over H(T) (merge), over the mean of the two (F).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

Labels = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Joint:
    """How many pixels of the true foreground each pair of a found and a true segment shares; pairs that share some only.

    Pixels that were found to be in no segment (label 0) count as a segment each, and are kept apart: ``alone``.
    """

    found: Labels
    true: Labels
    pixels: Labels
    """Of each pair: its labels, ordered, and its pixels."""
    alone_true: Labels
    alone: Labels
    """True segments that have pixels in no found one, and how many."""


def joint_of(parts: Iterable[tuple[Labels, Labels]]) -> Joint:
    """Count the pixels of each pair of labels over parts of a volume.

    Memory grows with the largest part and the number of pairs, not with the volume.

    Parameters
    ----------
    parts
        Found and true labels of one shape, part by part; what is 0 in the truth is left out.

    Raises
    ------
    ValueError
        If a part's shapes differ, or labels are negative or no integers.
    """
    pairs = np.empty((0, 2), np.uint64)
    pixels = np.empty(0, np.int64)
    for found, true in parts:
        if found.shape != true.shape:
            raise ValueError(f"labels of shapes {found.shape} and {true.shape}; expected one shape")
        for labels in (found, true):
            if labels.dtype.kind not in "uib" or (labels.size and labels.min() < 0):
                raise ValueError("labels are whole numbers, 0 for none; found others")
        inside = true != 0
        new, counts = _counted(found[inside].astype(np.uint64), true[inside].astype(np.uint64))
        pairs, where = np.unique(np.concatenate([pairs, new]), axis=0, return_inverse=True)
        pixels = _summed(where.ravel(), np.concatenate([pixels, counts]), len(pairs))
    alone = pairs[:, 0] == 0
    return Joint(pairs[~alone, 0], pairs[~alone, 1], pixels[~alone], pairs[alone, 1], pixels[alone])


def _counted(found: Labels, true: Labels) -> tuple[Labels, Labels]:
    """Pairs of labels (N, 2), and how often each occurs; through one number for both, which sorts fast."""
    names_found, at_found = np.unique(found, return_inverse=True)
    names_true, at_true = np.unique(true, return_inverse=True)
    both, counts = np.unique(at_found * max(1, len(names_true)) + at_true, return_counts=True)
    pairs = np.stack(
        [names_found[both // max(1, len(names_true))], names_true[both % max(1, len(names_true))]], 1
    )
    return pairs, counts


def _summed(where: Labels, values: Labels, number: int) -> Labels:
    """Sums of whole numbers by place, exact also where floating point would not be."""
    out = np.zeros(number, np.int64)
    np.add.at(out, where, values)
    return out


@dataclass(frozen=True)
class Agreement:
    """Scores of found segments against the true ones; 1 is perfect unless said otherwise."""

    rand_split: float
    """Probability that two pixels of one true segment are in one found segment."""
    rand_merge: float
    """Probability that two pixels of one found segment are in one true segment."""
    rand: float
    """V_rand: harmonic mean of the two; at ``alpha`` = ½."""
    info_split: float
    info_merge: float
    info: float
    """V_info: 2 I / (H(S) + H(T)), at ``alpha`` = ½."""
    rand_error: float
    """Adapted Rand error, 1 − V_rand: 0 is perfect."""
    vi_split_bits: float
    """H(S|T): what splitting adds to the variation of information: 0 is perfect."""
    vi_merge_bits: float
    """H(T|S): what merging adds."""


def agreement(joint: Joint, alpha: float = 0.5) -> Agreement:
    """Return the scores.

    Parameters
    ----------
    alpha
        Weight of mergers against splits in V_rand and V_info: 0 is the split score, 1 the merge score.

    Raises
    ------
    ValueError
        If the truth has no foreground, or alpha is not from 0 to 1.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha is from 0 to 1, not {alpha}")
    pairs = joint.pixels.astype(np.float64)
    alone = joint.alone.astype(np.float64)
    found = _by_label(joint.found, pairs)
    true = _by_label(np.concatenate([joint.true, joint.alone_true]), np.concatenate([pairs, alone]))
    total, singles = true.sum(), alone.sum()
    if not total:
        raise ValueError("the truth has no foreground: all its labels are 0")
    both = (pairs @ pairs + singles) / total**2
    in_found = (found @ found + singles) / total**2
    in_true = (true @ true) / total**2
    # a pixel that is a segment of its own has the fraction 1/total in p as in s
    of_singles = singles / total * np.log2(total)
    entropy_pairs = _entropy(pairs / total) + of_singles
    entropy_found = _entropy(found / total) + of_singles
    entropy_true = _entropy(true / total)
    shared = max(0.0, entropy_found + entropy_true - entropy_pairs)
    rand = both / (alpha * in_found + (1 - alpha) * in_true)
    return Agreement(
        rand_split=both / in_true,
        rand_merge=both / in_found,
        rand=rand,
        info_split=_share(shared, entropy_found),
        info_merge=_share(shared, entropy_true),
        info=_share(shared, (1 - alpha) * entropy_found + alpha * entropy_true),
        rand_error=1 - rand,
        vi_split_bits=max(0.0, entropy_pairs - entropy_true),
        vi_merge_bits=max(0.0, entropy_pairs - entropy_found),
    )


def _by_label(labels: Labels, pixels: Labels) -> Labels:
    """Sizes of segments."""
    names, where = np.unique(labels, return_inverse=True)
    return np.bincount(where, weights=pixels, minlength=len(names))


def _entropy(fractions: Labels) -> float:
    """In bits; sizes of segments are never 0."""
    return float(-(fractions @ np.log2(fractions)))


def _share(information: float, entropy: float) -> float:
    """A part of an entropy; all of it where there is nothing to know."""
    return float(np.clip(information / entropy, 0.0, 1.0)) if entropy > 1e-12 else 1.0


@dataclass
class MaskOverlap:
    """Pixels of two masks, added up part by part."""

    both: int = 0
    found: int = 0
    true: int = 0
    pixels: int = 0

    def add(self, found: Labels, true: Labels) -> None:
        """Count a part: two boolean arrays of one shape."""
        if found.shape != true.shape:
            raise ValueError(f"masks of shapes {found.shape} and {true.shape}; expected one shape")
        self.both += int(np.count_nonzero(found & true))
        self.found += int(np.count_nonzero(found))
        self.true += int(np.count_nonzero(true))
        self.pixels += true.size

    @property
    def iou(self) -> float:
        """Intersection over union; 1 where both masks are empty."""
        union = self.found + self.true - self.both
        return self.both / union if union else 1.0

    @property
    def dice(self) -> float:
        """Twice the intersection over the sum; 1 where both masks are empty."""
        total = self.found + self.true
        return 2 * self.both / total if total else 1.0

    @property
    def pixel_error(self) -> float:
        """Share of pixels where the masks differ."""
        return (self.found + self.true - 2 * self.both) / self.pixels if self.pixels else 0.0
