"""Which point group a map found without symmetry has, and where its axes lie.

Of each group, frames (a rotation F and a centre c) are scored by how well half 1's map agrees with itself turned by
the group's members F·g·Fᵀ about c; the best are refined by gradient. They are judged on the other half: the
correlation of half 1, turned, with half 2, over that of half 1, unturned, with half 2. Noise is the same for both, so
the ratio is 1 for a true symmetry whatever the resolution, and small for none. The spherical part, which has every
symmetry, is taken away first.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from scipy.spatial import cKDTree
from torch import Tensor

from emflow.device import generator
from emflow.em.fourier import resample
from emflow.em.grids import orientation_grid
from emflow.em.masks import soft_sphere, spherical_part
from emflow.em.poses import matrix_to_quaternion, quaternion_to_matrix, rotation_vector_to_matrix
from emflow.em.symmetry import symmetry_operators
from emflow.em.volume_align import Alignment, Match

GROUPS = ("C2", "C3", "C4", "C5", "C6", "C7", "C8", "D2", "D3", "D4", "D5", "D6", "D7", "D8", "T", "O", "I")
HOLDS_MEAN, HOLDS_LEAST = 0.8, 0.6
"""Mean and least ratio over a group's members from which the group is said to hold."""
_SPACING_DEG = 5.0
_LOW_BAND = 7
_CANDIDATES = 6
_STEPS = 25
_RANDOM_FRAMES = 24


@dataclass(frozen=True)
class Scored:
    """A point group at its best frame."""

    symmetry: str
    order: int
    ratio: float
    """Mean over the members of the correlation across halves, over that without turning."""
    least: float
    """Of the worst member."""
    random_ratio: float
    """Mean ratio of the group at random frames."""
    random_deviation: float
    """Its standard deviation from frame to frame."""
    frame: Alignment
    """Brings the map into the group's frame (axes as in ``em.symmetry``)."""

    @property
    def holds(self) -> bool:
        """Whether the map has this symmetry."""
        return self.ratio >= HOLDS_MEAN and self.least >= HOLDS_LEAST


