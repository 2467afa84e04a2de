"""What is learned from one registered pair of images, and the part of it that is hidden from the training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from emflow.device import generator
from emflow.nn.tiles import crop
from emflow.vem.train_images import Batch

HIDDEN = 5
"""One block in so many is hidden."""
_BLOCKS = 8  # along the shorter side, at least
_LONGEST = 64


@dataclass(frozen=True)
class Pair:
    """A noisy image and its target on one grid, in deviations of the noisy images, (H, W) each."""

    noisy: Tensor
    target: Tensor
    matched: Tensor
    """Whether both show the same there."""
    hidden: Tensor
    """Whether the pixel is kept from the training."""
    block: Tensor
    """Number of the block that a pixel lies in."""

    @cached_property
    def stack(self) -> Tensor:
        """What crops are cut from: noisy image, target, and where something is learned, (3, H, W)."""
        return torch.stack([self.noisy, self.target, (self.matched & ~self.hidden).float()])

    @staticmethod
    def of(noisy: Tensor, target: Tensor, matched: Tensor, number: int) -> Pair:
        """Hide one block in five, scattered evenly; where, depends on the pair's number."""
        side = max(8, min(_LONGEST, min(noisy.shape) // _BLOCKS))
        rows, columns = (torch.arange(n) // side for n in noisy.shape)
        hidden = (rows[:, None] + 2 * columns + number) % HIDDEN == 0
        block = rows[:, None] * (int(columns[-1]) + 1) + columns
        return Pair(noisy, target, matched, hidden, block)


def draw(pairs: Sequence[Pair], step: int, seed: int, batch: int, side: int) -> Batch:
    """Draw a step's crops, turned and flipped at random; the loss leaves out what is hidden or does not match."""
    rng = generator(seed, 43, step)
    sizes = torch.tensor([float(p.noisy.numel()) for p in pairs])
    chosen = torch.multinomial(sizes, batch, replacement=True, generator=rng).tolist()
    parts = torch.stack([crop(pairs[i].stack, side, rng) for i in chosen])
    noisy, target, weight = parts.unbind(dim=1)
    return noisy, target, weight
