"""Figures of merit of picks that were matched to known positions.

After R. Langlois & J. Frank, A clarification of the terms used in comparing semi-automated particle selection
algorithms in cryo-EM, J. Struct. Biol. 175 (2011) 348-352. What is no particle cannot be counted as particles can: see
:func:`true_negatives`.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from emflow.pick.score import Matched, Positions, match_picks

Figures = dict[str, float | int | None]

CURVE_POINTS = 1000
"""Most points of a curve's table."""
COUNTS = ("true_picks", "false_picks", "missed", "true_negatives")
BINS = 10
"""Of the reliability table."""


def score_picks(
    picks: Positions, truth: Positions, radius_px: float, threshold: float | None = None
) -> Figures:
    """Figures of picks against a truth; see :func:`match_picks` and :func:`figures`."""
    return figures(match_picks(picks, truth, radius_px, threshold))


def figures(matched: Matched) -> Figures:
    """Confusion matrix and measures over all micrographs, and over all thresholds.

    Average precision (AUPRC) is the area under the precision-recall curve of the picks given, as a sum over steps of
    recall: picks that are not in the table are not there, so their recall counts as lost.
    """
    n, m = len(matched.hit), int(matched.positions.sum())
    true = np.cumsum(matched.hit)
    precision = true / np.arange(1, n + 1)
    f1 = 2 * true / (np.arange(1, n + 1) + m)
    table = per_micrograph(matched)
    each = table["f1"].dropna().to_numpy()
    best = int(f1.argmax()) if n else 0
    return {
        "micrographs": len(matched.names),
        "picks": int(matched.picked.sum()),
        "picks_below_threshold": int((~matched.picked).sum()),
        "picks_elsewhere": matched.elsewhere,
        "positions": m,
        "radius_px": matched.radius_px,
        **_overall(table),
        "f1_mean": float(each.mean()) if len(each) else None,
        "f1_worst": float(each.min()) if len(each) else None,
        "f1_best_threshold": float(f1[best]) if n else None,
        "best_threshold": float(matched.merit[best]) if n else None,
        "average_precision": float(precision[matched.hit].sum() / m) if m else None,
        "roc_area": roc_area(matched),
        "offset_median_px": float(np.median(matched.offset_px)) if len(matched.offset_px) else None,
        **_calibration(matched),
    }


def _overall(table: pd.DataFrame) -> Figures:
    counts = table[list(COUNTS)].sum(skipna=False).to_numpy(float)
    found: Figures = {}
    for name, value in measures(*counts).items():
        found[name] = None if np.isnan(value) else int(value) if name in COUNTS else value
    return found


def measures(true: float, false: float, missed: float, negative: float) -> dict[str, float]:
    """Measures of one confusion matrix; NaN where one is not defined.

    Parameters
    ----------
    true, false
        Picks that are particles (TP) and that are none (FP).
    missed
        Particles that were not picked (FN).
    negative
        Places without a particle that were not picked (TN); NaN where that is not known.
    """

    def ratio(part: float, whole: float) -> float:
        return part / whole if whole > 0 else np.nan

    return {
        "true_picks": true,
        "false_picks": false,
        "missed": missed,
        "true_negatives": negative,
        "precision": ratio(true, true + false),
        "recall": ratio(true, true + missed),
        "f1": ratio(2 * true, 2 * true + false + missed),
        "sensitivity": ratio(true, true + missed),
        "specificity": ratio(negative, negative + false),
        "accuracy": ratio(true + negative, true + false + missed + negative),
        "error": ratio(false + missed, true + false + missed + negative),
        "false_discovery_rate": ratio(false, true + false),
        "false_positive_rate": ratio(false, negative + false),
    }


def true_negatives(matched: Matched) -> np.ndarray:
    """Number of places in each micrograph that were rightly left; NaN where its size is not known.

    Particles and picks are things, but what is between them is no thing that could be counted. We count as many places
    as disks of the matching radius have room in the micrograph's area, A/(π·r²): one is taken by each particle, one by
    each false pick, and the rest are true negatives; never less than none. This depends on the radius, and is large for
    small particles: compare specificity, accuracy, error and the ROC curve at one radius only.
    """
    false = np.bincount(matched.micrograph[~matched.hit & matched.picked], minlength=len(matched.names))
    return np.maximum(matched.places - matched.positions - false, 0.0)


