"""Atomic models: PDB or mmCIF, plain or gzipped."""

from __future__ import annotations

import os
from pathlib import Path

import gemmi
import numpy as np

from emflow.em.atoms import AtomicModel
from emflow.step import EmflowError


def read_atoms(path: str | os.PathLike[str]) -> tuple[np.ndarray, np.ndarray]:
    """Read the first model's atoms, without hydrogens and waters.

    Returns
    -------
    positions (N, 3) as x, y, z in ångström, and electrons (N,): atomic number times occupancy, with the
    hydrogens that a protein's atom of that element carries on average (C 1.5, N 1.2, O 0.2).
    """
    hydrogens = {"C": 1.5, "N": 1.2, "O": 0.2}
    positions, electrons = [], []
    for found in _read(Path(path))[0].all():
        atom = found.atom
        positions.append(atom.pos.tolist())
        electrons.append((atom.element.atomic_number + hydrogens.get(atom.element.name, 0.0)) * atom.occ)
    return np.array(positions), np.array(electrons)


def read_model(path: str | os.PathLike[str]) -> AtomicModel:
    """Read the first model with its chains and residues, without hydrogens and waters.

    Of alternative conformations the first is kept. Positions are those of the file.

    Raises
    ------
    EmflowError
        Missing, not PDB or mmCIF, without atoms, or with atoms of no element or at no place.
    """
    source = Path(path)
    structure = _read(source)
    structure.remove_alternative_conformations()
    residues: list[tuple[str, str, str]] = []
    rows: list[tuple[str, str, float, float, int]] = []
    positions: list[list[float]] = []
    for chain in structure[0]:
        for residue in chain:
            for atom in residue:
                positions.append(atom.pos.tolist())
                rows.append((atom.element.name, atom.name, atom.b_iso, atom.occ, len(residues)))
            residues.append((chain.name or "-", str(residue.seqid), residue.name))
    element, name, b_factor, occupancy, number = (np.array(column) for column in zip(*rows, strict=True))
    at = np.array(positions, dtype=float)
    if not np.isfinite(at).all():
        raise EmflowError(f"{source}: atom {name[~np.isfinite(at).all(1)][0]} has no finite coordinates.")
    if (element == "X").any():
        raise EmflowError(
            f"{source}: no element is known for atom {name[element == 'X'][0]!r}, so that it has no scattering factor. "
            "Give the element columns (PDB 77-78; mmCIF type_symbol)."
        )
    chains, numbers, names = zip(*residues, strict=True)
    return AtomicModel(
        at, element, name, b_factor.astype(float), occupancy.astype(float), number.astype(int),
        chains, numbers, names,
    )  # fmt: skip


def _read(source: Path) -> gemmi.Structure:
    """Structure with at least one atom in its first model; hydrogens and waters are gone."""
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
    if structure[0].count_atom_sites() == 0:
        raise EmflowError(f"{source}: holds no atoms besides hydrogen and water.")
    return structure
