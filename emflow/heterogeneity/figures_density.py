"""Figure of the density in latent space."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from emflow.figure import BLUE, INK, MUTED, figure, styled
from emflow.heterogeneity.density import Landscape

_MOST_POINTS = 4000


@styled
def draw_landscape(found: Landscape, latent: np.ndarray) -> Figure:
    """−ln p over the leading two coordinates, its error, and the profile along the first (a profile alone of one)."""
    two = len(found.axes) == 2
    drawn = figure(10.4 if two else 4.2, 3.1)
    places = drawn.subplots(1, 3 if two else 1, squeeze=False)[0]
    if two:
        x, y = found.axes
        for place, values, name in zip(
            places,
            (found.energy, found.energy_error),
            ("−ln p, in k_B·T", "its error, in k_B·T"),
            strict=False,
        ):
            shown = place.contourf(x, y, values.T, levels=14, cmap="viridis")
            drawn.colorbar(shown, ax=place, label=name)
            place.set(xlabel="coordinate 1", ylabel="coordinate 2")
        every = latent[:: max(1, len(latent) // _MOST_POINTS)]
        places[0].plot(every[:, 0], every[:, 1], ".", ms=1, color=INK, alpha=0.25)
        places[0].set(xlim=(x[0], x[-1]), ylim=(y[0], y[-1]))
    last = places[-1]
    axis = found.axes[0]
    last.hist(
        latent[:, 0], bins=60, range=(axis[0], axis[-1]), density=True, color=MUTED, alpha=0.4, label="means"
    )
    last.plot(axis, found.profile, color=BLUE, label="deconvolved")
    low, high = found.profile - found.profile_error, found.profile + found.profile_error
    last.fill_between(axis, low, high, color=BLUE, alpha=0.25, lw=0)
    last.set(xlabel="coordinate 1", ylabel="density")
    last.legend()
    return drawn
