"""Angles and shifts of a particle table: directions of view, and whether the search found its end."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from emflow.em.symmetry import symmetry_operators
from emflow.validate.angles import Views, pool_views, view_directions
from emflow.validate.columns import numbers, shifts_angstrom

_FEW = 20  # particles: with fewer nothing is said about a distribution


def views_of(table: pd.DataFrame, symmetry: str) -> Views | None:
    """Directions of view under the point group; None without angles, or where all particles have the same."""
    rot, tilt = numbers(table, "rlnAngleRot"), numbers(table, "rlnAngleTilt")
    if rot is None or tilt is None:
        return None
    known = np.isfinite(rot) & np.isfinite(tilt)
    rot, tilt = rot[known], tilt[known]
    if not len(rot) or (len(rot) >= _FEW and np.ptp(rot) == 0 and np.ptp(tilt) == 0):
        return None
    directions = view_directions(torch.from_numpy(rot), torch.from_numpy(tilt))
    return pool_views(directions, symmetry_operators(symmetry))


@dataclass(frozen=True)
class Poses:
    """What the angles and shifts look like."""

    broken: np.ndarray
    """Rows with an angle or shift that is no finite number, (n,) bool."""
    equal: bool
    """Whether all particles have the same angles: nobody has aligned them."""
    far: np.ndarray
    """Rows shifted by more than half the diameter, (n,) bool."""
    median_shift_angstrom: float | None
    edge_fraction: float
    """Fraction of the shifts in the outermost twentieth of their range, where it holds more than the tenth within
    (a search that ended at its limit); otherwise 0."""
    in_plane_bias: float | None
    """Largest of |⟨exp(ikψ)⟩|, k = 1, 2, 4: 0 for even in-plane angles, 1 if all are equal. None where the point
    group has axes beside z: which of the symmetry mates was written then decides on ψ."""


def look_at_poses(
    table: pd.DataFrame, optics: pd.DataFrame | None, diameter_angstrom: float, symmetry: str = "C1"
) -> Poses | None:
    """Look at angles and shifts; None without angles."""
    angles = [numbers(table, f"rlnAngle{name}") for name in ("Rot", "Tilt", "Psi")]
    given = [values for values in angles if values is not None]
    if len(given) < 3 or not len(table):
        return None
    broken = np.isnan(np.stack(given)).any(axis=0)
    shifts = shifts_angstrom(table, optics)
    far, median, edge = np.zeros(len(table), dtype=bool), None, 0.0
    if shifts is not None:
        broken = broken | np.isnan(shifts).any(axis=1)
        length = np.linalg.norm(shifts, axis=1)
        far = length > diameter_angstrom / 2
        if np.isfinite(length).any():
            median = float(np.nanmedian(length))
            edge = max(_pile_up(length), _pile_up(np.abs(shifts).max(1)))
    psi = np.deg2rad(given[2][~broken])
    bias = None
    if symmetry.startswith("C") and len(psi):
        bias = max(float(abs(np.exp(1j * k * psi).mean())) for k in (1, 2, 4))
    sound = np.stack(given)[:, ~broken]
    equal = sound.shape[1] >= _FEW and not np.ptp(sound, axis=1).any()
    return Poses(broken, equal, far, median, edge, bias)


def _pile_up(lengths: np.ndarray) -> float:
    """Fraction of lengths in the last twentieth before the largest, if these outnumber the tenth before them."""
    lengths = lengths[np.isfinite(lengths)]
    limit = lengths.max(initial=0.0)
    outer = int((lengths > 0.95 * limit).sum())
    inner = int(((lengths > 0.85 * limit) & (lengths <= 0.95 * limit)).sum())
    # by chance both scatter by their roots
    sure = outer - inner > 4 * np.sqrt(outer + inner)
    return outer / len(lengths) if len(lengths) >= _FEW and limit > 0 and sure else 0.0
