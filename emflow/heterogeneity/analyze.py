"""The verb analyze: states in the latent coordinates, and where along them volumes are decoded."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import adjusted_rand_score, silhouette_score
from sklearn.mixture import GaussianMixture

from emflow.heterogeneity.config import HeterogeneityAnalyze

_JUDGED = 3000
"""Particles that the silhouette is computed from: its cost grows with their square."""

_RESAMPLED = 5000
_BOOTSTRAPS = 10
"""Particles and divisions, at most, that the states' stability is judged from."""


@dataclass(frozen=True)
class States:
    """A division of the particles."""

    state: np.ndarray
    """State of each, from 1, the largest first, (N,)."""
    probability: np.ndarray
    """Of belonging to it, (N,)."""
    centres: np.ndarray
    """Mean latent of each state, (S, K)."""
    silhouette: float | None
    """Mean silhouette; None with one state."""
    criterion: dict[int, float]
    """Bayesian information criterion by number of states."""
    stability: float | None = None
    """Mean adjusted Rand index with the states that resampled particles give; None with one state."""


def find_states(latent: np.ndarray, sizes: np.ndarray, cfg: HeterogeneityAnalyze) -> States:
    """Divide particles by a mixture of Gaussians in the metric of the volumes.

    Parameters
    ----------
    latent
        (N, K).
    sizes
        Norm of each component's volume, (K,): a distance between latents becomes one between volumes.
    """
    count = len(latent)
    dimensions = latent.shape[1] if cfg.dimensions == 0 else min(cfg.dimensions, latent.shape[1])
    if dimensions == 0 or count < 2:
        centres = latent.mean(0, keepdims=True) if count else np.zeros((1, latent.shape[1]))
        return States(np.ones(count, dtype=np.int64), np.ones(count), centres, None, {})
    points = (latent * sizes / max(float(sizes[0]), 1e-30))[:, :dimensions]
    numbers = [cfg.states] if cfg.states else list(range(1, cfg.maximum_states + 1))
    best: tuple[float, np.ndarray, np.ndarray] | None = None
    criterion: dict[int, float] = {}
    for number in numbers:
        if number > count:
            break
        mixture = GaussianMixture(number, n_init=3, reg_covar=1e-4, random_state=cfg.seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # a division that crept is judged as it is
            labels = mixture.fit_predict(points)
        criterion[number] = float(mixture.bic(points))
        smallest = np.bincount(labels, minlength=number).min()
        enough = bool(cfg.states) or number == 1 or smallest >= cfg.minimum_fraction * count
        if enough and (best is None or criterion[number] < best[0]):
            best = criterion[number], labels, mixture.predict_proba(points).max(1)
    assert best is not None
    _, labels, probability = best
    order = np.argsort(-np.bincount(labels), kind="stable")
    order = order[np.bincount(labels)[order] > 0]
    state = np.empty(count, dtype=np.int64)
    for rank, label in enumerate(order, start=1):
        state[labels == label] = rank
    centres = np.stack([latent[state == rank].mean(0) for rank in range(1, len(order) + 1)])
    silhouette = _silhouette(points, state, cfg.seed)
    return States(state, probability, centres, silhouette, criterion, _stability(points, state, cfg))


def _stability(points: np.ndarray, state: np.ndarray, cfg: HeterogeneityAnalyze) -> float | None:
    """Divide resampled particles into as many states, and compare what they say of all with the states found.

    The adjusted Rand index over bootstraps (Hennig, Comput. Stat. Data Anal. 52 (2007) 258, for the idea).
    """
    number = int(state.max())
    if number < 2:
        return None
    rng = np.random.default_rng((cfg.seed, 71))
    every = rng.permutation(len(points))[:_RESAMPLED]
    found = []
    for _ in range(min(cfg.bootstraps, _BOOTSTRAPS)):
        again = GaussianMixture(number, n_init=1, reg_covar=1e-4, random_state=int(rng.integers(1 << 31)))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            again.fit(points[rng.choice(every, len(every))])
        found.append(adjusted_rand_score(state[every], again.predict(points[every])))
    return float(np.mean(found))


def _silhouette(points: np.ndarray, state: np.ndarray, seed: int) -> float | None:
    chosen = np.random.default_rng(seed).permutation(len(points))[:_JUDGED]
    present, counts = np.unique(state[chosen], return_counts=True)
    if len(present) < 2 or counts.min() < 2:
        return None
    return float(silhouette_score(points[chosen], state[chosen]))


def along_coordinate(latent: np.ndarray, coordinate: int, cfg: HeterogeneityAnalyze) -> np.ndarray:
    """Latents (volumes, K) along one coordinate, within the populated range.

    Even steps between the percentiles; the other coordinates are those of the particles nearby (the
    nearest twentieth), so that the path follows a curved cloud.
    """
    own = latent[:, coordinate]
    low, high = np.percentile(own, [cfg.reach_percentile, 100 - cfg.reach_percentile])
    near = max(1, len(own) // 20)
    path = []
    for value in np.linspace(low, high, cfg.volumes):
        nearest = np.argsort(np.abs(own - value), kind="stable")[:near]
        point = latent[nearest].mean(0)
        point[coordinate] = value
        path.append(point)
    return np.stack(path)


def decode(volumes: np.ndarray, latent: np.ndarray) -> np.ndarray:
    """V0 + Σ z_k V_k of one latent (K,), from volumes (K+1, n, n, n)."""
    return np.asarray(volumes[0] + np.tensordot(latent, volumes[1:], 1), dtype=np.float32)
