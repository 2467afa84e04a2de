"""A bundle of ideal α-helices as an atomic model, and noisy half maps of it."""

from __future__ import annotations

import gemmi
import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from emflow.device import generator
from emflow.em.atoms import AtomicModel, atom_density
from emflow.em.fsc import radial_average, shell_index
from emflow.simulate.structure import alpha_helix

N, VOXEL = 48, 1.6
_NAMES, _ELEMENTS = ("N", "CA", "C", "O", "CB", "CG"), ("N", "C", "C", "O", "C", "S")


def bundle(seed: int = 0, length: int = 24, b_factor: float = 60.0) -> AtomicModel:
    """Seven helices, up and down, each a little tilted, of unequal lengths; one chain each."""
    rng = np.random.default_rng(seed)
    angle = np.arange(6) * np.pi / 3
    middles = [(0.0, 0.0), *zip(9.8 * np.cos(angle), 9.8 * np.sin(angle), strict=True)]
    pieces = []
    for x, y in middles:
        turn = Rotation.from_euler("z", rng.uniform(0, 360), degrees=True).as_matrix()
        tilt = Rotation.from_rotvec(np.deg2rad([*rng.normal(0, 6, 2), 0])).as_matrix()
        flip = np.diag([1.0, -1.0, -1.0]) if rng.random() < 0.5 else np.eye(3)
        helix = alpha_helix(length - int(rng.integers(0, 9)))
        pieces.append(helix @ (tilt @ flip @ turn).T + [x, y, rng.normal(0, 3)])
    whole = np.concatenate(pieces)
    whole = whole @ Rotation.random(rng=rng).as_matrix().T
    count = len(whole)
    return AtomicModel(
        position=whole.reshape(-1, 3) - whole.reshape(-1, 3).mean(0),
        element=np.tile(np.array(_ELEMENTS), count),
        name=np.tile(np.array(_NAMES), count),
        b_factor=np.full(6 * count, b_factor),
        occupancy=np.ones(6 * count),
        residue=np.repeat(np.arange(count), 6),
        residue_chain=tuple(c for c, piece in zip("ABCDEFG", pieces, strict=True) for _ in piece),
        residue_number=tuple(str(i + 1) for piece in pieces for i in range(len(piece))),
        residue_name=("CYS",) * count,
    )


def noisy_halves(
    volume: Tensor, resolution: float, seed: int = 1, voxel: float = VOXEL
) -> tuple[Tensor, Tensor]:
    """Two copies with white noise, so that their unmasked FSC is 0.143 at a resolution."""
    n = volume.shape[-1]
    power = radial_average(torch.fft.rfftn(volume).abs().square(), shell_index(n))
    sigma = float((6 * power[round(n * voxel / resolution)]).sqrt()) / n**1.5
    noise = [torch.randn(volume.shape, generator=generator(seed, k)) for k in (1, 2)]
    return volume + sigma * noise[0], volume + sigma * noise[1]


def density(model: AtomicModel, n: int = N, voxel: float = VOXEL) -> Tensor:
    """Density of a model in the tests' box."""
    return atom_density(model, n, voxel)


def write_model(path: str, model: AtomicModel, offset: float = N // 2 * VOXEL) -> None:
    """Write a PDB or mmCIF file, in the frame of a map whose first voxel is the origin."""
    structure, out = gemmi.Structure(), gemmi.Model(1)
    for chain_name in dict.fromkeys(model.residue_chain):
        chain = gemmi.Chain(chain_name)
        for i in np.flatnonzero(np.array(model.residue_chain) == chain_name):
            residue = gemmi.Residue()
            residue.name, residue.seqid = model.residue_name[i], gemmi.SeqId(model.residue_number[i])
            for k in np.flatnonzero(model.residue == i):
                atom = gemmi.Atom()
                atom.name, atom.element = str(model.name[k]), gemmi.Element(str(model.element[k]))
                atom.pos = gemmi.Position(*(model.position[k] + offset))
                atom.b_iso = float(model.b_factor[k])
                residue.add_atom(atom)
            chain.add_residue(residue)
        out.add_chain(chain)
    structure.add_model(out)
    if path.endswith(".cif"):
        structure.make_mmcif_document().write_file(path)
    else:
        structure.write_pdb(path)
