"""Atomic models: PDB or mmCIF, plain or gzipped."""

from __future__ import annotations

import os
from pathlib import Path

import gemmi
import numpy as np

from emflow.step import EmflowError


def read_atoms(path: str | os.PathLike[str]) -> tuple[np.ndarray, np.ndarray]:
    """Read the first model's atoms, without hydrogens and waters.

    Returns
    -------
    positions (N, 3) as x, y, z in ångström, and electrons (N,): atomic number times occupancy, with the
    hydrogens that a protein's atom of that element carries on average (C 1.5, N 1.2, O 0.2).
    """
    source = Path(path)
    if not source.exists():
        raise EmflowError(f"{source}: no such model file.")
    try:
        structure = gemmi.read_structure(str(source))
    except (RuntimeError, ValueError, IndexError, OSError) as error:
        raise EmflowError(f"{source}: not a readable PDB or mmCIF file ({error}).") from None
    if len(structure) == 0:
        raise EmflowError(f"{source}: holds no model.")
    structure.remove_hydrogens()
    structure.remove_waters()
    hydrogens = {"C": 1.5, "N": 1.2, "O": 0.2}
    positions, electrons = [], []
    for found in structure[0].all():
        atom = found.atom
        positions.append(atom.pos.tolist())
        electrons.append((atom.element.atomic_number + hydrogens.get(atom.element.name, 0.0)) * atom.occ)
    if not positions:
        raise EmflowError(f"{source}: holds no atoms besides hydrogen and water.")
    return np.array(positions), np.array(electrons)
