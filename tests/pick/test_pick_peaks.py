"""Peaks: found, refined, kept at a distance; nothing wraps around the borders."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from emflow.pick.peaks import highest_near, local_maxima, refine, suppress


def bump(shape: tuple[int, int], y: float, x: float, sigma: float = 3.0) -> torch.Tensor:
    rows, columns = torch.arange(shape[0]), torch.arange(shape[1])
    return torch.exp(-((rows[:, None] - y) ** 2 + (columns[None, :] - x) ** 2) / (2 * sigma**2))


@pytest.mark.parametrize(("y", "x"), [(20.0, 30.0), (20.3, 30.45), (19.6, 31.2)])
def test_a_parabola_finds_the_place_between_pixels(y: float, x: float) -> None:
    score = bump((48, 64), y, x)
    place, value = local_maxima(score, score > 0.01)
    assert len(place) == 1
    assert value[0] == score.max()
    assert refine(score, place)[0].tolist() == pytest.approx([y, x], abs=0.02)


def test_peaks_come_highest_first_and_only_where_allowed() -> None:
    score = bump((40, 60), 10, 10) + 2 * bump((40, 60), 30, 40) + 3 * bump((40, 60), 10, 50)
    allowed = score > 0.01
    allowed[:, 45:] = False
    place, _ = local_maxima(score, allowed)
    assert place.tolist() == [[30, 40], [10, 10]]


def test_a_peak_at_the_border_stays_there() -> None:
    score = bump((20, 20), 0, 19) + bump((20, 20), 19, 0.4)
    place, _ = local_maxima(score, score > 0.01)
    assert refine(score, place).tolist() == [[0, 19], [19, 0]]


def greedy(points: np.ndarray, distance: float) -> list[int]:
    kept: list[int] = []
    for i in range(len(points)):
        if all(np.linalg.norm(points[i] - points[j]) >= distance for j in kept):
            kept.append(i)
    return kept


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 120), st.floats(0.5, 30), st.integers(0, 2**31), st.booleans())
def test_suppression_is_that_of_taking_one_after_the_other(
    n: int, distance: float, seed: int, crowd_at_the_border: bool
) -> None:
    points = np.round(np.random.default_rng(seed).uniform(0, 99, (n, 2)), 2)
    if crowd_at_the_border:
        points[:, 0] = np.where(points[:, 0] < 50, points[:, 0] / 10, 99 - (99 - points[:, 0]) / 10)
    kept = suppress(points, distance)
    assert kept.tolist() == greedy(points, distance)


def test_suppression_does_not_wrap_to_the_next_row() -> None:
    width = 100
    points = np.array(
        [[width - 1, 10], [0, 11], [0, 10]], dtype=float
    )  # neighbours in memory, not in the image
    assert suppress(points, 5.0).tolist() == [0, 1]


def test_equal_scores_and_equal_places_leave_one() -> None:
    assert suppress(np.zeros((4, 2)), 1.0).tolist() == [0]
    assert suppress(np.zeros((0, 2)), 1.0).tolist() == []


def test_highest_near_keeps_to_its_radius_the_image_and_what_is_allowed() -> None:
    score = bump((40, 40), 5, 5) + 5 * bump((40, 40), 5, 20, sigma=1.0)
    allowed = torch.ones_like(score, dtype=torch.bool)
    place = torch.tensor([[7, 3], [0, 0], [5, 15], [30, 30]])
    assert highest_near(score, place, 6.0, allowed)[:3].tolist() == [[5, 5], [4, 4], [5, 20]]
    allowed[:] = False
    assert highest_near(score, place, 6.0, allowed).tolist() == place.tolist()
