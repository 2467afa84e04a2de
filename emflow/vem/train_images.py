"""Learn to denoise images from pairs, and find the interval about what is predicted."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from emflow.nn.train import Checkpoint, Plan, train
from emflow.vem.denoiser import FoldedUNet
from emflow.vem.train import conformal

Batch = tuple[Tensor, Tensor, Tensor]
"""Inputs, targets and weights (0 where nothing is to be learned), (N, H, W) each, in deviations of the image."""
_LITTLE = 1e-4  # squared deviations: below this an image's error counts for no more


def fit(
    network: FoldedUNet,
    draw: Callable[[int], Batch],
    plan: Plan,
    device: torch.device,
    checkpoint: Checkpoint | None = None,
) -> FoldedUNet:
    """Train on crops, and return the averaged network.

    The loss of a crop is the root of its mean squared error, so that crops of much noise do not outweigh the others and
    the mean, not the median, is learned, which is what holds when targets are noisy, too (J. Lehtinen et al.,
    Noise2Noise, ICML 2018). To it comes the likelihood of the scale, as in the gap filler.

    Parameters
    ----------
    draw
        Returns a step's batch, from the step's number alone.
    """

    def loss_of(net: nn.Module, step: int, part: slice) -> Tensor:
        inputs, targets, weights = (item[part].to(device) for item in draw(step))
        mean, log_scale = net(inputs[:, None]).unbind(dim=1)
        share = weights / weights.sum(dim=(1, 2), keepdim=True).clamp_min(1)
        squared = (share * (targets - mean).square()).sum(dim=(1, 2))
        far = (targets - mean).abs().detach()
        likelihood = (share * (far * torch.exp(-log_scale) + log_scale)).sum(dim=(1, 2))
        return ((squared + _LITTLE).sqrt() + 0.1 * likelihood).sum() / plan.batch

    found = train(network, loss_of, plan, checkpoint).network
    assert isinstance(found, FoldedUNet)
    return found


@torch.no_grad()
def conformal_of(network: FoldedUNet, batches: list[Batch], coverage: float) -> tuple[float, float]:
    """Half-width of the interval in stated scales, and by how many decibel inputs are improved, crop by crop."""
    device = next(network.parameters()).device
    scores, gains = [], []
    for batch in batches:
        inputs, targets, weights = (item.to(device) for item in batch)
        mean, log_scale = network(inputs[:, None]).unbind(dim=1)
        far = (targets - mean).abs()
        scores.append((far / log_scale.exp())[weights > 0])
        before, after = ((weights * (x - targets) ** 2).mean((1, 2)) for x in (inputs, mean))
        gains.append(10 * torch.log10(before / after))
    return conformal(torch.cat(scores), coverage), float(torch.cat(gains).mean())
