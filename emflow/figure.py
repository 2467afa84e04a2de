"""Figures as PNG bytes without a date or version, so that equal results give equal files."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

P = ParamSpec("P")
Drawn = TypeVar("Drawn", bound=Figure | None)

STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.grid": False,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "lines.linewidth": 1.4,
    "text.parse_math": False,  # a $ in a file's name is no formula
}
"""Look of all figures; light, since they are read on paper too."""

INK, MUTED, BLUE, ORANGE, GREEN, RED = "#1b1f24", "#8a929b", "#0072b2", "#d55e00", "#009e73", "#b3261e"
"""Colours that colour-blind readers can tell apart (after Okabe and Ito)."""

CLASSES = (BLUE, ORANGE, GREEN, RED, INK, "#cc79a7", "#56b4e9", "#e69f00", "#7f6000", MUTED)
"""Colours of numbered things, such as states, in their order."""


def styled(draw: Callable[P, Drawn]) -> Callable[P, Drawn]:
    """Decorate a function that draws a figure, so that it is drawn in the common style."""

    @functools.wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> Drawn:
        with rc_context(STYLE):
            return draw(*args, **kwargs)

    return drawn


def figure(width_inch: float, height_inch: float) -> Figure:
    """Return an empty figure with constrained layout and no global state."""
    fig = Figure(figsize=(width_inch, height_inch), layout="constrained")
    FigureCanvasAgg(fig)
    return fig


def png_bytes(fig: Figure, dpi: int = 130) -> bytes:
    """Render a figure; equal figures give equal bytes."""
    with io.BytesIO() as buffer, rc_context(STYLE):
        fig.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
        return buffer.getvalue()
