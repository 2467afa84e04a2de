"""Compare picks with known positions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree


@dataclass(frozen=True)
class Positions:
    """Positions in many micrographs."""

    micrograph: np.ndarray
    """Base name of the micrograph of each, without suffix, shape (n,)."""
    xy_px: np.ndarray
    """Shape (n, 2)."""
    merit: np.ndarray
    """The higher the better, shape (n,)."""
    listed: frozenset[str]
    """All micrographs that were looked at, also those without a position."""


def match(picks: np.ndarray, truth: np.ndarray, radius: float) -> np.ndarray:
    """Match picks to positions one to one, best pick first, each to the nearest free position within ``radius``.

    Parameters
    ----------
    picks
        Shape (n, d), best first.
    truth
        Shape (m, d).

    Returns
    -------
    Index of each pick's position, −1 where it has none; shape (n,).
    """
    found = np.full(len(picks), -1, dtype=np.int64)
    if len(picks) == 0 or len(truth) == 0:
        return found
    near = cKDTree(picks).sparse_distance_matrix(cKDTree(truth), radius, output_type="ndarray")
    order = np.lexsort((near["v"], near["i"]))
    pick, place = near["i"][order], near["j"][order]
    while len(pick):  # in each round, pairs that come first for their pick and for their position
        rank = np.arange(len(pick))
        first_pick, first_place = np.full(len(picks), len(pick)), np.full(len(truth), len(pick))
        np.minimum.at(first_pick, pick, rank)
        np.minimum.at(first_place, place, rank)
        sure = (first_pick[pick] == rank) & (first_place[place] == rank)
        found[pick[sure]] = place[sure]
        taken = np.zeros(len(truth), dtype=bool)
        taken[place[sure]] = True
        free = (found[pick] < 0) & ~taken[place]
        pick, place = pick[free], place[free]
    return found


def score_picks(picks: Positions, truth: Positions, radius_px: float) -> dict[str, float | int | None]:
    """Precision, recall, F1 at the threshold that was used, best F1 and average precision over all thresholds.

    Only micrographs that the truth lists are judged. Average precision is the area under the precision-recall
    curve of the picks given, as a sum over steps of recall: picks below the threshold are not there, so their recall
    counts as lost.

    Parameters
    ----------
    picks, truth
        Positions; the picks' merit ranks them.
    radius_px
        Largest distance between a pick and its position.
    """
    names = sorted(truth.listed)
    number = {name: i for i, name in enumerate(names)}
    judged = np.array([name in number for name in picks.micrograph], dtype=bool)
    order = np.flatnonzero(judged)[np.argsort(-picks.merit[judged], kind="stable")]
    layer = np.array([number[name] for name in picks.micrograph[order]], dtype=np.float64)
    of_truth = np.array([number[name] for name in truth.micrograph], dtype=np.float64)
    apart = 4 * radius_px + 1  # a third axis keeps micrographs apart
    found = match(
        np.column_stack([picks.xy_px[order], layer * apart]),
        np.column_stack([truth.xy_px, of_truth * apart]),
        radius_px,
    )
    hit = found >= 0
    n, m = len(order), len(of_truth)
    true = np.cumsum(hit)
    precision = true / np.arange(1, n + 1)
    f1 = 2 * true / (np.arange(1, n + 1) + m)
    each = _f1_each(layer, of_truth, hit, len(names))
    offset = np.linalg.norm(picks.xy_px[order][hit] - truth.xy_px[found[hit]], axis=1)
    return {
        "micrographs": len(names),
        "picks": n,
        "picks_elsewhere": int((~judged).sum()),
        "positions": m,
        "true_picks": int(hit.sum()),
        "radius_px": radius_px,
        "precision": float(precision[-1]) if n else None,
        "recall": float(true[-1] / m) if n and m else (0.0 if m else None),
        "f1": float(f1[-1]) if n else (0.0 if m else None),
        "f1_mean": float(np.mean(each)) if len(each) else None,
        "f1_worst": float(np.min(each)) if len(each) else None,
        "f1_best_threshold": float(f1.max()) if n else None,
        "average_precision": float(precision[hit].sum() / m) if m else None,
        "offset_median_px": float(np.median(offset)) if len(offset) else None,
    }


def _f1_each(layer: np.ndarray, of_truth: np.ndarray, hit: np.ndarray, n: int) -> np.ndarray:
    """F1 of each micrograph that has picks or positions."""
    picked = np.bincount(layer.astype(np.int64), minlength=n)
    there = np.bincount(of_truth.astype(np.int64), minlength=n)
    true = np.bincount(layer[hit].astype(np.int64), minlength=n)
    some = picked + there > 0
    return 2 * true[some] / (picked + there)[some]