def per_micrograph(matched: Matched) -> pd.DataFrame:
    """One row of :func:`measures` for each micrograph."""
    n = len(matched.names)
    true = np.bincount(matched.micrograph[matched.hit & matched.picked], minlength=n)
    false = np.bincount(matched.micrograph[~matched.hit & matched.picked], minlength=n)
    missed = matched.positions - true
    rows = [
        {"micrograph": name, **measures(float(tp), float(fp), float(fn), float(tn))}
        for name, tp, fp, fn, tn in zip(
            matched.names, true, false, missed, true_negatives(matched), strict=True
        )
    ]
    columns = ["micrograph", *measures(0, 0, 0, 0)]
    return pd.DataFrame(rows, columns=pd.Index(columns))


def negatives(matched: Matched) -> float:
    """Places without a particle in all micrographs; NaN where the size of one is not known."""
    return float(np.maximum(matched.places - matched.positions, 0).sum())


def curve(matched: Matched) -> pd.DataFrame:
    """Precision, recall, F1 and false-positive rate at each threshold; at most ``CURVE_POINTS`` rows.

    Thresholds within ties are left out: no threshold could have chosen them.
    """
    n, m = len(matched.hit), int(matched.positions.sum())
    last = np.flatnonzero(np.diff(matched.merit, append=-np.inf) < 0)
    if len(last) > CURVE_POINTS:
        last = last[np.linspace(0, len(last) - 1, CURVE_POINTS).round().astype(int)]
    true, taken = np.cumsum(matched.hit)[last], np.arange(1, n + 1)[last]
    empty, there = np.full(len(last), np.nan), negatives(matched)
    return pd.DataFrame(
        {
            "threshold": matched.merit[last],
            "figure": matched.figure[last],
            "picks": taken,
            "precision": true / taken,
            "recall": true / m if m else empty,
            "f1": 2 * true / (taken + m),
            "false_positive_rate": np.minimum((taken - true) / there, 1) if there > 0 else empty,
        }
    )


def roc_area(matched: Matched) -> float | None:
    """Area under the ROC curve over places (:func:`true_negatives`); None where it is not defined.

    Places that the table does not list tie for the lowest score: a straight line from its last pick to (1, 1).
    """
    m, there = int(matched.positions.sum()), negatives(matched)
    if m == 0 or not there > 0:
        return None
    true = np.concatenate([[0], np.cumsum(matched.hit) / m, [1]])
    false = np.concatenate([[0], np.minimum(np.cumsum(~matched.hit) / there, 1), [1]])
    return float(np.trapezoid(true, false))


def reliability(matched: Matched) -> pd.DataFrame:
    """What probabilities promised and what was found, in bins of equal width; empty where figures are none."""
    columns = pd.Index(["from", "picks", "promised", "found"])
    p = matched.figure
    if len(p) == 0 or p.min() < 0 or p.max() > 1 or p.min() == p.max():
        return pd.DataFrame(columns=columns)
    index = np.minimum((p * BINS).astype(int), BINS - 1)
    count = np.bincount(index, minlength=BINS)
    some = count > 0
    promised, found = (np.bincount(index, weights=v, minlength=BINS)[some] for v in (p, matched.hit))
    content = [np.flatnonzero(some) / BINS, count[some], promised / count[some], found / count[some]]
    return pd.DataFrame(dict(zip(columns, content, strict=True)))


def _calibration(matched: Matched) -> Figures:
    table = reliability(matched)
    if table.empty:
        return {"false_promised": None, "calibration_error": None, "brier_score": None}
    taken = matched.figure[matched.picked]
    gap = (table["promised"] - table["found"]).abs()
    return {
        "false_promised": float((1 - taken).mean()) if len(taken) else None,
        "calibration_error": float((gap * table["picks"]).sum() / table["picks"].sum()),
        "brier_score": float(((matched.figure - matched.hit) ** 2).mean()),
    }
