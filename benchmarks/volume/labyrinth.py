"""A simulated volume for judging: sheets of a pattern-forming equation, with droplets.

Nothing of emflow's own simulator is used. Membranes are zero levels of a solution of the Swift-Hohenberg equation
(J. Swift & P. C. Hohenberg, Phys. Rev. A 15, 319, 1977), which winds itself into a labyrinth; no cell has a centre
or a middle line. Frozen: figures in benchmarks/results rest on it.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter

SHAPE = (97, 128, 128)
_PERIOD_PX = 26.0
_GRID = (100, 128, 128)


def make(seed: int) -> np.ndarray:
    """Grey values of an isotropic volume, uint8 (Z, Y, X)."""
    rng = np.random.default_rng([7001, seed])
    field = _pattern(rng)[: SHAPE[0]]
    slope = np.sqrt(sum(g * g for g in np.gradient(field))) + 1e-3
    distance = np.abs(field) / slope
    one_side = field > 0
    grain = gaussian_filter(rng.standard_normal(SHAPE), 1.2)
    grain /= grain.std()
    image = np.where(one_side, 178 + 9 * grain, 150 + 5 * grain)
    image += 12 * gaussian_filter(rng.standard_normal(SHAPE), 14) * 14**1.5 * 2.5
    droplets = gaussian_filter(rng.standard_normal(SHAPE), 3.0)
    droplets /= droplets.std()
    solid = 1 / (1 + np.exp(-8 * (droplets - 2.0)))
    image = image * (1 - solid * one_side) + 95 * solid * one_side
    rim = np.exp(-(((droplets - 1.5) / 0.15) ** 2)) * ~one_side
    image -= 45 * rim
    image -= (image - 62) * np.exp(-((distance / 1.5) ** 2))
    image = gaussian_filter(image, 0.7) + 4 * rng.standard_normal(SHAPE)
    return image.round().clip(0, 255).astype(np.uint8)


def _pattern(rng: np.random.Generator) -> np.ndarray:
    """A solution after some time from noise, by a semi-implicit spectral scheme."""
    k = [np.fft.fftfreq(n) * _PERIOD_PX for n in _GRID[:2]] + [np.fft.rfftfreq(_GRID[2]) * _PERIOD_PX]
    squares = sum(a**2 for a in np.meshgrid(*k, indexing="ij"))
    step, drive, skew = 0.7, 0.5, 0.3
    divisor = 1 - step * (drive - (1 - squares) ** 2)
    field = 0.3 * rng.standard_normal(_GRID)
    for _ in range(40):
        changed = np.fft.rfftn(field + step * (skew * field**2 - field**3))
        field = np.fft.irfftn(changed / divisor, s=_GRID, axes=(0, 1, 2))
    return field
