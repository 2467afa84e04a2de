"""How likely a peak is noise: against simulated noise and a known mixture."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from emflow.pick.filters import matched_filter
from emflow.pick.peaks import local_maxima
from emflow.pick.significance import Noise, probabilities, roughness, tail_scale, threshold
from emflow.pick.template import disks


def test_noise_has_as_many_peaks_as_expected() -> None:
    kernel = disks(16.0, torch.device("cpu"))[3]
    heights, size, n = [], 512, 6
    for seed in range(n):
        image = torch.randn(size, size, generator=torch.Generator().manual_seed(seed))
        score = matched_filter(image, torch.ones_like(image), kernel)
        heights.append(local_maxima(score, score > 2)[1].numpy())
    found = np.concatenate(heights)
    noise = Noise(roughness(kernel.numpy()), n * size**2)
    for level in (3.0, 3.5, 4.0):
        expected = noise.expected(np.array([level]))[0]
        assert (found > level).sum() == pytest.approx(expected, rel=0.12, abs=3 * math.sqrt(expected))
    assert tail_scale(found, noise) == pytest.approx(1.0, abs=0.05)
    assert tail_scale(1.3 * found, noise) == pytest.approx(1.3, abs=0.06)
    assert tail_scale(found[:3], noise) == 1.0


def test_level_inverts_expected() -> None:
    noise = Noise(0.05, 1e5, 1.1)
    assert noise.expected(np.array([noise.level(0.3)]))[0] == pytest.approx(0.3)


def draw(n_particles: int, seed: int, score: float = 6.0) -> tuple[np.ndarray, np.ndarray, Noise]:
    """Noise peaks as expected, and particles of a score ± 1; which are particles."""
    random = np.random.default_rng(seed)
    noise = Noise(0.05, 2e5)
    grid = np.linspace(1.5, 8, 4000)
    tail = noise.expected(grid)
    n_noise = random.poisson(tail[0])
    heights = np.interp(random.uniform(0, tail[0], n_noise), tail[::-1], grid[::-1])
    scores = np.concatenate([heights, random.normal(score, 1, n_particles)])
    real = np.arange(len(scores)) >= n_noise
    order = np.argsort(-scores)
    return scores[order], real[order], noise


def test_probabilities_fall_with_the_score_and_are_calibrated() -> None:
    said, was = [], []
    for seed in range(20):
        scores, real, noise = draw(150, seed, 4.5)
        chance = probabilities(scores, noise)
        assert (np.diff(chance) <= 1e-12).all()
        assert ((chance >= 0) & (chance <= 1)).all()
        said.append(chance)
        was.append(real)
    chance, real = np.concatenate(said), np.concatenate(was)
    for low, high in ((0.0, 0.2), (0.5, 0.8), (0.8, 0.95), (0.95, 1.01)):
        some = (chance >= low) & (chance < high)
        assert real[some].mean() == pytest.approx(chance[some].mean(), abs=0.1)


@pytest.mark.parametrize("rate", [0.02, 0.1])
def test_the_threshold_keeps_the_false_discovery_rate(rate: float) -> None:
    false = []
    for seed in range(30):
        scores, real, noise = draw(150, seed)
        taken = scores >= threshold(scores, probabilities(scores, noise), noise, rate, 0.0)
        false.append(1 - real[taken].mean())
        assert real[taken].sum() > 120
    assert np.mean(false) == pytest.approx(rate, abs=0.4 * rate)


def test_what_is_hardly_likely_is_left_although_the_rate_would_allow_it() -> None:
    scores, real, noise = draw(150, 1)
    chance = probabilities(scores, noise)
    taken = scores >= threshold(scores, chance, noise, 0.2, 0.5)
    assert chance[taken].min() >= 0.5
    assert 1 - real[taken].mean() < 0.08


def test_noise_alone_passes_no_threshold() -> None:
    passed = 0
    for seed in range(40):
        scores, _, noise = draw(0, seed)
        passed += int((scores >= threshold(scores, probabilities(scores, noise), noise, 0.05, 0.5)).sum())
    assert passed <= 6  # about one micrograph in twenty
    noise = Noise(0.05, 2e5)
    assert math.isfinite(threshold(np.zeros(0), np.zeros(0), noise, 0.05, 0.5))
    assert len(probabilities(np.zeros(0), noise)) == 0
