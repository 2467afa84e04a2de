"""Denoise one micrograph."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from emflow.denoise.scale import Scale, to_scale
from emflow.device import generator
from emflow.nn.tiles import Network, run_tiled

NOTHING = 2.0
"""Times what the network makes of noise, below which a micrograph shows no signal."""
_NOISE_PX = 1024


@dataclass(frozen=True)
class Denoised:
    """A denoised micrograph and how much was kept of it."""

    image: Tensor
    """(H, W), in the units of the micrograph; nothing finer than the working scale's Nyquist frequency."""
    kept_variance: float
    """Variance of what the network puts out over that of what it is given (1 is all, noise included)."""


@torch.no_grad()
def denoise(
    image: Tensor, pixel_size_angstrom: float, network: Network, scale: Scale, tile_px: int, bright: bool
) -> Denoised:
    """Denoise one micrograph: resample, normalise once, run the network, undo both.

    Where the network makes no more of it than of noise, what is returned is the image itself, at the working scale and
    as weak as that: what a network makes of noise is sparse, and looks more like particles than noise does.

    Parameters
    ----------
    image
        (H, W), float32.
    network, scale
        The model; it knows dark protein only.
    tile_px
        Side of the tiles, in pixels of the working scale.
    bright
        Whether protein is bright in the image: then it is negated on the way in and out.

    Raises
    ------
    EmflowError
        If there is nothing in the image that could be denoised.
    """
    scaled = to_scale(image, pixel_size_angstrom, scale)
    sign = -1.0 if bright else 1.0
    z = sign * run_tiled(network, sign * scaled.z, tile_px)
    kept = float(z.var() / scaled.z.var())
    if kept < NOTHING * scale.noise_variance:
        z = scaled.z * kept**0.5
    return Denoised(scaled.restore(z), kept)


@torch.no_grad()
def noise_variance(network: Network, device: torch.device) -> float:
    """Variance of what a network makes of white noise of variance 1."""
    noise = torch.randn(1, 1, _NOISE_PX, _NOISE_PX, generator=generator(0, 34)).to(device)
    return float(run_tiled(network, noise[0, 0]).var())
