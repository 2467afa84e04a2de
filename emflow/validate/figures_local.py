"""Figures of the local resolution. Each returns a matplotlib figure; nothing is written here."""

from __future__ import annotations

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from torch import Tensor

from emflow.em.local_resolution import LocalResolution
from emflow.figure import BLUE, GREEN, INK, figure, styled
from emflow.validate.figures import scale_bar


@styled
def draw_local(volume: Tensor, local: LocalResolution, mask: Tensor, voxel_size_angstrom: float) -> Figure:
    """Draw the three slices through the mask's middle, the density in grey and the resolution over it in colour."""
    fig = figure(7.2, 2.75)
    n = volume.shape[-1]
    inside = local.inside.cpu().numpy()
    values = local.angstrom.cpu().numpy()
    shown = values[inside] if inside.any() else values
    low, high = np.percentile(shown, [1, 99])
    scale = Normalize(low, max(high, low * 1.02))
    density = volume.cpu().numpy()
    for axis, (along, right, up) in enumerate((("z", "x", "y"), ("y", "x", "z"), ("x", "y", "z"))):
        held = inside.sum(axis=tuple(a for a in range(3) if a != axis))
        place = int(round(float((held * np.arange(n)).sum() / max(held.sum(), 1)))) if held.any() else n // 2
        ax = fig.add_subplot(1, 3, axis + 1)
        grey, here = density.take(place, axis), inside.take(place, axis)
        black, white = np.percentile(grey, [0.5, 99.8])
        shade = np.clip((grey - black) / max(white - black, 1e-12), 0, 1)
        ax.imshow(grey, cmap="gray", origin="lower", vmin=black, vmax=max(white, black + 1e-12))
        # the colour tells the resolution, its opacity the density
        ax.imshow(
            np.ma.masked_where(~here, values.take(place, axis)), cmap="viridis_r", norm=scale, origin="lower",
            alpha=np.where(here, 0.35 + 0.65 * shade, 0.0),
        )  # fmt: skip
        ax.set_title(f"slice along {along}", pad=3)
        ax.set_xticks([])
        ax.set_yticks([])
        ax.spines[:].set_visible(False)
        ax.set_xlabel(f"{right} →", fontsize=7, labelpad=1)
        ax.set_ylabel(f"{up} →", fontsize=7, labelpad=1)
        if axis == 0:
            scale_bar(ax, n, voxel_size_angstrom)
    colours = ScalarMappable(scale, "viridis_r")  # opaque, unlike the images
    bar = fig.colorbar(colours, ax=fig.axes, shrink=0.8, pad=0.02)
    bar.set_label("local resolution (Å)")
    bar.ax.invert_yaxis()
    return fig


@styled
def draw_histogram(local: LocalResolution) -> Figure:
    """Draw how much of the mask has which resolution, with the median and that of the whole mask."""
    fig = figure(5.2, 2.7)
    ax = fig.add_subplot()
    values = local.angstrom[local.inside & local.resolved].cpu().numpy()
    total = max(int(local.inside.sum()), 1)
    if len(values):
        low, high = np.percentile(values, [0.2, 99.5])
        edges = np.geomspace(low * 0.995, max(high, low * 1.05) * 1.005, 41)
        ax.hist(values, edges.tolist(), weights=np.full(len(values), 100 / total), color=BLUE)
        ax.axvline(float(np.median(values)), color=INK, lw=1.2, label=f"median {np.median(values):.2f} Å")
        if local.whole_angstrom is not None:
            whole = local.whole_angstrom
            ax.axvline(whole, color=GREEN, lw=1.2, ls="--", label=f"whole mask {whole:.2f} Å")
        ax.legend(loc="upper right")
    lost = 100 - 100 * len(values) / total
    ax.set_title(f"{lost:.1f} % of the mask is not resolved at all")
    ax.set_xlabel("local resolution (Å)")
    ax.set_ylabel("share of the mask (%)")
    return fig
