"""Bring two independently found maps into one frame, whatever their symmetry.

Without symmetry the frame is any rotation and shift; a point group leaves only what maps its axes onto
themselves (a turn and a shift along z for Cn, a few rotations for the others). The hand is open in both.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from emflow.em.fourier import resample
from emflow.em.poses import rotation_vector_to_matrix
from emflow.em.symmetry import frame_choices
from emflow.em.volume_align import Alignment, Match, align_volume, apply_alignment

_BATCH = 256
_RATES = (0.25, 0.25, 0.05)
"""Longest steps of three climbs to a drift, one after the other: without the last rounding shows in hundredths of a
degree."""
_AWAY = (0.61, -0.38, 0.93)
"""A rotation vector (radian) like no other."""


def align_frames(moving: Tensor, fixed: Tensor, symmetry: str = "C1", max_band: int = 24) -> Alignment:
    """Find the rotation, shift and hand that bring a map onto another one of the same point group.

    Parameters
    ----------
    moving, fixed
        Maps (n, n, n), found independently, both symmetric about RELION's axes.
    symmetry
        Their point group.
    max_band
        Highest shell that is compared, in Fourier pixels of the box.

    Returns
    -------
    Alignment for ``volume_align.apply_alignment`` and ``align_poses``; it keeps the axes where they are.

    Raises
    ------
    ValueError
        If the boxes differ, are no even cubes, or one of the maps is empty.
    """
    band = min(max_band, fixed.shape[-1] // 2 - 2)
    choices = frame_choices(symmetry, math.degrees(1.0 / band))
    if choices is None:
        return align_volume(moving, fixed, symmetry=symmetry, max_band=band)
    match = Match(moving, fixed, band)
    along = _shifts_along_z(symmetry, fixed.shape[-1], band)
    best: tuple[float, Tensor, Tensor, bool] | None = None
    for hand in (False, True):
        score, rotation, shift = _best(match, choices.to(fixed), along.to(fixed), hand)
        if best is None or score > best[0]:
            best = (score, rotation, shift, hand)
    assert best is not None
    return Alignment(best[1].double().cpu(), best[2].double().cpu(), best[3], round(best[0], 6))


def _shifts_along_z(symmetry: str, box: int, band: int) -> Tensor:
    """Shifts (x, y, z) that a group leaves free: along z for Cn, else none."""
    if not symmetry.startswith("C"):
        return torch.zeros(1, 3)
    step = box / (4 * band)
    reach = math.ceil(0.15 * box / step)
    z = torch.arange(-reach, reach + 1) * step
    return torch.stack([torch.zeros_like(z), torch.zeros_like(z), z], 1)


def _best(match: Match, rotations: Tensor, shifts: Tensor, hand: bool) -> tuple[float, Tensor, Tensor]:
    """Best of all pairs of a rotation and a shift."""
    pairs = torch.cartesian_prod(torch.arange(len(rotations)), torch.arange(len(shifts))).view(-1, 2)
    score = torch.cat(
        [
            match.scores(
                rotations[part[:, 0]],
                shifts[part[:, 1]],
                torch.full((len(part),), hand, device=rotations.device),
                match.band,
            )
            for part in pairs.split(_BATCH)
        ]
    )
    at = int(score.argmax())
    return float(score[at]), rotations[pairs[at, 0]], shifts[pairs[at, 1]]


def align_nearby(moving: Tensor, fixed: Tensor, symmetry: str = "C1", max_band: int = 24) -> Alignment | None:
    """Mend a small drift of one map's frame against the other's, in what the symmetry leaves free.

    Returns
    -------
    Alignment near the identity; None where the axes leave no freedom (Dn, T, O, I), or a map is empty.
    """
    if not symmetry.startswith("C") or not (bool(moving.any()) and bool(fixed.any())):
        return None
    n = fixed.shape[-1]
    band = min(max_band, n // 2 - 6)
    small = 2 * (band + 4)
    moving, fixed = (resample(volume, 1.0, small, n / small) for volume in (moving, fixed))
    # Trilinear samples agree best where grid points fall on grid points, which would hide a small drift:
    # the fixed map is turned away first, so that the moving one is sampled between its points.
    away = rotation_vector_to_matrix(torch.tensor(_AWAY, dtype=torch.float64))
    turned = apply_alignment(fixed, Alignment(away, torch.zeros(3).double(), False, 1.0))
    match = Match(moving, turned, band)
    hand = torch.zeros(1, dtype=torch.bool, device=fixed.device)
    rotation, shift = away.to(fixed)[None], torch.zeros(1, 3, device=fixed.device)
    for rate in _RATES:
        rotation, shift = match.refine(rotation, shift, hand, band, 20, rate)
    score = float(match.scores(rotation, shift, hand, band))
    drift = away.T @ rotation[0].double().cpu()
    move = away.T @ shift[0].double().cpu() * (n / small)
    if symmetry != "C1":
        angle = torch.atan2(drift[1, 0] - drift[0, 1], drift[0, 0] + drift[1, 1])
        drift = rotation_vector_to_matrix(torch.stack([angle * 0, angle * 0, angle]))
        move = move * torch.tensor([0.0, 0.0, 1.0])
    return Alignment(drift, move, False, round(score, 6))
