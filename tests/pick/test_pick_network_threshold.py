"""The network's threshold: told by the candidates' own distribution, and when it is not."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import log_expit

from emflow.pick.apply_network import BY_LOWEST, BY_SHIPPED, contaminated, judge
from emflow.pick.calibration import Calibration
from emflow.pick.config import PickApply
from emflow.pick.mixture import HIGHEST, LOWEST, fit_mixture, stretched
from emflow.pick.network import DIAMETER_PX

CFG = PickApply(method="network", diameter_angstrom=160.0)
SHIPPED = Calibration((-6.0, 2.0, 2.6, 3.0), (0.0, 0.1, 0.95, 0.99))
"""As on the data by which it was made: particles of another session score lower."""


def scores(place: np.ndarray) -> np.ndarray:
    """Scores of stretched scores."""
    found = HIGHEST + log_expit(place)
    return np.asarray(found[found > LOWEST])


def drawn(particles: int, others: int, place: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores, best first, and which of them are particles."""
    random = np.random.default_rng(seed)
    true = scores(random.normal(place, 0.7, particles))
    false = scores(random.normal(-7, 2.7, others))
    score = np.concatenate([true, false])
    order = np.argsort(-score)
    return score[order], order < len(true)


@pytest.mark.parametrize("place", [-0.6, 0.3, 1.2])
def test_the_rate_is_kept_wherever_the_particles_score(place: float) -> None:
    wrong, taken, found, said = 0, 0, 0, []
    for seed in range(6):
        score, true = drawn(120, 400, place, seed)
        chance, n, by = judge(score, SHIPPED, CFG)
        said.append(by)
        assert (np.diff(chance) <= 1e-12).all()
        wrong, taken, found = wrong + int((~true[:n]).sum()), taken + n, found + int(true[:n].sum())
    assert BY_SHIPPED not in said
    assert 0.01 < wrong / taken < CFG.false_discovery_rate + 0.03
    assert found > 0.9 * 6 * 120


def test_a_stricter_rate_takes_fewer_and_errs_less() -> None:
    score, true = drawn(300, 900, -0.4, 1)
    n = []
    for rate in (0.01, 0.05, 0.2):
        cfg = CFG.model_copy(update={"false_discovery_rate": rate, "min_probability": 0.0})
        n.append(judge(score, SHIPPED, cfg)[1])
    assert n[0] <= n[1] < n[2]
    rates = [float((~true[:k]).mean()) for k in n]
    assert rates[1] < 0.08
    assert abs(rates[2] - 0.2) < 0.06


@pytest.mark.parametrize("others", [0, 4, 300])
def test_without_particles_the_shipped_calibration_is_kept(others: int) -> None:
    for seed in range(4):
        score, _ = drawn(0, others, 0.0, seed)
        chance, n, by = judge(score, SHIPPED, CFG)
        assert by == BY_SHIPPED
        assert n <= 3
        np.testing.assert_array_equal(chance, SHIPPED.probabilities(score))


def test_a_rate_that_no_threshold_has_is_said() -> None:
    score, _ = drawn(150, 300, -0.5, 3)
    random = np.random.default_rng(0)
    dust = scores(random.normal(-0.5, 0.9, 60))  # scores as particles do
    both = np.sort(np.concatenate([score, dust]))[::-1]
    strict = CFG.model_copy(update={"false_discovery_rate": 1e-4})
    _, n, by = judge(both, SHIPPED, strict)
    assert by == BY_LOWEST
    assert 60 < n < 240


def test_probability_does_not_depend_on_the_order_and_is_the_same_each_time() -> None:
    score, _ = drawn(80, 200, 0.2, 5)
    one, other = fit_mixture(score), fit_mixture(score[::-1].copy())
    np.testing.assert_allclose(one.probabilities(score), other.probabilities(score), atol=1e-6)
    np.testing.assert_array_equal(one.values, fit_mixture(score).values)


def test_stretching_keeps_the_order_and_has_no_bound_within() -> None:
    place = stretched(np.linspace(LOWEST, HIGHEST - 0.03, 50))
    assert (np.diff(place) > 0).all()
    assert np.isfinite(stretched(np.array([-50.0, 50.0]))).all()


def test_doubtful_contamination_is_masked_only_with_what_is_sure() -> None:
    dirt = np.zeros((120, 120))
    dirt[20:40, 20:40] = 0.5
    dirt[80:100, 60:100] = 0.5
    dirt[85:90, 65:70] = 0.95
    mask = contaminated(dirt)
    assert not mask[:60].any()
    assert mask[80:100, 60:100].all()
    wide = int(0.1 * DIAMETER_PX)
    assert mask[80 - wide, 80]
    assert not mask[80 - wide - 2, 80]
