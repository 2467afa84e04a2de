"""A real micrograph with annotated particles; skipped where the data is absent."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from scipy import ndimage

from emflow.denoise.apply import denoise
from emflow.denoise.inputs import load_model
from emflow.io.image import read_image

PIXEL, RADIUS_PX = 1.5, 43
WINDOW_PX, MARGIN_PX = 21, 100


def told_apart(image: np.ndarray, particles: np.ndarray, elsewhere: np.ndarray) -> float:
    """Chance that a particle's place varies more than a place without one (area under the ROC curve)."""
    mean = ndimage.uniform_filter(image, WINDOW_PX)
    power = ndimage.uniform_filter((image - mean) ** 2, WINDOW_PX)
    at, off = (power[places[:, 1], places[:, 0]] for places in (particles, elsewhere))
    return float((at[:, None] > off).mean())


def test_particles_stand_out_more_than_before(real_data: Path) -> None:
    path = sorted((real_data / "apoferritin").glob("*.tif"))[7]
    raw = read_image(path)
    network, scale, _ = load_model(None, torch.device("cpu"))
    denoised = denoise(torch.from_numpy(raw), PIXEL, network, scale, 1024, bright=False).image.numpy()
    particles = np.loadtxt(path.with_suffix(".csv"), delimiter=",", skiprows=1).round().astype(int)
    free = np.ones(raw.shape, dtype=bool)
    free[particles[:, 1].clip(0, raw.shape[0] - 1), particles[:, 0].clip(0, raw.shape[1] - 1)] = False
    ice = ndimage.distance_transform_edt(free) > 1.3 * RADIUS_PX
    border = np.ones_like(ice)  # particles at the border are not annotated
    border[MARGIN_PX:-MARGIN_PX, MARGIN_PX:-MARGIN_PX] = False
    elsewhere = np.argwhere(ice & ~border)[:, ::-1][::50]
    inside = particles[~border[tuple(np.clip(particles, 0, np.array(raw.shape[::-1]) - 1).T[::-1])]]
    before, after = (told_apart(image, inside, elsewhere) for image in (raw, denoised))
    print(f"particles told from ice by their variance: raw {before:.3f}, denoised {after:.3f}")
    assert after > 0.9
    assert after > before + 0.1
