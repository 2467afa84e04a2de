"""Figure of the maps for the eye."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from emflow.figure import figure, styled


@styled
def draw_maps(
    raw: Tensor, whole: Tensor, local: Tensor, resolution: Tensor, voxel_size_angstrom: float
) -> Figure:
    """Draw the middle slice of the raw mean, of both sharpened maps, and of the local resolution."""
    fig = figure(8.4, 2.3)
    middle = raw.shape[0] // 2
    extent = raw.shape[0] * voxel_size_angstrom
    shown = {"mean of the raw halves": raw, "sharpened": whole, "sharpened, filtered locally": local}
    for column, (title, volume) in enumerate(shown.items(), start=1):
        ax = fig.add_subplot(1, 4, column)
        grey = volume[middle].cpu().numpy()
        low, high = np.percentile(grey, [0.5, 99.8])
        ax.imshow(grey, cmap="gray", origin="lower", vmin=low, vmax=max(high, low + 1e-12))
        ax.set_title(title, fontsize=8)
        ax.set_xticks([])
        ax.set_yticks([])
    ax = fig.add_subplot(1, 4, 4)
    values = resolution[middle].cpu().numpy()
    image = ax.imshow(np.ma.masked_equal(values, 0), cmap="viridis_r", origin="lower")
    ax.set_title(f"local resolution (Å); side {extent:.0f} Å", fontsize=8)
    ax.set_xticks([])
    ax.set_yticks([])
    bar = fig.colorbar(image, ax=ax, shrink=0.9)
    bar.ax.invert_yaxis()
    return fig
