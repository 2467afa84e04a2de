"""Secondary structure: ideal helices and strands of pseudo-atoms.

Each residue has six: N, CA, C, O, CB and the centroid of the rest of its side chain.
"""

from __future__ import annotations

import numpy as np

ATOMS_PER_RESIDUE = 6
HELIX_RISE_ANGSTROM = 1.5
HELIX_TURN_DEG = 100.0
STRAND_RISE_ANGSTROM = 3.3
RESIDUE_MASS_DA = 110.0
"""Mean mass of a residue in a protein."""

# Radius (Å), phase (deg) and height (Å) from CA in an α-helix, right-handed: S. Arnott & S. D. Dover,
# J. Mol. Biol. 30 (1967) 209; the centroid beyond CB is 5.6 Å from the axis, a mean over residues.
_HELIX = np.array(
    [
        (1.55, -27.9, -0.88),
        (2.29, 0.0, 0.0),
        (1.65, 26.3, 1.05),
        (2.02, 30.3, 2.25),
        (3.30, -19.0, -0.40),
        (5.60, -26.0, -1.30),
    ]
)
# x (Å, along the side chain), y (in the sheet), z from CA in a β-strand; x and y change sign from one
# residue to the next (the pleat).
_STRAND = np.array(
    [
        (-0.45, 0.25, -1.24),
        (0.0, 0.0, 0.0),
        (-0.60, -0.35, 1.20),
        (-0.50, -1.55, 1.40),
        (1.40, 0.60, 0.05),
        (3.00, 0.80, 0.10),
    ]
)
_PLEAT_ANGSTROM = 0.95  # makes neighbouring Cα 3.8 Å apart
ELECTRONS = np.array([8.0, 7.0, 6.0, 8.0, 8.0, 21.0])
"""Electrons of each pseudo-atom with its hydrogens: 58 a residue, the mean of proteins."""


def alpha_helix(n_residues: int) -> np.ndarray:
    """Pseudo-atoms of an ideal α-helix along z, centred: rise 1.5 Å, 100° a residue.

    Returns
    -------
    Positions x, y, z in ångström, shape (n_residues, 6, 3).
    """
    number = np.arange(n_residues)[:, None]
    phase = np.deg2rad(_HELIX[:, 1] + HELIX_TURN_DEG * number)
    z = _HELIX[:, 2] + HELIX_RISE_ANGSTROM * (number - (n_residues - 1) / 2)
    return np.stack([_HELIX[:, 0] * np.cos(phase), _HELIX[:, 0] * np.sin(phase), z], axis=-1)


def beta_strand(n_residues: int) -> np.ndarray:
    """Pseudo-atoms of a β-strand along z, centred, side chains along ±x: rise 3.3 Å.

    Returns
    -------
    Positions x, y, z in ångström, shape (n_residues, 6, 3).
    """
    number = np.arange(n_residues)[:, None]
    sign = 1.0 - 2.0 * (number % 2)
    pleat = _PLEAT_ANGSTROM * sign
    z = _STRAND[:, 2] + STRAND_RISE_ANGSTROM * (number - (n_residues - 1) / 2)
    return np.stack([sign * _STRAND[:, 0] + pleat, sign * _STRAND[:, 1], z], axis=-1)
