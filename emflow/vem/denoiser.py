"""What denoises one image: a network with all that belongs to its numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from emflow.nn.tiles import run_tiled
from emflow.nn.unet import UNet

KIND = "image denoiser"
FOLD = 2
"""Pixels along each side that share a place of the network's grid."""
WIDTHS = (32, 48, 64)
LOG_SCALE = (-5.0, 2.0)
"""Bounds of the logarithm of the stated error, in deviations of the image."""


class FoldedUNet(nn.Module):
    """A U-Net on squares of 2 × 2 pixels: a quarter of the places, four times the channels.

    Folding keeps every pixel, and the wide convolutions cost a quarter (K. Zhang et al., FFDNet, IEEE Trans. Image
    Process. 27, 4608, 2018). The outputs are what the image lacks and the logarithm of the error's scale.
    """

    def __init__(self, widths: Sequence[int] = WIDTHS) -> None:
        super().__init__()
        self.inner = UNet(widths, (FOLD**2, 2 * FOLD**2))

    @property
    def stride(self) -> int:
        """Shifts by multiples of this shift the output alike."""
        return FOLD * self.inner.stride

    @property
    def margin(self) -> int:
        """Pixels beyond which an input cannot change an output."""
        return FOLD * self.inner.margin

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, 1, H, W), sides multiples of the stride, to (N, 2, H, W): values and log scales."""
        folded = functional.pixel_unshuffle(x, FOLD).contiguous(memory_format=torch.channels_last)
        out = functional.pixel_shuffle(self.inner(folded), FOLD)
        return torch.cat([x + out[:, :1], out[:, 1:].clamp(*LOG_SCALE)], dim=1)


@dataclass(frozen=True)
class Denoised:
    """A denoised image and the half-width of the interval about it, (H, W) each, in the target's intensities."""

    values: Tensor
    error: Tensor


@dataclass(frozen=True)
class Denoiser:
    """A network with the intensities that it was trained on; none belongs to a tile."""

    network: FoldedUNet
    mean: float
    deviation: float
    """Of the noisy images."""
    gain: float = 1.0
    offset: float = 0.0
    """Noisy intensities are ``gain`` times the target's, plus ``offset``."""
    quantile: float = 1.0
    """Half-width of the interval in units of the stated scale."""
    noise: float = 0.0
    """Level of the noisy images' finest detail, as :func:`fine_noise` has it."""
    factor: int = 1
    """Pixels of the target along each of the input's; inputs are enlarged so far before they come here."""

    def suited_to(self, image: Tensor) -> Denoiser:
        """Return one for images of other intensities, to which this image's mean and deviation belong."""
        scale = float(image.std()) / self.deviation
        mean = float(image.mean())
        offset = mean - (self.mean - self.offset) * scale
        return replace(
            self, mean=mean, deviation=scale * self.deviation, gain=self.gain * scale, offset=offset
        )

    @torch.no_grad()
    def denoise(self, image: Tensor, tile_px: int, orientations: int = 1) -> Denoised:
        """Denoise an image (H, W), in tiles whose size does not change the result.

        Parameters
        ----------
        orientations
            Turned and mirrored copies that are denoised and averaged, 1 to 8.
        """
        found = oriented(self.network, (image - self.mean) / self.deviation, tile_px, orientations)
        values = (found[0] * self.deviation + self.mean - self.offset) / self.gain
        return Denoised(values, found[1].exp() * (self.quantile * self.deviation / abs(self.gain)))


def fine_noise(image: Tensor) -> float:
    """Level of an image's finest detail (H, W), which noise makes: the deviation of white noise.

    The median of a Laplacian that edges and slopes hardly reach (J. Immerkær, Comput. Vis. Image Underst. 64, 300, 1996).
    """
    edge = torch.tensor([1.0, -2.0, 1.0], device=image.device)
    found = functional.conv2d(image[None, None], torch.outer(edge, edge)[None, None])
    return float(found.abs().median()) / (6 * 0.6745)


@torch.no_grad()
def oriented(network: FoldedUNet, image: Tensor, tile_px: int, orientations: int) -> Tensor:
    """Values and log scales (2, H, W) of an image of deviation 1, as the mean over its orientations; where it is."""
    home, image = image.device, image.to(next(network.parameters()).device)
    total = torch.zeros((2, *image.shape), device=image.device)
    for number in range(orientations):
        turn, flipped = divmod(number, 2)
        seen = torch.rot90(image.flip(-1) if flipped else image, turn)
        found = torch.rot90(run_tiled(network, seen.contiguous(), tile_px), -turn, dims=(-2, -1))
        total += found.flip(-1) if flipped else found
    return (total / orientations).to(home)
