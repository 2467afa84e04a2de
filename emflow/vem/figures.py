"""Figures of a restored volume. Each returns a matplotlib figure; nothing is written here."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from emflow.figure import BLUE, INK, MUTED, ORANGE, figure, styled


@dataclass(frozen=True)
class Plane:
    """One xz plane: what was measured, what was made of it, and how sure that is."""

    measured: np.ndarray
    """(L, W)."""
    restored: np.ndarray
    """(Z, W)."""
    error: np.ndarray
    """Half-width of the interval, (Z, W)."""
    refused: np.ndarray
    """Where the interval is wider than allowed, (Z, W), boolean."""
    x_nm: float
    """Distance of pixels."""
    z_nm: float
    """Distance of measured slices."""


@styled
def draw_plane(plane: Plane, said: str) -> Figure:
    """Draw a plane as it was measured, interpolated, restored, and its uncertainty; ``said`` stands below."""
    height, width = plane.restored.shape
    down = height > 0.8 * width
    fig = figure(7.2, 3.6 if down else min(9.0, 1.0 + 4 * 7.0 * height / width))
    axes = fig.subplots(1, 4) if down else fig.subplots(4, 1)
    low, high = np.percentile(plane.measured, (0.5, 99.5))
    depth, across = len(plane.measured) * plane.z_nm / 1000, width * plane.x_nm / 1000
    extent = (0.0, across, depth - plane.z_nm / 1000, 0.0)
    grey = {"cmap": "gray", "vmin": low, "vmax": high, "extent": extent}
    axes[0].imshow(plane.measured, interpolation="nearest", aspect="auto", **grey)
    axes[0].set_title("measured")
    at = np.linspace(0, len(plane.measured) - 1, height)
    axes[1].imshow(_between(plane.measured, at), interpolation="nearest", aspect="auto", **grey)
    axes[1].set_title("linear interpolation")
    axes[2].imshow(plane.restored, interpolation="nearest", aspect="auto", **grey)
    _shade(axes[2], plane.refused, extent)
    axes[2].set_title("restored")
    drawn = axes[3].imshow(
        plane.error, interpolation="nearest", aspect="auto", cmap="viridis", vmin=0, extent=extent
    )
    axes[3].set_title("half-width of the interval")
    fig.colorbar(drawn, ax=axes[3], shrink=0.8)
    for ax in axes:
        ax.set_xticks([0, round(across, 2)])
        ax.set_yticks([0, round(depth - plane.z_nm / 1000, 2)])
    axes[0].set_xlabel("x (µm)") if down else axes[-1].set_xlabel("x (µm)")
    axes[0].set_ylabel("z (µm)")
    fig.supxlabel(said, fontsize=8.5, color=INK)
    return fig


def _between(rows: np.ndarray, at: np.ndarray) -> np.ndarray:
    below = np.minimum(at.astype(int), len(rows) - 2) if len(rows) > 1 else np.zeros(len(at), dtype=int)
    part = (at - below)[:, None]
    above = np.minimum(below + 1, len(rows) - 1)
    mixed: np.ndarray = rows[below] * (1 - part) + rows[above] * part
    return mixed


def _shade(ax: Axes, refused: np.ndarray, extent: tuple[float, float, float, float]) -> None:
    """Mark what is not to be relied on."""
    tint = np.zeros((*refused.shape, 4))
    tint[refused] = (0.84, 0.37, 0.0, 0.45)
    ax.imshow(tint, interpolation="nearest", aspect="auto", extent=extent)


@styled
def draw_spectra(frequency: Tensor, curves: dict[str, Tensor], factor: float) -> Figure:
    """Draw power along the axis against frequency (Nyquist is 1), as a part of the power within slices.

    Parameters
    ----------
    curves
        Name → power; drawn in order: restored, interpolated, and the truth's where there is one.
    factor
        Measured slices reach 1/factor of Nyquist.
    """
    fig = figure(5.2, 3.2)
    ax = fig.add_subplot()
    for (name, power), color in zip(curves.items(), (BLUE, MUTED, ORANGE), strict=False):
        ax.semilogy(frequency[1:], power[1:].clamp_min(1e-6), color=color, label=name)
    ax.axhline(1, color=INK, lw=0.6, ls=":")
    ax.axvline(1 / factor, color=INK, lw=0.6, ls="--")
    ax.annotate(
        "Nyquist of the slices", (1 / factor, 0.02), xycoords=("data", "axes fraction"), xytext=(3, 0),
        textcoords="offset points", fontsize=8, rotation=90, va="bottom",
    )  # fmt: skip
    ax.set_xlim(0, 1)
    ax.set_xlabel("frequency along the axis (1 is Nyquist of the isotropic volume)")
    ax.set_ylabel("power along z / along x")
    ax.legend()
    return fig
