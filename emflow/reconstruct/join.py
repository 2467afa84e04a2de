"""Bring first maps, found on their own in the two half-sets, into one frame, and say how far they agree."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from emflow.em.frames import align_frames
from emflow.em.images import ImageSet
from emflow.em.volume_align import Alignment, align_poses
from emflow.reconstruct.agreement import Agreement, compare
from emflow.reconstruct.merge import accumulate

DETAIL_DIAMETERS = 10.0
"""Maps are aligned on detail down to the diameter over this (times the root of the symmetry's order)."""
FEWEST_OF_CLASS = 10
"""Particles of a half-set below which a class has no map."""


@dataclass(frozen=True)
class HalfMap:
    """What one half-set came to."""

    rows: Tensor
    """Rows of the particles, (n,)."""
    rotations: Tensor
    """A, (n, 3, 3), on the CPU."""
    shifts_px: Tensor
    """Shifts that centre the particles, (n, 2), on the CPU."""
    number: Tensor
    """Class of each particle, from 0, (n,), on the CPU."""
    volumes: Tensor
    """The maps that the poses belong to, within the last band and the sphere, (K, b, b, b)."""
    scale: float
    """Pixels of the images per voxel of these maps."""
    band: float
    """What the maps hold ends here, in Fourier pixels of the box."""
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
    """Both halves of a class in half 1's frame."""

    half1: Tensor
    half2: Tensor
    member: Tensor
    """Whether each particle of the table is of this class, (N,)."""
    rotations: Tensor
    """A of the particles in their table's order, (N, 3, 3); those of other classes have theirs by chance."""
    shifts_px: Tensor
    alignment: Alignment
    agreement: Agreement


def join(
    images: ImageSet, found: tuple[HalfMap, HalfMap], diameter_angstrom: float, symmetry: str
) -> list[Joined]:
    """Align half 2's maps to half 1's (rotation, shift, hand), transform its poses alike, reconstruct both.

    Nothing of one half enters the other's map: the alignment moves half 2 as a whole. Classes are matched one to
    one for the greatest sum of correlations. The class of most significant agreement comes first.
    """
    first, second = found
    order = len(first.volumes[0]) // 2 - 3
    detail = DETAIL_DIAMETERS * images.box * images.pixel_size_angstrom / diameter_angstrom
    band = int(max(6, min(24, order, detail, first.band)))
    pairs = [[_align(b, a, symmetry, band) for b in second.volumes] for a in first.volumes]
    score = [[-pair.score for pair in row] for row in pairs]
    matched = zip(*linear_sum_assignment(score), strict=True)
    joined = []
    for a, b in matched:
        alignment = replace(pairs[a][b], shift=pairs[a][b].shift * first.scale)
        joined.append(
            _join(images, (first, second), (int(a), int(b)), alignment, diameter_angstrom, symmetry)
        )
    return sorted(joined, key=lambda one: -one.agreement.significance("aspherical"))


def all_classes(joined: list[Joined]) -> tuple[Tensor, Tensor, Tensor]:
    """Pose of every particle in its own class's frame, and its class from 1: (N, 3, 3), (N, 2) and (N,)."""
    rotations, shifts = torch.empty_like(joined[0].rotations), torch.empty_like(joined[0].shifts_px)
    number = torch.zeros(len(shifts), dtype=torch.long)
    for at, one in enumerate(joined, start=1):
        rotations[one.member], shifts[one.member] = one.rotations[one.member], one.shifts_px[one.member]
        number[one.member] = at
    return rotations, shifts, number


def _align(moving: Tensor, fixed: Tensor, symmetry: str, band: int) -> Alignment:
    if bool(moving.any()) and bool(fixed.any()):
        return align_frames(moving, fixed, symmetry, band)
    return Alignment(torch.eye(3).double(), torch.zeros(3).double(), False, 0.0)


def _join(
    images: ImageSet,
    found: tuple[HalfMap, HalfMap],
    classes: tuple[int, int],
    alignment: Alignment,
    diameter_angstrom: float,
    symmetry: str,
) -> Joined:
    """Reconstruct one class's halves from their own particles."""
    first, second = found
    plane = images.plane(images.box / 2)
    turned, moved = align_poses(second.rotations, second.shifts_px, alignment)
    rotations, shifts = torch.empty(len(images), 3, 3), torch.empty(len(images), 2)
    rotations[first.rows], shifts[first.rows] = first.rotations, first.shifts_px
    rotations[second.rows], shifts[second.rows] = turned.float(), moved.float()
    member = torch.zeros(len(images), dtype=torch.bool)
    halves = []
    for half, number in zip(found, classes, strict=True):
        rows = half.rows[half.number == number]
        member[rows] = True
        if len(rows) < min(FEWEST_OF_CLASS, len(half.rows)):
            halves.append(torch.zeros((images.box,) * 3, device=images.device))
            continue
        sums = accumulate(images, rows, rotations[rows], shifts[rows], half.noise, plane, symmetry)
        halves.append(sums.solve())
    agreement = compare(halves[0], halves[1], images.pixel_size_angstrom, diameter_angstrom, symmetry)
    return Joined(halves[0], halves[1], member, rotations, shifts, alignment, agreement)
