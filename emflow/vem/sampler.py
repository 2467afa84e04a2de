"""A generative refiner: samples of the fine detail that a mean lacks, by a flow from shared three-dimensional noise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from emflow.nn.flow import follow
from emflow.nn.noise import Origin, coloured
from emflow.nn.tiles import mirror
from emflow.vem.blocks import Block
from emflow.vem.gaps import COLUMNS, between, fold, neighbours, unfold
from emflow.vem.model import Filler
from emflow.vem.restore import fill_block
from emflow.vem.texture import AXIAL_REACH, fitted

WIDTH = 64
KERNELS = ((3, 3), (1, 3), (3, 3), (1, 3))
"""The axis is short on the folded grid: it needs no reach at each layer."""
_PLANE_PIXELS = 2**20
"""Output pixels of the planes that are worked on at once; bounds the memory."""


class Flow(nn.Module):
    """Velocity of the texture on the folded grid, from the texture, what the filler says, and the flow's angle."""

    def __init__(self, factor: int) -> None:
        super().__init__()
        channels = (factor - 1) * COLUMNS
        told = 3 * channels + 2 * COLUMNS + 2  # texture, mean, scale; rows above and below; angle
        inputs = (told, *[WIDTH] * (len(KERNELS) - 1))
        self.layers = nn.ModuleList(
            nn.Conv2d(n, WIDTH, kernel, padding=(kernel[0] // 2, kernel[1] // 2))
            for n, kernel in zip(inputs, KERNELS, strict=True)
        )
        self.last = nn.Conv2d(WIDTH, channels, 1)
        for module in self.layers:
            nn.init.kaiming_normal_(module.weight, a=0.1)  # type: ignore[arg-type]
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        nn.init.zeros_(self.last.weight)  # begins with the noise as it is
        nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]

    def forward(self, texture: Tensor, told: Tensor, angle: Tensor) -> Tensor:
        """Map texture (N, 2K, L, W/2), what is told, and angles (N,) to velocities like the texture."""
        turn = torch.stack([angle.sin(), angle.cos()], 1)[:, :, None, None]
        x = torch.cat([texture, told, turn.expand(-1, -1, *texture.shape[2:])], dim=1)
        for layer in self.layers:
            x = functional.leaky_relu(layer(x), 0.1)
        return self.last(x)


@dataclass
class Sampler:
    """A flow with all that belongs to its numbers."""

    network: Flow
    filler: Filler
    taps: Tensor
    """Filter along the axis that takes the texture from an error."""
    kernel: Tensor
    """Colours white noise as the texture is, (Z, Y, X)."""
    deviation: float
    """Of the texture that is added, in the filler's units."""

    def flow_reach(self, evaluations: int) -> tuple[int, int]:
        """Gaps along the axis, and pixels across, that the flow sees on either side."""
        rows, columns = (evaluations * sum(kernel[axis] // 2 for kernel in KERNELS) for axis in (0, 1))
        return rows, columns * COLUMNS

    def reach(self, evaluations: int) -> Reach:
        """How far a sampled voxel depends on its surroundings."""
        down, across = self.filler.network.strides
        rows, columns = self.flow_reach(evaluations)
        margins = self.filler.network.margins
        more = -(-rows // down) * down, -(-columns // COLUMNS // across) * across
        return Reach((down, across), (margins[0] + more[0], margins[1] + more[1]))

    def noise_of(self, seed: int, block: Block, near: Sequence[tuple[int, int]]) -> Tensor:
        """Noise of the gaps, rows and columns ``near`` a block's core, counted from what it sees."""
        (z, y, x), factor = (first for first, _ in block.seen), self.filler.factor
        gaps, rows, columns = near
        origin = (z + gaps[0]) * factor, y + rows[0], x + columns[0]
        shape = (gaps[1] - gaps[0]) * factor, rows[1] - rows[0], columns[1] - columns[0]
        return self.noise(seed, origin, shape).unflatten(0, (-1, factor))[:, 1:]

    def noise(self, seed: int, origin: Origin, shape: tuple[int, int, int]) -> Tensor:
        """Noise of the texture's covariance, 0 in measured slices, 1 the mean square in others; (Z, Y, X)."""
        z, y, x = origin
        deep, height, width = shape
        field = coloured(seed, (z - AXIAL_REACH, y, x), (deep + 2 * AXIAL_REACH, height, width), self.kernel)
        found = fitted(field.permute(1, 0, 2), self.filler.factor, z - AXIAL_REACH)
        return found[:, AXIAL_REACH : AXIAL_REACH + deep].permute(1, 0, 2)


@dataclass(frozen=True)
class Reach:
    """Strides and margins (down, across) on the folded grid, as a network has them."""

    strides: tuple[int, int]
    margins: tuple[int, int]


@dataclass(frozen=True)
class Told:
    """What the filler says of planes."""

    mean: Tensor
    """Missing rows, (N, L, factor − 1, W)."""
    folded: Tensor
    """The same, the scale of its error and the rows about the gap, as the flow is told them; (N, C, L, W/2)."""


def tell(filler: Filler, rows: Tensor) -> Told:
    """Ask the filler about measured rows (N, L + 1, W) in its units; L and W multiples of its strides."""
    mean, scale = filler.predict(rows)
    residual = (mean - between(rows, filler.factor)) / filler.spread
    log_scale = (scale / filler.spread).log()
    return Told(mean, torch.cat([fold(residual), fold(log_scale), neighbours(rows)], dim=1))


@torch.no_grad()
def sample_block(
    sampler: Sampler, slices: Tensor, block: Block, seeds: Sequence[int], evaluations: int
) -> tuple[Tensor, list[Tensor]]:
    """Fill the gaps of a block from xz and yz planes: the mean, as it is restored, and textures to be added to it.

    Parameters
    ----------
    slices
        What the block sees, in the filler's units, (L + 1, H, W), any size.
    seeds
        One for each texture.

    Returns
    -------
    What fills the gaps of the block's core, (G, factor − 1, H', W'), and as many textures, of deviation 1.
    """
    factor = sampler.filler.factor
    (first, end), *sides = (
        (a - s, b - s) for (a, b), (s, _) in zip(block.core(factor), block.seen, strict=True)
    )
    end = min(end, len(slices) - 1)  # no gap follows the last slice
    shape = (end - first, factor - 1, *(b - a for a, b in sides))
    textures = [slices.new_zeros(shape) for _ in seeds]
    if end == first:
        return slices.new_zeros(shape), textures
    mean = fill_block(sampler.filler, slices, (slice(*sides[0]), slice(*sides[1])))[0][first:end]
    full = _continued(slices, sampler.filler)
    rows, columns = sampler.flow_reach(evaluations)
    near = [(max(0, first - rows), min(len(full) - 1, end + rows))]
    for (a, b), length in zip(sides, full.shape[1:], strict=True):
        near.append((max(0, a - columns), min(length, -(-b // COLUMNS) * COLUMNS + columns)))
    noises = [sampler.noise_of(seed, block, near).to(slices.device) for seed in seeds]
    for turned in (False, True):
        # planes through the core, from the continued block: (plane, L + 1, along it)
        (across, along), (beside, beyond) = (sides[::-1], near[:0:-1]) if turned else (sides, near[1:])
        planes = full.permute(2, 0, 1) if turned else full.permute(1, 0, 2)
        planes = planes[across[0] : across[1]]
        core = slice(first - near[0][0], end - near[0][0])
        inner = core, slice(None), slice(along[0] - beyond[0], along[1] - beyond[0])
        flown = slice(*near[0]), slice(beyond[0] // COLUMNS, beyond[1] // COLUMNS)
        offset = across[0] - beside[0]
        for part in _groups(len(planes), planes.shape[1] * factor * planes.shape[2]):
            told = tell(sampler.filler, planes[part])
            at = (..., part) if turned else (slice(None), slice(None), part)
            back = (1, 2, 3, 0) if turned else (1, 2, 0, 3)
            for texture, noise in zip(textures, noises, strict=True):
                begun = noise.permute((3, 0, 1, 2) if turned else (2, 0, 1, 3))
                begun = fold(begun[offset + part.start : offset + part.stop])
                found = unfold(follow(sampler.network, begun, told.folded[:, :, *flown], evaluations))
                texture[at] += found[:, *inner].permute(back) / 2
    return mean, textures


def _continued(slices: Tensor, filler: Filler) -> Tensor:
    """Slices continued at their far ends by their mirror image, to sides that the filler takes."""
    down, across = filler.network.strides
    more = -(len(slices) - 1) % down, *(-n % (across * COLUMNS) for n in slices.shape[1:])
    full = mirror(slices, (0, more[0]), (0, more[1]))
    return mirror(full.permute(2, 0, 1), (0, more[2]), (0, 0)).permute(1, 2, 0)


def _groups(number: int, pixels: int) -> Iterator[slice]:
    step = max(1, _PLANE_PIXELS // pixels)
    for first in range(0, number, step):
        yield slice(first, min(first + step, number))


def assemble(slices: Tensor, filled: Tensor, block: Block) -> Tensor:
    """A block's core (Z, H', W') from the slices that it sees and what fills its gaps, (G, factor − 1, H', W')."""
    factor = filled.shape[1] + 1
    z, y, x = (slice(a - s, b - s) for (a, b), (s, _) in zip(block.core(factor), block.seen, strict=True))
    measured = slices[z, y, x]
    out = measured.new_empty((len(filled) * factor + len(measured) - len(filled), *measured.shape[1:]))
    out[::factor] = measured
    if len(filled):
        out[: len(filled) * factor].unflatten(0, (-1, factor))[:, 1:] = filled
    return out
