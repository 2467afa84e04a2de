"""Figures of half maps, maps and views. Each returns a matplotlib figure; nothing is written here."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from emflow.em.masks import lowpass
from emflow.figure import BLUE, CLASSES, GREEN, INK, MUTED, ORANGE, RED, figure, styled
from emflow.validate.band import HALF_BIT, ONE_BIT
from emflow.validate.maps import THRESHOLD, HalfMapCurves
from emflow.validate.other_masks import OtherMasks

VIOLET = CLASSES[5]


@styled
def draw_fsc(
    curves: HalfMapCurves, resolution_angstrom: float | None, others: OtherMasks | None = None
) -> Figure:
    """Draw all FSC curves against spatial frequency, with the band, the thresholds and the resolution."""
    fig = figure(7.2, 4.0)
    ax = fig.add_subplot()
    size = curves.box * curves.voxel_size_angstrom
    x = np.arange(len(curves.unmasked)) / size
    noise = np.minimum(3 * curves.noise_deviation.numpy(), 1)
    ax.fill_between(x, -noise, noise, color=MUTED, alpha=0.15, lw=0, label="noise, 3 deviations (unmasked)")
    low, high = (limit.numpy() for limit in curves.band())
    ax.fill_between(x, low, high, color=GREEN, alpha=0.25, lw=0, label="corrected, 95 % band")
    ax.plot(x, curves.unmasked, color=MUTED, label="unmasked")
    if others is not None:
        ax.plot(x, others.spherical, color=MUTED, lw=1, ls="-.", label="spherical mask")
        if others.tight is not None:
            ax.plot(x, others.tight, color=BLUE, lw=0.9, ls=":", label="tight mask")
    ax.plot(x, curves.masked, color=BLUE, lw=1.1, label="masked")
    if curves.random_from_shell is not None:
        ax.plot(x, curves.randomised, color=ORANGE, lw=1.1, ls="--", label="masked, random phases")
    ax.plot(x, curves.corrected, color=INK, lw=1.8, label="corrected")
    for bits, name, color in ((HALF_BIT, "half-bit threshold", RED), (ONE_BIT, "one-bit threshold", VIOLET)):
        bound = curves.independent_masked.bit_threshold(bits).numpy()
        ax.plot(x[bound > 0], bound[bound > 0], color=color, lw=0.9, label=name)
    for level in (THRESHOLD, 0.5):
        ax.axhline(level, color=INK, lw=0.6, ls=":")
        ax.annotate(
            f"{level:g}", (x[-1], level), xytext=(3, 0), textcoords="offset points", va="center", fontsize=8
        )
    if resolution_angstrom is not None:
        ax.axvline(1 / resolution_angstrom, color=GREEN, lw=1)
        near_edge = 1 / resolution_angstrom > 0.75 * x[-1]
        ax.annotate(
            f"{resolution_angstrom:.1f} Å", (1 / resolution_angstrom, 0.97), xytext=(-5 if near_edge else 5, 0),
            textcoords="offset points", ha="right" if near_edge else "left", va="top", color=GREEN, weight="bold",
        )  # fmt: skip
    lowest = float(min(c.min() for c in (curves.unmasked, curves.masked, curves.corrected)))
    ax.set_ylim(max(-1.02, min(-0.12, lowest - 0.05)), 1.02)
    resolution_axis(ax, x[-1])
    ax.set_ylabel("Fourier shell correlation")
    ax.legend(loc="center left", bbox_to_anchor=(1.06, 0.5))
    return fig


def resolution_axis(ax: Axes, limit: float, start: float = 0.0) -> None:
    """Label a frequency axis (1/Å) from ``start`` to ``limit`` with round resolutions in ångström."""
    rounds = [
        200,
        100,
        60,
        40,
        30,
        20,
        15,
        12,
        10,
        8,
        7,
        6,
        5,
        4.5,
        4,
        3.5,
        3,
        2.5,
        2.2,
        2,
        1.8,
        1.6,
        1.4,
        1.2,
        1,
    ]
    ticks: list[float] = []
    for value in sorted(rounds):  # from the right, where there is most room
        if start <= 1 / value <= limit * 1.0001 and (not ticks or 1 / ticks[-1] - 1 / value > limit / 9.5):
            ticks.append(value)
    ax.set_xlim(start, limit)
    ax.set_xticks([1 / v for v in ticks], [f"{v:g}" for v in ticks])
    ax.set_xlabel("Resolution (Å)")


@styled
def draw_map(
    volume: Tensor,
    voxel_size_angstrom: float,
    mask: Tensor | None = None,
    resolution_angstrom: float | None = None,
) -> Figure:
    """Draw the three central slices (with the mask's outline) and the three projections of a map.

    The map is low-passed to ``resolution_angstrom`` for the slices where one is given.
    """
    shown = (
        volume if resolution_angstrom is None else lowpass(volume, voxel_size_angstrom, resolution_angstrom)
    )
    n = volume.shape[-1]
    inside = shown if mask is None else shown * mask
    fig = figure(6.9, 4.75)
    names = (("z", "x", "y"), ("y", "x", "z"), ("x", "y", "z"))
    for axis, (along, right, up) in enumerate(names):
        rows = (("slice", shown.select(axis, n // 2)), ("projection", inside.sum(axis)))
        for row, (kind, image) in enumerate(rows):
            ax = fig.add_subplot(2, 3, 3 * row + axis + 1)
            values = image.cpu().numpy()
            low, high = np.percentile(values, [0.5, 99.8])
            # x (or y) to the right, the slower axis upwards, as viewers of maps show it
            ax.imshow(values, cmap="gray", origin="lower", vmin=low, vmax=max(high, low + 1e-12))
            if row == 0 and mask is not None:
                outline = mask.select(axis, n // 2).cpu().numpy()
                if outline.min() < 0.5 < outline.max():
                    ax.contour(outline, levels=[0.5], colors=[ORANGE], linewidths=0.8)
            ax.set_title(f"{kind} along {along}", pad=3)
            ax.set_xticks([])
            ax.set_yticks([])
            ax.spines[:].set_visible(False)
            ax.set_xlabel(f"{right} →", fontsize=7, labelpad=1)
            ax.set_ylabel(f"{up} →", fontsize=7, labelpad=1)
            if row == 0 and axis == 0:
                scale_bar(ax, n, voxel_size_angstrom)
    return fig


def scale_bar(ax: Axes, side_px: int, pixel_size_angstrom: float) -> None:
    """Put a bar of a round length, about a quarter of the image, into the lower left corner."""
    want = side_px * pixel_size_angstrom / 4
    power = 10 ** math.floor(math.log10(want))
    length = max(step * power for step in (1, 2, 5) if step * power <= want)
    label = f"{length:g} Å" if length < 1000 else f"{length / 10:g} nm"
    up = ax.get_ylim()[0] < ax.get_ylim()[1]
    y = 0.05 * side_px if up else 0.95 * side_px
    x = 0.05 * side_px
    ax.plot([x, x + length / pixel_size_angstrom], [y, y], color="white", lw=3, solid_capstyle="butt")
    ax.text(
        x, y + (0.03 if up else -0.03) * side_px, label, color="white", fontsize=8, va="bottom", weight="bold"
    )
