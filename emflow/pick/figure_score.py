"""Picture of how good picks are: precision against recall, ROC, what probabilities are worth."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes

from emflow.figure import BLUE, INK, MUTED, ORANGE, figure, png_bytes, styled
from emflow.pick.measures import Figures, curve, negatives, per_micrograph, reliability
from emflow.pick.score import Matched


def score_figure(matched: Matched, metrics: Figures) -> bytes:
    """PNG with three panels; a panel that cannot be drawn says why."""
    return png_bytes(_draw(matched, metrics))


@styled
def _draw(matched: Matched, metrics: Figures):  # type: ignore[no-untyped-def]
    fig = figure(10.2, 3.3)
    left, middle, right = fig.subplots(1, 3)
    points = curve(matched)
    _axes(left, "recall", "precision", f"Precision and recall, AUPRC {_text(metrics['average_precision'])}")
    if metrics["positions"] and len(points):
        for share in (0.5, 0.7, 0.9):
            recall = np.linspace(share / (2 - share) + 1e-6, 1, 100)
            left.plot(recall, share * recall / (2 * recall - share), color=MUTED, lw=0.5, ls=":")
        table = per_micrograph(matched)
        left.plot(table["recall"], table["precision"], ".", color=MUTED, ms=4, label="each micrograph")
        left.plot(points["recall"], points["precision"], color=BLUE)
        if metrics["precision"] is not None:
            label = f"as picked, F1 {_text(metrics['f1'])}"
            left.plot(metrics["recall"], metrics["precision"], "o", color=ORANGE, label=label)
        left.legend(loc="lower left")
    else:
        _say(left, "no position or no pick")
    _axes(middle, "false-positive rate", "recall", f"ROC over places, area {_text(metrics['roc_area'])}")
    if metrics["roc_area"] is not None:
        false = np.concatenate([[0], points["false_positive_rate"], [1]])
        middle.plot(false[:-1], np.concatenate([[0], points["recall"]]), color=BLUE)
        middle.plot(
            false[-2:], [points["recall"].iloc[-1] if len(points) else 0, 1], color=BLUE, ls="--", lw=0.8
        )
        middle.plot([0, 1], [0, 1], color=MUTED, lw=0.7)
        middle.text(0.98, 0.04, f"{negatives(matched):.0f} places without", ha="right", color=INK, fontsize=8)
    else:
        _say(middle, "the micrographs' size is not known:\ntrue negatives cannot be counted")
    _axes(right, "probability", "part that is true", "What the probability is worth")
    bins = reliability(matched)
    if bins.empty:
        _say(right, "the picks have no probabilities")
    else:
        right.plot([0, 1], [0, 1], color=MUTED, lw=0.7)
        deviation = np.sqrt(bins["found"] * (1 - bins["found"]) / bins["picks"])
        right.errorbar(bins["promised"], bins["found"], deviation, fmt="o-", color=BLUE, ms=4)
    return fig


def _axes(ax: Axes, across: str, up: str, title: str) -> None:
    ax.set(xlabel=across, ylabel=up, title=title, xlim=(-0.02, 1.02), ylim=(-0.02, 1.03))


def _say(ax: Axes, text: str) -> None:
    ax.text(0.5, 0.5, text, ha="center", va="center", color=MUTED)


def _text(value: float | int | None) -> str:
    return "not known" if value is None else f"{value:.3f}"
