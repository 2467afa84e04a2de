"""Point groups: orders, closure, RELION's axes, the asymmetric unit."""

from __future__ import annotations

import pytest
import torch

from emflow.em.grids import super_fibonacci
from emflow.em.poses import angular_distance_deg, quaternion_to_matrix, rotation_vector_to_matrix
from emflow.em.symmetry import (
    frame_choices,
    in_asymmetric_unit,
    split_operators,
    sum_over_axis_operators,
    symmetry_operators,
    to_asymmetric_unit,
)
from emflow.step import EmflowError

ORDERS = {
    "C1": 1,
    "C2": 2,
    "C3": 3,
    "C5": 5,
    "C7": 7,
    "D1": 2,
    "D2": 4,
    "D3": 6,
    "D7": 14,
    "T": 12,
    "O": 24,
    "I": 60,
}


def _contains(group: torch.Tensor, member: torch.Tensor) -> bool:
    return bool((group - member).abs().amax((1, 2)).min() < 1e-9)


@pytest.mark.parametrize(("name", "order"), ORDERS.items())
def test_order_and_closure(name: str, order: int) -> None:
    group = symmetry_operators(name)
    assert len(group) == order
    assert torch.equal(group[0], torch.eye(3).double())
    products = group[:, None] @ group[None]
    assert all(_contains(group, p) for p in products.flatten(0, 1))
    assert torch.allclose(torch.linalg.det(group), torch.ones(order).double())


@pytest.mark.parametrize(
    ("name", "axis", "fold"),
    [
        ("C7", (0, 0, 1), 7), ("D3", (1, 0, 0), 2), ("D3", (0, 0, 1), 3),
        ("T", (0, 0, 1), 3), ("T", (0, 0.816496, 0.577350), 2),
        ("O", (0, 0, 1), 4), ("O", (1, 0, 0), 4), ("O", (0.57735, 0.57735, 0.57735), 3),
        ("I", (0, 0, 1), 2), ("I", (1, 0, 0), 2),
        ("I", (0.525731114, 0, 0.850650807), 5), ("I", (0, 0.356822076, 0.934172364), 3),
    ],
)  # fmt: skip
def test_axes_are_relions(name: str, axis: tuple[float, float, float], fold: int) -> None:
    vector = torch.tensor(axis, dtype=torch.float64)
    vector = vector / vector.norm() * 2 * torch.pi / fold
    turn = rotation_vector_to_matrix(vector)
    assert (symmetry_operators(name) - turn).abs().amax((1, 2)).min() < 1e-5


def test_unknown_group_is_named() -> None:
    with pytest.raises(EmflowError, match="K4"):
        symmetry_operators("K4")


@pytest.mark.parametrize("name", ORDERS)
def test_group_is_cosets_times_axis_operators(name: str) -> None:
    cosets, axis = split_operators(name)
    group = symmetry_operators(name)
    products = (cosets[:, None] @ axis[None]).flatten(0, 1)
    assert len(products) == len(group)
    assert all(_contains(products, g) for g in group)
    assert {"O": 1, "I": 5}.get(name, len(cosets)) == len(cosets)


def test_sum_over_axis_operators_is_exact() -> None:
    torch.manual_seed(0)
    grid = torch.randn(2, 5, 5, 5, dtype=torch.float64)
    operators = split_operators("O")[1]
    total = sum_over_axis_operators(grid, operators)
    line = torch.arange(-2, 3)
    z, y, x = torch.meshgrid(line, line, line, indexing="ij")
    points = torch.stack([x, y, z], -1).double()
    expected = torch.zeros_like(grid)
    for operator in operators:
        turned = (points @ operator.T).round().long() + 2  # h·k
        expected += grid[:, turned[..., 2], turned[..., 1], turned[..., 0]]
    assert torch.allclose(total, expected)


@pytest.mark.parametrize("name", ["C1", "C3", "D2", "T", "O", "I"])
def test_asymmetric_unit_has_its_share_and_represents_all(name: str) -> None:
    rotations = quaternion_to_matrix(super_fibonacci(6000))
    kept = in_asymmetric_unit(rotations, name)
    assert abs(int(kept.sum()) * ORDERS[name] / 6000 - 1) < 0.1
    representative = to_asymmetric_unit(rotations[:100], name)
    assert in_asymmetric_unit(representative, name).all()
    group = symmetry_operators(name)
    same = angular_distance_deg(representative[:, None], rotations[:100, None] @ group)
    assert same.amin(1).max() < 1e-5


@pytest.mark.parametrize("name", ["C2", "C5", "D1", "D2", "D3", "D4", "T", "O", "I"])
def test_frame_choices_keep_the_axes(name: str) -> None:
    group = symmetry_operators(name)
    choices = frame_choices(name, 7.0)
    assert choices is not None
    for choice in choices:
        turned = choice @ group @ choice.T
        assert all(_contains(group, t) for t in turned)
