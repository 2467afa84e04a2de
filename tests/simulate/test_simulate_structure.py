"""Geometry of helices and strands, and of what is packed from them."""

import numpy as np
import pytest
from scipy.spatial import KDTree

from emflow.em.symmetry import symmetry_operators
from emflow.simulate.specimen import generate_specimen, impose_symmetry, longest_diameter
from emflow.simulate.structure import alpha_helix, beta_strand


def test_helix_rises_and_turns_as_an_alpha_helix() -> None:
    alpha = alpha_helix(19)[:, 1]
    assert np.diff(alpha[:, 2]) == pytest.approx(1.5)
    turn = np.rad2deg(np.diff(np.unwrap(np.arctan2(alpha[:, 1], alpha[:, 0]))))
    assert turn == pytest.approx(100.0)  # positive while z rises: right-handed
    assert alpha[18] - alpha[0] == pytest.approx(
        [0, 0, 27.0], abs=1e-9
    )  # 18 residues are five turns of 5.4 Å
    assert np.linalg.norm(np.diff(alpha, axis=0), axis=1) == pytest.approx(3.8, abs=0.05)


def test_helix_backbone_bonds() -> None:
    helix = alpha_helix(5)
    n, ca, c = helix[:, 0], helix[:, 1], helix[:, 2]
    assert np.linalg.norm(ca - n, axis=1) == pytest.approx(1.46, abs=0.1)
    assert np.linalg.norm(c - ca, axis=1) == pytest.approx(1.53, abs=0.1)
    assert np.linalg.norm(n[1:] - c[:-1], axis=1) == pytest.approx(1.33, abs=0.1)
    oxygen = helix[:, 3]
    assert np.linalg.norm(n[4] - oxygen[0]) == pytest.approx(2.9, abs=0.3)  # the hydrogen bond i + 4 → i


def test_strand_rises_and_its_side_chains_alternate() -> None:
    strand = beta_strand(8)
    alpha = strand[:, 1]
    assert np.diff(alpha[:, 2]) == pytest.approx(3.3)
    assert np.linalg.norm(np.diff(alpha, axis=0), axis=1) == pytest.approx(3.8, abs=0.05)
    side = strand[:, 5, 0] - alpha[:, 0]
    assert (side[:-1] * side[1:] < 0).all()


@pytest.mark.parametrize("seed", [0, 1])
def test_specimen_has_its_mass_and_size_and_no_clash(seed: int) -> None:
    atoms = generate_specimen(300, 170, 5, np.random.default_rng(seed))
    assert atoms.mass_kda == pytest.approx(300, rel=0.08)
    assert longest_diameter(atoms) == pytest.approx(170, rel=0.06)
    assert np.average(atoms.position, axis=0, weights=atoms.electrons) == pytest.approx([0, 0, 0], abs=1e-6)
    alpha = atoms.position[1::6]
    assert KDTree(alpha).query(alpha, k=2)[0][:, 1].min() > 3.2


def test_specimen_is_asymmetrical() -> None:
    position = generate_specimen(300, 170, 5, np.random.default_rng(0)).position
    moments = np.linalg.eigvalsh(np.cov(position.T))
    assert moments[1] > 1.1 * moments[0] or moments[2] > 1.1 * moments[1]
    axes = np.linalg.eigh(np.cov(position.T))[1]
    skew = ((position @ axes) ** 3).mean(0) / moments**1.5
    assert np.abs(skew).max() > 0.05  # a centrosymmetrical or two-fold shape has none along two axes


@pytest.mark.parametrize("symmetry", ["C3", "D2", "T"])
def test_symmetry_is_imposed_without_touching(symmetry: str) -> None:
    unit = generate_specimen(40, 60, 2, np.random.default_rng(3))
    whole = impose_symmetry(unit, symmetry, pack=True)
    operators = symmetry_operators(symmetry).numpy()
    assert len(whole.position) == len(operators) * len(unit.position)
    tree = KDTree(whole.position)
    for operator in operators:
        assert tree.query(whole.position @ operator.T)[0].max() < 1e-6
    first, rest = whole.position[: len(unit.position)], whole.position[len(unit.position) :]
    nearest = KDTree(rest).query(first)[0].min()
    assert 4.0 < nearest < 6.0
