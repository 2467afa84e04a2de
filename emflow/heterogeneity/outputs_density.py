"""What analyze writes of the density in latent space."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from emflow.figure import png_bytes
from emflow.heterogeneity.density import Landscape
from emflow.heterogeneity.figures_density import draw_landscape
from emflow.io.atomic import write_bytes
from emflow.io.star import write_star


def write_landscape(out: Path, found: Landscape, latent: np.ndarray) -> None:
    """Write density.star (the Gaussians, the grid, the profile) and figures/density.png."""
    mixture = found.mixture
    d = mixture.mean.shape[1]
    widths = np.sqrt(np.linalg.eigvalsh(mixture.covariance))
    order = np.argsort(-mixture.weight, kind="stable")
    gaussians = {"emflowWeight": mixture.weight[order], "emflowWeightError": found.weight_error[order]}
    gaussians |= {f"emflowMean{k + 1}": mixture.mean[order, k] for k in range(d)}
    gaussians |= {"emflowWidthLargest": widths[order, -1], "emflowWidthSmallest": widths[order, 0]}
    cells = np.meshgrid(*found.axes, indexing="ij")
    landscape = {f"emflowLatent{k + 1}": cell.ravel() for k, cell in enumerate(cells)}
    landscape |= {"emflowDensity": found.density.ravel(), "emflowDensityError": found.density_error.ravel()}
    for name, values in (("emflowFreeEnergy", found.energy), ("emflowFreeEnergyError", found.energy_error)):
        cells_of = values.ravel().astype(object)
        cells_of[np.isnan(values.ravel())] = "None"
        landscape[name] = cells_of
    profile = {
        "emflowLatent1": found.axes[0],
        "emflowDensity": found.profile,
        "emflowDensityError": found.profile_error,
    }
    tables = {"gaussians": gaussians, "landscape": landscape, "profile": profile}
    write_star(out / "density.star", {name: pd.DataFrame(columns) for name, columns in tables.items()})
    write_bytes(out / "figures" / "density.png", png_bytes(draw_landscape(found, latent)))
