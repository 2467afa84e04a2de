"""From ridges to curves: thin lines traced, smoothed, joined over gaps, and cut at equal distances."""

from __future__ import annotations

import math

import numpy as np
from scipy.interpolate import make_lsq_spline
from scipy.ndimage import convolve, label, map_coordinates
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components, dijkstra
from scipy.spatial import cKDTree
from skimage.filters import apply_hysteresis_threshold
from skimage.morphology import skeletonize

from emflow.pick.ridges import Ridges

STEP = 0.25
"""Distance of the points of a curve, in pixels."""
STIFF = 6.0
"""Length over which a curve is one polynomial, in filament widths."""
SHORTEST, SPUR = 0.5, 1.2
"""Shortest piece that may be joined, and length of a side branch that is none, in filament widths."""
SQUARE = np.ones((3, 3), np.uint8)
BEND = math.radians(20)
"""Most that two pieces which are joined differ in direction."""


def trace(ridges: Ridges, low: float, high: float, width: float) -> list[np.ndarray]:
    """Points (n, 2: x, y) in order along each thin line of the ridges.

    Across their direction, pixels that are no maximum are left out; what is above ``low`` and connected to something above
    ``high`` stays; its skeleton is parted where lines meet. Places are refined across the ridge by a parabola.
    """
    score = ridges.score
    y, x = np.nonzero(score > low)
    across = np.stack([np.cos(ridges.angle[y, x]), -np.sin(ridges.angle[y, x])])  # y, x
    sides = [
        map_coordinates(score, np.stack([y, x]) + sign * across, order=1, mode="nearest") for sign in (-1, 1)
    ]
    top = score[y, x]
    peak = (top >= sides[0]) & (top >= sides[1])
    thin = np.zeros_like(score)
    thin[y[peak], x[peak]] = top[peak]
    wide = convolve((thin > 0).astype(np.uint8), np.ones((3, 3), np.uint8), mode="constant") > 0
    line = skeletonize(apply_hysteresis_threshold(np.where(wide, score, 0.0), low, high))
    line = _parted(_without_spurs(line, SPUR * width))[0]
    shift = np.zeros((2, *score.shape))
    curvature = sides[0] - 2 * top + sides[1]
    vertex = 0.5 * (sides[0] - sides[1]) / np.where(curvature < 0, curvature, -1.0)
    shift[:, y, x] = np.where(curvature < 0, np.clip(vertex, -1, 1), 0.0) * across
    return [np.stack([x + shift[1, y, x], y + shift[0, y, x]], 1) for y, x in _paths(line)]


def _parted(line: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A skeleton without the places where lines meet, and these places."""
    count = convolve(line.astype(np.uint8), SQUARE, mode="constant")
    meeting = convolve((line & (count > 3)).astype(np.uint8), SQUARE, mode="constant") > 0
    return line & ~meeting, line & meeting


def _without_spurs(line: np.ndarray, shortest: float) -> np.ndarray:
    """A skeleton without short lines that end freely."""
    parted, meeting = _parted(line)
    part, n_parts = label(parted, SQUARE)
    place, n_places = label(meeting, SQUARE)
    y, x = np.nonzero(part)
    touched = np.zeros((n_parts + 1, n_places + 1), dtype=bool)
    for dy, dx in np.ndindex(3, 3):
        touched[part[y, x], np.pad(place, 1)[y + dy, x + dx]] = True
    spur = (touched[:, 1:].sum(1) < 2) & (np.bincount(part.ravel(), minlength=n_parts + 1) < shortest)
    spur[0] = False
    return np.asarray(skeletonize(line & ~spur[part]))


def _paths(line: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Pixels (y, x) of each connected line without branches, from one end to the other."""
    y, x = np.nonzero(line)
    if len(y) == 0:
        return []
    number = np.full(np.add(line.shape, 2), -1)
    number[y + 1, x + 1] = np.arange(len(y))
    pairs, lengths = [], []
    for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1)):
        other = number[y + 1 + dy, x + 1 + dx]
        pairs.append(np.stack([np.flatnonzero(other >= 0), other[other >= 0]]))
        lengths.append(np.full(pairs[-1].shape[1], math.hypot(dy, dx)))
    rows, columns = np.concatenate(pairs, axis=1)
    graph = coo_array((np.concatenate(lengths), (rows, columns)), shape=(len(y), len(y))).tocsr()
    parts, part = connected_components(graph, directed=False)
    far = np.unique(part, return_index=True)[1]
    distance = np.zeros(len(y))
    for _ in range(2):  # what is farthest from anywhere is an end
        distance = dijkstra(graph, directed=False, indices=far, min_only=True)
        order = np.lexsort((distance, part))
        far = order[np.append(np.flatnonzero(np.diff(part[order])), len(order) - 1)]
    order = np.lexsort((distance, part))
    cuts = np.flatnonzero(np.diff(part[order])) + 1
    return [(y[some], x[some]) for some in np.split(order, cuts)] if parts else []


