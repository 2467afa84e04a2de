"""Figures of how the particles differ: latent coordinates by several columns, volumes along them."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from emflow.em.fourier import resample
from emflow.figure import BLUE, GREEN, INK, MUTED, ORANGE, RED, figure, styled
from emflow.io.mrc import read_header, read_mrc
from emflow.io.star import read_star
from emflow.report.embed import data_uri, drawn_uri
from emflow.report.gather import Results
from emflow.report.summary import numbers_of

MOST_POINTS = 5000
MOST_ROWS, MOST_VOLUMES = 3, 9
SIDE_PX = 96
"""Volumes are shown at no more than this many pixels a side."""
COLOURS = (BLUE, ORANGE, GREEN, RED, INK, "#cc79a7", "#56b4e9", "#e69f00", "#7f6000", MUTED)
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
    none, nowhere = pd.DataFrame(), list[list[Path]]()
    decoded = results.folder / "heterogeneity" / "volumes"
    table = results.attempt(functools.partial(particles_with_latents, results, path), none)
    volumes = results.attempt(functools.partial(volume_rows, decoded), nowhere)
    agreement = results.path("heterogeneity", "fit", "figures", "agreement.png")
    return {
        "components": results.metrics.get("heterogeneity", {}).get("components"),
        "latents": drawn_uri(results, functools.partial(draw_latents, table)),
        "volumes": drawn_uri(results, functools.partial(draw_volumes, volumes)),
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
                colour = COLOURS[(label - 1) % len(COLOURS)]
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


def volume_rows(folder: Path) -> list[list[Path]]:
    """Volumes along the principal coordinates, a row for each, in order."""
    rows: dict[str, list[Path]] = {}
    for path in sorted(folder.glob("pc*_*.mrc")):
        named = re.fullmatch(r"(pc\d+)_(\d+)", path.stem)
        if named:
            rows.setdefault(named[1], []).append(path)
    return [paths[:MOST_VOLUMES] for paths in list(rows.values())[:MOST_ROWS]]


@styled
def draw_volumes(rows: list[list[Path]]) -> Figure | None:
    """Projections of decoded volumes, a row for each coordinate; None where there are none."""
    if not rows:
        return None
    columns = max(len(row) for row in rows)
    fig = figure(7.4, 7.4 / columns * len(rows) + 0.2)
    for r, row in enumerate(rows):
        images = [_view(path) for path in row]
        varies = np.var(np.stack(images), axis=0).sum((1, 2))
        along = int(varies.argmax())  # the direction of view in which the row changes most
        shown = [views[along] for views in images]
        low, high = np.percentile(shown, [1, 99.8])
        for c, image in enumerate(shown):
            ax = fig.add_subplot(len(rows), columns, r * columns + c + 1)
            ax.imshow(image, cmap="gray", origin="lower", vmin=low, vmax=max(high, low + 1e-12))
            ax.set_xticks([])
            ax.set_yticks([])
            ax.spines[:].set_visible(False)
            if c == 0:
                ax.set_ylabel(f"coordinate {r + 1}", fontsize=7)
    return fig


def _view(path: Path) -> np.ndarray:
    """Three projections (3, y, x) of the middle of a volume, solvent below zero cut."""
    volume = torch.from_numpy(read_mrc(path))
    if volume.shape[-1] > SIDE_PX:
        voxel = read_header(path).voxel_size_angstrom
        volume = resample(volume, voxel, SIDE_PX, voxel * volume.shape[-1] / SIDE_PX)
    n = volume.shape[-1]
    middle = slice(n // 8, n - n // 8)
    volume = volume.clamp(min=0)[middle, middle, middle]
    return np.stack([volume.sum(axis).numpy() for axis in range(3)])
