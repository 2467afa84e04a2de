"""Picture of a micrograph with its filaments."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from emflow.figure import CLASSES, figure, png_bytes, styled
from emflow.pick.filaments import Found
from emflow.pick.normalise import shrink

SIDE_INCH, PIXELS, SMOOTH = 7.0, 800, 0.06
"""Side of a panel, most pixels along it, and width of a drawn pixel at least, in filament widths."""


def filament_figure(image: Tensor, width_px: float, found: Found, title: str) -> bytes:
    """PNG: the micrograph, and beside it the same with axes, segments and what is masked.

    Parameters
    ----------
    image
        Micrograph (y, x).
    width_px
        Width of a filament in its pixels.
    found
        What was found in it.
    """
    return png_bytes(_draw(image, width_px, found, title))


@styled
def _draw(image: Tensor, width_px: float, found: Found, title: str):  # type: ignore[no-untyped-def]
    factor = max(1.0, max(image.shape) / PIXELS, SMOOTH * width_px)
    small = shrink(image.float(), factor).cpu().numpy()
    height, width = image.shape
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    low, high = np.quantile(small, [0.01, 0.99])
    fig = figure(2 * SIDE_INCH, SIDE_INCH * height / width + 0.4)
    left, right = fig.subplots(1, 2)
    for axes in (left, right):
        axes.imshow(small, cmap="gray", vmin=low, vmax=high, extent=extent)
        axes.set_axis_off()
    if found.mask.any():
        shade = np.where(found.mask, 1.0, np.nan)
        right.imshow(shade, cmap="autumn", vmin=0, vmax=1, alpha=0.35, extent=extent)
    for number, one in enumerate(found.filaments):
        colour = CLASSES[number % len(CLASSES)]
        right.plot(*one.axis_px.T, color=colour, lw=0.8)
        right.plot(*one.segments_px.T, ".", color=colour, ms=4)
        x, y = one.axis_px[0]
        right.text(x, y, f"{number + 1}", color=colour, fontsize=9)
    segments = sum(len(one.psi_deg) for one in found.filaments)
    left.set_title(title)
    told = f"{len(found.filaments)} filaments, {segments} segments, {found.left_out} left out"
    right.set_title(f"{told}, contamination shaded" if found.mask.any() else told)
    return fig
