"""Segments from membrane probability: a watershed from many seeds, then mergers where no membrane divides."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import ndimage
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from skimage.segmentation import watershed

Array = np.ndarray[Any, np.dtype[Any]]

_BLUR_PX = 2.0
"""Deviation of the Gaussian that smooths the distance to the nearest membrane, so that there are fewer seeds."""


@dataclass(frozen=True)
class Cut:
    """Where to cut; found on held-out parts of the labelled slices."""

    threshold: float = 0.5
    """Pixels are inside a segment below this probability."""
    merge: float = 0.4
    """Neighbours are merged while the mean probability along their border is below this."""

    def facts(self) -> dict[str, float]:
        """As numbers, for a manifest."""
        return asdict(self)


def segments(probability: Array, cut: Cut, least_pixels: int = 20) -> Array:
    """Divide a plane or volume into segments, which touch: no pixel is left out.

    Seeds are the peaks of the distance to the nearest membrane; a watershed of the probability grows them (S. Beucher
    & F. Meyer, 1993). Neighbours are then merged, those with the least membrane between them first, as long as its
    mean probability is low. So a membrane with a gap still divides, where connected components would be joined.

    Parameters
    ----------
    probability
        Of membrane, (H, W) or (Z, H, W).
    least_pixels
        Smaller segments are merged into the neighbour that the least membrane divides them from.

    Returns
    -------
    Labels from 1, int32; all 1 where nothing divides.
    """
    inside = probability < cut.threshold
    if inside.all() or not inside.any():
        return np.ones(probability.shape, np.int32)
    distance = ndimage.distance_transform_edt(inside)
    smooth = ndimage.gaussian_filter(distance, _BLUR_PX)
    peaks = (smooth == ndimage.maximum_filter(smooth, size=3)) & inside
    seeds, _ = ndimage.label(peaks, structure=np.ones((3,) * probability.ndim))
    labels = watershed(probability, seeds)
    return merged(labels, probability, cut.merge, least_pixels)


def components(probability: Array, threshold: float) -> Array:
    """Connected parts of what is below a threshold, grown by a watershed until they touch."""
    seeds, number = ndimage.label(probability < threshold)
    if number < 2:
        return np.ones(probability.shape, np.int32)
    return watershed(probability, seeds).astype(np.int32)


def merged(labels: Array, probability: Array, below: float, least_pixels: int = 0) -> Array:
    """Merge neighbours with little membrane between them.

    In rounds: wherever two are each other's nearest neighbours and nearer than the bound they are merged, and their
    borders to others become one. Since a joint border's mean lies between those of its parts, this gives the same as
    merging the nearest pair first, one by one.

    Parameters
    ----------
    labels
        From 1, dense or not.
    below
        Mean of the probability (the larger of the two pixels') over a border up to which it is no border.

    Returns
    -------
    Labels from 1 without gaps, int32.
    """
    names, dense = np.unique(labels, return_inverse=True)
    dense = dense.reshape(labels.shape)
    group = np.arange(len(names))
    sizes = np.bincount(dense.ravel(), minlength=len(names))
    pairs, heights, lengths = _borders(dense, probability)
    while len(pairs):
        mean = heights / lengths
        order = np.argsort(mean, kind="stable")
        pairs, heights, lengths, mean = pairs[order], heights[order], lengths[order], mean[order]
        rows = np.arange(len(pairs))
        nearest = np.full(len(sizes), len(pairs))
        for side in (0, 1):
            np.minimum.at(nearest, pairs[:, side], rows)
        is_nearest = nearest[pairs] == rows[:, None]
        too_small = sizes[pairs] < least_pixels
        chosen = pairs[(is_nearest.all(1) & (mean < below)) | (is_nearest & too_small).any(1)]
        if not len(chosen):
            break
        links = coo_matrix((np.ones(len(chosen)), chosen.T), shape=(len(sizes),) * 2)
        number, where = connected_components(links, directed=False)
        group, sizes = where[group], np.bincount(where, weights=sizes, minlength=number)
        pairs, heights, lengths = _gathered(where[pairs], heights, lengths)
    return (group[dense] + 1).astype(np.int32)


def _borders(labels: Array, probability: Array) -> tuple[Array, Array, Array]:
    """Pairs of neighbours (N, 2), and over each border the sum of the probability and its length in pixels."""
    pairs, heights = [], []
    for axis in range(labels.ndim):
        a, b = (
            tuple(cut if i == axis else slice(None) for i in range(labels.ndim))
            for cut in (slice(None, -1), slice(1, None))
        )
        differ = labels[a] != labels[b]
        pairs.append(np.stack([labels[a][differ], labels[b][differ]], 1))
        heights.append(np.maximum(probability[a][differ], probability[b][differ]).astype(np.float64))
    height = np.concatenate(heights)
    return _gathered(np.concatenate(pairs), height, np.ones(len(height)))


def _gathered(pairs: Array, heights: Array, lengths: Array) -> tuple[Array, Array, Array]:
    """Add up what belongs to one pair; what is now within one segment is left out."""
    pairs = np.sort(pairs, axis=1)
    outer = pairs[:, 0] != pairs[:, 1]
    pairs, heights, lengths = pairs[outer], heights[outer], lengths[outer]
    if not len(pairs):
        return pairs, heights, lengths
    number = int(pairs.max()) + 1
    keys, where = np.unique(pairs[:, 0].astype(np.int64) * number + pairs[:, 1], return_inverse=True)
    return (
        np.stack([keys // number, keys % number], 1),
        np.bincount(where, weights=heights),
        np.bincount(where, weights=lengths),
    )
