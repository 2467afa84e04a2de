"""Errors of poses after the best rotation, shift and hand of the whole set."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from emflow.em.poses import angular_distance_deg, mirror_rotations
from emflow.em.symmetry import symmetry_operators

_HYPOTHESES = 400
_INLIER_DEG = 25.0
_ROUNDS = 5


@dataclass(frozen=True)
class PoseErrors:
    """How far poses are from the truth, once their frame is brought onto the truth's."""

    angle_deg: Tensor
    """(N,), each the angle to the nearest symmetry-equivalent true orientation."""
    shift_angstrom: Tensor
    """(N,), distance in the image plane."""
    rotation: Tensor
    """R of the frame: true A ≈ A′ Rᵀ, A′ the pose or its mirror; (3, 3)."""
    shift: Tensor
    """Where the found map's centre lies in the true frame, (3,), ångström."""
    mirrored: bool


def pose_errors(found: Tensor, truth: Tensor, offsets_angstrom: Tensor, symmetry: str = "C1") -> PoseErrors:
    """Compare poses with the truth.

    Each pair of poses implies a rotation between the two frames; the one that most pairs agree to
    starts a mean over those that agree, for either hand. The shift between the frames is a robust
    least-squares fit: a frame moved by t moves each image by the first two components of A t.

    Parameters
    ----------
    found, truth
        Matrices A of the same particles, r_image = A r, (N, 3, 3), N ≥ 1.
    offsets_angstrom
        Found minus true centre in the image (x, y), (N, 2).
    symmetry
        Point group of the specimen (in the true frame).
    """
    found, truth, offsets = found.double(), truth.double(), offsets_angstrom.double()
    mates = truth[:, None] @ symmetry_operators(symmetry).to(truth)
    fits = [_fit_frame(mirror_rotations(found) if hand else found, truth, mates) for hand in (False, True)]
    mirrored = fits[1][1] > fits[0][1]
    rotation = fits[int(mirrored)][0]
    turned = (mirror_rotations(found) if mirrored else found) @ rotation.T
    angle, nearest = angular_distance_deg(turned[:, None], mates).min(1)
    aligned = mates[torch.arange(len(mates)), nearest]
    shift, rest = _fit_shift(aligned, offsets)
    return PoseErrors(angle, rest, rotation, shift, bool(mirrored))


def _fit_frame(found: Tensor, truth: Tensor, mates: Tensor) -> tuple[Tensor, float]:
    """Rotation R with A ≈ A_found Rᵀ for most, and the support that it has."""
    step = max(1, len(found) // _HYPOTHESES)
    hypotheses = truth[::step].mT @ found[::step]
    support = torch.stack([_agreement(found @ r.T, mates)[0].sum() for r in hypotheses])
    rotation = hypotheses[int(support.argmax())]
    for _ in range(_ROUNDS):
        weight, nearest = _agreement(found @ rotation.T, mates)
        aligned = mates[torch.arange(len(mates)), nearest]
        rotation = _nearest_rotation((weight[:, None, None] * (aligned.mT @ found)).sum(0))
    return rotation, float(_agreement(found @ rotation.T, mates)[0].sum())


def _agreement(turned: Tensor, mates: Tensor) -> tuple[Tensor, Tensor]:
    """Weight of each pose, 1 where it agrees and 0 beyond 25°, and its nearest mate."""
    angle, nearest = angular_distance_deg(turned[:, None], mates).min(1)
    return (1 - (angle / _INLIER_DEG) ** 2).clamp(min=0), nearest


def _nearest_rotation(matrix: Tensor) -> Tensor:
    """Rotation nearest to a matrix (chordal mean; K. S. Arun et al., IEEE PAMI 9 (1987) 698)."""
    u, _, v = torch.linalg.svd(matrix)
    sign = torch.ones(3, dtype=matrix.dtype)
    sign[2] = torch.sign(torch.linalg.det(u @ v))
    return u @ (sign[:, None] * v)


def _fit_shift(rotations: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    """Least-squares t with offset ≈ (A t)_xy over the better half, and the distances left over."""
    rows = rotations[:, :2]
    kept = torch.ones(len(rows), dtype=torch.bool)
    shift, rest = rows.new_zeros(3), offsets.norm(dim=1)
    for _ in range(_ROUNDS):
        shift = torch.linalg.lstsq(
            rows[kept].reshape(-1, 3), offsets[kept].reshape(-1, 1), driver="gelsd"
        ).solution
        rest = (offsets - (rows @ shift)[..., 0]).norm(dim=1)
        kept = rest <= rest.median()
    return shift.flatten(), rest
