"""What is in a cell, as staining: mitochondria with cristae, vesicles, microtubules, reticulum, chromatin, grain."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from emflow.simulate.config import SimulateVolume
from emflow.simulate.tissue import Cells, smooth_noise

_MITOCHONDRION_NM = (90.0, 200.0)
"""Range of a mitochondrion's radius; the thinner cells have thinner ones."""
_CRISTA_NM = 55.0
_VESICLE_NM = 20.0
_TUBULE_NM = 12.0
_RETICULUM_NM = 12.0


def stain(cells: Cells, cfg: SimulateVolume, rng: np.random.Generator) -> tuple[np.ndarray, dict[str, int]]:
    """Stain membranes, cytosol and organelles.

    Parameters
    ----------
    cells
        From :func:`emflow.simulate.tissue.grow_cells`.

    Returns
    -------
    Staining (Z, Y, X), and the numbers of organelles.
    """
    shape = cells.labels.shape
    count = len(cells.curves) + 1
    voxel = cfg.voxel_nm
    cytosol = rng.uniform(0.05, 0.3, count).astype(np.float32)[cells.labels]
    grain = smooth_noise(rng, shape, 0.8) * (0.4 + rng.random(count, dtype=np.float32))[cells.labels]
    out = cytosol + 0.06 * cfg.grain * grain
    numbers = {}
    if cfg.reticulum > 0:
        _add_reticulum(out, cells, cfg, rng)
    if cfg.microtubules > 0:
        numbers["microtubules"] = _add_tubules(out, cells, cfg, rng)
    cubic_um = float(np.prod(shape)) * (voxel / 1000) ** 3
    numbers["vesicles"] = _add_vesicles(out, cells, voxel, rng.poisson(cfg.vesicles_per_um3 * cubic_um), rng)
    number = rng.poisson(cfg.mitochondria_per_um3 * cubic_um)
    numbers["mitochondria"] = sum(_add_mitochondrion(out, cells, voxel, rng) for _ in range(number))
    if cells.nucleus is not None:
        _add_nucleus(out, cells, voxel, rng)
    half = cfg.membrane_nm / voxel / 2
    uneven = 0.85 + 0.1 * smooth_noise(rng, shape, 12)
    np.maximum(out, uneven * np.exp(-((cells.depth / (1.2 * half)) ** 2)), out=out)
    return out.clip(0, 1.2), numbers


def _add_reticulum(out: np.ndarray, cells: Cells, cfg: SimulateVolume, rng: np.random.Generator) -> None:
    """Sheets where a smooth field is zero, of even thickness, in some cells."""
    field = smooth_noise(rng, out.shape, 0.22 * cfg.cell_diameter_nm / cfg.voxel_nm)
    slope = np.sqrt(sum(g * g for g in np.gradient(field)))
    half = _RETICULUM_NM / cfg.voxel_nm
    sheet = 0.6 * np.exp(-((field / (slope + 1e-6) / half) ** 2))
    chosen = rng.random(len(cells.curves) + 1) < cfg.reticulum
    chosen[-1] = True  # the body about a nucleus has some
    where = chosen[cells.labels] & (cells.depth > 3 * half + 2)
    where &= smooth_noise(rng, out.shape, 0.4 * cfg.cell_diameter_nm / cfg.voxel_nm) > 0.2
    np.maximum(out, sheet, out=out, where=where)


def _scatter(
    out: np.ndarray, centres: np.ndarray, reach: int, profile: Callable[[np.ndarray], np.ndarray]
) -> None:
    """Take the maximum with a round profile (of the distance) about points (N, 3) that need not lie on voxels."""
    side = np.arange(-reach, reach + 1)
    offsets = np.stack(np.meshgrid(side, side, side, indexing="ij"), axis=-1).reshape(1, -1, 3)
    voxels = np.rint(centres).astype(int)[:, None] + offsets
    values = profile(np.linalg.norm(voxels - centres[:, None], axis=-1)).astype(np.float32)
    inside = ((voxels >= 0) & (voxels < out.shape)).all(axis=-1) & (values > 0.02)
    np.maximum.at(out, tuple(voxels[inside].T), values[inside])


def _at(field: np.ndarray, points: np.ndarray, outside: float) -> np.ndarray:
    """Values of a field at the voxels nearest to points (N, 3)."""
    voxels = np.rint(points).astype(int)
    inside = ((voxels >= 0) & (voxels < field.shape)).all(axis=-1)
    return np.where(inside, field[tuple(np.where(inside[:, None], voxels, 0).T)], outside)


