"""Figures of the half maps' noise: where it lies in frequency and in space, and what it shares."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from emflow.figure import BLUE, GREEN, INK, MUTED, ORANGE, figure, styled
from emflow.validate.enhanced import NoiseField
from emflow.validate.figures import resolution_axis
from emflow.validate.sanity import PairSpectra


@styled
def draw_noise(spectra: PairSpectra, field: NoiseField, box: int, voxel_size_angstrom: float) -> Figure:
    """Draw the power of halves and noise, in and around the particle (left); the FSC in the mask and in the solvent."""
    fig = figure(7.2, 2.9)
    shells = np.arange(len(spectra.fsc))
    frequency = shells / (box * voxel_size_angstrom)
    shown = slice(1, len(shells) - 1)
    left = fig.add_subplot(1, 2, 1)
    level = 2 * float(spectra.noise[shown].median()) or 1.0
    whole = 2 * box**3  # the noise of a region is per voxel of it: brought to the whole box
    for power, colour, name in (
        (spectra.power1, BLUE, "half 1"),
        (spectra.power2, ORANGE, "half 2"),
        (2 * spectra.noise, INK, "noise of a half"),
        (whole * field.inside, GREEN, "noise in the mask"),
        (whole * field.outside, MUTED, "noise in the solvent"),
    ):
        values = power[shown].numpy() / level
        left.plot(frequency[shown], np.where(values > 1e-6, values, np.nan), color=colour, label=name, lw=1.3)
    left.set_yscale("log")
    left.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    left.set_ylabel("Power, over the noise's median")
    resolution_axis(left, float(frequency[-1]))
    left.legend(fontsize=6.5)
    left.set_title("Power of halves and noise")
    right = fig.add_subplot(1, 2, 2)
    right.axhline(0, color=INK, lw=0.6)
    right.plot(frequency, field.inside_fsc, color=GREEN, label="within the mask")
    right.plot(frequency, field.solvent_fsc, color=MUTED, label="in the solvent")
    right.set_ylim(-0.25, 1.02)
    right.set_ylabel("Fourier shell correlation")
    resolution_axis(right, float(frequency[-1]))
    right.legend(fontsize=6.5)
    right.set_title("What the halves share")
    return fig
