"""How the particles differ: latent coordinates coloured by several columns, and the room's own figures."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from emflow.figure import CLASSES, figure, styled
from emflow.io.star import read_star
from emflow.report.embed import data_uri, drawn_uri
from emflow.report.gather import Results
from emflow.report.summary import numbers_of

MOST_POINTS = 5000
COLUMNS = {
    "emflowCluster": "state",
    "rlnRandomSubset": "half-set",
    "rlnDefocusU": "defocus (µm)",
    "emflowContrast": "contrast",
    "rlnAngleTilt": "tilt (°)",
    "emflowLatentDeviation1": "deviation of coordinate 1",
}
"""Column of the particles → its name under the scatter; numbers by a colour scale, the first two by class."""


def variation_entry(results: Results) -> dict[str, Any]:
    """What the page shows of heterogeneity; empty where it has not run."""
    path = results.path("heterogeneity", "latents.star")
    if path is None:
        return {}
    none = pd.DataFrame()
    table = results.attempt(functools.partial(particles_with_latents, results, path), none)
    volumes = results.path("heterogeneity", "figures", "volumes.png")
    agreement = results.path("heterogeneity", "fit", "figures", "agreement.png")
    return {
        "components": results.metrics.get("heterogeneity", {}).get("components"),
        "latents": drawn_uri(results, functools.partial(draw_latents, table)),
        "volumes": data_uri(volumes.read_bytes(), "png") if volumes else "",
        "agreement": data_uri(agreement.read_bytes(), "png") if agreement else "",
    }


def particles_with_latents(results: Results, path: Path) -> pd.DataFrame:
    """The latents' table with the particles' own columns (defocus, angles)."""
    table = read_star(path)["particles"]
    particles = results.path("heterogeneity", "fit", "particles.star")
    if particles is None or "emflowParticleId" not in table:
        return table
    known = read_star(particles)["particles"]
    more = [c for c in COLUMNS if c in known and c not in table]
    return table.merge(known[["emflowParticleId", *more]], "left", "emflowParticleId")


@styled
def draw_latents(table: pd.DataFrame) -> Figure | None:
    """Scatter of the first two latent coordinates, once for each column that is there; None without latents."""
    if "emflowLatent1" not in table or not len(table):
        return None
    shown = table.iloc[np.random.default_rng(0).permutation(len(table))[:MOST_POINTS]]
    x = numbers_of(shown, "emflowLatent1")
    second = "emflowLatent2" if "emflowLatent2" in shown else "emflowContrast"
    y = numbers_of(shown, second)
    columns = [name for name in COLUMNS if name in shown and np.isfinite(numbers_of(shown, name)).any()]
    rows = (len(columns) + 2) // 3
    fig = figure(7.4, 2.5 * rows)
    for place, name in enumerate(columns, start=1):
        ax = fig.add_subplot(rows, 3, place)
        values = numbers_of(shown, name)
        if name in ("emflowCluster", "rlnRandomSubset"):
            for label in np.unique(values[np.isfinite(values)]).astype(int):
                own = values == label
                colour = CLASSES[(label - 1) % len(CLASSES)]
                ax.plot(x[own], y[own], ".", ms=2, alpha=0.6, color=colour, label=str(label))
            if len(np.unique(values)) <= 10:
                ax.legend(markerscale=4, handletextpad=0, fontsize=7)
        else:
            scaled = values * 1e-4 if name == "rlnDefocusU" else values
            drawn = ax.scatter(x, y, c=scaled, s=2, cmap="viridis", linewidths=0)
            fig.colorbar(drawn, ax=ax, fraction=0.05)
        ax.set_title(COLUMNS[name])
        ax.set_xlabel("coordinate 1")
        if place % 3 == 1:
            ax.set_ylabel("coordinate 2" if second == "emflowLatent2" else "contrast")
    return fig
