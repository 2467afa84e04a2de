"""No seam stands above what is on either side of it, under a gradient of brightness and of contrast."""

from __future__ import annotations

import numpy as np
import torch

from emflow.denoise.apply import denoise
from emflow.denoise.inputs import load_model
from emflow.nn.tiles import tile_starts
from tests.denoise.conftest import blobs

SIDE, TILE = 448, 256


def steps(image: np.ndarray) -> np.ndarray:
    """Mean step between one row and the next, and one column and the next, (2, SIDE − 1)."""
    rows, columns = (np.abs(np.diff(image, axis=axis)).mean(1 - axis) for axis in (0, 1))
    return np.stack([rows, columns])


def standing_out(image: np.ndarray, edges: list[int]) -> float:
    """Largest step at an edge, in deviations of the steps elsewhere from their mean."""
    found, at = steps(image), np.zeros(SIDE - 1, dtype=bool)
    at[[edge - 1 for edge in edges]] = True
    return float((found[:, at].max() - found[:, ~at].mean()) / found[:, ~at].std())


def test_no_seam_stands_above_the_noise() -> None:
    network, scale, _ = load_model(None, torch.device("cpu"))
    rng = np.random.default_rng(5)
    ramp = np.linspace(0, 1, SIDE)
    scene = blobs((SIDE, SIDE), rng, 60) * (1 + 2 * ramp)
    image = scene + rng.normal(0, 1.5, scene.shape) + 40 * ramp[:, None] + 20 * ramp
    raw = torch.from_numpy(image.astype(np.float32))
    overlap, stride = 2 * network.margin + 32, network.stride
    padded = SIDE + 2 * network.margin
    starts = tile_starts(padded + -padded % stride, TILE, overlap, stride)
    assert len(starts) > 2
    edges = [start + side - network.margin for start in starts for side in (0, TILE)]
    edges = [edge for edge in edges if 0 < edge < SIDE]

    def detail(found: torch.Tensor) -> np.ndarray:
        return found.numpy() - 40 * ramp[:, None] - 20 * ramp

    tiled = denoise(raw, 6.0, network, scale, TILE, bright=False).image
    assert standing_out(detail(tiled), edges) < 4
    # patches that are normalised each by itself and put side by side, which is what is to be avoided
    half = SIDE // 2
    patched = torch.cat(
        [
            torch.cat([denoise(raw[y, x], 6.0, network, scale, TILE, bright=False).image for x in parts], 1)
            for parts in [(slice(half), slice(half, None))]
            for y in parts
        ]
    )
    assert standing_out(detail(patched), [half]) > 6
