"""The figure of what independent data bear out."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from emflow.denoise.scale import Scale
from emflow.denoise.trust import Spectra, band_edges
from emflow.figure import BLUE, GREEN, MUTED, ORANGE, RED, figure, styled


@styled
def draw_trust(spectra: Spectra, scale: Scale) -> Figure:
    """Correlations with the unseen signal, and the powers of signal and denoised image, by frequency."""
    edges = band_edges(scale)
    frequency, count = 0.5 * (edges[1:] + edges[:-1]), spectra.components.clip(1)
    drawn = figure(7.2, 2.9)
    left, right = drawn.subplots(1, 2)
    left.plot(frequency, spectra.correlation_raw(), color=MUTED, label="raw")
    left.plot(frequency, spectra.correlation_denoised(), color=BLUE, label="denoised")
    left.set(ylim=(0, 1.02), ylabel="Correlation with the signal", xlabel="Resolution (Å)")
    left.legend(loc="upper right")
    curves = {
        "signal": (spectra.signal, MUTED),
        "denoised": (spectra.denoised, BLUE),
        "borne out": (spectra.borne_out, GREEN),
        "denoised, not borne out": (spectra.denoised - spectra.borne_out, RED),
        "by no filter": (spectra.added(), ORANGE),
    }
    for name, (power, colour) in curves.items():
        value = np.where(power > 0, power, np.nan) / count
        right.semilogy(frequency, value, color=colour, label=name, linestyle="-" if colour != ORANGE else ":")
    right.set(ylabel="Power (noise of 1 is 1)", xlabel="Resolution (Å)")
    right.yaxis.set_major_formatter("{x:g}")
    right.legend(loc="lower left", fontsize=7)
    marks = [d for d in (100, 50, 30, 20, 15, 12) if d >= 1 / edges[-1]]
    for axes in (left, right):
        axes.set_xticks([1 / d for d in marks], [str(d) for d in marks])
    return drawn
