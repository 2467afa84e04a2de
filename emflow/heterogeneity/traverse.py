"""The verb traverse: a path through where the particles are dense, and each particle's place on it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter1d
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components, dijkstra
from scipy.spatial import cKDTree

from emflow.heterogeneity.config import HeterogeneityTraverse
from emflow.step import EmflowError

_FINE = 200
"""Points of the path before volumes are placed on it."""
_MOST = 20_000
"""Particles, at most, that the graph is made of."""
_SMOOTH = 4.0
_WIDTH = 0.04
"""Width of the principal curve's kernel, as a part of its length."""
_TURNS = 8
_EDGE = 1.5
_ORDINARY = 90.0
_LEAST_RETURN = 0.2
_MARGIN = 0.05
_DEAR = 20.0
_BESIDE = 0.3
_BLOCK = 2000


@dataclass(frozen=True)
class Path:
    """A polyline in latent space; distances are those between volumes."""

    fine: np.ndarray
    """Points at equal distances along it, (_FINE, K); of a loop the last is one step before the first."""
    scale: np.ndarray
    """Of each coordinate, (K,)."""
    closed: bool

    def corners(self) -> np.ndarray:
        """The polyline in the metric of the volumes; of a loop it ends where it begins."""
        line = self.fine * self.scale
        return np.concatenate([line, line[:1]]) if self.closed else line

    def length(self) -> float:
        """Length in the metric of the volumes."""
        return float(np.linalg.norm(np.diff(self.corners(), axis=0), axis=1).sum())

    def points(self, count: int) -> np.ndarray:
        """``count`` points at equal distances, from end to end, (count, K); of a loop all different."""
        return _resampled(self.corners(), count, self.closed) / self.scale

    def place(self, latent: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Nearest place of particles (N, K): part of the length 0…1 (N,), distance (N,), unit tangent (N, K)."""
        line = self.corners()
        begin, step = line[:-1], np.diff(line, axis=0)
        square = np.maximum((step**2).sum(1), 1e-30)
        ahead = np.concatenate([[0], np.sqrt(square).cumsum()])
        where, far, tangent = np.empty(len(latent)), np.empty(len(latent)), np.empty_like(latent)
        for first in range(0, len(latent), _BLOCK):
            here = slice(first, first + _BLOCK)
            off = (latent[here] * self.scale)[:, None] - begin
            part = np.clip((off * step).sum(2) / square, 0, 1)
            distance = np.linalg.norm(off - part[..., None] * step, axis=2)
            best = distance.argmin(1)
            rows = np.arange(len(best))
            where[here] = (ahead[best] + part[rows, best] * np.sqrt(square[best])) / ahead[-1]
            far[here] = distance[rows, best]
            tangent[here] = step[best] / np.sqrt(square[best])[:, None]
        return where, far, tangent


def find_path(
    latent: np.ndarray,
    sizes: np.ndarray,
    cfg: HeterogeneityTraverse,
    start: np.ndarray | None = None,
    end: np.ndarray | None = None,
) -> Path:
    """Shortest path through dense parts of the population, smoothed; a loop where the particles close one.

    A graph joins each particle with its nearest neighbours; an edge costs its length times the mean radius of the
    neighbourhoods that it joins, to a power: what is sparse is far. Edges much longer than the smaller of the two
    neighbourhoods are left out, so that nothing leads over an empty region.

    Parameters
    ----------
    latent
        (N, K).
    sizes
        Norm of each component, (K,).
    start, end
        Ends, (K,); where one is None, it is the particle farthest along the graph from the other (or from the
        densest place).

    Raises
    ------
    EmflowError
        If there are too few particles, or no dense path joins the ends.
    """
    scale = sizes / max(float(sizes.max()), 1e-30)
    points = latent[:: max(1, -(-len(latent) // _MOST))] * scale
    if len(points) < 2 * cfg.neighbours:
        raise EmflowError(
            f"{len(points)} particles are too few for a path with {cfg.neighbours} neighbours each."
        )
    tree = cKDTree(points)
    graph, radius = _graph(points, tree, cfg)
    part = connected_components(graph, directed=False)[1]
    first, last = _ends(
        points, tree, graph, radius, part, [e if e is None else e * scale for e in (start, end)]
    )
    nodes = _shortest(graph, first, last)
    closed = False
    near = max(cfg.neighbours, len(points) // 100)
    if cfg.loops and start is None and end is None:
        back = _way_back(points, tree, graph, nodes, near)
        if len(back):
            nodes, closed = np.concatenate([nodes, back]), True
    line = points[nodes]
    line = _resampled(np.concatenate([line, line[:1]]) if closed else line, _FINE, closed)
    line = _smoothed(points[tree.query(line, k=near)[1]].mean(1), closed)
    if cfg.method == "curve":
        for _ in range(_TURNS):
            line = _principal(points, line, closed)
    return Path(line / scale, scale, closed)


def _graph(points: np.ndarray, tree: cKDTree, cfg: HeterogeneityTraverse) -> tuple[csr_matrix, np.ndarray]:
    """Costs between neighbours (N, N), and the radius of each neighbourhood (N,)."""
    distance, index = tree.query(points, k=cfg.neighbours + 1)
    radius = np.maximum(distance[:, -1], 1e-12)
    rows = np.repeat(np.arange(len(points)), cfg.neighbours)
    columns, length = index[:, 1:].ravel(), distance[:, 1:].ravel()
    near = length <= _EDGE * np.minimum(radius[rows], radius[columns])
    sparse = (radius[rows] + radius[columns]) / (2 * np.median(radius))
    cost = np.maximum(length, 1e-12) * sparse**cfg.power
    graph = csr_matrix((cost[near], (rows[near], columns[near])), shape=(len(points),) * 2)
    return graph.maximum(graph.T).tocsr(), radius


def _ends(
    points: np.ndarray,
    tree: cKDTree,
    graph: csr_matrix,
    radius: np.ndarray,
    part: np.ndarray,
    given: list[np.ndarray | None],
) -> tuple[int, int]:
    """Nodes to begin and to end at."""
    nodes = [None if point is None else int(tree.query(point)[1]) for point in given]
    if nodes[0] is not None and nodes[1] is not None:
        if part[nodes[0]] != part[nodes[1]]:
            raise EmflowError(
                "The ends lie in parts of the population that no populated path joins. A path from one to the other "
                "would show volumes that no particle has; choose ends in one part, or describe the parts as states."
            )
        return nodes[0], nodes[1]
    own = next((part[node] for node in nodes if node is not None), np.bincount(part).argmax())
    ordinary = (part == own) & (radius <= np.percentile(radius[part == own], _ORDINARY))
    if nodes[0] is None and nodes[1] is None:
        densest = int(np.where(part == own, radius, np.inf).argmin())
        nodes[0] = _farthest(graph, densest, ordinary)
    known = nodes[0] if nodes[0] is not None else nodes[1]
    assert known is not None
    other = _farthest(graph, known, ordinary)
    return (known, other) if nodes[0] is not None else (other, known)


def _farthest(graph: csr_matrix, node: int, allowed: np.ndarray) -> int:
    distance = dijkstra(graph, directed=False, indices=node)
    return int(np.where(allowed & np.isfinite(distance), distance, -1).argmax())


def _shortest(graph: csr_matrix, first: int, last: int) -> np.ndarray:
    """Nodes from first to last; only the first where nothing leads there."""
    _, before = dijkstra(graph, directed=False, indices=first, return_predecessors=True)
    nodes = [last]
    while nodes[-1] != first and before[nodes[-1]] >= 0:
        nodes.append(int(before[nodes[-1]]))
    return np.array(nodes[::-1] if nodes[-1] == first else [first])


def _way_back(
    points: np.ndarray, tree: cKDTree, graph: csr_matrix, nodes: np.ndarray, near: int
) -> np.ndarray:
    """Nodes from the end of a path to its beginning by another way; none where there is no other.

    Beside the path, between its ends, a step costs many times as much. Along a loop the other way lies beyond both
    ends; of an open cloud all ways lie between them.
    """
    line = _resampled(points[nodes], _FINE, False)
    first = Path(
        _smoothed(points[tree.query(line, k=near)[1]].mean(1), False), np.ones(points.shape[1]), False
    )
    where, _, _ = first.place(points)
    between = (where > _MARGIN) & (where < 1 - _MARGIN)
    coo = graph.tocoo()
    dear = 1 + _DEAR * (between[coo.row].astype(float) + between[coo.col]) / 2
    back = _shortest(
        csr_matrix((coo.data * dear, (coo.row, coo.col)), shape=graph.shape), nodes[-1], nodes[0]
    )
    if len(back) < 3:
        return back[:0]
    step = np.linalg.norm(np.diff(points[back], axis=0), axis=1)
    beside = float((step * between[back[1:]]).sum() / step.sum())
    long = step.sum() > _LEAST_RETURN * _length(points[nodes])
    return back[1:-1] if long and beside < _BESIDE else back[:0]


def _length(line: np.ndarray) -> float:
    return float(np.linalg.norm(np.diff(line, axis=0), axis=1).sum())


def _resampled(line: np.ndarray, count: int, closed: bool) -> np.ndarray:
    """Points at equal distances along a polyline; of a loop (its last point is its first) without the last."""
    ahead = np.concatenate([[0], np.linalg.norm(np.diff(line, axis=0), axis=1).cumsum()])
    at = np.linspace(0, ahead[-1], count + closed)[: count or None]
    return np.stack([np.interp(at, ahead, line[:, k]) for k in range(line.shape[1])], 1)


def _smoothed(line: np.ndarray, closed: bool) -> np.ndarray:
    """Smooth along the path; spaced evenly again."""
    line = gaussian_filter1d(line, _SMOOTH, axis=0, mode="wrap" if closed else "nearest")
    return _resampled(np.concatenate([line, line[:1]]) if closed else line, _FINE, closed)


def _principal(points: np.ndarray, line: np.ndarray, closed: bool) -> np.ndarray:
    """One step of a principal curve: means of the particles by their place (Hastie and Stuetzle 1989)."""
    where, _, _ = Path(line, np.ones(line.shape[1]), closed).place(points)
    at = np.linspace(0, 1, _FINE + closed)[:_FINE]
    off = np.abs(at[:, None] - where)
    off = np.minimum(off, 1 - off) if closed else off
    weight = np.exp(-0.5 * (off / _WIDTH) ** 2)
    return _smoothed(weight @ points / weight.sum(1, keepdims=True), closed)


def barrier(energy: np.ndarray) -> float:
    """Height of the highest pass along a path over the higher of the two valleys beside it, in k_B·T.

    Parameters
    ----------
    energy
        −ln p in bins along the path, (bins,).
    """
    left = energy - np.minimum.accumulate(energy)
    right = energy - np.minimum.accumulate(energy[::-1])[::-1]
    return float(np.minimum(left, right).max())
