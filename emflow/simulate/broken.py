"""Broken particles: with half of their atoms, or denatured."""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

from emflow.simulate.specimen import Atoms

VARIANTS = 3
"""Of each kind."""
HALF, DENATURED = 1, 2
"""Kinds, as emflowBroken tells them."""
_COIL_ANGSTROM = 14.0  # deviation of what denatures
_WAVES = 60
_WAVE_ANGSTROM = 45.0  # mean length of the waves that bend the chain


def break_particles(atoms: Atoms, seed: int) -> list[tuple[int, Atoms]]:
    """Variants of a specimen that fell apart: their kind and atoms, all within its own radius.

    A half is what lies on one side of a random plane near the centre. Denatured is the whole, moved by a
    smooth random field of 14 Å, so that neither domains nor helices are left.
    """
    rng = np.random.default_rng([seed, 17])
    radius = np.linalg.norm(atoms.position, axis=1).max()
    found: list[tuple[int, Atoms]] = []
    for _ in range(VARIANTS):
        normal = Rotation.random(rng=rng).as_matrix()[0]
        along = atoms.position @ normal
        found.append((HALF, atoms.taken(along > np.quantile(along, rng.uniform(0.4, 0.6)))))
    for _ in range(VARIANTS):
        wave = rng.normal(0, 2 * np.pi / _WAVE_ANGSTROM, (_WAVES, 3))
        strength = rng.normal(0, 1, (_WAVES, 3)) * np.sqrt(2 / _WAVES)
        field = np.cos(atoms.position @ wave.T + rng.uniform(0, 2 * np.pi, _WAVES)) @ strength
        position = atoms.position + _COIL_ANGSTROM * field
        length = np.linalg.norm(position, axis=1, keepdims=True).clip(1e-9)
        position = position * np.minimum(1.0, radius / length)
        found.append((DENATURED, Atoms(position, atoms.electrons, atoms.blur_angstrom)))
    return found
