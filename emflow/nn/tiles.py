"""Run a network over an image of any size in overlapping tiles, blended without seams."""

from __future__ import annotations

import logging
import math
from typing import Protocol

import torch
from torch import Tensor

from emflow.em.batches import does_not_fit, is_out_of_memory, release_memory

log = logging.getLogger("emflow")

_largest: dict[str, int] = {}
"""Side of the largest tile that is tried in this process, once a larger one did not fit."""


class Network(Protocol):
    """What tiling needs to know of a network."""

    @property
    def stride(self) -> int:
        """Sides and offsets of tiles must be multiples of this."""
        ...

    @property
    def margin(self) -> int:
        """Pixels near a tile's edge that see what is not there."""
        ...

    def __call__(self, x: Tensor, /) -> Tensor:
        """Map (N, B, H, W) to (N, C, H, W)."""
        ...


def tile_starts(size: int, tile: int, overlap: int, stride: int) -> list[int]:
    """Return where tiles begin so that they cover ``size`` and neighbours overlap by at least ``overlap``.

    All are multiples of ``stride`` apart from none: ``size`` and ``tile`` must be multiples of it.
    """
    if size <= tile:
        return [0]
    number = math.ceil((size - overlap) / (tile - overlap))
    while True:
        step = (size - tile) / (number - 1)
        starts = [round(i * step / stride) * stride for i in range(number)]
        if all(b - a <= tile - overlap for a, b in zip(starts, starts[1:], strict=False)):
            return starts
        number += 1


def tile_weight(length: int, margin: int, ramp: int, at_start: bool, at_end: bool) -> Tensor:
    """Return a tile's weights along one axis.

    0 over the margin, a raised cosine over the ramp, 1 inside; 1 up to an end that is the image's own.
    """
    edge = torch.arange(length, dtype=torch.float32) + 0.5
    rise = (0.5 - 0.5 * torch.cos(math.pi * ((edge - margin) / ramp).clamp(0, 1))).clamp(min=0)
    left = torch.ones(length) if at_start else rise
    right = torch.ones(length) if at_end else rise.flip(0)
    return left * right


@torch.no_grad()
def run_tiled(network: Network, image: Tensor, tile: int = 1024, ramp: int = 32) -> Tensor:
    """Return the network's output for a whole image, in memory that depends on the tile only.

    Where that does not fit, tiles of half the side are tried, for this image and those that follow.

    The image is mirrored at its borders by the network's margin. Within the overlap a tile's outermost
    ``margin`` pixels, which see its edge, weigh nothing; the rest is blended. So the result does not depend
    on the tiles beyond rounding.

    Parameters
    ----------
    image
        (H, W), or (B, H, W) where the network takes several images; any size.
    tile, ramp
        Side of a tile and width of the blend, in pixels; the tile is raised to what the margin needs.

    Returns
    -------
    (H, W), or (C, H, W) where the network has several outputs, on the image's device.

    Raises
    ------
    OutOfMemory
        If the smallest tile does not fit.
    """
    stride, overlap = network.stride, 2 * network.margin + ramp
    least = -(-(overlap + stride) // stride) * stride
    tile = max(-(-min(tile, _largest.get("tile", tile)) // stride) * stride, least)
    while True:
        try:
            return _in_tiles(network, image, tile, ramp)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            reason = str(error).splitlines()[0] if str(error) else "MemoryError"
        release_memory()  # only now are the frames gone that held the tile's tensors
        longest = max(image.shape[-2:])
        smaller = max(min(tile, longest) // 2 // stride * stride, least)
        if smaller >= min(tile, longest):
            raise does_not_fit(f"a micrograph of {image.shape[-1]} x {image.shape[-2]} px", reason)
        log.warning("Out of memory with tiles of %d px: going on with %d px.", tile, smaller)
        _largest["tile"] = tile = smaller


def _in_tiles(network: Network, image: Tensor, tile: int, ramp: int) -> Tensor:
    """A whole image with tiles of one size."""
    stride, margin = network.stride, network.margin
    overlap = 2 * margin + ramp
    height, width = image.shape[-2:]
    bottom, right = (margin + -(n + 2 * margin) % stride for n in (height, width))
    padded = mirror(image.movedim((-2, -1), (0, 1)), (margin, bottom), (margin, right)).movedim(
        (0, 1), (-2, -1)
    )
    rows = tile_starts(padded.shape[-2], tile, overlap, stride)
    columns = tile_starts(padded.shape[-1], tile, overlap, stride)
    if len(rows) == len(columns) == 1:
        out = network(_laid_out(padded))[0].squeeze(0)
        return out[..., margin : margin + height, margin : margin + width].contiguous()
    total: Tensor | None = None
    weight = padded.new_zeros(padded.shape[-2:])
    for y in rows:
        for x in columns:
            part = padded[..., y : y + tile, x : x + tile]
            ends = (y == 0, y == rows[-1]), (x == 0, x == columns[-1])
            down, across = (
                tile_weight(n, margin, ramp, *end).to(image.device)
                for n, end in zip(part.shape[-2:], ends, strict=True)
            )
            blend = down[:, None] * across
            out = blend * network(_laid_out(part))[0].squeeze(0)
            if total is None:
                total = out.new_zeros((*out.shape[:-2], *padded.shape[-2:]))
            total[..., y : y + tile, x : x + tile] += out
            weight[y : y + tile, x : x + tile] += blend
    assert total is not None
    return (total / weight)[..., margin : margin + height, margin : margin + width]


def _laid_out(image: Tensor) -> Tensor:
    """(H, W) or (B, H, W) → (1, B, H, W) in the layout that convolutions are fastest with."""
    image = image[None] if image.ndim == 2 else image
    return image[None].contiguous(memory_format=torch.channels_last)


def mirror(image: Tensor, vertical: tuple[int, int], horizontal: tuple[int, int]) -> Tensor:
    """Continue an image (H, W, …) by its mirror image, however far."""
    for axis, (before, after) in ((0, vertical), (1, horizontal)):
        size = image.shape[axis]
        at = torch.arange(-before, size + after, device=image.device)
        folded = torch.remainder(at, 2 * size)
        folded = torch.minimum(folded, 2 * size - 1 - folded)  # half-sample symmetric: edges repeat once
        image = image.index_select(axis, folded)
    return image


def crop(images: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Cut one random square from a stack of aligned images (C, H, W), turned and flipped at random.

    Returns
    -------
    (C, size, size); small images are mirrored up to the size first.
    """
    height, width = images.shape[-2:]
    if height < size or width < size:
        needed = [(0, max(0, size - n)) for n in (height, width)]
        images = torch.stack([mirror(image, needed[0], needed[1]) for image in images])
        height, width = images.shape[-2:]
    y = int(torch.randint(height - size + 1, (1,), generator=generator))
    x = int(torch.randint(width - size + 1, (1,), generator=generator))
    part = images[:, y : y + size, x : x + size]
    turn, flip = torch.randint(4, (2,), generator=generator).tolist()
    part = torch.rot90(part, turn, dims=(-2, -1))
    return part.flip(-1) if flip % 2 else part
