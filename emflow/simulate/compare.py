"""Compare CTFs and maps with the truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from emflow.em.fsc import fsc, resolution_at
from emflow.em.masks import solvent_mask
from emflow.em.volume_align import Alignment, align_volume, apply_alignment

Ctfs = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Defocus U and V in ångström and the angle in degrees, (N,) each."""


def defocus_errors(found: Ctfs, truth: Ctfs) -> tuple[np.ndarray, np.ndarray]:
    """Errors of the mean defocus and of the astigmatism, in ångström, (N,) each.

    Astigmatism is the vector (U − V)·(cos 2α, sin 2α), so that its direction counts as much as its size.
    """

    def astigmatism(ctf: Ctfs) -> np.ndarray:
        return (ctf[0] - ctf[1]) * np.exp(2j * np.deg2rad(ctf[2]))

    mean = np.abs(0.5 * (found[0] + found[1]) - 0.5 * (truth[0] + truth[1]))
    return mean, np.abs(astigmatism(found) - astigmatism(truth))


@dataclass(frozen=True)
class MapAgreement:
    """How far a map agrees with the truth, after the best rotation, shift and hand."""

    fsc05_angstrom: float | None
    """Resolution where the FSC to the truth falls below 0.5 (interpolated); None where it never rises."""
    fsc0143_angstrom: float | None
    mirrored: bool


NO_AGREEMENT = MapAgreement(None, None, False)
"""Where there is no map, or nothing in it."""


def compare_map(
    volume: Tensor,
    truth: Tensor,
    voxel_angstrom: float,
    *,
    symmetry: str = "C1",
    starts: Sequence[Alignment] = (),
    in_place: bool = False,
) -> MapAgreement:
    """Align a map to the truth and measure to which resolution they agree.

    Both maps are multiplied by one soft mask, made from the truth at 15 Å, so that noise in the solvent
    does not count.

    Parameters
    ----------
    volume, truth
        Maps (n, n, n) on one grid.
    starts
        Alignments to try beside a global search, such as that of the poses.
    in_place
        The map stands where the truth does, since it was made from true poses: nothing is aligned.
    """
    n = volume.shape[-1]
    if not bool((volume - volume.mean()).abs().max() > 0):
        return NO_AGREEMENT
    mirrored = False
    if not in_place:
        found = align_volume(volume, truth, symmetry=symmetry, starts=starts)
        volume, mirrored = apply_alignment(volume, found), found.mirrored
    mask = solvent_mask(truth, voxel_angstrom).mask
    curve = fsc(volume * mask, truth * mask)

    def at(threshold: float) -> float | None:
        return resolution_at(curve, threshold, n, voxel_angstrom, interpolate=True)

    return MapAgreement(at(0.5), at(0.143), mirrored)
