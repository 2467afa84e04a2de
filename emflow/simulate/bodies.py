"""Volumes of a specimen's rigid bodies; projections and volumes of any conformation made from them.

A body that turns by R about a pivot p is seen, at pose A, as the body in its own frame at pose A·R, shifted
by the first two components of A·(R(c − p) + p), c its centre. So no volume is made per conformation, and
what is projected is exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from emflow.em.volume_align import Alignment, apply_alignment
from emflow.simulate.density import potential
from emflow.simulate.ensemble import Conformations, Ensemble, Motion, State, members
from emflow.simulate.project import Projector


@dataclass(frozen=True)
class BodyVolumes:
    """Volumes of rigid bodies, from which that of any conformation is put together."""

    volumes: list[Tensor]
    """(n, n, n) each, about the body's own centre if it moves."""
    centres_angstrom: Tensor
    """Where that centre lies in the reference state, (B, 3), float64."""
    states: tuple[State, ...]
    motion: Motion | None
    voxel_angstrom: float

    def placement(self, body: int, motion: Motion, angles_deg: Tensor) -> tuple[Tensor, Tensor]:
        """Rotation (N, 3, 3) of a moving body about its centre and where that lies (N, 3), ångström."""
        turn, pivot = motion.rotations(angles_deg), torch.from_numpy(motion.pivot)
        return turn, (turn @ (self.centres_angstrom[body] - pivot)[:, None])[..., 0] + pivot

    def volume(self, state: int, angle_deg: Tensor) -> Tensor:
        """Volume (n, n, n) of a state at its angles (K,), volt; turned and shifted in Fourier space."""
        bodies = self.states[state]
        whole = self.volumes[bodies.fixed]
        if bodies.moving is None or self.motion is None:
            return whole
        turn, offset = self.placement(bodies.moving, self.motion, angle_deg[None])
        placed = Alignment(turn[0], offset[0] / self.voxel_angstrom, False, 0.0)
        return whole + apply_alignment(self.volumes[bodies.moving], placed)


class Bodies:
    """An ensemble's bodies, ready to be projected."""

    def __init__(
        self,
        ensemble: Ensemble,
        box: int,
        pixel_size_angstrom: float,
        b_factor_angstrom2: float,
        device: torch.device,
    ) -> None:
        self.ensemble, self.box, self.pixel_size_angstrom = ensemble, box, pixel_size_angstrom
        moving = {state.moving for state in ensemble.states}
        centres = torch.zeros(len(ensemble.bodies), 3, dtype=torch.float64)
        volumes: list[Tensor] = []
        for number, atoms in enumerate(ensemble.bodies):
            if number in moving:
                centres[number] = torch.from_numpy(atoms.centre)
                atoms = atoms.centred()
            volumes.append(potential(atoms, box, pixel_size_angstrom, b_factor_angstrom2))
        self.parts = BodyVolumes(volumes, centres, ensemble.states, ensemble.motion, pixel_size_angstrom)
        self._projectors = [Projector(volume.to(device), pixel_size_angstrom) for volume in volumes]

    def project(self, rotations: Tensor, shifts_px: Tensor, conformations: Conformations) -> Tensor:
        """Project each particle in its conformation.

        Parameters
        ----------
        rotations, shifts_px
            As :class:`emflow.simulate.project.Projector` takes them, (N, 3, 3) and (N, 2).
        conformations
            Of the N particles.

        Returns
        -------
        (N, box, box), volt times ångström.
        """
        images = rotations.new_zeros(len(rotations), self.box, self.box)
        motion = self.ensemble.motion
        broken = {-1 - way: State(body) for way, (_, body) in enumerate(self.ensemble.broken)}
        for number, state in (dict(enumerate(self.ensemble.states)) | broken).items():
            rows = (conformations.state == number).nonzero()[:, 0]
            if not len(rows):
                continue
            a, shift = rotations[rows.to(rotations.device)], shifts_px[rows.to(rotations.device)]
            part = self._projectors[state.fixed](a, shift)
            if state.moving is not None and motion is not None:
                turn, offset = self.parts.placement(state.moving, motion, conformations.angle_deg[rows])
                turn, offset = turn.to(a), offset.to(a) / self.pixel_size_angstrom
                seen = (a @ offset[..., None])[:, :2, 0]
                part += self._projectors[state.moving](a @ turn, shift + seen)
            images[rows.to(images.device)] = part
        return images

    def volume(self, conformation: Conformations) -> Tensor:
        """Volume (box, box, box) of one conformation (N = 1), volt."""
        return self.parts.volume(int(conformation.state[0]), conformation.angle_deg[0])

    def describe(self) -> dict[str, Any]:
        """The variation in plain numbers: what :meth:`volume` needs beside the bodies' volumes."""
        motion = self.ensemble.motion
        return {
            "states": [
                {"bodies": members(state), "population": float(p)}
                for state, p in zip(self.ensemble.states, self.ensemble.populations, strict=True)
            ],
            "centres_angstrom": self.parts.centres_angstrom.tolist(),
            "motion": None
            if motion is None
            else {
                "pivot_angstrom": motion.pivot.tolist(),
                "axes": motion.axes.tolist(),
                "range_deg": motion.range_deg.tolist(),
                "distribution": "normal" if motion.normal else "uniform",
            },
        }

    def mean(self, number: int = 24) -> Tensor:
        """Volume averaged over the population, from about ``number`` angles of each state."""
        if not self.ensemble.varies:
            return self.parts.volumes[0]
        conformations, weight = self.ensemble.spread(number)
        mean = torch.zeros_like(self.parts.volumes[0])
        for row, w in enumerate(weight.tolist()):
            mean += w * self.volume(conformations[row : row + 1])
        return mean
