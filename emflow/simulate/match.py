"""Which found position is which true one: one to one, nearest first."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import KDTree


@dataclass(frozen=True)
class PickScore:
    """Picks against true particles."""

    true_positives: int
    n_picks: int
    n_truth: int

    @property
    def precision(self) -> float | None:
        """Fraction of the picks that are particles; None without picks."""
        return self.true_positives / self.n_picks if self.n_picks else None

    @property
    def recall(self) -> float | None:
        """Fraction of the particles that are picked; None without particles."""
        return self.true_positives / self.n_truth if self.n_truth else None

    @property
    def f1(self) -> float | None:
        """Harmonic mean of precision and recall; None where neither picks nor particles are."""
        total = self.n_picks + self.n_truth
        return 2 * self.true_positives / total if total else None


def match_positions(found: np.ndarray, truth: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """Pair positions no farther apart than a radius, each at most once, the closest pairs first.

    Parameters
    ----------
    found, truth
        (N, 2) and (M, 2), in one unit.

    Returns
    -------
    Indices into ``found`` and into ``truth`` of the pairs, (P,) each.
    """
    if len(found) == 0 or len(truth) == 0:
        return np.zeros(0, dtype=int), np.zeros(0, dtype=int)
    near = KDTree(found).sparse_distance_matrix(KDTree(truth), radius, output_type="ndarray")
    near = near[np.lexsort((near["j"], near["i"], near["v"]))]
    found_free, truth_free = np.ones(len(found), dtype=bool), np.ones(len(truth), dtype=bool)
    pairs = []
    for i, j in zip(near["i"], near["j"], strict=True):
        if found_free[i] and truth_free[j]:
            found_free[i] = truth_free[j] = False
            pairs.append((i, j))
    table = np.array(pairs, dtype=int).reshape(-1, 2)
    return table[:, 0], table[:, 1]
