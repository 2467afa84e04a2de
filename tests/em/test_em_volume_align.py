"""Alignment of maps: known movements come back; poses move along with their map."""

import pytest
import torch

from emflow.em.poses import angular_distance_deg, quaternion_to_matrix
from emflow.em.slices import HalfPlane, complex_product, volume_spectrum
from emflow.em.symmetry import symmetry_operators
from emflow.em.volume_align import Alignment, align_poses, align_volume, apply_alignment

BOX = 40


def blobs(seed: int, symmetry: str = "C1") -> torch.Tensor:
    """A dozen Gaussian blobs of one size, off centre, in a box of 40, copied by a point group."""
    rng = torch.Generator().manual_seed(seed)
    centres = torch.randn(12, 3, generator=rng) * 4 + torch.tensor([2.0, -1.0, 1.0])
    centres = (centres @ symmetry_operators(symmetry).float().mT).reshape(-1, 3)
    line = (torch.arange(BOX) - BOX // 2).float()
    z, y, x = torch.meshgrid(line, line, line, indexing="ij")
    grid = torch.stack([x, y, z], -1)
    return sum(torch.exp(-((grid - c) ** 2).sum(-1) / (2 * 1.6**2)) for c in centres)  # type: ignore[return-value]


def movement(seed: int, mirrored: bool) -> Alignment:
    rng = torch.Generator().manual_seed(seed)
    q = torch.randn(4, generator=rng, dtype=torch.float64)
    shift = 2 * torch.randn(3, generator=rng, dtype=torch.float64)
    return Alignment(quaternion_to_matrix(q / q.norm()), shift, mirrored, 1.0)


def left_over(first: Alignment, second: Alignment) -> tuple[torch.Tensor, float]:
    """Rotation and shift that two movements, one after the other, leave (hands must cancel)."""
    hand = -1.0 if second.mirrored else 1.0
    return second.rotation @ first.rotation, float(
        (second.rotation @ (hand * first.shift) + second.shift).norm()
    )


@pytest.mark.parametrize(("mirrored", "noise"), [(False, 0.0), (True, 0.1)])
def test_known_movement_is_undone(mirrored: bool, noise: float) -> None:
    fixed, truth = blobs(1), movement(2, mirrored)
    moving = apply_alignment(fixed, truth)
    moving = moving + noise * torch.randn(moving.shape, generator=torch.Generator().manual_seed(3))
    found = align_volume(moving, fixed, max_band=14)
    rotation, shift = left_over(truth, found)
    assert found.mirrored == mirrored
    assert angular_distance_deg(rotation, torch.eye(3).double()) < 1.0
    assert shift < 0.2


def test_symmetric_map_comes_back_up_to_its_group() -> None:
    fixed, truth = blobs(4, "D2"), movement(5, False)
    truth = Alignment(truth.rotation, torch.zeros(3).double(), False, 1.0)
    # the moving map is the one on the axes: its orientations are searched once per class
    target = apply_alignment(fixed, truth)
    found = align_volume(fixed, target, symmetry="D2", allow_mirror=False, max_band=12)
    mates = truth.rotation @ symmetry_operators("D2")
    assert angular_distance_deg(mates, found.rotation).min() < 1.0


def test_right_angle_moves_a_voxel_exactly() -> None:
    volume = torch.zeros(BOX, BOX, BOX)
    c = BOX // 2
    volume[c, c, c + 5] = 1.0  # at x = 5
    turn = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]).double()  # x → y
    moved = apply_alignment(volume, Alignment(turn, torch.tensor([0.0, 0, 3]).double(), False, 1.0))
    assert int(moved.argmax()) == ((c + 3) * BOX + c + 5) * BOX + c
    mirrored = apply_alignment(volume, Alignment(torch.eye(3).double(), torch.zeros(3).double(), True, 1.0))
    assert int(mirrored.argmax()) == (c * BOX + c) * BOX + c - 5


@pytest.mark.parametrize("mirrored", [False, True])
def test_poses_move_with_their_map(mirrored: bool) -> None:
    moving, step = blobs(6), movement(7, mirrored)
    fixed = apply_alignment(moving, step)
    plane = HalfPlane.build(BOX, 12)
    pose = movement(8, False).rotation.float()[None]
    origin = torch.tensor([[1.3, -0.7]])

    def centred_image(volume: torch.Tensor, rotation: torch.Tensor, origins: torch.Tensor) -> torch.Tensor:
        return complex_product(volume_spectrum(volume, 12).slices(rotation, plane), plane.phases(-origins))

    seen = centred_image(moving, pose, origin)
    again = centred_image(fixed, *align_poses(pose, origin, step))
    assert (seen - again).norm() < 0.03 * seen.norm()


def test_empty_or_unlike_maps_are_refused() -> None:
    with pytest.raises(ValueError, match="without any signal"):
        align_volume(torch.zeros(BOX, BOX, BOX), blobs(1))
    with pytest.raises(ValueError, match="one size"):
        align_volume(torch.zeros(BOX, BOX, BOX), torch.zeros(20, 20, 20))
