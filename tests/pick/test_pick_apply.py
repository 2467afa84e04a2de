"""Picking on synthetic micrographs: places, distances, borders, contrast, contamination, and noise."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree

from emflow.pick.apply import pick_micrograph
from emflow.pick.config import PickApply
from emflow.step import EmflowError

CFG = PickApply(diameter_angstrom=40.0)


def offsets(found: np.ndarray, centres: np.ndarray) -> np.ndarray:
    return cKDTree(centres).query(found)[0] if len(found) else np.zeros(0)


@pytest.mark.parametrize("n", [1, 5, 25])
def test_disks_are_found_where_they_are(n: int, paint: Callable, scatter: Callable) -> None:
    centres = scatter(n, 512, 50, 30, seed=n)
    picks = pick_micrograph(paint(512, centres, 40, seed=n), 1.0, True, CFG)
    assert len(picks.xy_px) == n
    assert (offsets(picks.xy_px, centres) < 2.5).all()
    assert np.median(offsets(picks.xy_px, centres)) < 1.5
    assert (np.diff(picks.score) <= 0).all()
    assert (picks.probability > 0.99).all()
    assert not picks.mask.any()


def test_a_strong_disk_is_found_to_a_fraction_of_a_pixel(paint: Callable) -> None:
    centres = np.array([[200.4, 131.7]])
    picks = pick_micrograph(paint(400, centres, 60, depth=5.0), 1.0, True, PickApply(diameter_angstrom=60))
    assert picks.xy_px[0] == pytest.approx(centres[0], abs=0.35)


@pytest.mark.parametrize("kind", ["white", "poisson", "coloured", "uneven"])
def test_noise_finds_nothing(kind: str) -> None:
    found, size = 0, 600
    axis = torch.linspace(-1, 1, size)
    for seed in range(3):
        generator = torch.Generator().manual_seed(10 * seed + len(kind))
        image = torch.randn(size, size, generator=generator)
        if kind == "poisson":
            image = torch.poisson(torch.full((size, size), 5.0), generator=generator)
        if kind == "coloured":
            radius = torch.hypot(torch.fft.fftfreq(size)[:, None], torch.fft.rfftfreq(size)[None])
            image = torch.fft.irfft2(torch.fft.rfft2(image) * (0.3 + 1 / (1 + (radius / 0.02) ** 2)))
            image += 2 * image.std() * (1.5 * axis[:, None] + axis[None] ** 2)
        if kind == "uneven":
            image = image * (1 + 0.6 * axis[:, None]) + torch.sin(2 * axis)
        for diameter in (40.0, 90.0):
            cfg = PickApply(diameter_angstrom=diameter)
            picks = pick_micrograph(image, 1.0, True, cfg)
            found += len(picks.score)
            assert not picks.mask.any()
            assert picks.threshold > 4
    assert found <= 1  # in 2 megapixels, each looked at twice


def test_contrast_is_a_sign_and_scale_does_not_matter(paint: Callable, scatter: Callable) -> None:
    centres = scatter(15, 400, 50, 30)
    image = paint(400, centres, 40)
    dark = pick_micrograph(image, 1.0, True, CFG)
    bright = pick_micrograph(-image, 1.0, False, CFG)
    assert np.array_equal(dark.xy_px, bright.xy_px)
    scaled = pick_micrograph(1000 + 3 * image, 1.0, True, CFG)
    assert scaled.xy_px == pytest.approx(dark.xy_px, abs=0.1)
    wrong = pick_micrograph(image, 1.0, False, CFG)
    assert (offsets(wrong.xy_px, centres) > 10).all()


def test_same_input_same_picks(paint: Callable, scatter: Callable) -> None:
    image = paint(400, scatter(20, 400, 50, 30), 40)
    first, second = (pick_micrograph(image, 1.0, True, CFG) for _ in range(2))
    assert np.array_equal(first.xy_px, second.xy_px)
    assert np.array_equal(first.score, second.score)
    assert np.array_equal(first.probability, second.probability)


@settings(max_examples=6, deadline=None)
@given(
    st.integers(0, 2**31),
    st.floats(0.3, 1.5),
    st.floats(0.0, 0.5),
    st.sampled_from([(300, 300), (260, 391)]),
)
def test_picks_keep_their_distance_also_at_the_borders(
    seed: int, min_distance: float, edge: float, shape: tuple[int, int]
) -> None:
    # strong smooth blobs everywhere, also cut by the borders: far more candidates than may be taken
    random = np.random.default_rng(seed)
    image = torch.randn(*shape, generator=torch.Generator().manual_seed(seed % 1000))
    rows, columns = torch.arange(shape[0]), torch.arange(shape[1])
    for _ in range(50):
        y, x = random.uniform(-10, shape[0] + 10), random.uniform(-10, shape[1] + 10)
        image -= 3 * torch.exp(-((rows[:, None] - y) ** 2 + (columns[None] - x) ** 2) / (2 * 8.0**2))
    cfg = PickApply(diameter_angstrom=30, min_distance=min_distance, edge_distance=edge, score_spread=100.0)
    picks = pick_micrograph(image, 1.0, True, cfg)
    assert len(picks.xy_px) > 5
    nearest = cKDTree(picks.xy_px).query(picks.xy_px, k=2)[0][:, 1]
    assert nearest.min() >= min_distance * 30 * 0.999
    border = np.minimum(picks.xy_px, np.array(shape[::-1]) - 1 - picks.xy_px).min()
    assert border >= edge * 30 - 1.1  # one pixel of the binned image


def test_nothing_wraps_around_the_borders(paint: Callable) -> None:
    """Particles cut by the left and upper border give no picks at the right and lower one."""
    centres = np.array([[2.0, 100.0], [2.0, 220.0], [300.0, 2.0], [150.0, 2.0]])
    inside = np.array([[200.0, 200.0]])
    cfg = CFG.model_copy(update={"edge_distance": 0.0})
    picks = pick_micrograph(paint(400, np.vstack([centres, inside]), 40, depth=2.0), 1.0, True, cfg)
    assert (offsets(picks.xy_px, np.vstack([centres, inside])) < 10).all()
    assert (offsets(inside, picks.xy_px) < 2).all()


def carbon_scene(paint: Callable, scatter: Callable) -> tuple[torch.Tensor, np.ndarray]:
    """Particles on ice, and a dark, granular carbon film below y = 330 with a few grains of a particle's size."""
    centres = scatter(35, 480, 48, 25, seed=3)
    centres = centres[centres[:, 1] < 290]
    image = paint(480, centres, 40)
    axis = torch.arange(480.0)
    film = torch.sigmoid((axis[:, None] - 330 - 15 * torch.sin(axis[None] / 60)) / 1.5)
    grain = torch.randn(480, 480, generator=torch.Generator().manual_seed(5))
    grains = paint(480, np.array([[100.0, 400.0], [200.0, 420.0], [390.0, 390.0]]), 40, noise=0.0)
    return image - film * (4 + 0.7 * grain - grains), centres


