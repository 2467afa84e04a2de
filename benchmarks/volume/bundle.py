"""A simulated volume for judging: tubes of several kinds drawn over one another, in a matrix.

Nothing of emflow's own simulator is used. Space is not divided among cells: each tube is swept along a Bézier curve
with a radius that varies, is drawn over what was there, and leaves a matrix with fibrils between the tubes. Some have
a sheath of many layers, some a core. Frozen: figures in benchmarks/results rest on it.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree

SHAPE = (97, 128, 128)
_TUBES = 110


def make(seed: int) -> np.ndarray:
    """Grey values of an isotropic volume, uint8 (Z, Y, X)."""
    rng = np.random.default_rng([7002, seed])
    fibrils = np.abs(gaussian_filter(rng.standard_normal(SHAPE), (2.5, 1.2, 1.2)))
    image = 185 - 30 * fibrils / fibrils.std()
    grain = gaussian_filter(rng.standard_normal(SHAPE), 0.9)
    grain /= grain.std()
    for _ in range(_TUBES):
        _draw(image, grain, rng)
    image = gaussian_filter(image, 0.6) + 5 * rng.standard_normal(SHAPE)
    return image.round().clip(0, 255).astype(np.uint8)


def _draw(image: np.ndarray, grain: np.ndarray, rng: np.random.Generator) -> None:
    """Draw one tube."""
    size = np.array(SHAPE)
    a, b = rng.uniform(-0.3, 1.3, (2, 3)) * size
    turn = (a + b) / 2 + 25 * rng.standard_normal(3)
    t = np.linspace(0, 1, 200)[:, None]
    curve = (1 - t) ** 2 * a + 2 * t * (1 - t) * turn + t**2 * b
    radii = rng.uniform(4, 13) * (1 + 0.3 * np.sin(rng.uniform(4, 20) * t[:, 0] + rng.uniform(0, 6)))
    low = np.maximum(np.floor(curve.min(0) - 20), 0).astype(int)
    high = np.minimum(np.ceil(curve.max(0) + 20), size).astype(int)
    if (high - low < 2).any():
        return
    box = tuple(slice(i, j) for i, j in zip(low, high, strict=True))
    points = np.stack(np.mgrid[box], axis=-1).reshape(-1, 3)
    distance, nearest = cKDTree(curve).query(points, distance_upper_bound=20)
    found = np.flatnonzero(np.isfinite(distance))
    surface = distance[found] - radii[nearest[found]]
    inside = found[surface < 0]
    surface = surface[surface < 0]
    values = rng.uniform(125, 200) + rng.uniform(3, 12) * grain[box].ravel()[inside]
    kind = rng.integers(3)
    if kind == 0:  # a sheath
        values = np.where(surface > -5, 120 + 45 * np.cos(2 * np.pi * surface / 3.3), values)
    elif kind == 1:  # a core
        values -= 70 * np.exp(-((distance[inside] / 1.6) ** 2))
    values -= (values - 55) * np.exp(-(((surface + 1.2) / 1.2) ** 2))
    part = image[box]
    flat = part.reshape(-1)
    flat[inside] = values
    part[...] = flat.reshape(part.shape)