def _add_tubules(out: np.ndarray, cells: Cells, cfg: SimulateVolume, rng: np.random.Generator) -> int:
    """Thin lines along the cells."""
    half = _TUBULE_NM / cfg.voxel_nm
    each = rng.poisson(cfg.microtubules, len(cells.curves))
    owners = np.repeat(np.arange(len(cells.curves)), each)
    if not len(owners):
        return 0
    lines = cells.curves[owners]
    spread = 0.15 * cfg.cell_diameter_nm / cfg.voxel_nm
    lines = lines + spread * rng.standard_normal((len(owners), 1, 3)).astype(np.float32)
    pieces = max(1, int(np.ceil(np.linalg.norm(lines[0, 1] - lines[0, 0]))))
    parts = np.arange(pieces, dtype=np.float32)[:, None] / pieces
    points = lines[:, :-1, None] * (1 - parts) + lines[:, 1:, None] * parts
    owner = np.repeat(owners, points.shape[1] * points.shape[2])
    points = points.reshape(-1, 3)
    fits = (_at(cells.labels, points, -1) == owner) & (_at(cells.depth, points, 0) > half + 2)
    _scatter(out, points[fits], int(np.ceil(half)) + 1, lambda d: 0.45 * np.exp(-((d / half) ** 2)))
    return len(owners)


def _add_vesicles(
    out: np.ndarray, cells: Cells, voxel_nm: float, number: int, rng: np.random.Generator
) -> int:
    """Round shells in clusters."""
    radius = _VESICLE_NM / voxel_nm
    clusters = rng.uniform(0, out.shape, (max(1, number // 40), 3))
    member = rng.integers(0, len(clusters), number)
    centres = clusters[member] + 4 * radius * rng.standard_normal((number, 3))
    centres = centres[_at(cells.depth, centres, 0) > radius + 2]
    if cells.nucleus is not None:
        centres = centres[_at(cells.nucleus, centres, 0) > radius + 3]
    thin = max(0.8, 0.35 * radius)
    reach = int(np.ceil(radius + 2 * thin))
    _scatter(out, centres, reach, lambda d: 0.75 * np.exp(-(((d - radius) / thin) ** 2)))
    return len(centres)


def _add_mitochondrion(out: np.ndarray, cells: Cells, voxel_nm: float, rng: np.random.Generator) -> bool:
    """Draw a bent sausage along a cell's middle line, cut by its membrane: two membranes, matrix, cristae."""
    owner, place = int(rng.integers(len(cells.curves))), int(rng.integers(2, cells.curves.shape[1] - 2))
    centre = cells.curves[owner, place]
    if _at(cells.labels, centre[None], -1)[0] != owner:
        return False
    room = float(_at(cells.depth, centre[None], 0)[0])
    radius = min(rng.uniform(*_MITOCHONDRION_NM) / voxel_nm, 0.8 * room)
    if radius < 4:
        return False
    along = cells.curves[owner, place + 1] - cells.curves[owner, place - 1]
    along = along / np.linalg.norm(along)
    aside = np.cross(along, rng.standard_normal(3))
    aside /= np.linalg.norm(aside)
    half = radius * rng.uniform(0.6, 3)
    reach = half + radius + 2
    box = tuple(
        slice(max(0, int(c - reach)), min(n, int(c + reach) + 1))
        for c, n in zip(centre, out.shape, strict=True)
    )
    z, y, x = (axis.astype(np.float32) - c for axis, c in zip(np.mgrid[box], centre, strict=True))
    u = z * along[0] + y * along[1] + x * along[2]
    v = z * aside[0] + y * aside[1] + x * aside[2]
    bend = rng.uniform(-0.15, 0.15) / radius
    across = np.maximum(z * z + y * y + x * x - u * u - v * v, 0)
    beyond = np.maximum(np.abs(u) - half, 0)
    surface = np.sqrt(beyond**2 + (v - bend * u * u) ** 2 + across) - radius
    surface = np.maximum(surface, 3 - cells.depth[box])
    surface[cells.labels[box] != owner] = reach
    inside = surface < 0
    if not inside.any():
        return False
    wave = u + rng.uniform(-0.5, 0.5) * v + 1.5 * smooth_noise(rng, u.shape, 6)
    crista = np.abs(np.sin(np.pi * wave * voxel_nm / _CRISTA_NM * rng.uniform(0.7, 1.3)))
    thin = max(1.0, 8 / voxel_nm)
    matrix = rng.uniform(0.3, 0.5) + 0.35 * (crista < 0.4) * (surface < -thin - 1)
    shell = 0.85 * np.exp(-(((surface + thin) / thin) ** 2))
    part = out[box]
    part[inside] = np.maximum(matrix, shell)[inside]
    return True


def _add_nucleus(out: np.ndarray, cells: Cells, voxel_nm: float, rng: np.random.Generator) -> None:
    """Add chromatin in clumps within a double envelope."""
    surface = cells.nucleus
    assert surface is not None
    clumps = smooth_noise(rng, out.shape, 60 / voxel_nm) + 1.2 * np.exp(surface * voxel_nm / 60)
    chromatin = 0.2 + 0.3 / (1 + np.exp(-4 * (clumps - 0.8))) + 0.04 * smooth_noise(rng, out.shape, 1)
    inside = surface < 0
    out[inside] = chromatin[inside]
    gap, thin = 15 / voxel_nm, max(0.8, 8 / voxel_nm)
    envelope = 0.8 * np.exp(-(((np.abs(surface) - gap) / thin) ** 2))
    np.maximum(out, envelope, out=out)
