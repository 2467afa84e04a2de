"""A small isotropic volume with sheets and bodies in it, and what an anisotropic microscope would measure of it."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

FACTOR = 4


def tissue(shape: tuple[int, int, int], seed: int) -> np.ndarray:
    """Membrane-like sheets (level sets of a smooth field) about paler interiors; uint8."""
    rng = np.random.default_rng(seed)
    field = gaussian_filter(rng.standard_normal(shape), 5, mode="wrap")
    field /= field.std()
    sheets = np.exp(-((field / 0.25) ** 2)) + np.exp(-(((field - 1.3) / 0.2) ** 2))
    return np.clip(180 - 110 * sheets + 4 * rng.standard_normal(shape), 0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def truth() -> np.ndarray:
    """Isotropic volume."""
    return tissue((69, 80, 88), seed=1)


@pytest.fixture(scope="session")
def measured(truth: np.ndarray) -> np.ndarray:
    """Every fourth slice of it."""
    return np.ascontiguousarray(truth[::FACTOR])
