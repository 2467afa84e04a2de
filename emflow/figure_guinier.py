"""Figure of the Guinier plot."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from emflow.em.sharpen import Sharpened
from emflow.figure import BLUE, INK, MUTED, ORANGE, figure, styled


@styled
def draw_guinier(sharpened: Sharpened) -> Figure:
    """Draw ln⟨\\|F\\|⟩ against 1/d²: as measured, weighted by the FSC, sharpened; and the line of the B factor."""
    fig = figure(6.6, 3.2)
    ax = fig.add_subplot()
    x = sharpened.inverse_square.numpy()
    curves = {
        "original": (sharpened.original, MUTED),
        "weighted by the FSC": (sharpened.weighted, BLUE),
        "sharpened": (sharpened.sharpened, INK),
    }
    shown = []
    for label, (values, color) in curves.items():
        known = values.numpy() > -90
        ax.plot(x[known], values.numpy()[known], color=color, label=label)
        shown.append(values.numpy()[known])
    line = sharpened.line
    if line is not None:
        ends = np.array([line.from_angstrom**-2.0, min(line.to_angstrom**-2.0, x[-1])])
        ax.plot(ends, line.intercept + line.slope * ends, color=ORANGE, lw=2.2, label="fit")
        for end in ends:
            ax.axvline(end, color=ORANGE, lw=0.6, ls=":")
    ax.axvline(sharpened.lowpass_angstrom**-2.0, color=MUTED, lw=0.8, ls="--", label="low-pass")
    low, high = np.percentile(np.concatenate(shown), [2, 100])
    ax.set_ylim(low - 0.5, high + 0.5)
    ax.set_xlim(0, x[-1])
    ticks = [
        d for d in (10, 6, 5, 4, 3.5, 3, 2.5, 2.2, 2, 1.8, 1.6, 1.4, 1.2, 1, 8, 12, 15, 20) if d**-2 <= x[-1]
    ]
    chosen: list[float] = []
    for d in sorted(ticks):
        if not chosen or chosen[-1] ** -2 - d**-2 > x[-1] / 9:
            chosen.append(d)
    ax.set_xticks([d**-2 for d in chosen], [f"{d:g}" for d in chosen])
    ax.set_xlabel("Resolution d (Å), spaced by 1/d²")
    ax.set_ylabel("ln of mean amplitude")
    ax.set_title(f"B factor applied: {sharpened.bfactor_angstrom2:.0f} Å²", loc="left")
    ax.legend(loc="center left", bbox_to_anchor=(1.02, 0.5))
    return fig
