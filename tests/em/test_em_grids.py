"""Orientation and shift grids: density, evenness, neighbours."""

from __future__ import annotations

import pytest
import torch

from emflow.em.grids import local_rotations, orientation_count, orientation_grid, shift_grid, super_fibonacci
from emflow.em.poses import angular_distance_deg, quaternion_to_matrix


def test_super_fibonacci_covers_rotations_evenly() -> None:
    count = 2000
    grid = super_fibonacci(count)
    assert torch.allclose(grid.norm(dim=1), torch.ones(count).double())
    torch.manual_seed(0)
    probes = torch.randn(3000, 4, dtype=torch.float64)
    probes = probes / probes.norm(dim=1, keepdim=True)
    nearest = torch.rad2deg(2 * torch.acos((probes @ grid.T).abs().amax(1).clamp(max=1)))
    spacing = (8 * torch.pi**2 / count) ** (1 / 3) * 180 / torch.pi
    # covering radius of a cubic lattice is 0.87 spacings; random points reach far beyond
    assert nearest.max() < 1.1 * spacing
    random = torch.randn(count, 4, dtype=torch.float64)
    random = random / random.norm(dim=1, keepdim=True)
    assert torch.rad2deg(2 * torch.acos((probes @ random.T).abs().amax(1))).max() > 1.3 * spacing


@pytest.mark.parametrize(("symmetry", "order"), [("C1", 1), ("D2", 4), ("O", 24)])
def test_orientation_grid_has_the_asymmetric_unit(symmetry: str, order: int) -> None:
    grid = orientation_grid(10.0, symmetry)
    assert abs(len(grid) * order / orientation_count(10.0) - 1) < 0.05
    assert torch.allclose(grid @ grid.transpose(1, 2), torch.eye(3).expand(len(grid), 3, 3), atol=1e-5)


def test_shift_grid_is_a_disc_around_zero() -> None:
    grid = shift_grid(2.0, 1.0)
    assert len(grid) == 13
    assert torch.equal(grid[0], torch.zeros(2))
    assert grid.norm(dim=1).max() == 2
    assert torch.equal(shift_grid(0.0, 1.0), torch.zeros(1, 2))


def test_local_rotations_surround_the_identity() -> None:
    near = local_rotations(4.0)
    assert near.shape == (15, 3, 3)
    angles = angular_distance_deg(near, torch.eye(3))
    assert angles[0] < 1e-4
    assert torch.allclose(angles[1:9], torch.tensor(4.0 * 3**0.5 / 2), atol=1e-3)
    assert torch.allclose(angles[9:], torch.tensor(4.0), atol=1e-3)
    assert torch.allclose(near.mean(0) / near.mean(0)[0, 0], torch.eye(3), atol=1e-5)
    assert len(local_rotations(4.0, rings=2)) > 50


def test_grids_are_reproducible() -> None:
    assert torch.equal(orientation_grid(20.0), orientation_grid(20.0))
    assert quaternion_to_matrix(super_fibonacci(3)).shape == (3, 3, 3)
