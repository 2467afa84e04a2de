"""Two maps of one point group into one frame: what is free is found, the axes stay."""

from __future__ import annotations

import pytest
import torch

from emflow.em.frames import align_frames, align_nearby
from emflow.em.fsc import fsc
from emflow.em.poses import rotation_vector_to_matrix
from emflow.em.symmetry import symmetry_operators
from emflow.em.volume_align import Alignment, apply_alignment

BOX = 28


def specimen(symmetry: str) -> torch.Tensor:
    torch.manual_seed(2)
    atoms = (torch.rand(8, 3) - 0.5) * 16
    atoms = (atoms @ symmetry_operators(symmetry).float()).reshape(-1, 3)
    line = (torch.arange(BOX) - BOX // 2).float()
    x, y, z = (torch.exp(-((line - atoms[:, i : i + 1]) ** 2) / (2 * 1.3**2)) for i in range(3))
    return torch.einsum("az,ay,ax->zyx", z, y, x)


def moved(
    volume: torch.Tensor, turn: tuple[float, float, float], shift: tuple[float, float, float], hand: bool
) -> torch.Tensor:
    rotation = rotation_vector_to_matrix(torch.tensor(turn, dtype=torch.float64))
    return apply_alignment(volume, Alignment(rotation, torch.tensor(shift).double(), hand, 1.0))


@pytest.mark.parametrize(
    ("symmetry", "turn", "shift"),
    [
        ("C3", (0.0, 0.0, 0.7), (0.0, 0.0, 2.0)),
        ("D3", (0.0, 0.0, torch.pi / 3), (0.0, 0.0, 0.0)),
        ("O", (0.0, 0.0, 0.0), (0.0, 0.0, 0.0)),
    ],
)  # fmt: skip
def test_frames_are_found(
    symmetry: str, turn: tuple[float, float, float], shift: tuple[float, float, float]
) -> None:
    fixed, hand = specimen(symmetry), True
    alignment = align_frames(moved(fixed, turn, shift, hand), fixed, symmetry, 9)
    assert alignment.mirrored is hand
    back = apply_alignment(moved(fixed, turn, shift, hand), alignment)
    assert fsc(back, fixed)[1:8].min() > 0.9
    group = symmetry_operators(symmetry)
    axes = alignment.rotation @ group @ alignment.rotation.T
    assert (axes[:, None] - group[None]).abs().amax((2, 3)).amin(1).max() < 1e-6


def test_a_small_drift_is_mended() -> None:
    fixed = specimen("C1")
    alignment = align_nearby(moved(fixed, (0.03, -0.02, 0.04), (0.3, -0.2, 0.4), False), fixed, "C1", 10)
    assert alignment is not None
    expected = rotation_vector_to_matrix(torch.tensor([-0.03, 0.02, -0.04], dtype=torch.float64))
    assert (alignment.rotation - expected).abs().max() < 0.01
    assert (alignment.shift - torch.tensor([-0.3, 0.2, -0.4])).abs().max() < 0.1


def test_a_drift_about_the_axis_is_mended_and_no_other() -> None:
    fixed = specimen("C3")
    alignment = align_nearby(moved(fixed, (0.0, 0.0, 0.04), (0.0, 0.0, 0.3), False), fixed, "C3", 10)
    assert alignment is not None
    assert torch.equal(alignment.rotation[2], torch.tensor([0.0, 0.0, 1.0]).double())
    assert abs(float(alignment.rotation[1, 0]) + 0.04) < 0.01
    assert torch.equal(alignment.shift[:2], torch.zeros(2).double())
    assert align_nearby(fixed, fixed, "O", 10) is None
