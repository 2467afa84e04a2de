"""Figures of what the raw images say. Each returns a matplotlib figure; nothing is written here."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from emflow.figure import BLUE, GREEN, INK, MUTED, ORANGE, RED, figure, styled
from emflow.validate.figures import resolution_axis
from emflow.validate.images import Agreement, RingCurves
from emflow.validate.number import Draw, NumberFit
from emflow.validate.outliers import NOISE_SCORE, Outliers


@styled
def draw_rings(rings: RingCurves, resolution_shell: int) -> Figure:
    """Draw how the images correlate with their own and with the other half's map, and the difference."""
    fig = figure(6.6, 4.4)
    top, bottom = fig.subplots(2, 1, sharex=True, height_ratios=(1.5, 1))
    extent = rings.box * rings.voxel_size_angstrom
    x = np.arange(len(rings.own)) / extent
    for curve, error, color, width, name in (
        (rings.held_out, rings.held_out_error, BLUE, 3.2, "with the other half's map (held out)"),
        (rings.own, rings.own_error, ORANGE, 1.2, "with its own half's map, made without it"),
    ):
        top.plot(x[1:], curve[1:], color=color, lw=width, label=name)
        top.fill_between(
            x[1:], (curve - 2 * error)[1:], (curve + 2 * error)[1:], color=color, alpha=0.2, lw=0
        )
    top.axhline(0, color=INK, lw=0.6)
    top.set_ylabel("Mean ring correlation\nof an image")
    top.legend(loc="upper right")
    z = (rings.difference / rings.difference_error.clamp(min=1e-12)).numpy()
    bottom.axhspan(-3, 3, color=MUTED, alpha=0.18, lw=0)
    bottom.plot(x[1:], z[1:], color=RED, marker=".", ms=4)
    bottom.axhline(0, color=INK, lw=0.6)
    bottom.set_ylabel("Own − held out\n(standard errors)")
    bottom.set_ylim(min(-5.0, float(z[1:].min()) - 1), max(5.0, float(z[1:].max()) + 1))
    if 0 < resolution_shell < len(x):
        for ax in (top, bottom):
            ax.axvline(resolution_shell / extent, color=GREEN, lw=1)
        top.annotate(
            f"half maps: {extent / resolution_shell:.1f} Å", (resolution_shell / extent, 0.45),
            xycoords=("data", "axes fraction"), xytext=(4, 4), textcoords="offset points", color=GREEN, fontsize=8,
        )  # fmt: skip
    resolution_axis(bottom, float(x[-1]))
    top.tick_params(labelbottom=False)
    return fig


@styled
def draw_scores(agreement: Agreement, outliers: Outliers) -> Figure:
    """Draw the images' scores, what noise would score, and the outliers."""
    fig = figure(6.6, 3.0)
    ax = fig.add_subplot()
    score = agreement.score.numpy()
    low, high = min(-4.0, float(score.min())), max(6.0, float(score.max()))
    edges = np.linspace(low, high, 70)
    out = outliers.reason != ""
    ax.hist([score[~out], score[out]], edges.tolist(), stacked=True, color=[BLUE, RED], lw=0,
            label=[f"{int((~out).sum())} images", f"{int(out.sum())} outliers"])  # fmt: skip
    line = np.linspace(-4, 4, 200)
    height = len(score) * (edges[1] - edges[0]) / math.sqrt(2 * math.pi)
    ax.plot(line, height * np.exp(-(line**2) / 2), color=INK, lw=1, ls="--", label="if all were noise")
    ax.axvspan(low, NOISE_SCORE, color=MUTED, alpha=0.12, lw=0)
    ax.annotate("noise with a fitted pose", (NOISE_SCORE, 0.98), xycoords=("data", "axes fraction"), xytext=(-4, 0),
                textcoords="offset points", ha="right", va="top", fontsize=8, color=MUTED)  # fmt: skip
    ax.set_xlim(low, high)
    counts = np.histogram(score, edges)[0]
    ax.set_ylim(0, 1.15 * max(float(counts.max()), 1.0))
    ax.set_xlabel("Score against the other half's map (signal-to-noise ratio of the match)")
    ax.set_ylabel("Images")
    ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
    return fig


@styled
def draw_number(draws: list[Draw], fit: NumberFit | None) -> Figure:
    """Draw resolution against the number of particles, with the line and its B factor."""
    fig = figure(6.0, 3.4)
    ax = fig.add_subplot()
    seen = [draw for draw in draws if draw.resolution_angstrom is not None]
    for usable, marker, face, name in (
        (True, "o", BLUE, "random subsets"),
        (False, "o", "none", "not used: limited by the pixel,\nor too few slices"),
    ):
        part = [
            (d.particles, 1 / (d.resolution_angstrom or math.inf) ** 2) for d in seen if d.usable == usable
        ]
        if part:
            ax.plot(*zip(*part, strict=True), marker, color=BLUE, mfc=face, ms=5, label=name)
    counts = [draw.particles for draw in draws]
    if fit is not None:
        n = np.geomspace(min(counts), 4 * max(counts), 60)
        y = np.array([fit.resolution_with(float(value)) ** -2 for value in n])
        inside = n <= max(counts)
        text = (
            f"B = {fit.bfactor_angstrom2:.0f} Å² "
            f"({fit.bfactor_low_angstrom2:.0f} – {fit.bfactor_high_angstrom2:.0f})"
        )
        ax.plot(n[inside], y[inside], color=ORANGE, label=text)
        ax.plot(n[~inside], y[~inside], color=ORANGE, ls="--", label="extrapolated")
    ax.set_xscale("log", base=2)
    most = 4 * max(counts) if fit is not None else max(counts)
    ticks = sorted({2 ** round(math.log2(count)) for count in (*counts, most, most / 2)})
    ax.set_xticks(ticks, [str(tick) for tick in ticks])
    ax.minorticks_off()
    ax.set_xlabel("Particles")
    ax.set_ylabel("Resolution (Å), as 1/d²")
    if seen:
        _resolution_ticks(ax)
        ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
    else:
        ax.set_yticks([])
        ax.text(0.5, 0.5, "No subset has a resolution.", transform=ax.transAxes, ha="center", color=MUTED)
    return fig


def _resolution_ticks(ax: Axes) -> None:
    """Label a 1/d² axis with resolutions."""
    low, high = ax.get_ylim()
    low = max(low, 1e-5)
    ax.set_ylim(low, high)
    places = np.linspace(low, high, 7)[1:]
    fine = places[0] ** -0.5 / places[-1] ** -0.5 < 1.5
    values = sorted({float(f"{place**-0.5:.{3 if fine else 2}g}") for place in places})
    ax.set_yticks([value**-2 for value in values], [f"{value:g}" for value in values])
    ax.set_ylim(low, high)