def search_symmetry(half1: Tensor, half2: Tensor, radius_px: float, band: int, seed: int = 0) -> list[Scored]:
    """Score point groups on half maps found without symmetry.

    Parameters
    ----------
    half1, half2
        Half maps (n, n, n) in one frame, n even.
    radius_px
        Of the particle, in voxels.
    band
        Shell to which the halves agree, in Fourier pixels of the box.
    seed
        Of the random frames.

    Returns
    -------
    All groups: those that hold first, by falling order; then the others, by falling ratio.

    Raises
    ------
    ValueError
        If one of the maps is empty.
    """
    n = half1.shape[-1]
    band = max(4, min(band, n // 2 - 6))
    small = min(n, 2 * (band + 4))
    mask = soft_sphere(n, 1.1 * radius_px, max(3.0, radius_px / 6), device=half1.device)
    bare = [resample((half - spherical_part(half)) * mask, 1.0, small, n / small) for half in (half1, half2)]
    alone, across = Match(bare[0], bare[0], band), Match(bare[0], bare[1], band)
    unturned = max(float(_correlations(across, torch.eye(3)[None], torch.zeros(3), band)), 1e-3)
    axes, table = _axis_table(alone)
    scored = []
    for symmetry in GROUPS:
        members = _members(symmetry)
        frame, centre = _best_frame(alone, symmetry, members, cKDTree(axes.numpy()), table)
        turned = frame @ members @ frame.T
        ratios = _correlations(across, turned, centre, band) / unturned
        random = generator(seed, GROUPS.index(symmetry))
        q = torch.randn(_RANDOM_FRAMES, 4, generator=random)
        anywhere = quaternion_to_matrix(q / q.norm(dim=1, keepdim=True))
        null = torch.stack(
            [_correlations(across, f @ members @ f.T, centre, band).mean() / unturned for f in anywhere]
        )
        back = frame.T.double()
        alignment = Alignment(back, -(back @ centre.double()) * (n / small), False, float(ratios.mean()))
        scored.append(
            Scored(
                symmetry,
                len(symmetry_operators(symmetry)),
                float(ratios.mean()),
                float(ratios.min()),
                float(null.mean()),
                float(null.std()),
                alignment,
            )
        )
    return sorted(scored, key=lambda one: (not one.holds, -one.order if one.holds else 0, -one.ratio))


def _members(symmetry: str) -> Tensor:
    """A group's rotations by a whole fraction of a turn, one of each with its inverse: (G, 3, 3)."""
    kept: list[Tensor] = []
    for member in symmetry_operators(symmetry)[1:].float():
        turn = 2 * math.pi / float(_angle(member))
        if abs(turn - round(turn)) < 1e-3 and not any(torch.allclose(member.T, k, atol=1e-5) for k in kept):
            kept.append(member)
    return torch.stack(kept)


def _angle(rotation: Tensor) -> Tensor:
    return torch.arccos(((rotation.diagonal(dim1=-2, dim2=-1).sum(-1) - 1) / 2).clamp(-1, 1))


def _correlations(match: Match, turns: Tensor, centre: Tensor, band: int) -> Tensor:
    """Correlation within a band under each turn (G, 3, 3) about a centre."""
    shifts = centre - turns @ centre
    hand = torch.zeros(len(turns), dtype=torch.bool)
    return match.scores(turns, shifts, hand, band)


def _axis_table(match: Match) -> tuple[Tensor, dict[int, Tensor]]:
    """Self-correlation for axes over the sphere, (X, 3), and the turns 1/2 to 1/8: (X,) each."""
    count = math.ceil(4 * math.pi / math.radians(_SPACING_DEG) ** 2 / 2)
    i = torch.arange(count) + 0.5
    z, angle = 1 - i / count, math.pi * (1 + 5**0.5) * i  # a spiral over half of the sphere
    flat = (1 - z * z).sqrt()
    axes = torch.stack([flat * angle.cos(), flat * angle.sin(), z], 1)
    band = min(_LOW_BAND, match.band)
    table = {}
    for fold in range(2, 9):
        turns = rotation_vector_to_matrix(axes * (2 * math.pi / fold))
        parts = [_correlations(match, part, torch.zeros(3), band) for part in turns.split(256)]
        table[fold] = torch.cat(parts).repeat(2)
    return torch.cat([axes, -axes]), table


def _best_frame(
    match: Match, symmetry: str, members: Tensor, near: cKDTree, table: dict[int, Tensor]
) -> tuple[Tensor, Tensor]:
    """Frame and centre at which a map agrees best with itself turned by a group."""
    frames = orientation_grid(_SPACING_DEG, symmetry)
    score = torch.zeros(len(frames))
    for member, quaternion in zip(members, matrix_to_quaternion(members), strict=True):
        fold = round(2 * math.pi / float(_angle(member)))
        axis = quaternion[1:] * torch.where(quaternion[0] < 0, -1.0, 1.0)
        at = near.query((frames @ (axis / axis.norm())).numpy())[1]
        score += table[fold][torch.from_numpy(at)]
    frames = frames[score.topk(min(_CANDIDATES, len(frames))).indices]
    centres = torch.zeros(len(frames), 3)
    for band in (min(_LOW_BAND, match.band), match.band):
        frames, centres = _refine(match, frames, centres, members, band)
    score = torch.stack(
        [
            _correlations(match, f @ members @ f.T, c, match.band).mean()
            for f, c in zip(frames, centres, strict=True)
        ]
    )
    best = int(score.argmax())
    return frames[best], centres[best]


def _refine(
    match: Match, frames: Tensor, centres: Tensor, members: Tensor, band: int
) -> tuple[Tensor, Tensor]:
    """Climb each frame's self-correlation by Adam, all frames at once."""
    unit_angle, unit_shift = 1.5 / band, match.box / (2 * math.pi * band)
    turn, move = torch.zeros_like(centres), torch.zeros_like(centres)
    turn.requires_grad_(True)
    move.requires_grad_(True)
    optimiser = torch.optim.Adam([turn, move], lr=0.2, betas=(0.7, 0.95))
    # many members say the same thing twice: a few are enough for the gradient
    few = members[torch.linspace(0, len(members) - 1, min(len(members), 8)).long()]
    hand = torch.zeros(len(frames) * len(few), dtype=torch.bool)

    def placed() -> tuple[Tensor, Tensor]:
        return rotation_vector_to_matrix(turn * unit_angle) @ frames, centres + move * unit_shift

    for step in range(_STEPS):
        for group in optimiser.param_groups:
            group["lr"] = 0.2 * 0.02 ** (step / _STEPS)
        optimiser.zero_grad()
        frame, centre = placed()
        turns = frame[:, None] @ few @ frame[:, None].transpose(2, 3)
        shifts = centre[:, None] - (turns @ centre[:, None, :, None])[..., 0]
        score = match.scores(turns.reshape(-1, 3, 3), shifts.reshape(-1, 3), hand, band)
        (-score.sum()).backward()
        optimiser.step()
    with torch.no_grad():
        return placed()
