"""The population's density without the images' own uncertainty: known mixtures come back."""

from __future__ import annotations

import numpy as np
import pytest

from emflow.heterogeneity.analyze import find_states
from emflow.heterogeneity.config import HeterogeneityAnalyze
from emflow.heterogeneity.density import Gaussians, Seen, deconvolve, make_landscape


def seen_as(true: np.ndarray, noise: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Posterior means and deviations under N(0, 1) of coordinates measured with known noise."""
    measured = true + noise * np.random.default_rng((seed, 1)).standard_normal(true.shape)
    variance = 1 / (1 + 1 / noise**2)
    return variance * measured / noise**2, np.sqrt(variance)


def two_clusters(count: int, width: float, seed: int = 0) -> np.ndarray:
    """30 % at −1.4, 70 % at 0.6; second coordinate of width 1."""
    rng = np.random.default_rng(seed)
    first = np.where(rng.random(count) < 0.3, -1.4, 0.6) + width * rng.standard_normal(count)
    return np.stack([first, rng.standard_normal(count)], 1)


@pytest.mark.parametrize("spread", [0.0, 0.6], ids=["equal noise", "heteroscedastic"])
def test_blurred_clusters_come_back_with_weights_and_widths(spread: float) -> None:
    """The blur (0.8 each) hides the gap: the means alone have one peak."""
    true = two_clusters(4000, 0.15)
    rng = np.random.default_rng(2)
    noise = 0.8 * np.exp(spread * rng.standard_normal((4000, 1))) * np.ones((1, 2))
    mixture = deconvolve(Seen.of(*seen_as(true, noise)), 4, 0)
    assert len(mixture.weight) == 2
    order = np.argsort(mixture.mean[:, 0])
    assert mixture.weight[order] == pytest.approx([0.3, 0.7], abs=0.05)
    assert mixture.mean[order, 0] == pytest.approx([-1.4, 0.6], abs=0.12)
    widths = np.sqrt(mixture.covariance[order, 0, 0])
    assert widths.max() < 0.35, "0.8 of blur are gone"
    assert np.sqrt(mixture.covariance[order, 1, 1]) == pytest.approx([1, 1], abs=0.12)


def test_noise_alone_comes_back_as_a_point() -> None:
    latent, deviation = seen_as(np.zeros((3000, 2)), np.full((3000, 2), 1.0))
    mixture = deconvolve(Seen.of(latent, deviation), 3, 0)
    assert len(mixture.weight) == 1
    assert np.sqrt(np.linalg.eigvalsh(mixture.covariance)).max() < 0.25
    assert np.abs(mixture.mean).max() < 0.05


def test_images_that_say_nothing_do_not_count() -> None:
    true = two_clusters(3000, 0.15)
    noise = np.full(true.shape, 0.3)
    noise[1500:] = 1e3
    latent, deviation = seen_as(true, noise)
    mixture = deconvolve(Seen.of(latent, deviation), 3, 0)
    order = np.argsort(mixture.mean[:, 0])
    assert mixture.weight[order] == pytest.approx([0.3, 0.7], abs=0.06)


def test_posteriors_wider_than_the_prior_say_nothing() -> None:
    """The model's own error is added to them, so that they can be."""
    rng = np.random.default_rng(4)
    latent = rng.standard_normal((600, 2))
    found = make_landscape(latent, 0.98 + 0.2 * rng.random((600, 2)), 4, 3, 0)
    assert len(found.mixture.weight) == 1
    assert found.mixture.covariance[0] == pytest.approx(np.eye(2)), "the prior: nothing more is known"
    true = two_clusters(3000, 0.15)
    latent, deviation = seen_as(true, np.full(true.shape, 0.3))
    deviation[1500:] = 1.1
    mixture = deconvolve(Seen.of(latent, deviation), 3, 0)
    order = np.argsort(mixture.mean[:, 0])
    assert mixture.weight[order] == pytest.approx([0.3, 0.7], abs=0.06)


def test_the_landscape_has_the_height_of_the_truth_within_its_errors() -> None:
    """Two equal wells, the second of a third of the particles: ln 2 apart."""
    rng = np.random.default_rng(5)
    true = np.where(rng.random((6000, 1)) < 1 / 3, -1.0, 1.0) + 0.3 * rng.standard_normal((6000, 1))
    latent, deviation = seen_as(true, np.full(true.shape, 0.4))
    found = make_landscape(latent, deviation, 4, 20, 0)
    x = found.axes[0]
    left, right = np.nanmin(found.energy[x < 0]), np.nanmin(found.energy[x > 0])
    assert right == 0
    at = int(np.nanargmin(np.where(x < 0, found.energy, np.nan)))
    assert 0.01 < found.energy_error[at] < 0.2
    assert left == pytest.approx(np.log(2), abs=3 * found.energy_error[at])
    assert found.density.sum() * (x[1] - x[0]) == pytest.approx(1, abs=0.02)
    assert found.weight_error.max() == pytest.approx(np.sqrt(2 / 9 / 6000), rel=0.8)
    # far from all particles nothing is said, and its own place lies deeper than the edge
    assert np.isnan(found.energy).any() or x[-1] < 2.5
    assert len(found.own) == 6000
    assert found.own.min() > 0
    again = make_landscape(latent, deviation, 4, 20, 0)
    assert again.energy_error.tobytes() == found.energy_error.tobytes()


def test_a_mixture_sums_to_one() -> None:
    mixture = Gaussians(
        np.array([0.4, 0.6]), np.array([[0.0, 1], [1, 0]]), np.array([[[1, 0.5], [0.5, 1]]] * 2)
    )
    line = np.linspace(-6, 7, 131)
    grid = np.stack(np.meshgrid(line, line, indexing="ij"), -1).reshape(-1, 2)
    assert mixture.at(grid).sum() * 0.1**2 == pytest.approx(1, abs=1e-3)


def test_stability_tells_clusters_from_cuts() -> None:
    rng = np.random.default_rng(1)
    clusters = rng.normal(0, 0.2, (900, 2)) + rng.integers(0, 3, 900)[:, None] * [1.5, 0.3]
    continuum = rng.normal(0, 1, (900, 2))
    cfg, sizes = HeterogeneityAnalyze(states=3), np.ones(2)
    firm, cut = (find_states(points, sizes, cfg).stability for points in (clusters, continuum))
    assert firm is not None
    assert cut is not None
    assert firm > 0.95
    assert cut < 0.7
    assert find_states(continuum, sizes, HeterogeneityAnalyze(states=1)).stability is None
