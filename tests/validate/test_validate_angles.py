"""Coverage of the sphere for distributions whose answer is known."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.spatial.transform import Rotation

from emflow.em.symmetry import symmetry_operators
from emflow.validate.angles import (
    Coverage,
    fourier_coverage,
    judge_coverage,
    pool_views,
    view_density,
    view_directions,
)
from emflow.validate.judge_directions import judge_directions
from emflow.validate.sphere import cell_centres, cell_of, hemisphere_points, sphere_points


def test_cells_are_as_many_and_as_far_apart_as_told() -> None:
    centres = cell_centres(12)
    torch.testing.assert_close(cell_of(centres, 12, folded=True), torch.arange(3 * 144))
    torch.testing.assert_close(cell_of(-centres, 12, folded=True), torch.arange(3 * 144))
    points = sphere_points(5000)
    six = cell_of(points, 12, folded=False)
    assert len(six.unique()) == 6 * 144
    assert (cell_of(-points, 12, folded=False) != six).all()
    off = (points * centres[cell_of(points, 12, folded=True)]).sum(1).abs()
    assert off.min() > math.cos(math.radians(90 / 12 * 0.75))


def test_hemisphere_points_are_even() -> None:
    points = hemisphere_points(500)
    assert (points[:, 2] > 0).all()
    torch.testing.assert_close(points.mean(0), torch.tensor([0, 0, 0.5]).double(), atol=0.01, rtol=0)


def test_view_direction_is_the_beam_in_the_maps_frame() -> None:
    angles = torch.tensor([[30.0, 50.0, 70.0], [-120.0, 100.0, 5.0]])
    to_image = Rotation.from_euler("ZYZ", angles.numpy(), degrees=True).inv()  # r_img = A·r
    beam = to_image.inv().apply([0, 0, 1])
    torch.testing.assert_close(view_directions(angles[:, 0], angles[:, 1]), torch.from_numpy(beam))


def test_uniform_views_have_factor_one_and_density_one() -> None:
    views = pool_views(sphere_points(4000))
    result = judge_coverage(views)
    assert result.factor == pytest.approx(1, abs=0.03)
    assert result.empty_fraction == 0
    assert view_density(views, sphere_points(200)).sub(1).abs().max() < 0.05
    assert fourier_coverage(views, sphere_points(200)).mean() == pytest.approx(1, abs=0.02)
    assert judge_directions(result, None).verdict == "pass"


def side_views(count: int) -> torch.Tensor:
    azimuth = torch.arange(count) * 360 / count
    return view_directions(azimuth, torch.full_like(azimuth, 90))


@pytest.mark.parametrize("symmetry", ["C1", "C5", "D2"])
def test_side_views_alone_have_the_known_factor(symmetry: str) -> None:
    """Views all around the equator: coverage 2/(π sin θ), so the factor is 8/π² (Baldwin and Lyumkis)."""
    views = pool_views(side_views(5000), symmetry_operators(symmetry))
    result = judge_coverage(views)
    assert result.factor == pytest.approx(8 / math.pi**2, abs=0.015)
    assert judge_directions(result, None).verdict == "pass"


def test_top_views_alone_leave_most_of_fourier_space_empty() -> None:
    result = judge_coverage(pool_views(torch.tensor([[0.0, 0.0, 1.0]]).repeat(1000, 1)))
    assert result.factor < 0.05
    assert result.empty_fraction > 0.9
    assert judge_directions(result, None).verdict == "warn"


def test_symmetry_fills_what_one_view_cannot() -> None:
    """Octahedral mates of side views stand along three great circles: coverage by hand, and far better than one."""
    side = side_views(4000)
    mates = torch.cat([side @ g.T for g in symmetry_operators("O")])
    views = pool_views(side, symmetry_operators("O"))
    assert views.count == 24 * 4000
    assert float(views.weights.sum()) == views.count
    directions = sphere_points(300)
    by_hand = ((directions @ mates.T).abs() < math.sin(math.radians(3))).double().mean(1)
    pooled = fourier_coverage(views, directions) * math.sin(math.radians(3))
    assert (pooled / by_hand - 1).abs().median() < 0.03
    assert judge_coverage(views).factor > judge_coverage(pool_views(side)).factor + 0.05


def test_few_even_views_are_not_called_uneven() -> None:
    for seed in range(20):
        points = torch.randn(100, 3, generator=torch.Generator().manual_seed(seed)).double()
        result = judge_coverage(pool_views(points / points.norm(dim=1, keepdim=True)))
        assert judge_directions(result, None).verdict == "pass"
    few = judge_directions(Coverage(60, 60, 0.4, 0.1), None)
    assert few.verdict == "unknown"
    assert "no more than a hint" in few.evidence
