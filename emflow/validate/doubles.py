"""Particles that a table holds more than once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

from emflow.validate.columns import centres_angstrom, micrograph_of, numbers


@dataclass(frozen=True)
class Doubles:
    """Particles that are there more than once."""

    near: np.ndarray
    """Rows with another particle of the same micrograph closer than ``distance_angstrom``, (n,) bool."""
    copies: float
    """Estimated number of rows too many: copies of images and positions, and close pairs beyond those of chance."""
    by_chance: float
    """Close pairs that the density of particles just beyond the distance explains."""
    across_halves: int
    """Rows whose nearest neighbour within the distance, or another copy, lies in the other half."""
    distance_angstrom: float


def find_doubles(
    table: pd.DataFrame, optics: pd.DataFrame | None, distance_angstrom: float
) -> Doubles | None:
    """Find particles of one micrograph that lie closer together than two particles can.

    Pairs within the distance r are held against the pairs between r and 2r, which by chance are three times as many:
    in projection two particles may well overlap. One KD-tree over (x, y, micrograph) for all.
    """
    micrograph, centres = micrograph_of(table), centres_angstrom(table, optics)
    if micrograph is None or centres is None:
        return None
    known = np.isfinite(centres).all(axis=1)
    if not known.any():
        return None
    r = distance_angstrom
    codes = pd.factorize(micrograph[known])[0]
    picked = table.loc[known, ["rlnCoordinateX", "rlnCoordinateY"]].astype(float)
    # one point for each coordinate that was cut out; micrographs lie so far apart along a third axis that no
    # pair spans two
    _, first, where, counts = np.unique(
        np.column_stack([codes, np.round(picked, 1)]),
        axis=0, return_index=True, return_inverse=True, return_counts=True,
    )  # fmt: skip
    where = where.reshape(-1)
    points = np.column_stack([centres[known][first], codes[first] * 10.0 * r])
    tree = cKDTree(points)
    within, reach = ((c - len(points)) / 2 for c in tree.count_neighbors(tree, np.array([r, 2 * r])))
    by_chance = (reach - within) / 3
    excess = within - by_chance
    if excess < 4 * np.sqrt(by_chance + by_chance / 3 + 0.5):
        excess = 0.0
    distance, neighbour = tree.query(points, k=2, distance_upper_bound=r)
    close = np.isfinite(distance[:, 1]) & (excess > 0)
    near = _same_image(table)
    same_image = int(near.sum())
    near = near.copy()
    near[known] |= (counts > 1)[where] | close[where]
    across = _across_halves(table, known, where, close, neighbour[:, 1])
    copies = max(len(where) - len(points) + float(excess), float(same_image))
    return Doubles(near, copies, float(by_chance), across, r)


def _same_image(table: pd.DataFrame) -> np.ndarray:
    """Rows that name an image which an earlier row names, (n,) bool."""
    if "rlnImageName" not in table:
        return np.zeros(len(table), dtype=bool)
    image = table["rlnImageName"].astype(str)
    return (image.duplicated() & (image != "None")).to_numpy()


def _across_halves(
    table: pd.DataFrame, known: np.ndarray, where: np.ndarray, close: np.ndarray, neighbour: np.ndarray
) -> int:
    """Count the rows whose place, or the nearest place to it, holds a row of the other half."""
    half = numbers(table, "rlnRandomSubset")
    if half is None:
        return 0
    half = half[known]
    holds = np.zeros((len(close) + 1, 2), dtype=bool)  # the last row: no neighbour
    for column in (0, 1):
        holds[where[half == column + 1], column] = True
    both = (holds[:-1] | holds[np.where(close, neighbour, len(close))]).sum(1) == 2
    return int((both[where] & np.isin(half, (1, 2))).sum())
