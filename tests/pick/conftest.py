"""Synthetic micrographs with particles at known places."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

Paint = Callable[..., Tensor]


@pytest.fixture(scope="session")
def paint() -> Paint:
    """Function that paints a micrograph: noise of deviation 1 with soft dark disks at given places (x, y)."""

    def paint(
        size: int, centres: np.ndarray, diameter: float, depth: float = 1.0, seed: int = 0, noise: float = 1.0
    ) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        image = noise * torch.randn(size, size, generator=generator)
        axis = torch.arange(size, dtype=torch.float32)
        for x, y in centres:
            radius = torch.sqrt((axis[:, None] - y) ** 2 + (axis[None, :] - x) ** 2)
            image -= depth * torch.sigmoid((diameter / 2 - radius) / 1.5)
        return image

    return paint


@pytest.fixture(scope="session")
def scatter() -> Callable[..., np.ndarray]:
    """Function that places points (x, y) at random in a square, at a minimum distance."""

    def scatter(n: int, size: float, distance: float, margin: float, seed: int = 0) -> np.ndarray:
        random = np.random.default_rng(seed)
        points = np.zeros((0, 2))
        while len(points) < n:
            point = random.uniform(margin, size - 1 - margin, 2)
            if len(points) == 0 or np.linalg.norm(points - point, axis=1).min() > distance:
                points = np.vstack([points, point])
        return points

    return scatter
