"""Learn to fill gaps from the measured slices alone: they are sharp along both of their own axes."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from emflow.device import generator
from emflow.nn.train import Checkpoint, Plan, train
from emflow.nn.unet import UNet
from emflow.vem.config import VemTrain
from emflow.vem.crops import Isotropic, crop_shape, crops, draw
from emflow.vem.gaps import between, divide, fold, neighbours
from emflow.vem.model import LOG_SCALE, Filler

_CALIBRATION_CROPS = 48


def residual_spread(slices: Tensor, factor: int, cfg: VemTrain, stretch: float = 1.0) -> float:
    """Root mean square of what linear interpolation misses in thinned-out slices."""
    shape = crop_shape(min(slices.shape[1:]), factor, cfg.crop_px, stretch)
    rows, missing = divide(crops(slices, factor, 64, shape, generator(cfg.seed, 40), stretch), factor)
    return max(float((missing - between(rows, factor)).square().mean().sqrt()), 1e-6)


def train_filler(
    filler: Filler,
    slices: Tensor,
    cfg: VemTrain,
    device: torch.device,
    checkpoint: Checkpoint | None = None,
    isotropic: Isotropic | None = None,
) -> UNet:
    """Train and return the averaged network.

    Parameters
    ----------
    slices
        Measured slices (S, H, W) in the filler's units.
    isotropic
        A volume that crops are drawn from as well, across all of its axes.
    """
    side = min(slices.shape[1:])
    if isotropic is not None:
        side = min(side, *isotropic.views[0].shape)
    stretch = filler.grid.stretch
    shape = crop_shape(side, filler.factor, cfg.crop_px, stretch)
    others = round(cfg.isotropic_share * cfg.batch) if isotropic is not None else 0

    def loss_of(net: nn.Module, step: int, part: slice) -> Tensor:
        rng = generator(cfg.seed, 41, step)
        planes = crops(slices, filler.factor, cfg.batch - others, shape, rng, stretch)
        spreads = torch.full((len(planes),), filler.spread)
        if isotropic is not None:
            theirs, their_spreads = draw([isotropic], filler.factor, others, shape, rng, stretch)
            planes, spreads = torch.cat([planes, theirs]), torch.cat([spreads, their_spreads])
        planes, spreads = planes[part].to(device), spreads[part].to(device)
        rows, missing = divide(planes, filler.factor)
        target = fold((missing - between(rows, filler.factor)) / spreads[:, None, None, None])
        out = net(neighbours(rows).contiguous(memory_format=torch.channels_last))
        return loss_of_residual(out, target) * (len(planes) / cfg.batch)

    plan = Plan(cfg.steps, cfg.batch, cfg.learning_rate, averaging=0.995)
    network = train(filler.network, loss_of, plan, checkpoint).network
    assert isinstance(network, UNet)
    return network


def loss_of_residual(out: Tensor, target: Tensor) -> Tensor:
    """1.5 H(r − μ) + 0.2 (|r − μ|/b + log b), the mean over all missing pixels.

    H is Huber's loss, quadratic up to the residual's spread: the mean of what may be there, where the absolute
    error's median leaves out what is less likely than not, such as a membrane. The scale b learns from an error that
    does not pull on μ (after A. Kendall & Y. Gal, NeurIPS 2017).
    """
    residual, log_scale = out.chunk(2, dim=1)
    log_scale = log_scale.clamp(*LOG_SCALE)
    error = (target - residual).abs().detach()
    likelihood = error * torch.exp(-log_scale) + log_scale
    return 1.5 * functional.huber_loss(residual, target) + 0.2 * likelihood.mean()


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
    stretch, rng = filler.grid.stretch, generator(cfg.seed, 42)
    shape = crop_shape(min(unseen.shape[1:]), filler.factor, cfg.crop_px, stretch)
    planes = crops(unseen, filler.factor, _CALIBRATION_CROPS, shape, rng, stretch).to(device)
    rows, missing = divide(planes, filler.factor)
    predicted, scale = filler.predict(rows)
    score = (missing - predicted).abs() / scale
    return conformal(score[:, :, filler.factor // 2 - 1] if middle else score, cfg.coverage)


def conformal(score: Tensor, coverage: float) -> float:
    """The quantile of scores that a new one stays below with the probability ``coverage``."""
    ordered = score.flatten().sort().values
    rank = math.ceil((len(ordered) + 1) * coverage)
    return float(ordered[min(rank, len(ordered)) - 1])
