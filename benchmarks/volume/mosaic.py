"""A simulated volume for choosing: cells where one of several random fields is the largest, measured slice by slice.

Nothing of emflow's own simulator is used, nor of the volumes that are judged on. Each cell is where one smooth random
field exceeds all others; the lead over the second, divided by its slope, is the distance to the membrane, whose
thickness varies. Slices are taken one after another: each a little shifted, of other brightness, with noise of its own
that is correlated along the scan. Choices (how planes are averaged, how long is trained) are made on it.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter, gaussian_filter1d, shift

SHAPE = (97, 128, 128)
_FIELDS = 14


def make(seed: int) -> np.ndarray:
    """Grey values of an isotropic volume, uint8 (Z, Y, X)."""
    rng = np.random.default_rng([7003, seed])
    size = rng.uniform(7, 15)
    fields = np.stack([_smooth(rng, size * rng.uniform(0.8, 1.2)) for _ in range(_FIELDS)])
    order = np.argpartition(-fields, 1, axis=0)[:2]
    first, second = np.take_along_axis(fields, order, axis=0)
    swap = second > first
    owner = np.where(swap, order[1], order[0])
    lead = np.abs(first - second)
    slope = np.sqrt(sum(g * g for g in np.gradient(lead))) + 1e-3
    distance = lead / slope
    image = 165 + rng.uniform(-22, 22, _FIELDS)[owner] + 9 * _smooth(rng, 1.1) + 7 * _smooth(rng, 2.5)
    image = _organelles(image, owner, distance, rng)
    thickness = 1.4 * np.exp(0.35 * _smooth(rng, 9))
    image -= (image - 70 - 10 * _smooth(rng, 6)) * np.exp(-((distance / thickness) ** 2))
    image = gaussian_filter(image, rng.uniform(0.5, 0.9))
    return _slice_by_slice(image, rng).round().clip(0, 255).astype(np.uint8)


def _smooth(rng: np.random.Generator, width: float) -> np.ndarray:
    """A random field of mean 0 and deviation 1."""
    field = gaussian_filter(rng.standard_normal(SHAPE), width, mode="wrap")
    return (field - field.mean()) / field.std()


def _organelles(
    image: np.ndarray, owner: np.ndarray, distance: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Dark bodies with folds in the middle of some cells, and clusters of vesicles in others."""
    bodies = _smooth(rng, 5) + 0.25 * np.minimum(distance, 6) - 2.2
    edge = np.abs(bodies) / (np.sqrt(sum(g * g for g in np.gradient(bodies))) + 1e-3)
    folds = np.cos(2 * np.pi * _smooth(rng, 4) * 1.8)
    inside = (bodies > 0) & (owner % 2 == 0)
    image = np.where(inside, 120 + 22 * folds, image)
    image = np.where((owner % 2 == 0), image - (image - 80) * np.exp(-((edge / 1.2) ** 2)), image)
    spots = gaussian_filter((rng.random(SHAPE) < 0.004 * (_smooth(rng, 8) > 0.8)).astype(float), 1.7) * 60
    rim = np.exp(-(((spots - 0.75) / 0.3) ** 2))
    return np.where(owner % 2 == 1, image - 45 * rim, image)


def _slice_by_slice(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What is measured of it."""
    out = np.empty_like(image)
    for z, plane in enumerate(image):
        moved = shift(plane, 0.2 * rng.standard_normal(2), order=3, mode="nearest")
        noise = gaussian_filter1d(rng.standard_normal(plane.shape), 0.6, axis=1) / 0.69
        out[z] = moved + 1.2 * rng.standard_normal() + 5 * noise
    return out