def test_carbon_gives_no_picks(paint: Callable, scatter: Callable) -> None:
    image, centres = carbon_scene(paint, scatter)
    picks = pick_micrograph(image, 1.0, True, CFG)
    assert (picks.xy_px[:, 1] < 330).all()
    assert (offsets(picks.xy_px, centres) < 6).mean() > 0.9
    assert (offsets(centres, picks.xy_px) < 6).mean() > 0.9
    scale = picks.mask.shape[0] / 480
    assert picks.mask[int(370 * scale) :].all()
    assert not picks.mask[: int(270 * scale)].any()
    plain = pick_micrograph(image, 1.0, True, CFG.model_copy(update={"mask_contamination": False}))
    assert not plain.mask.any()


def test_ice_and_clumps_are_masked_and_particles_beside_them_are_not(
    paint: Callable, scatter: Callable
) -> None:
    centres = scatter(40, 600, 48, 25, seed=4)
    centres = centres[np.linalg.norm(centres - [300, 300], axis=1) > 110]
    image = paint(600, centres, 40)
    axis = torch.arange(600.0)
    radius = torch.sqrt((axis[:, None] - 300) ** 2 + (axis[None] - 300) ** 2)
    image -= 15 * torch.sigmoid((60 - radius) / 3)  # an ice crystal three times as wide as a particle
    picks = pick_micrograph(image, 1.0, True, CFG)
    assert np.linalg.norm(picks.xy_px - [300, 300], axis=1).min() > 65
    assert (offsets(centres, picks.xy_px) < 4).mean() > 0.95
    assert len(picks.xy_px) <= len(centres) + 1
    assert 0.03 < picks.mask.mean() < 0.12


@pytest.mark.parametrize(
    ("image", "cfg", "words"),
    [
        (torch.randn(100, 100), PickApply(), "sample.diameter_angstrom"),
        (torch.randn(100, 100), PickApply(diameter_angstrom=7e1), "two diameters"),
        (torch.randn(100, 100), PickApply(diameter_angstrom=11).model_copy(update={"diameter_angstrom": 5}), "at least 8"),
        (torch.full((100, 100), 3.0), PickApply(diameter_angstrom=20), "constant"),
        (torch.full((100, 100), torch.nan), PickApply(diameter_angstrom=20), "no numbers"),
    ],
)  # fmt: skip
def test_what_cannot_be_picked_is_said(image: torch.Tensor, cfg: PickApply, words: str) -> None:
    with pytest.raises(EmflowError, match=words):
        pick_micrograph(image, 1.0, True, cfg)
