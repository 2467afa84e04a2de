"""What a picker that learned from labels looks at: the micrograph with its particle at one size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from emflow.nn.tiles import run_tiled
from emflow.nn.unet import UNet
from emflow.pick.config import PickApply
from emflow.pick.contamination import find_contamination, grow
from emflow.pick.filters import gaussian_blur
from emflow.pick.normalise import normalise_locally, remove_trend, shrink
from emflow.pick.peaks import local_maxima, refine, suppress

DIAMETER_PX = 16.0
"""Diameter of the particle in the view, in its pixels; coarser micrographs stay as they are."""
SMOOTH = 0.06
"""Deviation of the Gaussian that a map of log-odds is smoothed with, in diameters."""
LOWEST = -12.0
"""Log-odds below which a peak is not looked at."""


@dataclass(frozen=True)
class View:
    """A micrograph as the network sees it."""

    image: Tensor
    """Protein bright, local mean 0 and deviation 1, 0 where masked, (y, x)."""
    weight: Tensor
    """1 where a particle may be, (y, x)."""
    diameter: float
    """The particle's, in pixels of the view."""
    scale: np.ndarray
    """Pixels of the micrograph to one of the view, (x, y)."""

    def place(self, xy_px: np.ndarray) -> np.ndarray:
        """Positions of the micrograph (n, 2) as x, y → of the view as y, x."""
        return ((xy_px + 0.5) / self.scale - 0.5)[:, ::-1]


@dataclass(frozen=True)
class Peaks:
    """Peaks of a map of log-odds, best first."""

    xy_px: np.ndarray
    """(n, 2) as x, y in pixels of the micrograph."""
    score: np.ndarray


def view_of(image: Tensor, diameter_px: float, dark: bool, cfg: PickApply) -> View:
    """Bring a micrograph to the working size, mask contamination and normalise.

    Parameters
    ----------
    image
        Micrograph (y, x), any scale.
    diameter_px
        The particle's diameter, in pixels of the micrograph.
    dark
        Whether protein is dark.
    """
    factor = max(1.0, diameter_px / DIAMETER_PX)
    small = shrink(-image if dark else image, factor)
    diameter = diameter_px / factor
    mask = np.zeros(small.shape, dtype=bool)
    if cfg.mask_contamination:
        found = find_contamination(small.cpu().numpy(), diameter, cfg.mask_strength)
        mask = grow(found, cfg.mask_margin * diameter)
    weight = torch.from_numpy(~mask).to(small)
    flat = remove_trend(small, weight)
    flat = normalise_locally(flat, weight, weight, cfg.normalise_diameters * diameter)
    edge = round(cfg.edge_distance * diameter)
    inner = torch.zeros_like(weight)
    inner[edge : weight.shape[0] - edge, edge : weight.shape[1] - edge] = 1
    scale = np.array([image.shape[1] / small.shape[1], image.shape[0] / small.shape[0]])
    return View(flat, weight * inner, diameter, scale)


@torch.no_grad()
def peaks_of(networks: list[UNet], view: View, min_distance: float) -> Peaks:
    """Peaks of the networks' mean log-odds, none nearer to another than ``min_distance`` diameters."""
    total = torch.zeros_like(view.image)
    for network in networks:
        total += run_tiled(network, view.image)
    smooth = _smoothed(total / len(networks), SMOOTH * view.diameter)
    place, height = local_maxima(smooth, (view.weight > 0) & (smooth > LOWEST))
    yx = refine(smooth, place).double().cpu().numpy()
    xy = np.round((yx[:, ::-1] + 0.5) * view.scale - 0.5, 2)
    kept = suppress(xy, min_distance * view.diameter * float(view.scale.mean()))
    return Peaks(xy[kept], height.double().cpu().numpy()[kept])


def _smoothed(logit: Tensor, sigma: float) -> Tensor:
    """Blur without darkening the border."""
    margin = int(4 * sigma) + 1
    padded = functional.pad(logit[None, None], (margin,) * 4, mode="replicate")[0, 0]
    return gaussian_blur(padded, sigma)[margin:-margin, margin:-margin]
