"""Made-up slices of tissue, and what microscopes make of them: to learn denoising from, where truth is known.

Nothing here is measured on an image of anybody's: shapes, tones and noise are drawn from wide ranges, so that what
is learned holds for many specimens and detectors.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.spatial import cKDTree

Rng = np.random.Generator


def texture(side: int, rng: Rng, grain: float = 0.0) -> np.ndarray:
    """Draw a slice: cells with membranes, tubules, organelles and grain.

    Parameters
    ----------
    grain
        Most that is added of grain of all sizes, in deviations: cytoplasm has structure at every scale.

    Returns
    -------
    (side, side) float32, mean 0, deviation 1. Dark or bright membranes, as stains and detectors have it.
    """
    size = math.exp(rng.uniform(math.log(0.6), math.log(2.2)))
    image = _cells(side, size, rng)
    if rng.random() < 0.7:
        image -= rng.uniform(0.3, 1.0) * _tubules(side, size, rng)
    for _ in range(rng.poisson(10 * (side / 320) ** 2 / size)):
        _add_organelle(image, size, rng)
    for _ in range(rng.poisson(rng.choice([0, 40, 150]) * (side / 320) ** 2 / size)):
        _add_vesicle(image, size, rng)
    for sigma, most in ((0.8, 0.35), (1.5, 0.3), (3.0, 0.2), (25.0, 0.3)):
        image += rng.uniform(0, most) * _smooth(side, sigma * size, rng)
    if grain:
        image += rng.uniform(0, grain) * _scale_free(side, rng.uniform(0.8, 1.6), rng)
    image = gaussian_filter(image, rng.uniform(0.5, 1.5) * max(size, 0.8))
    image = (image - image.mean()) / image.std()
    skewed = np.tanh(
        rng.uniform(0.2, 0.8) * (image + rng.uniform(-0.7, 0.7))
    )  # detectors and stains saturate
    image = (skewed - skewed.mean()) / skewed.std()
    return (image if rng.random() < 0.7 else -image).astype(np.float32)


def _smooth(side: int, sigma: float, rng: Rng) -> np.ndarray:
    """A smooth random field of deviation 1."""
    step = max(1, int(sigma / 4))
    small = side // step + 8
    field = gaussian_filter(rng.standard_normal((small, small)), sigma / step, mode="wrap")
    if step > 1:
        at = np.arange(side) / step
        field = map_coordinates(field, np.meshgrid(at, at, indexing="ij"), order=1, mode="wrap")
    field = field[:side, :side]
    return field / field.std()


def _scale_free(side: int, exponent: float, rng: Rng) -> np.ndarray:
    """A random field of deviation 1 whose amplitudes fall with a power of the frequency."""
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side))
    amplitude = np.maximum(frequency, 0.02) ** -exponent
    field = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((side, side))) * amplitude, s=(side, side))
    return field / field.std()


def _cells(side: int, size: float, rng: Rng) -> np.ndarray:
    """Cells of uneven outline with a tone each, parted by membranes."""
    width = rng.uniform(18, 90) * size
    number = max(6, int((1.4 * side / width) ** 2))
    seeds = rng.uniform(-0.2 * side, 1.2 * side, (number, 2))
    at = np.stack(np.meshgrid(np.arange(side), np.arange(side), indexing="ij"), -1).astype(float)
    bend = rng.uniform(0.1, 0.4) * width
    at += bend * np.stack([_smooth(side, rng.uniform(0.2, 0.5) * width, rng) for _ in range(2)], -1)
    distance, nearest = cKDTree(seeds).query(at, k=2)
    gap = (distance[..., 1] - distance[..., 0]) / 2
    slope = np.maximum(np.hypot(*np.gradient(gap)), 0.3)
    gap = gap / slope  # distance to the border in pixels, whatever the bending
    tone = rng.uniform(0.1, 0.6) * rng.standard_normal(number)[nearest[..., 0]]
    thick, apart = rng.uniform(0.8, 2.5) * size, rng.uniform(0, 3) * size
    return tone - rng.uniform(1.0, 2.5) * np.exp(-(((gap - apart) / thick) ** 2))


def _tubules(side: int, size: float, rng: Rng) -> np.ndarray:
    """Winding lines that begin and end: reticulum, filaments."""
    sigma = rng.uniform(4, 12) * size
    field = _smooth(side, sigma, rng)
    slope = np.maximum(np.hypot(*np.gradient(field)), 0.3 / sigma)
    line = np.exp(-((field / slope / (rng.uniform(0.7, 1.8) * size)) ** 2))
    return line * (_smooth(side, 3 * sigma, rng) > rng.uniform(-0.3, 1.2))


def _add_organelle(image: np.ndarray, size: float, rng: Rng) -> None:
    """Draw a body with an outline: with folds inside as mitochondria, blotched as nuclei, dark, or bright."""
    side = len(image)
    a = rng.uniform(8, 30) * size
    b = a * rng.uniform(0.35, 1)
    radius = int(1.5 * a)
    at, u, v = _about(image, rng.uniform(0, side, 2), radius, rng)
    if not u.size:
        return
    wavy = 1 + rng.uniform(0, 0.2) * np.cos(rng.integers(2, 5) * np.arctan2(v, u) + rng.uniform(0, 7))
    depth = (wavy - np.hypot(u / a, v / b)) * b  # pixels inside the outline
    inside = np.clip(depth + 0.5, 0, 1)
    thick = rng.uniform(0.8, 2) * size
    filling = np.full_like(u, rng.normal(0, 0.8))
    kind = rng.random()
    if kind < 0.5:
        wave = rng.uniform(4, 9) * size
        phase = u / wave * 2 * np.pi + rng.uniform(0.5, 2.5) * np.sin(v / wave + rng.uniform(0, 7))
        filling -= rng.uniform(0.4, 1.2) * np.maximum(np.cos(phase), 0) ** 2 * (depth > 2 * thick)
    elif kind < 0.7:
        blotches = _smooth(max(*u.shape, 8), rng.uniform(2, 5) * size, rng)[: u.shape[0], : u.shape[1]]
        filling -= rng.uniform(0.3, 1) * (blotches > rng.uniform(0, 1))
    outline = rng.uniform(0.5, 2) * np.exp(-((depth / thick) ** 2))
    image[at] = image[at] * (1 - inside) + filling * inside - outline


def _add_vesicle(image: np.ndarray, size: float, rng: Rng) -> None:
    """Draw a small ring, or a granule."""
    radius = rng.uniform(1.5, 5) * size
    at, u, v = _about(image, rng.uniform(0, len(image), 2), int(2 * radius) + 2, rng)
    away = np.hypot(u, v) - radius * (rng.random() < 0.6)
    image[at] -= rng.uniform(0.4, 2) * np.exp(-((away / (rng.uniform(0.6, 1.2) * size)) ** 2))


def _about(
    image: np.ndarray, centre: np.ndarray, radius: int, rng: Rng
) -> tuple[tuple[slice, slice], np.ndarray, np.ndarray]:
    """The part of an image about a point, and coordinates there that are turned at random."""
    y, x = (int(c) for c in centre)
    at = slice(max(0, y - radius), y + radius + 1), slice(max(0, x - radius), x + radius + 1)
    rows, columns = (np.arange(n)[part] for n, part in zip(image.shape, at, strict=True))
    dy, dx = rows[:, None] - centre[0], columns[None] - centre[1]
    angle = rng.uniform(0, 2 * np.pi)
    return at, np.cos(angle) * dy + np.sin(angle) * dx, np.cos(angle) * dx - np.sin(angle) * dy


def noise(clean: np.ndarray, deviation: float, rng: Rng) -> np.ndarray:
    """Draw noise for an image of deviation 1: dependent on the signal, correlated as detectors and scans leave it.

    Parameters
    ----------
    deviation
        Of the noise, in deviations of the signal.
    """
    grows = rng.uniform(-0.2, 0.4)  # of its variance with brightness
    level = np.sqrt(np.clip(1 + grows * clean, 0.2, None))
    field = level * rng.standard_normal(clean.shape)
    if rng.random() < 0.6:
        spread = rng.uniform(0.2, 1.0) * np.exp(rng.uniform(-0.3, 0.3, 2))
        field = gaussian_filter(field, spread, mode="wrap")
    if rng.random() < 0.2:
        field += rng.uniform(0, 0.2) * field.std() * rng.standard_normal((len(clean), 1))
    return (deviation * field / field.std()).astype(np.float32)
