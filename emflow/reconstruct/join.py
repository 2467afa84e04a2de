"""Bring first maps, found on their own in the two half-sets, into one frame, and say how far they agree."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from emflow.em.frames import align_frames
from emflow.em.images import ImageSet
from emflow.em.volume_align import Alignment, align_poses
from emflow.reconstruct.agreement import SAME_HALVES, Agreement, compare
from emflow.reconstruct.merge import accumulate

DETAIL_DIAMETERS = 10.0
"""Maps are aligned on detail down to the diameter over this (times the root of the symmetry's order)."""


@dataclass(frozen=True)
class HalfMap:
    """What one half-set came to."""

    rows: Tensor
    """Rows of the particles, (n,)."""
    rotations: Tensor
    """A, (n, 3, 3), on the CPU."""
    shifts_px: Tensor
    """Shifts that centre the particles, (n, 2), on the CPU."""
    volume: Tensor
    """The map that the poses belong to, within the last band and the sphere, (b, b, b)."""
    scale: float
    """Pixels of the images per voxel of this map."""
    band: float
    """What the map holds ends here, in Fourier pixels of the box."""
    noise: Tensor
    """Noise spectra (G, S) to Nyquist."""
    evidence: list[float]
    """Log-likelihood per particle of each start in the lowest band."""
    finalists: list[float]
    """Log-likelihood per particle of the starts that went on, in the first band."""
    likeness: list[float]
    """Likeness of the other finalists' maps to the chosen one's."""
    chosen: int
    """Number of the chosen start, from 0."""
    trace: list[float]
    """Log-likelihood per particle along the chosen start's iterations."""


@dataclass(frozen=True)
class Joined:
    """Both halves in half 1's frame."""

    half1: Tensor
    half2: Tensor
    rotations: Tensor
    """A of all particles in their table's order, (N, 3, 3)."""
    shifts_px: Tensor
    alignment: Alignment
    agreement: Agreement

    @property
    def same(self) -> bool:
        """Whether the maps agree beyond chance and are alike as a whole."""
        return self.agreement.found and self.alignment.score >= SAME_HALVES


def join(images: ImageSet, found: tuple[HalfMap, HalfMap], diameter_angstrom: float, symmetry: str) -> Joined:
    """Align half 2's map to half 1's (rotation, shift, hand), transform its poses alike, reconstruct both.

    Nothing of one half enters the other's map: the alignment moves half 2 as a whole.
    """
    first, second = found
    plane = images.plane(images.box / 2)
    order = len(first.volume) // 2 - 3
    detail = DETAIL_DIAMETERS * images.box * images.pixel_size_angstrom / diameter_angstrom
    band = int(max(6, min(24, order, detail, first.band)))
    if bool(first.volume.any()) and bool(second.volume.any()):
        alignment = align_frames(second.volume, first.volume, symmetry, band)
        alignment = replace(alignment, shift=alignment.shift * first.scale)
    else:
        alignment = Alignment(torch.eye(3).double(), torch.zeros(3).double(), False, 0.0)
    turned, moved = align_poses(second.rotations, second.shifts_px, alignment)
    rotations, shifts = torch.empty(len(images), 3, 3), torch.empty(len(images), 2)
    rotations[first.rows], shifts[first.rows] = first.rotations, first.shifts_px
    rotations[second.rows], shifts[second.rows] = turned.float(), moved.float()
    halves = [
        accumulate(
            images,
            half.rows,
            rotations[half.rows],
            shifts[half.rows],
            half.noise,
            plane,
            symmetry,
        ).solve()
        for half in found
    ]
    agreement = compare(halves[0], halves[1], images.pixel_size_angstrom, diameter_angstrom, symmetry)
    return Joined(halves[0], halves[1], rotations, shifts, alignment, agreement)
