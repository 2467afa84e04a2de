"""Figures of the report; each takes tables and returns a matplotlib figure."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from emflow.figure import BLUE, INK, MUTED, ORANGE, RED, figure, styled
from emflow.io.star import floats, numbers_of
from emflow.report.summary import accepted_of
from emflow.validate.figures import resolution_axis
from emflow.validate.maps import THRESHOLD

MOST_POINTS = 4000
"""Micrographs drawn as points; of more, an even choice is drawn."""


FSC_NAMES = {
    "rlnFourierShellCorrelationCorrected": "corrected",
    "rlnFourierShellCorrelationUnmaskedMaps": "unmasked",
    "rlnFourierShellCorrelationMaskedMaps": "masked",
    "rlnCorrectedFourierShellCorrelationPhaseRandomizedMaskedMaps": "masked, random phases",
    "emflowFourierShellCorrelationAspherical": "without the spherical part",
}
"""Columns of fsc.star as the legend calls them."""


@styled
def draw_session(table: pd.DataFrame) -> Figure | None:
    """Defocus, extent of the CTF fit and number of picks along the session, with their histograms."""
    rows = [
        ("Defocus (µm)", (numbers_of(table, "rlnDefocusU") + numbers_of(table, "rlnDefocusV")) / 2e4),
        ("CTF fit to (Å)", numbers_of(table, "rlnCtfMaxResolution")),
        ("Picks", numbers_of(table, "emflowPickCount")),
    ]
    rows = [(label, values) for label, values in rows if np.isfinite(values).any()]
    if not rows:
        return None
    accepted = accepted_of(table)
    chosen = np.unique(np.linspace(0, len(table) - 1, min(len(table), MOST_POINTS)).astype(int))
    fig = figure(7.2, 1.35 * len(rows) + 0.35)
    grid = fig.add_gridspec(len(rows), 2, width_ratios=(4.2, 1))
    for i, (label, values) in enumerate(rows):
        ax = fig.add_subplot(grid[i, 0])
        for keep, color, marker, name in ((True, BLUE, "o", "accepted"), (False, RED, "x", "not accepted")):
            part = chosen[accepted[chosen] == keep]
            ax.plot(
                part + 1,
                values[part],
                marker,
                color=color,
                ms=4 if len(table) < 200 else 2,
                ls="",
                label=name,
            )
        ax.set_ylabel(label)
        ax.set_xlim(0, len(table) + 1)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        low, high = float(np.nanmin(values)), float(np.nanmax(values))
        bottom = low if label == "CTF fit to (Å)" else 0.0
        room = max(0.1 * (high - bottom), 0.02 * abs(high), 0.02)
        ax.set_ylim(bottom - room if bottom else 0, high + room)
        if i == 0 and not accepted.all():
            ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
        ax.tick_params(labelbottom=i == len(rows) - 1)
        side = fig.add_subplot(grid[i, 1], sharey=ax)
        known = values[np.isfinite(values)]
        bins = np.linspace(*ax.get_ylim(), int(np.clip(np.sqrt(len(known)) * 3, 10, 50))).tolist()
        side.hist(known, bins=bins, orientation="horizontal", color=MUTED)
        side.axhline(float(np.median(known)), color=INK, lw=1)
        side.text(1, float(np.median(known)), f" {np.median(known):.3g}", transform=side.get_yaxis_transform(),
                  va="center", fontsize=8)  # fmt: skip
        side.tick_params(labelleft=False)
    fig.axes[-2].set_xlabel("Micrograph, in the order of the session")
    fig.axes[-1].set_xlabel("Micrographs")
    return fig


@styled
def draw_ctf_fits(profiles: pd.DataFrame, titles: dict[str, str]) -> Figure | None:
    """Draw measured rings, fitted CTF and their correlation for some micrographs.

    Parameters
    ----------
    profiles
        Columns emflowMicrographId, emflowFrequency (1/Å), emflowSpectrum, emflowCtfFit, emflowCtfCorrelation.
    titles
        Id of each micrograph that is shown → its title, in order.
    """
    shown = [i for i in titles if (profiles["emflowMicrographId"] == i).any()] if len(profiles) else []
    if not shown:
        return None
    rows = -(-len(shown) // 2)
    fig = figure(7.2, 1.75 * rows + 0.3)
    for i, identity in enumerate(shown):
        part = profiles[profiles["emflowMicrographId"] == identity]
        x = floats(part, "emflowFrequency")
        ax = fig.add_subplot(rows, 2, i + 1)
        ax.plot(x, floats(part, "emflowSpectrum"), color=INK, lw=0.9, label="spectrum")
        ax.plot(x, floats(part, "emflowCtfFit"), color=ORANGE, lw=1, label="fitted CTF²")
        ax.plot(x, floats(part, "emflowCtfCorrelation"), color=BLUE, lw=1, ls="--", label="correlation")
        ax.axhline(0, color=MUTED, lw=0.5)
        ax.set_ylim(-0.4, 1.35)
        ax.set_title(titles[identity], fontsize=8, pad=3)
        _frequencies(ax, float(x.max()), bottom=i >= len(shown) - 2, start=float(x.min()) / 2)
        if i == 0:
            ax.legend(
                loc="upper right", ncols=3, fontsize=6.5, handlelength=1.4, columnspacing=0.8, borderaxespad=0
            )
    return fig


@styled
def draw_fsc_table(table: pd.DataFrame) -> Figure | None:
    """Draw the FSC columns of a STAR table (where validate's own figure is missing)."""
    columns = [str(c) for c in table if "FourierShellCorrelation" in str(c)]
    if not len(table) or not columns or "rlnResolution" not in table:
        return None
    x = floats(table, "rlnResolution")
    fig = figure(6.4, 3.0)
    ax = fig.add_subplot()
    for column, color in zip(columns, (INK, BLUE, ORANGE, MUTED), strict=False):
        ax.plot(x, numbers_of(table, column), color=color, label=FSC_NAMES.get(column, column))
    for level in (THRESHOLD, 0.5):
        ax.axhline(level, color=INK, lw=0.6, ls=":")
        ax.annotate(
            f"{level:g}", (x[-1], level), xytext=(3, 0), textcoords="offset points", va="center", fontsize=8
        )
    ax.set_ylim(-0.15, 1.02)
    _frequencies(ax, float(x.max()), bottom=True)
    ax.set_ylabel("Fourier shell correlation")
    ax.legend(loc="upper right")
    return fig


def _frequencies(ax: Axes, limit: float, *, bottom: bool, start: float = 0.0) -> None:
    resolution_axis(ax, limit, start)
    if not bottom:
        ax.set_xlabel("")
