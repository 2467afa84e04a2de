"""The gallery of classes."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from emflow.classify.measure import Columns
from emflow.classify.select import Selection
from emflow.figure import INK, RED, figure, styled

_MOST = 200
"""Classes drawn."""


@styled
def draw_classes(averages: np.ndarray, classes: Columns, selection: Selection) -> Figure:
    """Class averages (K, box, box) with particles and score, best first; removed ones pale, with the reason."""
    filled = np.flatnonzero(classes["particles"] > 0)
    best = np.lexsort((-classes["particles"][filled], -selection.ranked.score[filled]))
    order = filled[best][:_MOST]
    columns = 8
    rows = max(1, -(-len(order) // columns))
    drawn = figure(8.0, 1.25 * rows + 0.1)
    for place, k in enumerate(order, start=1):
        axes = drawn.add_subplot(rows, columns, place)
        kept = bool(selection.classes_kept[k])
        low, high = np.percentile(averages[k], [1, 99.8])
        pale = 0.0 if kept else 0.6
        grey = np.clip((averages[k] - low) / max(high - low, 1e-12), 0, 1) * (1 - pale) + pale
        axes.imshow(grey, cmap="gray", vmin=0, vmax=1, interpolation="bilinear")
        axes.set_title(
            f"{k + 1}: {int(classes['particles'][k])} · {selection.ranked.score[k]:.2f}",
            fontsize=6,
            color=INK if kept else RED,
            pad=2,
        )
        if selection.ranked.reason[k]:
            axes.set_xlabel(selection.ranked.reason[k].split(":")[0], fontsize=5, labelpad=1)
        axes.set(xticks=[], yticks=[])
    return drawn
