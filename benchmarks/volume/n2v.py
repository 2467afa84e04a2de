"""The peer: a blind-spot network that learns from noisy images alone (A. Krull et al., Noise2Void, CVPR 2019).

Written anew, since CAREamics does not install beside torch 2.13, with emflow's network, so that both have one size. A
part of the pixels is replaced by others from their surroundings, and the network learns to predict them. With
``reach`` 1 all pixels next to those are replaced, too, as correlated noise needs it (C. Broaddus et al., Structured
Noise2Void, ISBI 2020).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from emflow.device import generator
from emflow.nn.tiles import crop
from emflow.nn.train import Plan, train
from emflow.vem.denoiser import FoldedUNet

_SHARE = 0.02
"""Of the pixels that are predicted, over the pixels that each hides."""
_FAR = 5
"""Side of the surroundings that values are taken from is twice this and 1."""


def learn(images: Sequence[Tensor], steps: int, seed: int, reach: int = 0) -> FoldedUNet:
    """Train on images (H, W) of deviation 1."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = FoldedUNet()
    batch, side = 6, 112

    def loss_of(net: nn.Module, step: int, part: slice) -> Tensor:
        rng = generator(seed, 61, step)
        seen = torch.stack([crop(images[step % len(images)][None], side, rng)[0] for _ in range(batch)])
        predicted = torch.rand(seen.shape, generator=rng) < _SHARE
        width = 2 * reach + 1
        hidden = functional.max_pool2d(predicted.float()[:, None], width, 1, reach)[:, 0] > 0
        found = net(torch.where(hidden, _others(seen, reach, rng), seen)[:, None])[:, 0]
        return (found - seen)[predicted].square().mean()

    outcome = train(network, loss_of, Plan(steps, batch, 1e-3, averaging=0.995)).network
    assert isinstance(outcome, FoldedUNet)
    return outcome


def _others(images: Tensor, reach: int, rng: torch.Generator) -> Tensor:
    """For every pixel the value of one nearby, further away than what is hidden with it."""
    number, height, width = images.shape
    near = 2 * reach + 1
    y, x = (torch.randint(-_FAR, _FAR + 1, images.shape, generator=rng) for _ in range(2))
    close = (y.abs() < near) & (x.abs() < near)
    y = torch.where(close, near, y)
    rows = (torch.arange(height)[:, None] + y) % height
    columns = (torch.arange(width) + x) % width
    return images[torch.arange(number)[:, None, None], rows, columns]
