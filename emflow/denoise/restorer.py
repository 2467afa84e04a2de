"""Samples of what a noisy micrograph may show: a regression's mean, and its error by a flow from coloured noise.

For an image y = x + noise the regression gives the mean m = E[x|y]. Its error e = x − m is sampled: a network tells the
deviation s of e at each place, and a flow turns noise of the spectrum of e/s into e/s in few steps, told y, m and s at
every step (conditional diffusion as in C. Lu et al., EMDiffuse, Nat. Commun. 2024, and P. Osuna-Vargas et al.,
arXiv:2409.12078, which begin with white noise and no mean, and take hundreds of steps).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from emflow.denoise.apply import NOTHING
from emflow.denoise.scale import Scale, to_scale
from emflow.nn.fast import Tiled
from emflow.nn.flow import follow
from emflow.nn.noise import coloured
from emflow.nn.tiles import Network, run_tiled
from emflow.nn.unet import UNet

KERNEL_PX = 33
"""Side of the kernel that colours the noise."""
_TYPICAL = 0.2
"""Deviation that an untrained network tells."""
_WIDEST = 5.0


class Restorer(nn.Module):
    """Deviation of a mean's error, and the velocity of the flow that samples it."""

    kernel: Tensor

    def __init__(self, widths: Sequence[int] = (16, 32, 48)) -> None:
        super().__init__()
        self.widths = tuple(widths)
        self.deviation = UNet(widths, channels=(2, 1))
        self.flow = UNet(widths, channels=(6, 1))  # place; noisy image, mean, deviation; angle
        nn.init.constant_(self.deviation.last.bias, math.log(_TYPICAL))  # type: ignore[arg-type]
        self.register_buffer("kernel", torch.zeros(KERNEL_PX, KERNEL_PX))

    def log_deviation(self, seen: Tensor) -> Tensor:
        """Logarithm of the error's deviation (N, 1, H, W), of the noisy image and its mean (N, 2, H, W)."""
        return self.deviation(seen).clamp(-_WIDEST, _WIDEST)

    def velocity(self, place: Tensor, told: Tensor, angle: Tensor) -> Tensor:
        """Velocity (N, 1, H, W) at places of the flow, told the noisy image, mean and log deviation (N, 3, H, W)."""
        turn = torch.stack([angle.sin(), angle.cos()], 1)[:, :, None, None]
        return self.flow(torch.cat([place, told, turn.expand(-1, -1, *place.shape[2:])], dim=1))


@dataclass(frozen=True)
class Sampling:
    """How to sample."""

    samples: int = 8
    """Even: they come in pairs, one from a noise and one from its negative."""
    evaluations: int = 4
    seed: int = 0
    widening: float = 1.0
    """Times which errors are larger than the network tells, as micrographs kept from the training say."""
    half: bool = False
    """Operands in bfloat16."""


@dataclass(frozen=True)
class Restored:
    """What is told of a micrograph, (H, W) each, in its units."""

    image: Tensor
    """Mean of the samples."""
    deviation: Tensor
    """Of the samples; of what the working scale holds, not of what is finer."""
    sample: Tensor
    """The first of them: its texture is invented, its spectrum is not."""
    kept_variance: float
    """As :class:`emflow.denoise.apply.Denoised` has it, of the regression."""


@dataclass
class Moments:
    """Sums over samples that come in pairs; the memory does not grow with their number."""

    half_sum: Tensor
    half_sum_squares: Tensor
    half_difference_squares: Tensor
    pairs: int = 0

    @classmethod
    def like(cls, image: Tensor) -> Moments:
        """Begin with nothing."""
        return cls(torch.zeros_like(image), torch.zeros_like(image), torch.zeros_like(image))

    def add(self, first: Tensor, second: Tensor) -> None:
        """Add the sample from a noise and that from its negative."""
        half = 0.5 * (first + second)
        self.half_sum += half
        self.half_sum_squares += half**2
        self.half_difference_squares += (0.5 * (first - second)) ** 2
        self.pairs += 1

    def mean(self) -> Tensor:
        """Mean of all samples."""
        return self.half_sum / self.pairs

    def deviation(self) -> Tensor:
        """Deviation of one sample: half sums and half differences of a pair do not correlate, so variances add."""
        variance = self.half_difference_squares / self.pairs
        if self.pairs > 1:
            spread = self.half_sum_squares - self.pairs * self.mean() ** 2
            variance = variance + spread.clamp(min=0) / (self.pairs - 1)
        return variance.sqrt()


@torch.no_grad()
def sample_errors(
    restorer: Restorer, noisy: Tensor, mean: Tensor, sampling: Sampling, tile_px: int
) -> tuple[Moments, Tensor]:
    """Sample a mean's error over a whole image (h, w) at the working scale; return the moments and the first sample.

    Every evaluation runs over the whole image in tiles, and the noise is a function of place, seed and sample alone:
    so the result does not depend on the tiles.
    """
    shape = restorer.flow.stride, restorer.flow.margin, sampling.half
    seen = torch.stack([noisy, mean])
    told = torch.cat([seen, run_tiled(Tiled(restorer.log_deviation, *shape), seen, tile_px)[None]])
    scale = sampling.widening * told[2].exp()

    def velocity(place: Tensor, told: Tensor, angle: Tensor) -> Tensor:
        def at_once(x: Tensor) -> Tensor:
            return restorer.velocity(x[:, :1], x[:, 1:], angle)

        return run_tiled(Tiled(at_once, *shape), torch.cat([place, told]), tile_px)[None]

    moments, first = Moments.like(mean), torch.empty_like(mean)
    for pair in range(sampling.samples // 2):
        noise = coloured(sampling.seed, (pair, 0, 0), (1, *mean.shape), restorer.kernel[None]).to(mean)
        both = [scale * follow(velocity, way * noise, told, sampling.evaluations)[0] for way in (1, -1)]
        moments.add(both[0], both[1])
        first = both[0] if pair == 0 else first
    return moments, first


@torch.no_grad()
def restore(
    image: Tensor,
    pixel_size_angstrom: float,
    model: tuple[Network, Restorer, Scale],
    sampling: Sampling,
    tile_px: int,
    bright: bool,
) -> Restored:
    """Restore one micrograph (H, W): mean and deviation of samples, and one of them.

    Where the regression makes no more of it than of noise, the image is what :func:`emflow.denoise.apply.denoise`
    returns, without any texture, and the deviation is one number: of noise, no place is known better than another.

    Raises
    ------
    EmflowError
        If there is nothing in the image that could be denoised.
    """
    network, restorer, scale = model
    scaled = to_scale(image, pixel_size_angstrom, scale)
    sign = -1.0 if bright else 1.0
    noisy = sign * scaled.z
    mean = run_tiled(network, noisy, tile_px)
    kept = float(mean.var() / noisy.var())
    moments, first = sample_errors(restorer, noisy, mean, sampling, tile_px)
    deviation = moments.deviation()
    if kept < NOTHING * scale.noise_variance:
        flat = scaled.restore(scaled.z * kept**0.5)
        return Restored(
            flat, scaled.spread(deviation.square().mean().sqrt() * torch.ones_like(mean)), flat, kept
        )
    images = (scaled.restore(sign * z) for z in (mean + moments.mean(), mean + first))
    return Restored(next(images), scaled.spread(deviation), next(images), kept)
