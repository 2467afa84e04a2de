"""Where not to pick: carbon edges and the carbon behind them, ice crystals, aggregates."""

from __future__ import annotations

import math

import numpy as np
from scipy import ndimage

STEEP_SCALE = 0.25
"""Scale at which steepness is measured: deviation of the Gaussian, in particle diameters."""
ROUGH_SCALE, POWER_WINDOW = 0.15, 0.35
"""Likewise: details finer than this are rough; the window in which their power is averaged."""
BORDER = 1
"""Pixels at the image's border that are not looked at: they were binned from fewer pixels and are noisier."""
TYPICAL_QUANTILE = 0.8
"""Steep places up to this quantile are taken for particles and noise, not for contamination."""
CLOSING = 0.25
"""Gaps up to twice this wide are closed, in particle diameters."""
TOLERANCE = 2.5
"""Contamination covers more than a disk of the particle's diameter would, by this factor: two that touch are none."""


def find_contamination(
    image: np.ndarray, diameter: float, strength: float, particles: np.ndarray | None = None
) -> np.ndarray:
    """Find what is too steep or too rough to be a particle; and the dense side of long edges.

    Two features: steepness, the magnitude of the gradient of the image smoothed at a quarter of the diameter; and
    roughness, the local power of fine detail. Each in robust deviations from its median. Contamination has
    a place where a feature is above ``strength``, and

    - as long as no particles are known: above twice what is usual among the feature's peaks, and larger than
      a particle of that strength would be;
    - once they are: above twice what the particles have, whatever its size.

    It reaches as far as half that level. Enclosed areas are filled. Where an edge parts the image, the denser side is
    carbon (or a grid bar, or thick ice).

    Parameters
    ----------
    image
        Pixels (y, x) with dense matter bright.
    diameter
        The particle's, in pixels.
    strength
        Deviations from which something is contamination.
    particles
        Pixels (n, 2) as y, x where particles are known to be.

    Returns
    -------
    Boolean (y, x), True on contamination.
    """
    inner = image[BORDER:-BORDER, BORDER:-BORDER].astype(np.float64)
    smooth, *features = (np.pad(map_, BORDER, mode="edge") for map_ in _features(inner, diameter))
    _, *of_disk = _features(_disk(diameter), diameter)
    edges = np.zeros(image.shape, dtype=bool)
    for feature, response in zip(features, of_disk, strict=True):
        middle = np.median(feature)
        deviation = 1.4826 * np.median(np.abs(feature - middle))
        if deviation > 0:
            feature = (feature - middle) / deviation
            usual = _typical(feature, diameter, particles)
            level = max(strength, 2 * usual)
            edges |= _outlying(feature, level, response if particles is None else None)
    edges = ndimage.binary_fill_holes(~grow(~grow(edges, CLOSING * diameter), CLOSING * diameter))
    return edges | _dense_sides(smooth, edges, diameter)


def _disk(diameter: float) -> np.ndarray:
    half = math.ceil(2.5 * diameter)
    y, x = np.mgrid[-half : half + 1, -half : half + 1]
    return (x * x + y * y <= 0.25 * diameter**2).astype(np.float64)


def _features(image: np.ndarray, diameter: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Smoothed image, its steepness, and the power of fine detail."""
    smooth = ndimage.gaussian_filter(image, STEEP_SCALE * diameter, mode="reflect")
    fine = image - ndimage.gaussian_filter(image, ROUGH_SCALE * diameter, mode="reflect")
    power = ndimage.gaussian_filter(fine * fine, POWER_WINDOW * diameter, mode="reflect")
    return smooth, np.hypot(*np.gradient(smooth)), power


def _outlying(feature: np.ndarray, level: float, of_disk: np.ndarray | None) -> np.ndarray:
    """Regions above half the level that have a place above it; if ``of_disk`` is given, larger than that."""
    regions, n = ndimage.label(feature > 0.5 * level)
    index = np.arange(1, n + 1)
    highest = np.concatenate([[np.inf], ndimage.maximum(feature, regions, index)])
    chosen = highest > level
    if of_disk is not None:
        cores, m = ndimage.label(
            ndimage.binary_fill_holes(feature > np.maximum(0.5 * highest, 0.5 * level)[regions])
        )
        region_of = np.zeros(m + 1, dtype=np.int64)
        region_of[cores.ravel()] = (
            regions.ravel()
        )  # a hole that was filled has its surroundings' region or none
        area = np.zeros(n + 1)
        np.maximum.at(area, region_of, np.bincount(cores.ravel(), minlength=m + 1) * (np.arange(m + 1) > 0))
        fraction = np.maximum(0.5, 0.5 * level / highest)
        single = np.sort(of_disk.ravel() / of_disk.max())
        chosen &= area > TOLERANCE * (single.size - np.searchsorted(single, fraction))
    chosen[0] = False
    return np.asarray(ndimage.binary_fill_holes(chosen[regions]))


def grow(mask: np.ndarray, radius: float) -> np.ndarray:
    """Grow a mask by a radius, in pixels."""
    if radius <= 0 or not mask.any():
        return mask
    return np.asarray(ndimage.distance_transform_edt(~mask) <= radius)


def _typical(feature: np.ndarray, diameter: float, particles: np.ndarray | None) -> float:
    """An upper quantile of the feature's highest values around the particles, or of all its peaks."""
    window = 2 * round(diameter / 2) + 1
    highest = ndimage.maximum_filter(feature, window, mode="nearest")
    peaks = highest[feature == highest] if particles is None else highest[particles[:, 0], particles[:, 1]]
    return float(np.quantile(peaks, TYPICAL_QUANTILE))


def _dense_sides(smooth: np.ndarray, edges: np.ndarray, diameter: float) -> np.ndarray:
    """Areas cut off by edges, denser along the edge than what is on the other side."""
    dense = np.zeros(edges.shape, dtype=bool)
    sides, n_sides = ndimage.label(~edges)
    if n_sides < 2:
        return dense
    labels, n_edges = ndimage.label(edges)
    for index in range(1, n_edges + 1):  # a handful
        near = grow(labels == index, 0.5 * diameter) & ~edges
        touched = np.unique(sides[near])
        if len(touched) < 2:
            continue
        level = ndimage.mean(smooth, np.where(near, sides, 0), touched)
        dense |= np.isin(sides, touched[level > 0.5 * (level.min() + level.max())])
    return dense
