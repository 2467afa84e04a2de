"""Figures of the heterogeneity room: what the halves agree on, the latent scatter."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from emflow.figure import BLUE, CLASSES, INK, MUTED, figure, styled
from emflow.heterogeneity.fit import Fit

_MOST_POINTS = 20_000


@styled
def draw_agreement(fit: Fit, extent_angstrom: float) -> Figure:
    """FSC between halves of the mean and of each axis, and the held-out evidence."""
    drawn = figure(7.2, 2.8)
    left, right = drawn.subplots(1, 2)
    shells = np.arange(int(fit.band) + 1)
    curves = fit.shells.correlation.cpu().numpy()[: len(shells)]
    left.plot(shells / extent_angstrom, curves[:, 0], color=INK, label="mean")
    for k, kept in enumerate(fit.kept.tolist(), start=1):
        colour = CLASSES[(k - 1) % len(CLASSES)] if kept else MUTED
        label = f"axis {k}" if kept else None
        left.plot(shells / extent_angstrom, curves[:, k], color=colour, lw=1.4 if kept else 0.6, label=label)
    left.axhline(0, color=MUTED, lw=0.5)
    left.set(xlabel="spatial frequency (1/Å)", ylabel="FSC between halves", ylim=(-0.2, 1.02))
    left.legend()
    axes = np.arange(1, len(fit.kept) + 1)
    colours = [BLUE if kept else MUTED for kept in fit.kept.tolist()]
    right.bar(axes, fit.evidence.latent.numpy(), color=colours)
    right.set(xlabel="axis", ylabel="latents: half 1's model against half 2's", ylim=(-0.1, 1))
    return drawn


@styled
def draw_latents(latent: np.ndarray, state: np.ndarray, seed: int = 0) -> Figure:
    """Scatter of the first two coordinates (a histogram of one), coloured by state (from 1)."""
    drawn = figure(4.2, 3.8)
    axes = drawn.subplots()
    chosen = np.random.default_rng(seed).permutation(len(latent))[:_MOST_POINTS]
    for number in np.unique(state):
        own = latent[chosen][state[chosen] == number]
        colour = CLASSES[(int(number) - 1) % len(CLASSES)]
        if latent.shape[1] == 1:
            axes.hist(own[:, 0], bins=60, color=colour, alpha=0.6, label=f"state {number}")
        else:
            axes.plot(own[:, 0], own[:, 1], ".", ms=2, color=colour, alpha=0.6, label=f"state {number}")
    axes.set(xlabel="coordinate 1", ylabel="coordinate 2" if latent.shape[1] > 1 else "particles")
    axes.legend(markerscale=4)
    return drawn


@styled
def draw_volumes(rows: list[list[np.ndarray]], names: list[str]) -> Figure:
    """Projections of decoded volumes along z, a row per coordinate; the last column is how the ends differ.

    Parameters
    ----------
    rows
        Volumes (n, n, n) along each coordinate.
    names
        What each row is.
    """
    count = max(len(row) for row in rows) + 1
    drawn = figure(1.05 * count + 0.4, 1.15 * len(rows) + 0.3)
    grid = drawn.subplots(len(rows), count, squeeze=False)
    for axes, row, name in zip(grid, rows, names, strict=True):
        whole = np.abs(np.stack(row)).sum((0, 1))
        ys, xs = np.nonzero(whole > 0.02 * whole.max())
        seen = (
            (slice(ys.min(), ys.max() + 1), slice(xs.min(), xs.max() + 1)) if len(ys) else (slice(None),) * 2
        )
        views = [volume.sum(0)[seen] for volume in row]
        low, high = min(float(v.min()) for v in views), max(float(v.max()) for v in views)
        for place, view in zip(axes, views, strict=False):
            place.imshow(view, cmap="gray", vmin=low, vmax=high, origin="lower")
        change = views[-1] - views[0]
        reach = float(np.abs(change).max()) or 1.0
        axes[-1].imshow(change, cmap="RdBu_r", vmin=-reach, vmax=reach, origin="lower")
        axes[0].set_ylabel(name)
    for place in grid.flat:
        place.set(xticks=[], yticks=[])
        place.spines[:].set_visible(False)
        if not place.has_data():
            place.set_visible(False)
    grid[0, -1].set_title("last − first")
    return drawn
