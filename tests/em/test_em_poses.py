"""Poses against scipy and RELION's printed formula."""

from __future__ import annotations

import torch
from scipy.spatial.transform import Rotation

from emflow.em.poses import (
    angular_distance_deg,
    euler_to_matrix,
    matrix_to_euler,
    matrix_to_quaternion,
    mirror_rotations,
    quaternion_multiply,
    quaternion_to_matrix,
    rotation_vector_to_matrix,
    wrap_degrees,
)


def _angles(count: int = 200) -> torch.Tensor:
    torch.manual_seed(0)
    u = torch.rand(count, 3, dtype=torch.float64)
    return torch.stack([u[:, 0] * 360 - 180, u[:, 1] * 180, u[:, 2] * 360 - 180], 1)


def test_angles_are_relions_zyz() -> None:
    angles = _angles()
    expected = Rotation.from_euler("ZYZ", angles.numpy(), degrees=True).inv().as_matrix()
    assert torch.allclose(euler_to_matrix(angles), torch.from_numpy(expected), atol=1e-12)


def test_psi_turns_the_image_and_tilt_tips_the_view() -> None:
    # the object's z axis, seen at tilt 90 and rot 0, points along −x of the image; psi turns x into −y
    z = torch.tensor([0.0, 0.0, 1.0])
    assert torch.allclose(
        euler_to_matrix(torch.tensor([0.0, 90.0, 0.0])) @ z, torch.tensor([-1.0, 0, 0]), atol=1e-6
    )
    assert torch.allclose(
        euler_to_matrix(torch.tensor([0.0, 90.0, 90.0])) @ z, torch.tensor([0, 1.0, 0]), atol=1e-6
    )


def test_angles_survive_the_way_there_and_back() -> None:
    angles = _angles()
    assert torch.allclose(matrix_to_euler(euler_to_matrix(angles)), angles, atol=1e-8)


def test_poles_keep_the_matrix() -> None:
    for tilt in (0.0, 180.0):
        matrix = euler_to_matrix(torch.tensor([[30.0, tilt, 50.0]], dtype=torch.float64))
        back = matrix_to_euler(matrix)
        assert back[0, 0] == 0
        assert torch.allclose(euler_to_matrix(back), matrix, atol=1e-10)


def test_quaternions_against_scipy() -> None:
    matrices = euler_to_matrix(_angles())
    q = matrix_to_quaternion(matrices)
    expected = torch.from_numpy(Rotation.from_matrix(matrices.numpy()).as_quat()[:, [3, 0, 1, 2]])
    assert torch.allclose((q * expected).sum(1).abs(), torch.ones(len(q)).double(), atol=1e-12)
    assert torch.allclose(quaternion_to_matrix(q), matrices, atol=1e-12)
    half_turns = torch.diag_embed(torch.tensor([[1.0, -1, -1], [-1, 1, -1], [-1, -1, 1]]))
    assert torch.allclose(quaternion_to_matrix(matrix_to_quaternion(half_turns)), half_turns)


def test_quaternion_product_is_the_matrix_product() -> None:
    a, b = euler_to_matrix(_angles(20)), euler_to_matrix(_angles(40)[20:])
    product = quaternion_multiply(matrix_to_quaternion(a), matrix_to_quaternion(b))
    assert torch.allclose(quaternion_to_matrix(product), a @ b, atol=1e-12)


def test_rotation_vectors_and_distances() -> None:
    torch.manual_seed(1)
    vectors = torch.randn(50, 3, dtype=torch.float64) * 0.3
    vectors[0] = 0
    matrices = rotation_vector_to_matrix(vectors)
    assert torch.allclose(matrices, torch.from_numpy(Rotation.from_rotvec(vectors.numpy()).as_matrix()))
    identity = torch.eye(3, dtype=torch.float64)
    assert torch.allclose(angular_distance_deg(matrices, identity), torch.rad2deg(vectors.norm(dim=1)))


def test_mirror_is_psi_plus_180() -> None:
    angles = _angles(20)
    turned = matrix_to_euler(mirror_rotations(euler_to_matrix(angles)))
    difference = turned - angles
    difference[:, 2] -= 180
    assert torch.allclose(wrap_degrees(difference), torch.zeros_like(angles), atol=1e-8)
