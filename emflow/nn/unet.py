"""A small U-Net of plain convolutions, exactly shift-equivariant by multiples of its stride."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional


class _Pair(nn.Module):
    """Two 3×3 convolutions, each with a leaky rectifier."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.second = nn.Conv2d(channels_out, channels_out, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.leaky_relu(self.first(x), 0.1, inplace=True)
        return functional.leaky_relu(self.second(x), 0.1, inplace=True)


class UNet(nn.Module):
    """Image in, image out (O. Ronneberger et al., MICCAI 2015), without any normalisation.

    Normalisation by the statistics of the image or batch would tie each pixel to all others: then tiles
    differ from the whole and neighbours' seams show. Here each output pixel depends on the input within
    ``margins`` pixels only, so tiles that overlap by twice as much give the whole's result.

    Parameters
    ----------
    widths
        Channels at full resolution and at each coarser level.
    channels
        Channels of input and output.
    halvings
        Factors (down, across) from each level to the next; 2 both ways by default.
    """

    def __init__(
        self,
        widths: Sequence[int] = (16, 32, 48, 64),
        channels: tuple[int, int] = (1, 1),
        halvings: Sequence[tuple[int, int]] | None = None,
    ) -> None:
        super().__init__()
        self.widths = tuple(widths)
        self.halvings = tuple(halvings or [(2, 2)] * (len(self.widths) - 1))
        if len(self.halvings) != len(self.widths) - 1:
            raise ValueError(f"{len(self.widths)} levels have {len(self.widths) - 1} halvings between them")
        pairs = zip((channels[0], *self.widths[:-1]), self.widths, strict=True)
        self.down = nn.ModuleList(_Pair(n, m) for n, m in pairs)
        self.up = nn.ModuleList(
            _Pair(below + here, here) for here, below in zip(self.widths[:-1], self.widths[1:], strict=True)
        )
        self.last = nn.Conv2d(self.widths[0], channels[1], 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, a=0.1)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        nn.init.zeros_(self.last.weight)  # starts from "nothing is there"

    @property
    def strides(self) -> tuple[int, int]:
        """Shifts by multiples of these (down, across) shift the output alike; sides of the input must be multiples."""
        down, across = zip(*self.halvings, strict=True) if self.halvings else ((), ())
        return math.prod(down), math.prod(across)

    @property
    def margins(self) -> tuple[int, int]:
        """Pixels (down, across) beyond which an input cannot change an output; multiples of the strides."""
        reach = []
        for axis, stride in enumerate(self.strides):
            spacings = [1]
            for halving in self.halvings:
                spacings.append(spacings[-1] * halving[axis])
            # per level of spacing s: two convolutions down and two up reach 2s each, pooling and repeating s each
            far = 2 * stride + sum(6 * spacing for spacing in spacings[:-1])
            reach.append(-(-far // stride) * stride)
        return reach[0], reach[1]

    @property
    def stride(self) -> int:
        """The larger of the strides."""
        return max(self.strides)

    @property
    def margin(self) -> int:
        """The larger of the margins."""
        return max(self.margins)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, C, H, W), sides multiples of the strides, to images of the same sides."""
        skips: list[Tensor] = []
        for level, block in enumerate(self.down):
            x = block(functional.avg_pool2d(x, self.halvings[level - 1]) if level else x)
            skips.append(x)
        x = skips.pop()
        for level, block in reversed(list(enumerate(self.up))):
            x = _repeated(x, self.halvings[level])
            x = block(torch.cat([x, skips.pop()], dim=1))
        return self.last(x)


def _repeated(x: Tensor, halving: tuple[int, int]) -> Tensor:
    return functional.interpolate(x, scale_factor=[float(n) for n in halving], mode="nearest")


def on_device(network: UNet, device: torch.device) -> UNet:
    """Move a network to a device, its weights in the layout that convolutions are fastest with."""
    return network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def count_parameters(network: nn.Module) -> int:
    """Return the number of trained values."""
    return sum(p.numel() for p in network.parameters())
