"""Bring a micrograph to the working pixel, and its local mean and deviation to 0 and 1."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from emflow.pick.filters import gaussian_blur

CLIP = 6.0
"""Deviations beyond which pixels count no more: hot pixels, ice crystals."""


def shrink(image: Tensor, factor: float) -> Tensor:
    """Resample an image (y, x) to 1/factor of its size with a low-pass against aliasing; nothing wraps.

    Pixel i of the result has its centre at (i + ½)·n/m − ½ of the input, n and m being the two sizes.
    """
    if factor <= 1:
        return image
    size = [max(1, round(n / factor)) for n in image.shape]
    return functional.interpolate(image[None, None], size=size, mode="bicubic", antialias=True)[0, 0]


def normalise_locally(image: Tensor, weight: Tensor, background: Tensor, sigma: float) -> Tensor:
    """Subtract the local mean and divide by the local deviation, in a Gaussian window.

    Normalised convolution: pixels of weight 0 count neither in the statistics nor in the result.

    Parameters
    ----------
    image
        Pixels (y, x).
    weight
        1 on valid pixels; the result is 0 elsewhere.
    background
        1 on the pixels from which mean and deviation are taken.
    sigma
        Standard deviation of the window, in pixels.
    """
    whole = (image * background).sum() / background.sum().clamp_min(1e-6)
    centred = image - whole  # large constants would cost digits in the Fourier transform
    near = gaussian_blur(background, sigma).clamp_min(1e-2)
    mean = gaussian_blur(centred * background, sigma) / near
    rest = centred - mean
    variance = gaussian_blur(rest * rest * background, sigma) / near
    floor = 1e-3 * (rest * rest * background).sum() / background.sum().clamp_min(1e-6)
    deviation = torch.sqrt(torch.maximum(variance, floor).clamp_min(1e-30))
    return (rest / deviation).clamp(-CLIP, CLIP) * weight
