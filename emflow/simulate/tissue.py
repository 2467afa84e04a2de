"""Tissue for volume EM: winding cells that fill space, their membranes, and a nucleus; isotropic, without noise.

Lengths are in voxels. Staining is 0 where nothing is stained (bright in the image) and 1 in a membrane (dark).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import distance_transform_edt, gaussian_filter, gaussian_filter1d
from scipy.spatial import cKDTree

Shape = tuple[int, int, int]

_EXCESS = 2.0


@dataclass(frozen=True)
class Cells:
    """A partition of space, (Z, Y, X)."""

    labels: np.ndarray
    """Number of the cell that each voxel belongs to, from 0; int32."""
    depth: np.ndarray
    """Distance to the nearest membrane; float32."""
    curves: np.ndarray
    """Middle lines, (cells, points, 3) in z, y, x; they reach beyond the volume."""
    nucleus: np.ndarray | None
    """Signed distance to the nuclear envelope, negative inside; None without a nucleus."""


def smooth_noise(rng: np.random.Generator, shape: Shape, length: float) -> np.ndarray:
    """Gaussian noise of unit deviation, smooth over a length; float32."""
    # made on a coarser grid where that loses nothing: the filter's cost falls with its cube
    step = max(1, int(length / 2))
    coarse = tuple(-(-n // step) + 2 for n in shape)
    field = gaussian_filter(rng.standard_normal(coarse, dtype=np.float32), length / step, mode="wrap")
    for axis, n in enumerate(shape):
        field = _stretched(field, step, n, axis) if step > 1 else np.take(field, range(n), axis)
    return field / max(float(field.std()), 1e-9)


def _stretched(field: np.ndarray, step: int, length: int, axis: int) -> np.ndarray:
    """Linear interpolation to a finer grid along an axis."""
    at = np.arange(length, dtype=np.float32) / step
    low = at.astype(int)
    shape = [1] * field.ndim
    shape[axis] = -1
    part = (at - low).reshape(shape)
    return np.take(field, low, axis) * (1 - part) + np.take(field, low + 1, axis) * part


def grow_cells(
    shape: Shape, diameter: float, alignment: float, nucleus_radius: float, rng: np.random.Generator
) -> Cells:
    """Fill space with winding cells: each voxel belongs to the nearest of random curves, space itself being bent.

    Parameters
    ----------
    diameter
        Mean diameter of the cells.
    alignment
        How far the cells run alike: 0 not at all, 1 all the same way.
    nucleus_radius
        Radius of a nucleus near one of the corners; 0 for none. Its cell takes up what is around it.
    """
    curves = _curves(shape, diameter, alignment, rng)
    tree = cKDTree(curves.reshape(-1, 3))
    axes = np.meshgrid(*(np.arange(n, dtype=np.float32) for n in shape), indexing="ij")
    bend = 0.25 * diameter
    bent = [axis + bend * smooth_noise(rng, shape, 0.6 * diameter) for axis in axes]
    nearest = tree.query(np.stack(bent, axis=-1).reshape(-1, 3))[1].reshape(shape)
    labels = (nearest // curves.shape[1]).astype(np.int32)
    envelope = None
    if nucleus_radius > 0:
        corner = rng.integers(0, 2, 3) * np.array(shape)
        inward = np.where(corner == 0, 1, -1)
        centre = corner + inward * rng.uniform(0, 0.5, 3) * nucleus_radius
        squares = sum((axis - c) ** 2 for axis, c in zip(axes, centre, strict=True))
        folds = 0.06 * nucleus_radius * smooth_noise(rng, shape, 0.5 * diameter)
        envelope = (np.sqrt(squares) - nucleus_radius + folds).astype(np.float32)
        soma = envelope < 0.4 * diameter * (1 + 0.5 * smooth_noise(rng, shape, diameter))
        labels[soma | (envelope < 2)] = len(curves)
    return Cells(labels, _depth(labels), curves, envelope)


def _curves(shape: Shape, diameter: float, alignment: float, rng: np.random.Generator) -> np.ndarray:
    """Random walks that keep their way for some diameters."""
    spacing = max(2.0, 0.25 * diameter)
    length = 8 * diameter
    points = int(length / spacing)
    # so many that their parts in the volume fill it: about half of each reaches beyond
    box = np.array(shape) + 2 * diameter
    number = max(2, round(_EXCESS * float(np.prod(box)) / (np.pi / 4 * diameter**2 * length)))
    shared = rng.standard_normal(3)
    shared /= np.linalg.norm(shared)
    way = rng.standard_normal((number, 1, 3))
    way /= np.linalg.norm(way, axis=-1, keepdims=True)
    way = (1 - alignment) * way + alignment * shared * np.where(way @ shared < 0, -1, 1)[..., None]
    turns = gaussian_filter1d(rng.standard_normal((number, points, 3)), 0.5 * diameter / spacing, axis=1)
    turns /= turns.std()
    steps = way + 0.6 * (1 - 0.7 * alignment) * turns
    steps *= spacing / np.linalg.norm(steps, axis=-1, keepdims=True)
    walk = np.cumsum(steps, axis=1)
    middle = rng.uniform(-diameter, np.array(shape) + diameter, (number, 3))
    return (middle[:, None] + walk - walk[:, points // 2][:, None]).astype(np.float32)


def _depth(labels: np.ndarray) -> np.ndarray:
    """Distance to the nearest border of two labels, smoothed below a voxel."""
    border = np.zeros(labels.shape, dtype=bool)
    for axis in range(3):
        low = tuple(slice(None, -1) if a == axis else slice(None) for a in range(3))
        high = tuple(slice(1, None) if a == axis else slice(None) for a in range(3))
        differ = labels[low] != labels[high]
        border[low] |= differ
        border[high] |= differ
    if not border.any():
        return np.full(labels.shape, max(labels.shape), dtype=np.float32)
    found = distance_transform_edt(~border).astype(np.float32)
    return gaussian_filter(found + 0.5, 0.7)
