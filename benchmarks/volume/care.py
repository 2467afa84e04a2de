"""The peer: a U-Net on interpolated planes, trained on the volume's own thinned-out slices.

Isotropic CARE (M. Weigert et al., MICCAI 2017; Nat. Methods 15, 1090, 2018) written anew, since CAREamics does
not install beside torch 2.13: rows of xy slices are thinned out and interpolated back, a U-Net learns to predict
what is lacking, and is applied to interpolated xz and yz planes, whose results are averaged. Unlike emflow's it
works on the full grid.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from emflow.device import generator
from emflow.nn.train import Plan, train
from emflow.nn.unet import UNet, on_device
from emflow.vem.crops import crop_shape, crops
from emflow.vem.gaps import between, divide

WIDTHS = (32, 64, 128)
BATCH, CROP_PX = 6, 64
"""A third of the pixels of emflow's steps: on the full grid each costs several times as much."""


def _interpolated(rows: Tensor, factor: int) -> Tensor:
    """Measured rows and linear interpolation between them, (N, L·factor, W)."""
    gaps = torch.cat([rows[:, :-1, None], between(rows, factor)], dim=2)
    return gaps.flatten(1, 2)


def learn(slices: Tensor, factor: int, steps: int, seed: int) -> UNet:
    """Train on slices (S, H, W) of unit deviation with the squared error."""
    shape = crop_shape(min(slices.shape[1:]), factor, CROP_PX)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = on_device(UNet(WIDTHS), torch.device("cpu"))

    def loss_of(net: nn.Module, step: int, part: slice) -> Tensor:
        planes = crops(slices, factor, BATCH, shape, generator(seed, 51, step))[part]
        rows, missing = divide(planes, factor)
        blurred = _even(_interpolated(rows, factor))
        target = _even(
            torch.cat([planes[:, :-1].unflatten(1, (-1, factor))[:, :, :1], missing], 2).flatten(1, 2)
        )
        error = net(blurred[:, None]) - (target - blurred)[:, None]
        return error.square().mean() * (len(planes) / BATCH)

    found = train(network, loss_of, Plan(steps, BATCH, 1e-3, averaging=0.99)).network
    assert isinstance(found, UNet)
    return found


def _even(planes: Tensor) -> Tensor:
    """Planes cut to sides that are multiples of the network's stride."""
    stride = 2 ** (len(WIDTHS) - 1)
    return planes[:, : planes.shape[1] // stride * stride, : planes.shape[2] // stride * stride]


@torch.no_grad()
def fill(network: UNet, slices: Tensor, factor: int) -> Tensor:
    """Missing slices, (L, factor − 1, H, W)."""
    both = [
        _planes(network, slices.permute(1, 0, 2), factor).permute(1, 2, 0, 3),
        _planes(network, slices.permute(2, 0, 1), factor).permute(1, 2, 3, 0),
    ]
    return (both[0] + both[1]) / 2


def _planes(network: UNet, rows: Tensor, factor: int) -> Tensor:
    blurred = _interpolated(rows, factor)
    stride = network.stride
    more = -blurred.shape[1] % stride, -blurred.shape[2] % stride
    padded = nn.functional.pad(blurred[:, None], (0, more[1], 0, more[0]), mode="replicate")
    out = torch.cat([network(part) for part in padded.split(16)])[:, 0]
    restored = blurred + out[:, : blurred.shape[1], : blurred.shape[2]]
    return restored.unflatten(1, (-1, factor))[:, :, 1:]
