"""How the particles differ: latent coordinates coloured by several columns, and the room's own figures."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from emflow.figure import CLASSES, figure, styled
from emflow.io.star import numbers_of, read_star
from emflow.report.embed import data_uri, drawn_uri
from emflow.report.gather import Results

MOST_POINTS = 5000
NAMES = {
    "emflowCluster": "state",
    "rlnRandomSubset": "half-set",
    "rlnDefocusU": "defocus (µm)",
    "emflowContrast": "contrast",
    "rlnAngleTilt": "tilt (°)",
    "emflowLatentDeviation1": "deviation of coordinate 1",
}
"""Columns that are shown first, with their names on the page; every other one goes by its own name."""
_MICROGRAPHS = ("rlnMicrographName", "emflowMicrographId")
"""Text whose order tells something: micrographs along the session."""
_MOST_CLASSES = 10


def variation_entry(results: Results) -> dict[str, Any]:
    """What the page shows of heterogeneity; empty where it has not run."""
    path = results.path("heterogeneity", "latents.star")
    if path is None:
        return {}
    none = pd.DataFrame()
    table = results.attempt(functools.partial(particles_with_latents, results, path), none)
    first, others = columns_of(table)
    volumes = results.path("heterogeneity", "figures", "volumes.png")
    agreement = results.path("heterogeneity", "fit", "figures", "agreement.png")
    path_shown = results.path("heterogeneity", "path", "figures", "path.png")
    along = results.path("heterogeneity", "path", "figures", "volumes.png")
    reality = results.path("heterogeneity", "check", "figures", "reality.png")
    return {
        "components": results.metrics.get("heterogeneity", {}).get("components"),
        "latents": drawn_uri(results, functools.partial(draw_latents, table, first, 3)),
        "latents_by_others": drawn_uri(results, functools.partial(draw_latents, table, others, 4)),
        "volumes": data_uri(volumes.read_bytes(), "png") if volumes else "",
        "agreement": data_uri(agreement.read_bytes(), "png") if agreement else "",
        "path": data_uri(path_shown.read_bytes(), "png") if path_shown else "",
        "along": data_uri(along.read_bytes(), "png") if along else "",
        "reality": data_uri(reality.read_bytes(), "png") if reality else "",
    }


def particles_with_latents(results: Results, path: Path) -> pd.DataFrame:
    """The latents' table with the particles' own columns (defocus, angles, scores), a sample of at most 5 000."""
    table = read_star(path)["particles"]
    table = table.iloc[np.random.default_rng(0).permutation(len(table))[:MOST_POINTS]]
    particles = results.path("heterogeneity", "fit", "particles.star")
    if particles is None or "emflowParticleId" not in table:
        return table
    known = read_star(particles)["particles"]
    more = [c for c in known if c not in table]
    return table.merge(known[["emflowParticleId", *more]], "left", "emflowParticleId")


def columns_of(table: pd.DataFrame) -> tuple[list[str], list[str]]:
    """Return the columns to colour by: those shown first, and all others whose numbers differ."""
    if "emflowLatent1" not in table:
        return [], []
    first = [name for name in NAMES if name in table and np.isfinite(values_of(table, name)).any()]
    axes = ("emflowLatent1", "emflowLatent2")
    others = [
        name for name in map(str, table) if name not in (*first, *axes) and _differ(values_of(table, name))
    ]
    return first, [name for name in others if name != _MICROGRAPHS[1] or _MICROGRAPHS[0] not in others]


def values_of(table: pd.DataFrame, name: str) -> np.ndarray:
    """Numbers of a column (n,), in the unit that is shown; micrographs by their order, other text is NaN."""
    if name in _MICROGRAPHS:
        return pd.factorize(table[name], sort=True)[0].astype(np.float64)
    return numbers_of(table, name) * (1e-4 if name == "rlnDefocusU" else 1)


def _differ(values: np.ndarray) -> bool:
    finite = values[np.isfinite(values)]
    return len(finite) > 0 and bool(finite.min() < finite.max())


@styled
def draw_latents(table: pd.DataFrame, columns: list[str], across: int) -> Figure | None:
    """Scatter of the first two latent coordinates, once for each column; None without columns."""
    if not columns:
        return None
    x = numbers_of(table, "emflowLatent1")
    second = "emflowLatent2" if "emflowLatent2" in table else "emflowContrast"
    y = numbers_of(table, second)
    rows = -(-len(columns) // across)
    fig = figure(7.4, 7.5 / across * rows)
    for place, name in enumerate(columns, start=1):
        ax = fig.add_subplot(rows, across, place)
        values = values_of(table, name)
        labels = np.unique(values[np.isfinite(values)])
        if len(labels) <= _MOST_CLASSES and (labels == np.round(labels)).all():
            for number, label in enumerate(labels):
                own = values == label
                ax.plot(x[own], y[own], ".", ms=2, alpha=0.6, color=CLASSES[number], label=f"{label:g}")
            ax.legend(markerscale=4, handletextpad=0, fontsize=7)
        else:
            # single outliers would leave all others one colour
            low, high = np.nanpercentile(values, (1, 99))
            drawn = ax.scatter(x, y, c=values, s=2, cmap="viridis", linewidths=0, vmin=low, vmax=high)
            fig.colorbar(drawn, ax=ax, fraction=0.05)
        ax.set_title(NAMES.get(name, name), fontsize=None if across < 4 else 7)
        if place > len(columns) - across:
            ax.set_xlabel("coordinate 1")
        if place % across == 1:
            ax.set_ylabel("coordinate 2" if second == "emflowLatent2" else "contrast")
    return fig
