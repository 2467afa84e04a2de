"""Figure of a path through latent space."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from emflow.figure import BLUE, INK, figure, styled
from emflow.heterogeneity.traverse import Path

_MOST_POINTS = 10_000


@styled
def draw_path(
    path: Path, points: np.ndarray, latent: np.ndarray, where: np.ndarray, counts: np.ndarray
) -> Figure:
    """The path over the particles, coloured by their place, and −ln p along it."""
    drawn = figure(7.6, 3.2)
    left, right = drawn.subplots(1, 2)
    every = slice(None, None, max(1, len(latent) // _MOST_POINTS))
    if latent.shape[1] > 1:
        colours = "twilight" if path.closed else "viridis"
        shown = left.scatter(
            latent[every, 0], latent[every, 1], c=where[every], s=2, cmap=colours, vmin=0, vmax=1
        )
        drawn.colorbar(shown, ax=left, label="place on the path")
        line = np.concatenate([path.fine, path.fine[:1]]) if path.closed else path.fine
        left.plot(line[:, 0], line[:, 1], color=INK, lw=1.2)
        left.plot(points[:, 0], points[:, 1], "o", ms=4, color=INK)
        left.set(xlabel="coordinate 1", ylabel="coordinate 2")
    else:
        left.hist(latent[:, 0], bins=60, color=BLUE, alpha=0.6)
        left.set(xlabel="coordinate 1", ylabel="particles")
    seen = counts > 0
    centres = (np.arange(len(counts)) + 0.5) / len(counts)
    energy = -np.log(np.where(seen, counts, 1) / counts.max())
    right.errorbar(
        centres[seen], energy[seen], 1 / np.sqrt(counts[seen]), fmt="o-", ms=3, lw=1, color=BLUE, ecolor=INK
    )
    right.set(xlabel="place on the path", ylabel="−ln p, in k_B·T", xlim=(0, 1))
    return drawn
