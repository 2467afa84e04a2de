"""Networks as tiling calls them: at half precision, or compiled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from emflow.nn.tiles import Network


@dataclass(frozen=True)
class Tiled:
    """A function of images with what tiling needs to know of it."""

    function: Callable[[Tensor], Tensor]
    stride: int
    margin: int
    half: bool = False
    """Operands of convolutions in bfloat16; sums, and what comes out, in float32."""

    def __call__(self, x: Tensor, /) -> Tensor:
        """Map (N, B, H, W) to (N, C, H, W), float32."""
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.half):
            return self.function(x).float()


def faster(network: Network, half: bool = False, compiled: bool = False) -> Network:
    """Return a network that does the same with operands of half precision, or compiled; itself where neither is asked.

    Compiling takes a minute at the first call; it pays where many micrographs follow. Tiles of one micrograph have few
    shapes, each of which is compiled once.
    """
    if not (half or compiled):
        return network
    function = torch.compile(network) if compiled else network
    return Tiled(function, network.stride, network.margin, half)
