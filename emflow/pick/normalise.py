"""Bring a micrograph to the working pixel, and its local mean and deviation to 0 and 1."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from emflow.pick.filters import gaussian_blur

CLIP = 6.0
"""Deviations beyond which pixels count no more: hot pixels, ice crystals."""

TREND_PASSES, TREND_CLIP = 4, 2.5
"""Fits of the trend, and deviations beyond which pixels count no more in the next."""


def shrink(image: Tensor, factor: float) -> Tensor:
    """Resample an image (y, x) to 1/factor of its size with a low-pass against aliasing; nothing wraps.

    Pixel i of the result has its centre at (i + ½)·n/m − ½ of the input, n and m being the two sizes.
    """
    if factor <= 1:
        return image
    size = [max(1, round(n / factor)) for n in image.shape]
    return functional.interpolate(image[None, None], size=size, mode="bicubic", antialias=True)[0, 0]


def resize(image: Tensor, factor: float) -> Tensor:
    """Bring an image (y, x) to 1/factor of its size, finer or coarser; as :func:`shrink`."""
    if factor > 1:
        return shrink(image, factor)
    size = [max(1, round(n / factor)) for n in image.shape]
    return functional.interpolate(image[None, None], size=size, mode="bicubic")[0, 0]


def remove_trend(image: Tensor, weight: Tensor) -> Tensor:
    """Subtract the cubic polynomial of x and y that fits the weighted pixels best, outliers left out.

    A gradient of ice or illumination would else remain at the borders, where a local mean sees one side only.
    """
    rest, used = image, weight
    for _ in range(TREND_PASSES):
        rest = image - _cubic(image, used)
        values = rest[used > 0]
        if values.numel() == 0:
            return rest
        middle = values.median()
        deviation = 1.4826 * (values - middle).abs().median()
        used = weight * ((rest - middle).abs() <= TREND_CLIP * deviation)
    return rest


def _cubic(image: Tensor, weight: Tensor) -> Tensor:
    """Cubic polynomial fitted to an image by weighted least squares."""
    y = torch.linspace(-1, 1, image.shape[0], dtype=torch.float64, device=image.device)
    x = torch.linspace(-1, 1, image.shape[1], dtype=torch.float64, device=image.device)
    powers_y = torch.stack([y**k for k in range(4)])
    powers_x = torch.stack([x**k for k in range(4)])
    i, j = torch.tensor([(i, j) for i in range(4) for j in range(4 - i)], device=image.device).unbind(1)
    weighted = weight.double()
    # moments from separable sums: no stack of basis images is needed
    products_y = (powers_y[:, None] * powers_y).reshape(16, -1)
    products_x = (powers_x[:, None] * powers_x).reshape(16, -1)
    moments = (products_y @ weighted @ products_x.T).reshape(4, 4, 4, 4)
    matrix = moments[i[:, None], i[None], j[:, None], j[None]]
    values = (powers_y @ (weighted * image.double()) @ powers_x.T)[i, j]
    ridge = 1e-9 * matrix.diagonal().mean().clamp_min(1e-12) * torch.eye(len(i), device=image.device)
    coefficients = torch.zeros(4, 4, dtype=torch.float64, device=image.device)
    coefficients[i, j] = torch.linalg.solve(matrix + ridge, values)
    return (powers_y.T @ coefficients @ powers_x).to(image.dtype)


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
