"""Fill ellipsoidal domains with motifs: bundles of helices and stacks of sheets, each its own way round."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.spatial import KDTree
from scipy.spatial.transform import Rotation

from emflow.simulate.structure import (
    ATOMS_PER_RESIDUE,
    HELIX_RISE_ANGSTROM,
    STRAND_RISE_ANGSTROM,
    alpha_helix,
    beta_strand,
)

HELIX_SPACING_ANGSTROM = 9.8
STRAND_SPACING_ANGSTROM = 4.8
SHEET_SPACING_ANGSTROM = 10.0
_MOTIF_SPACING_ANGSTROM = 23.0
_MOTIF_REACH_ANGSTROM = 24.0
_WALL_ANGSTROM = 2.2  # half the gap between the Cα of two motifs
_HELICAL = 0.65  # fraction of motifs that are helix bundles
_CLASH_ANGSTROM = 3.2  # no two Cα nearer
_SHORTEST = 4  # residues
_TWIST_DEG = -8.0  # from strand to strand


def fill(centres: np.ndarray, radii: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Fill ellipsoids with secondary structure.

    Motif centres lie at least 23 Å apart in the ellipsoids; each motif fills its Voronoi cell.

    Parameters
    ----------
    centres, radii
        (D, 3) each, in ångström; each ellipsoid is turned at random.

    Returns
    -------
    Residues (R, 6, 3), in ångström, and the ellipsoid of each, (R,).
    """
    frames = Rotation.random(len(centres), rng=rng).as_matrix()
    motifs = np.zeros((0, 3))
    domain = np.zeros(0, dtype=int)
    for i in range(len(centres)):
        tries = rng.uniform(-0.85, 0.85, (400, 3))
        tries = tries[np.linalg.norm(tries, axis=1) < 0.85]
        tries[0] = 0  # a small domain is one motif
        for at in (tries * radii[i]) @ frames[i].T + centres[i]:
            if len(motifs) == 0 or np.linalg.norm(motifs - at, axis=1).min() > _MOTIF_SPACING_ANGSTROM:
                motifs, domain = np.vstack([motifs, at]), np.append(domain, i)
    pieces, labels = [], []
    for number, (centre, i) in enumerate(zip(motifs, domain, strict=True)):
        frame = Rotation.random(rng=rng).as_matrix()
        others = np.delete(motifs, number, axis=0)
        for element in _elements(rng):
            placed = element @ frame.T + centre
            alpha = placed[:, 1]
            own = np.linalg.norm((alpha - centres[i]) @ frames[i] / radii[i], axis=1) < 1
            if len(others):
                toward = others - centre
                along = (alpha - centre) @ toward.T / np.linalg.norm(toward, axis=1)
                own &= (along < 0.5 * np.linalg.norm(toward, axis=1) - _WALL_ANGSTROM).all(axis=1)
            start, stop = _longest_run(own)
            if stop - start >= _SHORTEST:
                pieces.append(placed[start:stop])
                labels.append(np.full(stop - start, i))
    residues = np.concatenate(pieces) if pieces else np.zeros((0, ATOMS_PER_RESIDUE, 3))
    label = np.concatenate(labels) if labels else np.zeros(0, dtype=int)
    clashes = KDTree(residues[:, 1]).query_pairs(_CLASH_ANGSTROM, output_type="ndarray")
    return np.delete(residues, clashes[:, 1], axis=0), np.delete(label, clashes[:, 1])


def _elements(rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Parallel or antiparallel helices or strands about the origin along z, each a little astray."""
    helical = rng.random() < _HELICAL
    reach = _MOTIF_REACH_ANGSTROM
    x: np.ndarray
    y: np.ndarray
    if helical:
        i, j = np.meshgrid(np.arange(-3, 4), np.arange(-3, 4))
        x, y = (i + 0.5 * (j % 2)) * HELIX_SPACING_ANGSTROM, j * np.sqrt(0.75) * HELIX_SPACING_ANGSTROM
        n = int(2 * reach / HELIX_RISE_ANGSTROM)
    else:
        i, j = np.meshgrid(np.arange(-3, 4), np.arange(-5, 6))
        x, y = i * SHEET_SPACING_ANGSTROM, j * STRAND_SPACING_ANGSTROM
        n = int(2 * reach / STRAND_RISE_ANGSTROM)
    offset = rng.uniform(-0.5, 0.5, 2) * (HELIX_SPACING_ANGSTROM if helical else STRAND_SPACING_ANGSTROM)
    for cx, cy in zip(x.ravel() + offset[0], y.ravel() + offset[1], strict=True):
        if np.hypot(cx, cy) > reach:
            continue
        if helical:
            element = alpha_helix(n)
            turn = Rotation.from_euler("z", rng.uniform(0, 360), degrees=True).as_matrix()
            tilt = Rotation.from_rotvec(np.deg2rad([*rng.normal(0, 5, 2), 0])).as_matrix()
        else:
            element, turn = beta_strand(n), np.eye(3)
            twist = _TWIST_DEG * cy / STRAND_SPACING_ANGSTROM
            tilt = Rotation.from_euler("y", twist, degrees=True).as_matrix()
        direction = np.diag([1.0, -1.0, -1.0]) if rng.random() < 0.5 else np.eye(3)
        jitter = rng.normal(0, 0.5 if helical else 0.2, 3)
        yield element @ (tilt @ direction @ turn).T + np.array([cx, cy, 0]) + jitter


def _longest_run(mask: np.ndarray) -> tuple[int, int]:
    """Start and stop of the longest run of true values."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(int), [0]])))
    if not len(edges):
        return 0, 0
    starts, stops = edges[::2], edges[1::2]
    best = int(np.argmax(stops - starts))
    return int(starts[best]), int(stops[best])
