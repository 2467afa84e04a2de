"""Figure of a particle table: orientations, in-plane angles, shifts, defocus."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from emflow.figure import BLUE, INK, MUTED, ORANGE, figure, styled
from emflow.validate.columns import numbers, shifts_angstrom


@styled
def draw_particles(table: pd.DataFrame, optics: pd.DataFrame | None) -> Figure:
    """Draw histograms of orientation (equal areas), in-plane angle, shift and defocus; what is missing says so."""
    fig = figure(7.2, 4.6)
    axes = fig.subplots(2, 2)
    _draw_orientations(axes[0, 0], numbers(table, "rlnAngleRot"), numbers(table, "rlnAngleTilt"))
    _draw_histogram(axes[0, 1], numbers(table, "rlnAnglePsi"), "In-plane angle psi (°)", wrap=True)
    _draw_shifts(axes[1, 0], shifts_angstrom(table, optics))
    u, v = numbers(table, "rlnDefocusU"), numbers(table, "rlnDefocusV")
    defocus = None if u is None else (u + (u if v is None else v)) / 2e4
    _draw_histogram(axes[1, 1], defocus, "Defocus (µm)")
    return fig


def _missing(ax: Axes, what: str) -> None:
    ax.text(
        0.5, 0.5, f"{what}\nnot in the table", ha="center", va="center", color=MUTED, transform=ax.transAxes
    )
    ax.set_axis_off()


def _draw_orientations(ax: Axes, rot: np.ndarray | None, tilt: np.ndarray | None) -> None:
    if rot is None or tilt is None or not np.isfinite(rot + tilt).any():
        return _missing(ax, "Orientations")
    known = np.isfinite(rot + tilt)
    rot, tilt = (rot[known] + 180) % 360 - 180, tilt[known]
    # as many bins as leave ten particles in each, at most 36 by 18; cos(tilt) makes their areas equal
    bins = int(np.clip(np.sqrt(known.sum() / 20), 4, 18))
    counts, *_ = np.histogram2d(rot, np.cos(np.radians(tilt)), [2 * bins, bins], [[-180, 180], [-1, 1]])
    image = ax.imshow(counts.T / max(counts.mean(), 1e-9), origin="lower", extent=(-180, 180, -1, 1),
                      aspect="auto", cmap="viridis", vmin=0)  # fmt: skip
    ax.set_xticks([-180, -90, 0, 90, 180])
    ax.set_yticks(np.cos(np.radians([0, 60, 90, 120, 180])), ["0°", "60°", "90°", "120°", "180°"])
    ax.set_xlabel("rot (°)")
    ax.set_ylabel("tilt")
    ax.set_title(f"Orientations of {known.sum()} particles, as written")
    ax.figure.colorbar(image, ax=ax, shrink=0.85).set_label("relative to even", fontsize=7)
    return None


def _draw_histogram(ax: Axes, values: np.ndarray | None, label: str, *, wrap: bool = False) -> None:
    values = None if values is None else values[np.isfinite(values)]
    if values is None or not len(values):
        return _missing(ax, label.split(" (")[0])
    bins = int(np.clip(np.sqrt(len(values)), 8, 60))
    if wrap:
        bins = min(bins, 36)
        values = (values + 180) % 360 - 180
        ax.axhline(len(values) / bins, color=INK, lw=0.7, ls=":")
        ax.hist(values, bins=bins, range=(-180, 180), color=BLUE)
        ax.set_xticks([-180, -90, 0, 90, 180])
    else:
        # the few far away are named in the verdict; here they would squeeze the rest into one bin
        low, high = np.percentile(values, [0.5, 99.5])
        room = 0.1 * (high - low) + 1e-3
        ax.hist(values, bins=bins, range=(low - room, high + room), color=BLUE)
        ax.axvline(float(np.median(values)), color=ORANGE, lw=1)
        ax.set_title(f"median {np.median(values):.2f}, 99 % from {low:.2f} to {high:.2f}")
    ax.set_xlabel(label)
    ax.set_ylabel("particles")
    return None


def _draw_shifts(ax: Axes, shifts: np.ndarray | None) -> None:
    shifts = None if shifts is None else shifts[np.isfinite(shifts).all(1)]
    if shifts is None or not len(shifts):
        return _missing(ax, "Shifts")
    reach = max(float(np.percentile(np.abs(shifts), 99.8)), 0.5)
    bins = int(np.clip(np.sqrt(len(shifts) / 5), 8, 60))
    counts, *_ = np.histogram2d(shifts[:, 0], shifts[:, 1], bins, [[-reach, reach]] * 2)
    ax.imshow(counts.T, origin="lower", extent=(-reach, reach, -reach, reach), cmap="viridis", vmin=0)
    ax.set_xlabel("origin x (Å)")
    ax.set_ylabel("origin y (Å)")
    ax.set_title(f"Shifts, median {np.median(np.linalg.norm(shifts, axis=1)):.1f} Å")
    return None
