"""One list of particles from several pickers', with the probability that their agreement gives each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import isotonic_regression
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from emflow.pick.peaks import suppress

LEVELS = 4
"""Classes of a picker's scores, equally many picks in each; none at all is one more."""
ROUNDS = 200
COUNTED = 1.0
"""Picks added to each class of each picker, spread as the first guess is: keeps few picks from deciding."""


@dataclass(frozen=True)
class Joined:
    """Places found by at least one picker, best first."""

    xy_px: np.ndarray
    """(n, 2), the mean of its picks."""
    rank: np.ndarray
    """Score of each picker's pick as its rank among this picker's, above 0 to 1 for the best; NaN where it has none,
    (n, k)."""


def join(
    positions: Sequence[np.ndarray],
    micrograph: Sequence[np.ndarray],
    merit: Sequence[np.ndarray],
    near_px: float,
) -> tuple[Joined, np.ndarray]:
    """Join the picks of several pickers that are each other's nearest.

    Parameters
    ----------
    positions
        Of each picker: (n, 2) as x, y in pixels.
    micrograph
        Of each picker: number of each pick's micrograph.
    merit
        Of each picker: the higher the better, on any scale.
    near_px
        Farthest that joined picks are apart; places of one micrograph are at least as far from each other.

    Returns
    -------
    the places, and the number of each one's micrograph. The order of pickers changes nothing but the columns.
    """
    apart = 4 * near_px + 1  # a third axis keeps micrographs apart
    points = [np.column_stack([xy, m * apart]) for xy, m in zip(positions, micrograph, strict=True)]
    ranks = [_ranks(m) for m in merit]
    starts = np.concatenate([[0], np.cumsum([len(p) for p in points])])
    pairs = [
        _each_others_nearest(points[a], points[b], near_px) + [starts[a], starts[b]]
        for a in range(len(points))
        for b in range(a + 1, len(points))
        if len(points[a]) and len(points[b])
    ]
    edge, total = np.concatenate([np.zeros((0, 2), dtype=np.int64), *pairs]), int(starts[-1])
    graph = coo_matrix((np.ones(len(edge)), (edge[:, 0], edge[:, 1])), shape=(total, total))
    n, place = connected_components(graph, directed=False)
    every, rank_of = np.concatenate([np.zeros((0, 3)), *points]), np.concatenate([np.zeros(0), *ranks])
    centre = np.column_stack([np.bincount(place, weights=every[:, axis], minlength=n) for axis in range(3)])
    middle = centre / np.maximum(np.bincount(place, minlength=n), 1)[:, None]
    table = np.full((n, len(points)), np.nan)
    for k in range(len(points)):
        own = slice(starts[k], starts[k + 1])
        np.fmax.at(table[:, k], place[own], rank_of[own])
    # best first: found by most, then the higher ranks; ties by place, so that the order of pickers does not matter
    quality = np.nansum(table, axis=1) + (~np.isnan(table)).sum(1)
    order = np.lexsort((middle[:, 0], middle[:, 1], middle[:, 2], -np.round(quality, 9)))
    kept = order[suppress(middle[order], near_px)] if n else order
    return Joined(middle[kept, :2], table[kept]), np.rint(middle[kept, 2] / apart).astype(np.int64)


def _ranks(merit: np.ndarray) -> np.ndarray:
    """Rank above 0 to 1 for the best; equal merits have the mean of their ranks."""
    if len(merit) == 0:
        return np.zeros(0)
    _, group = np.unique(merit, return_inverse=True)
    count = np.bincount(group)
    return np.asarray(((np.cumsum(count) - 0.5 * (count - 1)) / len(merit))[group])


def _each_others_nearest(a: np.ndarray, b: np.ndarray, near: float) -> np.ndarray:
    distance, of_a = cKDTree(b).query(a)
    of_b = cKDTree(a).query(b)[1]
    mutual = (distance <= near) & (of_b[of_a] == np.arange(len(a)))
    return np.column_stack([np.flatnonzero(mutual), of_a[mutual]])


def probabilities(rank: np.ndarray) -> np.ndarray:
    """Probability of each place to be a particle, from which pickers found it and how they ranked it.

    What is true is a hidden class (A. Dawid & A. Skene, Appl. Stat. 28, 1979): given the class, pickers find a place in
    one of ``LEVELS`` classes of rank, or not at all, independently of each other. Expectation-maximisation, begun from
    agreement; a higher rank of any picker never speaks against a particle (isotonic likelihood ratios). Places that nobody
    found are not counted. Two pickers cannot tell the classes' sizes: their order is good, their values are rough.

    Parameters
    ----------
    rank
        (n, k), see :class:`Joined`.
    """
    n, k = rank.shape
    if n == 0:
        return np.zeros(0)
    # between pickers that mirror each other rounding decides: the same one in whichever order they come
    rank = rank[:, sorted(range(k), key=lambda j: rank[:, j].tobytes())]
    level = np.where(np.isnan(rank), 0, np.ceil(np.nan_to_num(rank) * LEVELS)).astype(np.int64)
    found = (level > 0).mean(axis=1)
    guess = np.clip(
        0.7 * (found - 1 / k) * k / max(k - 1, 1) + 0.25 * np.nan_to_num(rank).max(axis=1), 0.02, 0.98
    )
    chance = guess
    first = [_frequencies(level[:, j], guess, None) for j in range(k)]
    for _ in range(ROUNDS):
        odds = np.log(chance.mean() / (1 - chance.mean())) * np.ones(n)
        for j in range(k):
            odds += _evidence(level[:, j], chance, first[j])[level[:, j]]
        new = np.clip(1 / (1 + np.exp(-np.clip(odds, -30, 30))), 1e-6, 1 - 1e-6)
        if np.abs(new - chance).max() < 1e-6:
            break
        chance = new
    return chance


def _frequencies(level: np.ndarray, chance: np.ndarray, prior: np.ndarray | None) -> np.ndarray:
    """Frequencies of a picker's levels among particles and among the rest, (2, levels)."""
    given = np.full((2, LEVELS + 1), 1 / (LEVELS + 1)) if prior is None else prior
    counted = [np.bincount(level, weights=w, minlength=LEVELS + 1) for w in (chance, 1 - chance)]
    count = np.stack(counted).astype(np.float64) + COUNTED * given
    return np.asarray(count / count.sum(axis=1, keepdims=True))


def _evidence(level: np.ndarray, chance: np.ndarray, prior: np.ndarray) -> np.ndarray:
    """Log-likelihood ratio of each of a picker's levels, not falling with the level."""
    of_particles, of_rest = _frequencies(level, chance, prior)
    weight = np.maximum(of_particles + of_rest, 1e-9)
    return np.asarray(isotonic_regression(np.log(of_particles / of_rest), weights=weight, increasing=True).x)
