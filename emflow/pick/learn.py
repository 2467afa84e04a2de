"""Teach the picker network: examples at the working scale, what it should say there, and the loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor, nn
from torch.nn import functional

from emflow.device import generator
from emflow.nn.train import Checkpoint, Outcome, Plan, train
from emflow.pick.network import DIAMETER_PX, PickerNetwork

CROP_PX = 160
HEAT_DIAMETERS = 0.09
"""Deviation of the Gaussian about each centre, in diameters: how well a centre can be told."""
REACH_DIAMETERS = 0.2
"""Within this distance of a centre, the offset to it is learnt."""
IGNORE_DIAMETERS = 0.35
"""Round what is neither particle nor none (broken ones), nothing is learnt."""
HEAT_BIAS, DIRT_BIAS = -5.0, -2.5
"""Log-odds with which learning starts."""
DIRT_WEIGHT, OFFSET_WEIGHT = 0.3, 0.02
_STREAM = 61


@dataclass(frozen=True)
class Example:
    """A micrograph as the network sees it, with the truth, all at the working scale."""

    image: Tensor
    """Normalised (y, x)."""
    centres: np.ndarray
    """Particles (n, 2) as y, x."""
    ignored: np.ndarray
    """Broken particles (n, 2)."""
    dirt: Tensor
    """1 on contamination (y, x)."""

    def targets(self) -> Tensor:
        """What the network should say.

        Returns
        -------
        (6, y, x): heat, whether heat is judged, contamination, offsets along y and x in quarter diameters,
        whether they are judged.
        """
        shape = self.image.shape
        grid = np.indices(tuple(shape)).reshape(2, -1).T
        distance, offset = _nearest(grid, self.centres)
        heat = np.exp(-0.5 * (distance / (HEAT_DIAMETERS * DIAMETER_PX)) ** 2)
        judged = _nearest(grid, self.ignored)[0] > IGNORE_DIAMETERS * DIAMETER_PX
        near = distance < REACH_DIAMETERS * DIAMETER_PX
        judged |= heat > 0.1
        parts: list[np.ndarray] = [heat, judged, self.dirt.numpy().ravel()]
        parts += [*(4 / DIAMETER_PX * offset.T), near]
        stack = np.stack([part.astype(np.float32) for part in parts])
        return torch.from_numpy(stack).reshape(6, *shape)


def _nearest(grid: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distance of each place to the nearest point, and the way there (n, 2)."""
    if len(points) == 0:
        return np.full(len(grid), np.inf), np.zeros((len(grid), 2))
    distance, index = cKDTree(points).query(grid, distance_upper_bound=DIAMETER_PX)
    found = np.isfinite(distance)
    offset = np.zeros((len(grid), 2))
    offset[found] = points[index[found]] - grid[found]
    return distance, offset


def new_network(seed: int) -> PickerNetwork:
    """Return a network of random first weights that says "nothing is there"."""
    torch.manual_seed(seed)
    network = PickerNetwork()
    last = network.unet.last
    assert last.bias is not None
    with torch.no_grad():
        per = last.bias.numel() // 4
        last.bias[:per], last.bias[per : 2 * per] = HEAT_BIAS, DIRT_BIAS
    return network


def loss_of(out: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of heat and contamination and the distance of the offsets, mean over the pixels.

    Parameters
    ----------
    out
        (N, 4, H, W), what the network says.
    target
        (N, 6, H, W), as :meth:`Example.targets` has it.
    """
    heat = functional.binary_cross_entropy_with_logits(out[:, 0], target[:, 0], weight=target[:, 1])
    dirt = functional.binary_cross_entropy_with_logits(out[:, 1], target[:, 2])
    offset = functional.smooth_l1_loss(out[:, 2:], target[:, 3:5], reduction="none").sum(1)
    near = target[:, 5]
    return heat + DIRT_WEIGHT * dirt + OFFSET_WEIGHT * (offset * near).sum() / near.sum().clamp_min(1)


def train_network(
    network: PickerNetwork,
    examples: Sequence[Example],
    plan: Plan,
    seed: int,
    checkpoint: Checkpoint | None = None,
) -> Outcome:
    """Train on random crops, turned and flipped; what is drawn depends on the seed and the step alone."""
    stacks = [torch.cat([example.image[None], example.targets()]) for example in examples]

    def loss(current: nn.Module, step: int, part: slice) -> Tensor:
        drawn = [_crop(stacks, generator(seed, _STREAM, step, item)) for item in range(part.start, part.stop)]
        batch = torch.stack(drawn)
        out = current(batch[:, :1].contiguous(memory_format=torch.channels_last))
        return loss_of(out, batch[:, 1:]) * (len(drawn) / plan.batch)

    return train(network, loss, plan, checkpoint)


def _crop(stacks: Sequence[Tensor], random: torch.Generator) -> Tensor:
    """One square (7, CROP_PX, CROP_PX) of an example drawn at random; offsets turn with it."""
    stack = stacks[int(torch.randint(len(stacks), (1,), generator=random))]
    stack = functional.pad(stack, (0, max(0, CROP_PX - stack.shape[2]), 0, max(0, CROP_PX - stack.shape[1])))
    y, x = (int(torch.randint(n - CROP_PX + 1, (1,), generator=random)) for n in stack.shape[1:])
    part = stack[:, y : y + CROP_PX, x : x + CROP_PX]
    flip_y, flip_x, swap = torch.randint(2, (3,), generator=random).tolist()
    sign = torch.ones(len(part))
    sign[4], sign[5] = 1 - 2 * flip_y, 1 - 2 * flip_x
    part = part.flip([axis for axis, flip in ((1, flip_y), (2, flip_x)) if flip]) * sign[:, None, None]
    if swap:
        part = part.transpose(1, 2)[[0, 1, 2, 3, 5, 4, 6]]
    gain = math.exp(0.15 * float(torch.randn(1, generator=random)))
    return torch.cat([gain * part[:1], part[1:]])
