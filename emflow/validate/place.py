"""Put an atomic model into a map as a rigid body: where it stands, near it, or anywhere, in either hand."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from emflow.em.atoms import AtomicModel, atom_density
from emflow.em.fsc import fsc
from emflow.em.poses import angular_distance_deg
from emflow.em.volume_align import Alignment, Match, align_volume
from emflow.validate.model import fit_shell, masked, model_mask

_MOST_BAND = 40
_SOUND = 1.5
"""A placement is sound where the map-model FSC stays above 0.5 to this many times the resolution."""


@dataclass(frozen=True)
class Placement:
    """A model in its place; x_map = rotation · x_file + shift, about the centre n//2."""

    model: AtomicModel
    """The moved model. Where ``mirrored``, its coordinates were inverted through the centre first."""
    rotation: np.ndarray
    shift_angstrom: np.ndarray
    mirrored: bool
    searched: bool
    """Whether the whole map was searched, because the model did not fit where it stood."""
    moved_angstrom: float
    """Root mean square distance that the atoms moved; 0 where the model stays as it stands."""
    band_before: int
    """Shells up to which the map-model FSC stayed above 0.5 as the model stood."""
    band: int
    """The same in its place."""
    band_other_hand: int | None
    """The same for the best place in the other hand; None where it was not searched."""

    @property
    def angle_deg(self) -> float:
        """Angle by which the model was turned."""
        return float(angular_distance_deg(torch.from_numpy(self.rotation), torch.eye(3, dtype=torch.float64)))


def place_model(
    model: AtomicModel, volume: Tensor, mask: Tensor, voxel_size_angstrom: float, resolved_shell: int
) -> Placement:
    """Bring a model to the nearest fit; search the whole map, in both hands, if that is poor.

    Parameters
    ----------
    model
        Positions relative to the centre n//2, ångström.
    volume
        Map (n, n, n), n even.
    mask
        The particle's mask, (n, n, n).
    voxel_size_angstrom
        Voxel size.
    resolved_shell
        Last shell in which the half maps agree; further ones are not compared.

    Returns
    -------
    The placement with the highest FSC 0.5 among: as it stands, refined from there, and, unless one of those
    holds to 1.5 times the resolution, the best of a global search in each hand. A refinement that moves
    the atoms by less than a quarter of a voxel leaves the model as it stands.
    """
    box = volume.shape[-1]
    fixed = (volume * mask).float()
    band = max(4, min(resolved_shell, _MOST_BAND, box // 2 - 2))

    def judged(alignment: Alignment, searched: bool) -> tuple[int, float, Alignment, bool]:
        moved = moved_model(model, alignment, voxel_size_angstrom)
        around = model_mask(moved, box, voxel_size_angstrom)
        curve = fsc(masked(atom_density(moved, box, voxel_size_angstrom), around), masked(volume, around))
        shells = fit_shell(curve) if bool(around.any()) else 0
        return shells, float(curve[1 : max(shells, band) + 1].mean()), alignment, searched

    identity = Alignment(torch.eye(3).double(), torch.zeros(3).double(), False, 0.0)
    stands = judged(identity, False)
    density = atom_density(model, box, voxel_size_angstrom)
    found = [stands]
    other: int | None = None
    if bool(density.any()):
        match = Match(density, fixed, band)
        rotation, shift, hand = torch.eye(3)[None], torch.zeros(1, 3), torch.tensor([False])
        for reach in (min(8, band), min(16, band), band, band):
            rotation, shift = match.refine(rotation, shift, hand, reach, 20)
        near = Alignment(rotation[0].double(), shift[0].double(), False, 0.0)
        if _moved_rms(model, near, voxel_size_angstrom) > 0.25 * voxel_size_angstrom:
            found.append(judged(near, False))
    if max(entry[0] for entry in found) * _SOUND < resolved_shell:
        central, offset = _centred(model)
        density = atom_density(central, box, voxel_size_angstrom)
        both: list[tuple[int, float, Alignment, bool]] = []
        for moving, mirrored, sign in ((density, False, 1.0), (_inverted(density), True, -1.0)):
            one = align_volume(moving, fixed, allow_mirror=False, max_band=band)
            # the model's own centre was brought to the box's first: x' = R(±(x − offset)) + t
            shift_px = one.shift - sign * one.rotation @ torch.from_numpy(offset / voxel_size_angstrom)
            both.append(judged(Alignment(one.rotation, shift_px, mirrored, one.score), True))
        best = max(both, key=lambda entry: entry[:2])
        other = min(both, key=lambda entry: entry[:2])[0]
        found.append(best)
    # only what fits better by a shell, or as far and closer, is preferred to the model as it was given
    best = max(found, key=lambda entry: entry[:2])
    if best[2].mirrored and best[0] * _SOUND < resolved_shell:  # fits nowhere: nothing is said about the hand
        best = max((entry for entry in found if not entry[2].mirrored), key=lambda entry: entry[:2])
    chosen = best[2]
    return Placement(
        moved_model(model, chosen, voxel_size_angstrom),
        chosen.rotation.numpy(),
        chosen.shift.numpy() * voxel_size_angstrom,
        chosen.mirrored,
        best[3],
        _moved_rms(model, chosen, voxel_size_angstrom),
        stands[0],
        best[0],
        other,
    )


def moved_model(model: AtomicModel, alignment: Alignment, voxel_size_angstrom: float) -> AtomicModel:
    """Move a model as :func:`emflow.em.volume_align.align_volume` moves its density."""
    rotation = alignment.rotation.numpy() * (-1.0 if alignment.mirrored else 1.0)
    return model.moved(rotation, alignment.shift.numpy() * voxel_size_angstrom)


def _moved_rms(model: AtomicModel, alignment: Alignment, voxel: float) -> float:
    step = moved_model(model, alignment, voxel).position - model.position
    return math.sqrt(float((step**2).sum(1).mean()))


def _centred(model: AtomicModel) -> tuple[AtomicModel, np.ndarray]:
    offset = (model.position.max(0) + model.position.min(0)) / 2
    return model.moved(np.eye(3), -offset), offset


def _inverted(volume: Tensor) -> Tensor:
    """V(−r) about the centre n//2 of an even box."""
    return torch.roll(volume.flip((0, 1, 2)), (1, 1, 1), (0, 1, 2))
