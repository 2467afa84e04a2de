"""Consecutive structural similarity: how alike are two denoised images of one scene?"""

from __future__ import annotations

import numpy as np
from skimage.metrics import structural_similarity
from torch import Tensor


def consecutive_similarity(first: Tensor, second: Tensor) -> float:
    """Mean structural similarity of two images (h, w) of one scene with independent noise.

    F. Wang et al. (Noise2Atom, Appl. Microsc. 50 (2020) 23) ask it of consecutive frames of a series, in which structures
    hardly change: a score that needs no reference. Here the two are denoised halves of a micrograph. The similarity is
    that of Z. Wang et al. (IEEE Trans. Image Process. 13 (2004) 600), Gaussian window of 1.5 pixels, and its range the
    middle 99 % of both images' values. An image without contents is like any other: read it beside the variance kept.
    """
    a, b = (image.cpu().numpy().astype(float) for image in (first, second))
    low, high = np.percentile(np.stack([a, b]), [0.5, 99.5])
    if not high > low:
        return 1.0
    return float(structural_similarity(a, b, data_range=high - low, gaussian_weights=True))
