"""The general picker: a small network that looks at any micrograph with the particle at one size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from emflow.nn.tiles import run_tiled
from emflow.nn.unet import UNet
from emflow.pick.filters import gaussian_blur
from emflow.pick.normalise import remove_trend

DIAMETER_PX = 24.0
"""Diameter of the particle in the image that the network sees, in its pixels."""
MEAN_DIAMETERS, DEVIATION_DIAMETERS = 2.0, 4.0
"""Deviations of the Gaussian windows of the local mean and of the local deviation."""
OUTLIER, CLIP = 3.0, 8.0
"""Deviations beyond which pixels do not count more in the local deviation, and to which the result is cut."""
TILE_PX = 768
BINNING = 2
"""Pixels along an axis that go into one of the U-Net's, as channels."""
WIDTHS = (24, 40, 64, 64)


@dataclass(frozen=True)
class Maps:
    """What the network says of each pixel at the working scale, all (y, x)."""

    centre: Tensor
    """Log-odds that a particle's centre is here."""
    dirt: Tensor
    """Probability of contamination."""
    offset: Tensor
    """From the pixel to the nearest centre along y and x, in pixels, (2, y, x)."""


class PickerNetwork(nn.Module):
    """A U-Net on blocks of 2 × 2 pixels; four outputs for each pixel.

    Log-odds of a centre, log-odds of contamination, and the offset to the centre along y and x in
    units of a quarter diameter. Each output depends on the pixels within ``margin`` only.
    """

    def __init__(self, widths: Sequence[int] = WIDTHS) -> None:
        super().__init__()
        self.unet = UNet(widths, (BINNING**2, 4 * BINNING**2))

    @property
    def stride(self) -> int:
        """Sides of the input must be multiples of this."""
        return BINNING * self.unet.stride

    @property
    def margin(self) -> int:
        """Pixels beyond which an input cannot change an output."""
        return BINNING * self.unet.margin

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, 1, H, W) to (N, 4, H, W)."""
        return functional.pixel_shuffle(self.unet(functional.pixel_unshuffle(x, BINNING)), BINNING)


def heat_map(network: PickerNetwork, image: Tensor, weight: Tensor, tile_px: int = TILE_PX) -> Maps:
    """Say of each pixel whether it is a particle's centre, and whether it is contaminated.

    Parameters
    ----------
    image
        Micrograph (y, x) with protein bright, the particle :data:`DIAMETER_PX` wide
        (:func:`emflow.pick.normalise.resize`).
    weight
        1 on valid pixels, 0 on those that are known to be contamination.
    tile_px
        Side of the tiles; changes the result by rounding only.

    Returns
    -------
    Maps of the image's shape.
    """
    out = run_tiled(network, normalise(image, weight), tile_px)
    return Maps(out[0], torch.sigmoid(out[1]), out[2:] * (DIAMETER_PX / 4))


def normalise(image: Tensor, weight: Tensor) -> Tensor:
    """Take out trend and local mean, divide by the local deviation; masked pixels count nowhere and become 0.

    The deviation is that of what is left when outliers are cut, in a wide window: so contamination keeps its strength.

    Parameters
    ----------
    image, weight
        (y, x), the particle :data:`DIAMETER_PX` wide.
    """
    flat = remove_trend(image, weight)
    flat = flat - _local(flat, weight, MEAN_DIAMETERS)
    valid = flat[weight > 0]
    if valid.numel() == 0:
        return torch.zeros_like(image)
    spread = (1.4826 * valid.abs().median()).clamp_min(1e-30)
    flat = (flat / spread).clamp(-3 * CLIP, 3 * CLIP)
    rest = flat - _local(flat.clamp(-OUTLIER, OUTLIER), weight, MEAN_DIAMETERS)
    variance = _local(rest.clamp(-OUTLIER, OUTLIER) ** 2, weight, DEVIATION_DIAMETERS)
    return (rest / variance.clamp_min(1e-2).sqrt()).clamp(-CLIP, CLIP) * weight


def _local(values: Tensor, weight: Tensor, diameters: float) -> Tensor:
    """Mean in a Gaussian window of the pixels that count; of all, where none is near."""
    sigma = diameters * DIAMETER_PX
    near = gaussian_blur(weight, sigma)
    whole = (values * weight).sum() / weight.sum().clamp_min(1e-6)
    return (gaussian_blur(values * weight, sigma) + 1e-3 * whole) / (near + 1e-3)
