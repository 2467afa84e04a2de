"""Learn to fill gaps from the measured slices alone: they are sharp along both of their own axes."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from emflow.device import generator
from emflow.nn.train import Checkpoint, Plan, train
from emflow.nn.unet import UNet
from emflow.step import EmflowError
from emflow.vem.config import VemTrain
from emflow.vem.gaps import COLUMNS, between, divide, fold, neighbours
from emflow.vem.grid import interpolate
from emflow.vem.model import LOG_SCALE, Filler

GAPS = 12
"""Gaps in a crop; fewer where slices are small."""
_CALIBRATION_CROPS = 48


def crops(
    slices: Tensor, factor: int, number: int, width: int, rng: torch.Generator, stretch: float = 1.0
) -> Tensor:
    """Draw planes from measured slices, one axis of which will be thinned out; turned and flipped at random.

    Parameters
    ----------
    slices
        (S, H, W).
    stretch
        Steps in a pixel: unless 1, that axis is interpolated, so that rows are as far apart as slices are.

    Returns
    -------
    (number, factor·L + 1, width); L and the width as far as the slices allow.

    Raises
    ------
    EmflowError
        If slices are too small for the factor.
    """
    side = min(slices.shape[1:])
    exact = stretch == 1
    gaps = min(GAPS, int(((side - 1 - (not exact)) * stretch) // factor)) // 2 * 2
    width = min(width, side) // (4 * COLUMNS) * (4 * COLUMNS)
    if gaps < 2 or width < 16:
        raise EmflowError(
            f"Slices of {slices.shape[1]} × {slices.shape[2]} pixels are too small to learn a factor of "
            f"{factor / stretch:.4g} "
            f"from: expected at least {max(math.ceil(2 * factor / stretch) + 1, 16)} a side. Use weights of another volume."
        )
    out = []
    for _ in range(number):
        chosen, turned, flips = (int(torch.randint(n, (1,), generator=rng)) for n in (len(slices), 2, 4))
        plane = slices[chosen].T if turned else slices[chosen]
        height = gaps * factor + 1 if exact else math.ceil(gaps * factor / stretch) + 2
        y = int(torch.randint(plane.shape[0] - height + 1, (1,), generator=rng))
        x = int(torch.randint(plane.shape[1] - width + 1, (1,), generator=rng))
        part = plane[y : y + height, x : x + width]
        if not exact:
            phase = torch.rand(1, generator=rng, dtype=torch.float64)
            part = interpolate(part, phase + torch.arange(gaps * factor + 1, dtype=torch.float64) / stretch)
        axes = [axis for axis in (0, 1) if flips >> axis & 1]
        out.append(part.flip(axes) if axes else part)
    return torch.stack(out)


def residual_spread(slices: Tensor, factor: int, cfg: VemTrain, stretch: float = 1.0) -> float:
    """Root mean square of what linear interpolation misses in thinned-out slices."""
    planes = crops(slices, factor, 64, cfg.crop_px, generator(cfg.seed, 40), stretch)
    rows, missing = divide(planes, factor)
    return max(float((missing - between(rows, factor)).square().mean().sqrt()), 1e-6)


def train_filler(
    filler: Filler, slices: Tensor, cfg: VemTrain, device: torch.device, checkpoint: Checkpoint | None = None
) -> UNet:
    """Train on slices (S, H, W), in the filler's units, and return the averaged network.

    The loss is |r − μ| + λ(|r − μ|/b + log b). The scale b learns from an error that does not pull on μ, so
    that the regression stays the median's (A. Kendall & Y. Gal, NeurIPS 2017, for the second term).
    """

    def loss_of(net: nn.Module, step: int, part: slice) -> Tensor:
        rng = generator(cfg.seed, 41, step)
        planes = crops(slices, filler.factor, cfg.batch, cfg.crop_px, rng, filler.grid.stretch)
        planes = planes[part].to(device)
        rows, missing = divide(planes, filler.factor)
        target = fold((missing - between(rows, filler.factor)) / filler.spread)
        out = net(neighbours(rows).contiguous(memory_format=torch.channels_last))
        residual, log_scale = out.chunk(2, dim=1)
        log_scale = log_scale.clamp(*LOG_SCALE)
        error = (target - residual).abs()
        likelihood = error.detach() * torch.exp(-log_scale) + log_scale
        return (error.mean() + 0.2 * likelihood.mean()) * (len(planes) / cfg.batch)

    plan = Plan(cfg.steps, cfg.batch, cfg.learning_rate, averaging=0.995)
    network = train(filler.network, loss_of, plan, checkpoint).network
    assert isinstance(network, UNet)
    return network


@torch.no_grad()
def interval_factor(
    filler: Filler, unseen: Tensor, cfg: VemTrain, device: torch.device, middle: bool = False
) -> float:
    """Half-width of the interval that holds ``coverage`` of the errors on thinned slices, in stated scales.

    Split conformal prediction (V. Vovk et al., 2005): the quantile of |error|/scale with the finite-sample
    correction, so that it holds whatever the network's scale is worth.

    Parameters
    ----------
    unseen
        Slices kept from training, (S, H, W), in the filler's units.
    middle
        Count the middle row of each gap only.
    """
    rng = generator(cfg.seed, 42)
    planes = crops(unseen, filler.factor, _CALIBRATION_CROPS, cfg.crop_px, rng, filler.grid.stretch).to(
        device
    )
    rows, missing = divide(planes, filler.factor)
    predicted, scale = filler.predict(rows)
    score = (missing - predicted).abs() / scale
    return conformal(score[:, :, filler.factor // 2 - 1] if middle else score, cfg.coverage)


def conformal(score: Tensor, coverage: float) -> float:
    """The quantile of scores that a new one stays below with the probability ``coverage``."""
    ordered = score.flatten().sort().values
    rank = math.ceil((len(ordered) + 1) * coverage)
    return float(ordered[min(rank, len(ordered)) - 1])