def smooth(points: np.ndarray, width: float) -> np.ndarray:
    """Smooth curve through points (n, 2: x, y): shape (m, 4), places every quarter of a pixel and unit directions.

    A least-squares spline with a knot every six widths: filaments are stiff, and what bends faster is noise.
    """
    along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    length = along[-1]
    degree = 3 if length > STIFF * width and len(points) > 8 else min(2, len(points) - 1)
    inner = np.linspace(0, length, int(length // (STIFF * width)) + 2)[1:-1] if degree == 3 else np.zeros(0)
    knots = np.concatenate([np.zeros(degree + 1), inner, np.full(degree + 1, length)])
    spline = make_lsq_spline(along, points, knots, degree)
    fine = spline(np.linspace(0, length, max(2, math.ceil(length / STEP) + 1)))
    steps = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(fine, axis=0), axis=1))])
    even = np.linspace(0, steps[-1], max(2, math.ceil(steps[-1] / STEP) + 1))
    places = np.column_stack([np.interp(even, steps, fine[:, axis]) for axis in (0, 1)])
    direction = np.gradient(places, axis=0)
    return np.hstack([places, direction / np.linalg.norm(direction, axis=1, keepdims=True)])


def length_of(curve: np.ndarray) -> float:
    """Length of a curve (n, 4) along itself."""
    return float(np.linalg.norm(np.diff(curve[:, :2], axis=0), axis=1).sum())


def join(pieces: list[np.ndarray], width: float, max_gap: float) -> list[np.ndarray]:
    """Smooth curves (n, 4) of the pieces (n, 2), those joined that go on in each other's direction over a gap."""
    pieces = [p for p in pieces if len(p) >= max(4, SHORTEST * width)]
    if not pieces:
        return []
    fitted = [smooth(p, width) for p in pieces]
    # ends 2i and 2i + 1 of piece i, with the direction outwards
    place = np.concatenate([c[[0, -1], :2] for c in fitted])
    out = np.concatenate([c[[0, -1], 2:] * [[-1], [1]] for c in fitted])
    links = _links(place, out, width, max_gap)
    joined, used = [], np.zeros(len(pieces), dtype=bool)
    free = [end for end in range(len(place)) if end not in links]
    for begin in [*free, *range(0, len(place), 2)]:
        chain: list[np.ndarray] = []
        end = begin
        while not used[end // 2]:
            used[end // 2] = True
            chain.append(pieces[end // 2][:: 1 if end % 2 == 0 else -1])
            end = links.get(end ^ 1, end)
        if chain:
            joined.append(smooth(np.concatenate(chain), width) if len(chain) > 1 else fitted[begin // 2])
    return joined


def _links(place: np.ndarray, out: np.ndarray, width: float, max_gap: float) -> dict[int, int]:
    """Which ends (n, 2) with outward directions belong together, nearest and straightest first; each one once."""
    pairs = cKDTree(place).query_pairs(max_gap, output_type="ndarray")
    pairs = pairs[pairs[:, 0] // 2 != pairs[:, 1] // 2]
    a, b = pairs.T
    gap = place[b] - place[a]
    distance = np.linalg.norm(gap, axis=1)
    bend = np.arccos(np.clip(-(out[a] * out[b]).sum(1), -1, 1))
    aside = [np.abs(gap[:, 0] * out[e, 1] - gap[:, 1] * out[e, 0]) for e in (a, b)]
    forward = np.minimum((gap * out[a]).sum(1), -(gap * out[b]).sum(1))
    room = 0.35 * width + math.sin(BEND) * distance
    good = (bend <= BEND) & (np.maximum(*aside) <= room) & (forward >= -0.5 * width)
    cost = distance + np.maximum(*aside) + width * bend
    links: dict[int, int] = {}
    for index in np.flatnonzero(good)[np.argsort(cost[good], kind="stable")]:
        one, two = int(a[index]), int(b[index])
        if one not in links and two not in links:
            links[one], links[two] = two, one
    return links


def near_others(curves: list[np.ndarray], distance: float) -> list[np.ndarray]:
    """Of each curve's points, whether they are within a distance of another curve."""
    if len(curves) < 2 or distance <= 0:
        return [np.zeros(len(c), dtype=bool) for c in curves]
    trees = [cKDTree(c[:, :2]) for c in curves]
    near = []
    for i, curve in enumerate(curves):
        apart = [
            t.query(curve[:, :2], distance_upper_bound=distance)[0] for j, t in enumerate(trees) if j != i
        ]
        near.append(np.min(apart, axis=0) < distance)
    return near


def equidistant(curve: np.ndarray, spacing: float) -> tuple[np.ndarray, np.ndarray]:
    """Places along a curve (n, 4) at equal distances along it: (m, 4), and their distances from its start.

    What is left over is shared by the two ends.
    """
    steps = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(curve[:, :2], axis=0), axis=1))])
    count = int(steps[-1] // spacing)
    track = 0.5 * (steps[-1] - count * spacing) + spacing * np.arange(count + 1)
    found = np.column_stack([np.interp(track, steps, curve[:, axis]) for axis in range(4)])
    found[:, 2:] /= np.linalg.norm(found[:, 2:], axis=1, keepdims=True)
    return found, track
