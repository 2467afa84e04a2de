"""Compare picks with known positions, one to one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from scipy.spatial import cKDTree


@dataclass(frozen=True)
class Positions:
    """Positions in many micrographs."""

    micrograph: np.ndarray
    """Base name of the micrograph of each, without suffix, shape (n,)."""
    xy_px: np.ndarray
    """Shape (n, 2)."""
    merit: np.ndarray
    """The higher the better, shape (n,)."""
    listed: frozenset[str]
    """All micrographs that were looked at, also those without a position."""
    figure: np.ndarray | None = None
    """What a threshold is set on: the probability, or what the picker gives in its place, shape (n,)."""
    shape_px: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Height and width of micrographs whose image is known, by base name."""


def match(picks: np.ndarray, truth: np.ndarray, radius: float) -> np.ndarray:
    """Match picks to positions one to one, best pick first, each to the nearest free position within ``radius``.

    Parameters
    ----------
    picks
        Shape (n, d), best first.
    truth
        Shape (m, d).

    Returns
    -------
    Index of each pick's position, −1 where it has none; shape (n,).
    """
    found = np.full(len(picks), -1, dtype=np.int64)
    if len(picks) == 0 or len(truth) == 0:
        return found
    near = cKDTree(picks).sparse_distance_matrix(cKDTree(truth), radius, output_type="ndarray")
    order = np.lexsort((near["v"], near["i"]))
    pick, place = near["i"][order], near["j"][order]
    while len(pick):  # in each round, pairs that come first for their pick and for their position
        rank = np.arange(len(pick))
        first_pick, first_place = np.full(len(picks), len(pick)), np.full(len(truth), len(pick))
        np.minimum.at(first_pick, pick, rank)
        np.minimum.at(first_place, place, rank)
        sure = (first_pick[pick] == rank) & (first_place[place] == rank)
        found[pick[sure]] = place[sure]
        taken = np.zeros(len(truth), dtype=bool)
        taken[place[sure]] = True
        free = (found[pick] < 0) & ~taken[place]
        pick, place = pick[free], place[free]
    return found


@dataclass(frozen=True)
class Matched:
    """Picks of the micrographs that the truth lists, best first, each with the position it found."""

    names: tuple[str, ...]
    """Base names of these micrographs."""
    micrograph: np.ndarray
    """Index of each pick's, shape (n,)."""
    hit: np.ndarray
    """Whether the pick found a position that no better one had, shape (n,)."""
    merit: np.ndarray
    """Shape (n,), falling."""
    figure: np.ndarray
    """Shape (n,); see :class:`Positions`."""
    picked: np.ndarray
    """Whether the pick is at or above the threshold, shape (n,)."""
    offset_px: np.ndarray
    """Distance of each hit from its position."""
    positions: np.ndarray
    """Number of positions in each micrograph."""
    places: np.ndarray
    """Number of places in each micrograph where a particle could be; NaN where its size is not known."""
    elsewhere: int
    """Picks in micrographs that the truth does not list: they are not judged."""
    radius_px: float


def match_picks(
    picks: Positions, truth: Positions, radius_px: float, threshold: float | None = None
) -> Matched:
    """Match the picks of all micrographs.

    Parameters
    ----------
    picks, truth
        Positions; the picks' merit ranks them. Only micrographs that the truth lists are judged.
    radius_px
        Largest distance between a pick and its position. A second pick of a position is false.
    threshold
        Lowest figure that counts as picked; None: all count.
    """
    names = tuple(sorted(truth.listed))
    number = {name: i for i, name in enumerate(names)}
    judged = np.array([name in number for name in picks.micrograph], dtype=bool)
    order = np.flatnonzero(judged)[np.argsort(-picks.merit[judged], kind="stable")]
    layer = np.array([number[name] for name in picks.micrograph[order]], dtype=np.int64)
    of_truth = np.array([number[name] for name in truth.micrograph], dtype=np.int64)
    apart = 4 * radius_px + 1  # a third axis keeps micrographs apart
    found = match(
        np.column_stack([picks.xy_px[order], layer * apart]),
        np.column_stack([truth.xy_px, of_truth * apart]),
        radius_px,
    )
    hit = found >= 0
    figure = picks.merit if picks.figure is None else picks.figure
    shapes = {**picks.shape_px, **truth.shape_px}
    area = np.array([np.prod(shapes[name]) if name in shapes else np.nan for name in names], dtype=float)
    return Matched(
        names=names,
        micrograph=layer,
        hit=hit,
        merit=picks.merit[order],
        figure=figure[order],
        picked=np.ones(len(order), bool) if threshold is None else figure[order] >= threshold,
        offset_px=np.linalg.norm(picks.xy_px[order][hit] - truth.xy_px[found[hit]], axis=1),
        positions=np.bincount(of_truth, minlength=len(names)),
        places=np.floor(area / (np.pi * radius_px**2)),
        elsewhere=int((~judged).sum()),
        radius_px=radius_px,
    )
