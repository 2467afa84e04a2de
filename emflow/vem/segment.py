"""Membranes and segments of one block of a volume."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from emflow.nn.tiles import mirror
from emflow.step import EmflowError
from emflow.vem.config import VemSegment
from emflow.vem.membrane import MembraneNetwork
from emflow.vem.stitch import Array, Block, Box, linked_slices, links, region
from emflow.vem.watershed import Cut, segments

CUBIC = 1.5
"""Voxels whose sides differ by no more than this are nearly cubes."""
_FAMILIES = ((0, 1, 2), (1, 0, 2), (2, 0, 1))
"""Axes in the order in which xy, xz and yz planes are stacked."""


@dataclass(frozen=True)
class Intensities:
    """A volume that is read box by box, in its own units, with what brings it to the network's."""

    read: Callable[[Box], torch.Tensor]
    shape: tuple[int, int, int]
    mean: float
    deviation: float


def mode_of(cfg: VemSegment, voxel_nm: tuple[float, float, float]) -> str:
    """slices, linked or volume.

    Raises
    ------
    EmflowError
        If a volume's watershed is asked for and its voxels are no cubes.
    """
    cubic = max(voxel_nm) <= CUBIC * min(voxel_nm)
    if cfg.mode == "volume" and not cubic:
        z, y, x = voxel_nm
        raise EmflowError(
            f"mode: volume needs voxels that are nearly cubes; these are {z:g} × {y:g} × {x:g} nm. Restore the volume "
            "before (emflow vem restore), or take linked."
        )
    return ("volume" if cubic else "linked") if cfg.mode == "auto" else cfg.mode


def block_probability(
    volume: Intensities, block: Block, network: MembraneNetwork, every_plane: bool
) -> torch.Tensor:
    """Membrane probability of a block's core, the same as in the whole volume but for rounding.

    Parameters
    ----------
    every_plane
        Take the mean of what xy, xz and yz planes say; else xy planes alone.
    """
    margin, stride = network.network.margin, network.network.stride
    families = _FAMILIES if every_plane else _FAMILIES[:1]
    total = torch.zeros([end - first for first, end in block.core])
    for axes in families:
        wanted = [
            (first, end) if axis == axes[0] else (first - margin, end + margin + -(end - first) % stride)
            for axis, (first, end) in enumerate(block.core)
        ]
        seen = [(max(0, a), min(length, b)) for (a, b), length in zip(wanted, volume.shape, strict=True)]
        planes = (volume.read((seen[0], seen[1], seen[2])) - volume.mean) / volume.deviation
        planes = planes.permute(axes)
        more = [(seen[a][0] - wanted[a][0], wanted[a][1] - seen[a][1]) for a in axes[1:]]
        found = torch.cat([_one_plane(network, plane, more) for plane in planes])
        sides = [block.core[a][1] - block.core[a][0] for a in axes[1:]]
        inner = found[:, margin : margin + sides[0], margin : margin + sides[1]]
        total += inner.permute([axes.index(a) for a in range(3)]).cpu()
    return total / len(families)


def _one_plane(network: MembraneNetwork, plane: torch.Tensor, more: list[tuple[int, int]]) -> torch.Tensor:
    return network.probability(mirror(plane, more[0], more[1])[None])


@dataclass(frozen=True)
class Found:
    """What the watershed of a block found."""

    labels: Array
    """Of its core, provisional: from the volume's count so far on."""
    number: int
    links: Array
    """Pairs of provisional labels, of this and of earlier blocks, that are one segment."""


def block_segments(
    probability: Array, earlier: Array, boxes: tuple[Box, Box], base: int, how: tuple[str, Cut, VemSegment]
) -> Found:
    """Divide a block into segments, and say which of them go on in blocks that were done before.

    Parameters
    ----------
    probability, earlier
        Of what the block sees: membrane probability, and the provisional labels of earlier blocks, 0 elsewhere.
    boxes
        The block's core, and what it sees.
    base
        Labels that earlier blocks have taken.
    how
        Mode, where to cut, settings.
    """
    mode, cut, cfg = how
    core, seen = boxes
    inner = region(core, seen)
    if mode == "volume":
        labels = segments(probability, cut, cfg.least_pixels).astype(np.int64)
    else:
        # what is seen below the core is a slice of an earlier block, whose labels are known
        labels, top = np.zeros(probability.shape, np.int64), 0
        for z in range(inner[0].start, inner[0].stop):
            labels[z] = segments(probability[z], cut, cfg.least_pixels) + top
            top = int(labels[z].max())
    own = np.unique(labels[inner])
    table = np.zeros(int(labels.max()) + 1, np.int64)
    table[own] = base + 1 + np.arange(len(own))
    labels = table[labels]
    known = (earlier != 0) & (labels != 0)
    pairs = [links(earlier[known], labels[known], cfg.overlap)]
    if mode == "linked":
        stack = labels[inner]
        if core[0][0] > seen[0][0]:
            below = earlier[inner[0].start - 1, inner[1], inner[2]]
            stack = np.concatenate([below[None], stack])
        pairs.append(linked_slices(stack, cfg.overlap))
    return Found(labels[inner], len(own), np.concatenate(pairs))


def halo_of(mode: str, cfg: VemSegment) -> tuple[int, int, int]:
    """What the watershed of a block sees beyond it along z, y, x."""
    return {"slices": 0, "linked": 1, "volume": cfg.halo_px}[mode], cfg.halo_px, cfg.halo_px


def earlier_part(labels: Array, core: Box, seen: Box) -> Array:
    """Provisional labels of what a block sees, 0 where a block that comes later may have left some of a killed run."""
    (z, z_end), (y, y_end), (x, _) = core
    at = [np.arange(first, end) for first, end in seen]
    rows = (at[1] < y)[:, None] | ((at[1] < y_end)[:, None] & (at[2] < x)[None])
    inside = (at[0] < z_end)[:, None, None] & rows[None]
    return np.where((at[0] < z)[:, None, None] | inside, labels, 0).astype(np.int64)
