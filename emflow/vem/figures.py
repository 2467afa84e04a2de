"""Figures of a restored volume. Each returns a matplotlib figure; nothing is written here."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import hsv_to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from torch import Tensor

from emflow.figure import BLUE, INK, figure, styled

_WIDTH_INCH = 7.2


@dataclass(frozen=True)
class Plane:
    """One xz plane: what was measured, what was made of it, and how sure that is."""

    measured: np.ndarray
    """Rows of the measured slices, absent ones interpolated, (L, W)."""
    used: np.ndarray
    """Which of them are there, (L,)."""
    at: np.ndarray
    """Where the restored rows lie among the measured ones, (Z,)."""
    restored: np.ndarray
    """(Z, W)."""
    error: np.ndarray
    """Half-width of the interval, (Z, W)."""
    refused: np.ndarray
    """Where it is wider than allowed, (Z, W), boolean."""
    voxel_nm: float


@dataclass(frozen=True)
class Spectra:
    """Power along the axis as a part of the power within slices."""

    frequency: Tensor
    """In units of the restored volume's Nyquist frequency."""
    power: Tensor
    high_band: float
    """Its mean beyond half of Nyquist."""
    ratio: float
    """Distance of measured slices, in restored voxels."""


@styled
def draw_plane(plane: Plane) -> Figure:
    """Draw a plane as it was measured, linearly interpolated, restored, and its uncertainty."""
    height, width = plane.restored.shape
    beside = height > 0.6 * width
    columns = 2 if beside else 1
    panel = _WIDTH_INCH / columns * 0.8 * height / width
    fig = figure(_WIDTH_INCH, 4 / columns * (panel + 0.35) + 0.3)
    axes = fig.subplots(4 // columns, columns, sharex=True, sharey=True).flatten()
    extent = (0.0, width * plane.voxel_nm / 1e3, height * plane.voxel_nm / 1e3, 0.0)
    low, high = np.percentile(plane.measured[plane.used], (0.5, 99.5))
    shown = np.where(plane.used[:, None], plane.measured, np.nan)
    pictures = {
        "measured": shown[np.rint(plane.at).astype(int)],
        "linear interpolation": _between(plane.measured, plane.at),
        "restored": plane.restored,
    }
    for ax, (name, picture) in zip(axes, pictures.items(), strict=False):
        ax.set_facecolor("#9fc5e8")  # where there is no slice
        ax.imshow(picture, cmap="gray", vmin=low, vmax=high, extent=extent, interpolation="nearest")
        ax.set_title(name)
    _shade(axes[2], plane.refused, extent)
    drawn = axes[3].imshow(plane.error, cmap="viridis", vmin=0, extent=extent, interpolation="nearest")
    axes[3].set_title("half-width of the interval")
    fig.colorbar(drawn, ax=axes[3], shrink=0.85)
    for ax in axes:
        ax.set_xlabel("x (µm)") if ax in axes[-columns:] else None
        ax.set_ylabel("z (µm)")
        ax.label_outer()
    return fig


def _between(rows: np.ndarray, at: np.ndarray) -> np.ndarray:
    below = np.clip(at.astype(int), 0, len(rows) - 2)
    part = (at - below)[:, None]
    mixed: np.ndarray = rows[below] * (1 - part) + rows[below + 1] * part
    return mixed


def _shade(ax: Axes, refused: np.ndarray, extent: tuple[float, float, float, float]) -> None:
    """Mark what is not to be relied on."""
    tint = np.zeros((*refused.shape, 4))
    tint[refused] = (0.84, 0.37, 0.0, 0.45)
    ax.imshow(tint, interpolation="nearest", extent=extent)


@styled
def draw_spectra(spectra: Spectra) -> Figure:
    """Draw the power along the axis as a part of the power within slices against frequency (Nyquist is 1)."""
    fig = figure(5.2, 3.0)
    ax = fig.add_subplot()
    ax.semilogy(spectra.frequency[1:], spectra.power[1:].clamp_min(1e-6), color=BLUE)
    ax.axhline(1, color=INK, lw=0.6, ls=":")
    ax.axvline(1 / spectra.ratio, color=INK, lw=0.6, ls="--")
    ax.annotate(
        "Nyquist of the slices", (1 / spectra.ratio, 0.03), xycoords=("data", "axes fraction"), xytext=(3, 0),
        textcoords="offset points", fontsize=8, rotation=90, va="bottom",
    )  # fmt: skip
    for ticks in (ax.yaxis.set_major_formatter, ax.yaxis.set_minor_formatter):
        ticks(FuncFormatter(lambda value, _: f"{value:g}"))  # the log scale's own needs formulas
    ax.set_xlim(0, 1)
    ax.set_xlabel("frequency (1 is Nyquist of the isotropic volume)")
    ax.set_ylabel("power along z / along x")
    return fig


@styled
def draw_segments(plane: np.ndarray, segments: np.ndarray, voxel_nm: tuple[float, float]) -> Figure:
    """Draw the segments of a plane (Z, W), each in its own colour, over its intensities; membrane stays grey."""
    height, width = (n * v / 1e3 for n, v in zip(plane.shape, voxel_nm, strict=True))
    fig = figure(_WIDTH_INCH, min(9.0, 0.7 * _WIDTH_INCH * height / width + 0.6))
    ax = fig.add_subplot()
    low, high = np.percentile(plane, (0.5, 99.5))
    grey = ((plane - low) / max(high - low, 1e-9)).clip(0, 1)[..., None]
    hue = (segments * 0.61803398875) % 1  # neighbours in number are far apart in colour
    colour = hsv_to_rgb(np.stack([hue, np.full(hue.shape, 0.7), np.ones(hue.shape)], axis=-1))
    mixed = np.where((segments > 0)[..., None], 0.6 * grey + 0.4 * grey * colour + 0.1 * colour, grey)
    ax.imshow(mixed.clip(0, 1), extent=(0, width, height, 0), interpolation="nearest")
    ax.set_xlabel("x (µm)")
    ax.set_ylabel("z (µm)")
    return fig
