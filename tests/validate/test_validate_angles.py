"""Coverage of the sphere for distributions whose answer is known."""

from __future__ import annotations

import math

import pandas as pd
import pytest
import torch
from scipy.spatial.transform import Rotation

from emflow.em.symmetry import symmetry_operators
from emflow.validate.angles import (
    fourier_coverage,
    judge_coverage,
    sphere_points,
    symmetric_views,
    view_density,
    view_directions,
)
from emflow.validate.judge import HalfSets, judge_halves, judge_views, split_of


def test_view_direction_is_the_beam_in_the_maps_frame() -> None:
    angles = torch.tensor([[30.0, 50.0, 70.0], [-120.0, 100.0, 5.0]])
    to_image = Rotation.from_euler("ZYZ", angles.numpy(), degrees=True).inv()  # r_img = A·r
    beam = to_image.inv().apply([0, 0, 1])
    torch.testing.assert_close(view_directions(angles[:, 0], angles[:, 1]), torch.from_numpy(beam))


def test_uniform_views_have_factor_one_and_density_one() -> None:
    views = sphere_points(4000)
    result = judge_coverage(views)
    assert result.factor == pytest.approx(1, abs=0.03)
    assert result.empty_fraction == 0
    assert view_density(views, sphere_points(200)).sub(1).abs().max() < 0.05
    assert fourier_coverage(views, sphere_points(200)).mean() == pytest.approx(1, abs=0.02)
    assert judge_views(result).answer == "pass"


def test_side_views_alone_have_the_known_factor() -> None:
    """Views all around the equator: coverage 2/(π sin θ), so the factor is 8/π² (Baldwin and Lyumkis)."""
    azimuth = torch.linspace(-180, 180, 5001)[:-1]
    assert judge_coverage(view_directions(azimuth, torch.full_like(azimuth, 90))).factor == pytest.approx(
        8 / math.pi**2, abs=0.03
    )


def test_top_views_alone_leave_most_of_fourier_space_empty() -> None:
    views = torch.tensor([[0.0, 0.0, 1.0]]).double().repeat(1000, 1)
    result = judge_coverage(views)
    assert result.factor < 0.05
    assert result.empty_fraction > 0.9
    assert judge_views(result).answer == "warn"


def test_symmetry_fills_what_one_view_cannot() -> None:
    view = sphere_points(40)[5:6]
    views = symmetric_views(view, symmetry_operators("O"))
    assert views.shape == (24, 3)
    torch.testing.assert_close(views.norm(dim=1), torch.ones(24).double())
    assert judge_coverage(views).factor > judge_coverage(view).factor


def test_half_sets_are_counted_by_micrograph() -> None:
    table = pd.DataFrame({"rlnMicrographName": ["a", "a", "b", "b"], "rlnRandomSubset": ["1", "1", "2", "1"]})
    assert split_of(table) == HalfSets(3, 1, 1)
    assert split_of(table.drop(columns="rlnRandomSubset")) is None
    assert judge_halves(HalfSets(50, 50, 0)).answer == "pass"
    assert judge_halves(HalfSets(90, 10, 0)).answer == "warn"
    assert judge_halves(None).answer == "unknown"
