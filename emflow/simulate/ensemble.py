"""What differs from particle to particle: which bodies are there, and how one of them has moved."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from emflow.em.poses import rotation_vector_to_matrix
from emflow.simulate.specimen import Atoms

_SPREAD = 0.25  # deviation of normally distributed angles, in ranges: ±2 deviations fill the range


@dataclass(frozen=True)
class Motion:
    """Rotation of a body about one or two axes through its linker."""

    pivot: np.ndarray
    """Where the axes cross, (3,), ångström."""
    axes: np.ndarray
    """Unit vectors (K, 3)."""
    range_deg: np.ndarray
    """Whole range of each angle, about 0: (K,). 360 is a full turn."""
    normal: bool
    """Angles normally distributed (±2 deviations fill the range), else uniformly."""

    def rotations(self, angles_deg: Tensor) -> Tensor:
        """Matrices of angles (N, K): (N, 3, 3), float64; the last axis acts first."""
        turn = torch.eye(3, dtype=torch.float64).expand(len(angles_deg), 3, 3)
        for axis, angle in zip(torch.from_numpy(self.axes), angles_deg.double().T, strict=True):
            turn = turn @ rotation_vector_to_matrix(torch.deg2rad(angle)[:, None] * axis)
        return turn


@dataclass(frozen=True)
class State:
    """A composition: the body that keeps its place, and the one that moves, by their numbers."""

    fixed: int
    moving: int | None = None


@dataclass(frozen=True)
class Conformations:
    """Each particle's state and angles."""

    state: Tensor
    """(N,), int64; −1 − w for a particle broken in the way w."""
    angle_deg: Tensor
    """(N, K), float64; K is 0 for a rigid specimen."""

    def __len__(self) -> int:
        return len(self.state)

    def __getitem__(self, rows: slice | Tensor) -> Conformations:
        return Conformations(self.state[rows], self.angle_deg[rows])


@dataclass(frozen=True)
class Ensemble:
    """A specimen in all its states."""

    bodies: tuple[Atoms, ...]
    """Rigid bodies in the frame of the reference state (no angle)."""
    states: tuple[State, ...]
    populations: np.ndarray
    """Of the states, (S,), of sum 1."""
    motion: Motion | None = None
    broken: tuple[tuple[int, int], ...] = ()
    """Kind and body of each way of being broken (emflow.simulate.broken)."""
    broken_fraction: float = 0.0

    @staticmethod
    def rigid(atoms: Atoms) -> Ensemble:
        """One state without motion."""
        return Ensemble((atoms,), (State(0),), np.ones(1))

    @property
    def varies(self) -> bool:
        """Whether particles differ."""
        return self.motion is not None or len(self.states) > 1

    def kinds(self, conformations: Conformations) -> Tensor:
        """How each particle is broken, (N,), int64; 0 for whole ones."""
        kinds = torch.tensor([0, *(kind for kind, _ in self.broken)])
        return kinds[(-conformations.state).clamp(min=0)]

    @property
    def n_angles(self) -> int:
        """Angles of the motion: 0, 1 or 2."""
        return 0 if self.motion is None else len(self.motion.axes)

    @property
    def mean_mass_kda(self) -> float:
        """Mass, averaged over the states."""
        masses = [sum(self.bodies[b].mass_kda for b in members(state)) for state in self.states]
        return float(np.dot(masses, self.populations))

    def draw(self, number: int, generator: torch.Generator) -> Conformations:
        """Draw the states and angles of some particles."""
        edges = torch.from_numpy(np.cumsum(self.populations)[:-1])
        state = torch.bucketize(
            torch.rand(number, generator=generator, dtype=torch.float64), edges, right=True
        )
        angle = torch.zeros(number, 0, dtype=torch.float64)
        if self.motion is not None:
            shape = (number, self.n_angles)
            width = torch.from_numpy(self.motion.range_deg)
            if self.motion.normal:
                part = _SPREAD * torch.randn(shape, generator=generator, dtype=torch.float64)
            else:
                part = torch.rand(shape, generator=generator, dtype=torch.float64) - 0.5
            angle = part * width
        if self.broken_fraction > 0:
            falls = torch.rand(number, generator=generator) < self.broken_fraction
            way = torch.randint(len(self.broken), (number,), generator=generator)
            state = torch.where(falls, -1 - way, state)
        return Conformations(state, angle)

    def spread(self, number: int) -> tuple[Conformations, Tensor]:
        """About ``number`` angles evenly spread over the population, for each state; and their weights.

        A normal distribution is met at its quantiles, so that all of a state's points weigh the same.
        """
        angles = torch.zeros(1, 0, dtype=torch.float64)
        if self.motion is not None:
            points = max(1, number if self.n_angles == 1 else round(number**0.5))
            part = (torch.arange(points, dtype=torch.float64) + 0.5) / points
            part = _SPREAD * torch.special.ndtri(part) if self.motion.normal else part - 0.5
            lines = [part * float(width) for width in self.motion.range_deg]
            angles = torch.stack(torch.meshgrid(*lines, indexing="ij"), -1).reshape(-1, self.n_angles)
        count = len(self.states)
        weight = torch.from_numpy(self.populations).repeat_interleave(len(angles)) / len(angles)
        state = torch.arange(count).repeat_interleave(len(angles))
        return Conformations(state, angles.repeat(count, 1)), weight

    def atoms(self, conformation: Conformations) -> Atoms:
        """All atoms of one particle (N = 1)."""
        state = self.states[int(conformation.state[0])]
        parts = [self.bodies[state.fixed]]
        if state.moving is not None and self.motion is not None:
            turn = self.motion.rotations(conformation.angle_deg)[0].numpy()
            shift = self.motion.pivot - turn @ self.motion.pivot
            parts.append(self.bodies[state.moving].moved(turn, shift))
        return Atoms(
            np.concatenate([p.position for p in parts]),
            np.concatenate([p.electrons for p in parts]),
            np.concatenate([p.blur_angstrom for p in parts]),
        )


def members(state: State) -> list[int]:
    """Numbers of a state's bodies."""
    return [state.fixed] if state.moving is None else [state.fixed, state.moving]
