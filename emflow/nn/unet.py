"""A small U-Net of plain convolutions, exactly shift-equivariant by multiples of its stride."""

from __future__ import annotations

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
    ``margin`` pixels only, so tiles that overlap by twice as much give the whole's result.

    Parameters
    ----------
    widths
        Channels at full resolution and at each halving.
    """

    def __init__(self, widths: Sequence[int] = (16, 32, 48, 64)) -> None:
        super().__init__()
        self.widths = tuple(widths)
        pairs = zip((1, *self.widths[:-1]), self.widths, strict=True)
        self.down = nn.ModuleList(_Pair(n, m) for n, m in pairs)
        self.up = nn.ModuleList(
            _Pair(below + here, here) for here, below in zip(self.widths[:-1], self.widths[1:], strict=True)
        )
        self.last = nn.Conv2d(self.widths[0], 1, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, a=0.1)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        nn.init.zeros_(self.last.weight)  # starts from "nothing is there"

    @property
    def stride(self) -> int:
        """Shifts by multiples of this shift the output alike; sides of the input must be multiples too."""
        return int(2 ** (len(self.widths) - 1))

    @property
    def margin(self) -> int:
        """Pixels beyond which an input cannot change an output; a multiple of the stride."""
        # per level of spacing s: two convolutions down and two up reach 2s each, pooling and repeating s each
        reach = 2 * self.stride + sum(6 * 2**level for level in range(len(self.widths) - 1))
        return -(-reach // self.stride) * self.stride

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, 1, H, W), sides multiples of the stride, to images of the same shape."""
        skips: list[Tensor] = []
        for level, block in enumerate(self.down):
            x = block(functional.avg_pool2d(x, 2) if level else x)
            skips.append(x)
        x = skips.pop()
        for block in reversed(self.up):
            x = functional.interpolate(x, scale_factor=2, mode="nearest")
            x = block(torch.cat([x, skips.pop()], dim=1))
        return self.last(x)


def on_device(network: UNet, device: torch.device) -> UNet:
    """Move a network to a device, its weights in the layout that convolutions are fastest with."""
    return network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def count_parameters(network: nn.Module) -> int:
    """Return the number of trained values."""
    return sum(p.numel() for p in network.parameters())
