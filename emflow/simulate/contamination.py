"""What lies on the ice and is no particle: crystals of ice, gold beads."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_CRYSTAL_RADII_ANGSTROM = (80.0, 350.0)
_CRYSTAL_PHASE = (0.08, 0.35)  # radian
_LATTICE_ANGSTROM = (3.9, 3.67, 3.44)  # strongest reflections of hexagonal ice
_LATTICE_PHASE = 0.25  # of the crystal's own
_BEAD_RADII_ANGSTROM = (25.0, 75.0)  # 5–15 nm across
_BEAD_PHASE = 1.5  # radian through the middle of the largest bead
_BEAD_TRANSMISSION = 0.35


@dataclass(frozen=True)
class Contamination:
    """Images of the scene with its margins, (wide, wide)."""

    phase: Tensor
    """Added to the particles' phase, radian."""
    transmission: Tensor
    """Multiplies the mean count."""
    mask: Tensor
    """Boolean."""


def contaminate(
    side: int, pixel: float, crystals: float, beads: float, generator: torch.Generator
) -> Contamination | None:
    """Strew a Poisson number of ice crystals and gold beads; None where both means are 0.

    Parameters
    ----------
    side
        Of the scene, pixels.
    crystals, beads
        Their mean numbers on the scene.
    """
    if crystals == 0 and beads == 0:
        return None
    line = torch.arange(side, dtype=torch.float32) * pixel
    phase, transmission = torch.zeros(side, side), torch.ones(side, side)
    mask = torch.zeros(side, side, dtype=torch.bool)
    means = torch.tensor([crystals, beads], dtype=torch.float32)
    n_crystals, n_beads = torch.poisson(means, generator=generator).long().tolist()
    for number in range(n_crystals + n_beads):
        at = torch.rand(2, generator=generator) * side * pixel
        low, high = _CRYSTAL_RADII_ANGSTROM if number < n_crystals else _BEAD_RADII_ANGSTROM
        radius = low * (high / low) ** float(torch.rand(1, generator=generator))
        # only the square about it is touched
        reach = [((line - at[axis]).abs() < 1.6 * radius + 4 * pixel).nonzero()[:, 0] for axis in (1, 0)]
        rows, columns = (slice(int(r[0]), int(r[-1]) + 1) for r in reach)
        y, x = line[rows, None] - at[1], line[None, columns] - at[0]
        if number < n_crystals:
            own, strength = _crystal(y, x, radius, pixel, generator)
            phase[rows, columns] += strength * own
            transmission[rows, columns] *= 1 - 0.3 * strength.clamp(0, 1)
            mask[rows, columns] |= strength > 0.02
        else:
            depth = (radius**2 - x**2 - y**2).clamp(min=0).sqrt() / _BEAD_RADII_ANGSTROM[1]
            edge = torch.sigmoid((radius - torch.hypot(x, y)) / pixel)
            phase[rows, columns] += _BEAD_PHASE * depth
            transmission[rows, columns] *= 1 - (1 - _BEAD_TRANSMISSION) * edge
            mask[rows, columns] |= torch.hypot(x, y) <= radius + pixel
    return Contamination(phase, transmission, mask)


def _crystal(
    y: Tensor, x: Tensor, radius: float, pixel: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Pattern (1 plus the lattice's waves) and strength (radian) of a faceted crystal about the origin.

    The outline is cut by five to eight lines; the faces slope. Waves finer than Nyquist cannot be seen.
    """
    faces = int(torch.randint(5, 9, (1,), generator=generator))
    turn, jitter = torch.rand(1, generator=generator) * 2 * math.pi, torch.rand(faces, generator=generator)
    outside = torch.full(torch.broadcast_shapes(y.shape, x.shape), -math.inf)
    for number in range(faces):
        angle = turn + 2 * math.pi * (number + 0.5 * float(jitter[number])) / faces
        outside = torch.maximum(outside, x * torch.cos(angle) + y * torch.sin(angle))
    slope = 0.12 * radius + pixel
    low, high = _CRYSTAL_PHASE
    peak = low * (high / low) ** float(torch.rand(1, generator=generator))
    strength = peak * torch.sigmoid((0.8 * radius - outside) / slope)
    strength = strength * torch.sigmoid((1.3 * radius - torch.hypot(x, y)) / slope)
    own = torch.ones_like(strength)
    wave = float(torch.rand(1, generator=generator)) * math.pi
    for number, spacing in enumerate(_LATTICE_ANGSTROM):
        if spacing > 2 * pixel:
            along = wave + number * math.pi / 3
            own = own + _LATTICE_PHASE * torch.cos(
                2 * math.pi / spacing * (x * math.cos(along) + y * math.sin(along))
            )
    return own, strength
