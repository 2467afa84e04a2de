"""Atomic models: what is known of each atom, and the density that the atoms make in a map."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import gemmi
import numpy as np
import torch
from torch import Tensor

from emflow.em.fsc import shell_index

BACKBONE = ("N", "CA", "C", "O", "P", "O5'", "C5'", "C4'", "C3'", "O3'")
"""Names of the atoms that a protein's or a nucleic acid's chain is made of."""
_SPREAD_VOXELS = 1.2  # Gaussian that atoms are laid down with: a compromise of aliasing and rounding


@dataclass(frozen=True)
class AtomicModel:
    """Atoms of a model, without hydrogens and waters, one row each."""

    position: np.ndarray
    """(N, 3) as x, y, z in ångström, in the frame of the file."""
    element: np.ndarray
    """(N,) chemical symbols."""
    name: np.ndarray
    """(N,) names of the atoms within their residues."""
    b_factor: np.ndarray
    """(N,) isotropic B factors, Å²."""
    occupancy: np.ndarray
    """(N,) occupancies."""
    residue: np.ndarray
    """(N,) number of each atom's residue, from 0, in the order of the file."""
    residue_chain: tuple[str, ...]
    """Name of each residue's chain."""
    residue_number: tuple[str, ...]
    """Number of each residue with its insertion code."""
    residue_name: tuple[str, ...]
    """Three-letter code of each residue."""

    def __len__(self) -> int:
        return len(self.position)

    @property
    def backbone(self) -> np.ndarray:
        """(N,) whether an atom belongs to the backbone."""
        return np.isin(self.name, BACKBONE)

    @property
    def mass_da(self) -> float:
        """Mass, with the hydrogens that carbon and nitrogen of a protein carry on average."""
        hydrogens = {"C": 1.5, "N": 1.2, "O": 0.2}
        each = {e: gemmi.Element(e).weight + 1.008 * hydrogens.get(e, 0.0) for e in np.unique(self.element)}
        return float(np.dot(np.vectorize(each.__getitem__, otypes=[float])(self.element), self.occupancy))

    def moved(self, rotation: np.ndarray, shift_angstrom: np.ndarray) -> AtomicModel:
        """Return a copy turned by a matrix about the origin, then shifted."""
        return replace(self, position=self.position @ rotation.T + shift_angstrom)


def atom_density(model: AtomicModel, box: int, voxel_size_angstrom: float) -> Tensor:
    """Electrostatic potential of a model's atoms in vacuum, up to the voxels' Nyquist frequency.

    Each atom is a sum of Gaussians, the electron scattering factors of its element, with its B factor
    (gemmi). The atoms are laid down with an additional Gaussian of 1.2 voxels, which is divided out in
    Fourier space: exact to 0.3 % up to 0.8 of Nyquist.

    Parameters
    ----------
    model
        Positions relative to the centre box//2 of the box. Atoms outside of the box are left out.
    box, voxel_size_angstrom
        Side in voxels and voxel size.

    Returns
    -------
    float32, shape (box, box, box), axes z, y, x.
    """
    side = box * voxel_size_angstrom
    at = model.position + (box // 2) * voxel_size_angstrom
    inside = ((at >= 0) & (at < side)).all(1)
    if not inside.any():
        return torch.zeros(box, box, box)
    chain = gemmi.Chain("A")
    residue = gemmi.Residue()
    for i in np.flatnonzero(inside):
        atom = gemmi.Atom()
        atom.element = gemmi.Element(str(model.element[i]))
        atom.pos = gemmi.Position(*at[i])
        atom.b_iso, atom.occ = float(model.b_factor[i]), float(model.occupancy[i])
        residue.add_atom(atom)
    chain.add_residue(residue)
    whole = gemmi.Model(1)
    whole.add_chain(chain)
    calculator = gemmi.DensityCalculatorE()
    wanted = 8 * math.pi**2 * (_SPREAD_VOXELS * voxel_size_angstrom) ** 2
    calculator.blur = max(0.0, wanted - float(model.b_factor[inside].min()))
    calculator.cutoff = 1e-7
    calculator.grid.set_unit_cell(gemmi.UnitCell(side, side, side, 90, 90, 90))
    calculator.grid.spacegroup = gemmi.SpaceGroup("P1")
    calculator.grid.set_size(box, box, box)
    calculator.add_model_density_to_grid(whole)
    spread = torch.from_numpy(np.ascontiguousarray(np.array(calculator.grid.array).T, dtype=np.float32))
    spectrum = torch.fft.rfftn(spread)
    line = torch.fft.fftfreq(box, voxel_size_angstrom).double().square()
    factor = torch.exp(0.25 * calculator.blur * line).float()
    spectrum *= factor[:, None, None] * factor[:, None] * factor[: box // 2 + 1]
    spectrum[shell_index(box) > box // 2 - 1] = 0
    return torch.fft.irfftn(spectrum, s=(box, box, box))
