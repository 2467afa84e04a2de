"""The scale that the network works at: resampled to one pixel size, normalised once per micrograph."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from emflow.step import EmflowError

_CLIP_PIXELS = 8.0
"""Robust deviations to which single pixels are cut before they are resampled: hot pixels, cosmic rays."""
_CLIP = 3.0
"""Deviations to which pixels are cut where the local deviation is measured: carbon's edge, crystals of ice."""
_SAMPLE = 250_000


@dataclass(frozen=True)
class Scale:
    """What a model was trained at, and is applied at."""

    pixel_angstrom: float = 6.0
    """Pixel size that finer images are brought to; coarser ones stay as they are."""
    background_angstrom: float = 250.0
    """Deviation of the Gaussian whose local mean is taken away."""
    deviation_angstrom: float = 500.0
    """Deviation of the Gaussian over which the local deviation is measured."""
    noise_variance: float = 0.0
    """Variance of what the network makes of white noise of variance 1; what is no more than that is no signal."""

    @classmethod
    def of(cls, facts: dict[str, Any]) -> Scale:
        """Read a model's scale from what its manifest says."""
        try:
            told = {"noise_variance": 0.0, **facts["scale"]}
            return cls(**{name: float(told[name]) for name in cls.__dataclass_fields__})
        except (KeyError, TypeError, ValueError):
            raise EmflowError(
                "The model's manifest tells no scale (pixel_angstrom, background_angstrom, deviation_angstrom "
                "under facts.scale): it is no denoising model."
            ) from None


@dataclass(frozen=True)
class Scaled:
    """A micrograph at the working scale."""

    z: Tensor
    """(h, w), local mean 0 and deviation 1."""
    background: Tensor
    deviation: Tensor
    pixel_angstrom: float
    shape: tuple[int, int]
    """Of the micrograph."""

    def like(self, image: Tensor, scale: Scale) -> Tensor:
        """Bring another image of the same scene to this scale, by this one's deviation."""
        small = resample(image, (self.z.shape[0], self.z.shape[1]))
        return (small - smooth(small, scale.background_angstrom / self.pixel_angstrom)) / self.deviation

    def restore(self, z: Tensor) -> Tensor:
        """Undo the normalisation and bring back the micrograph's own pixels, (H, W)."""
        return resample(z * self.deviation + self.background, self.shape)

    def spread(self, deviation: Tensor) -> Tensor:
        """Bring deviations at this scale to the micrograph's own pixels and units, (H, W)."""
        return resample(deviation * self.deviation, self.shape).clamp(min=0)


def to_scale(image: Tensor, pixel_size_angstrom: float, scale: Scale) -> Scaled:
    """Bring a micrograph (H, W) to the working scale.

    Raises
    ------
    EmflowError
        If nothing varies in the image, or it is too small.
    """
    height, width = image.shape
    factor = min(1.0, pixel_size_angstrom / scale.pixel_angstrom)
    small = (max(1, round(height * factor)), max(1, round(width * factor)))
    if min(small) < 32:
        raise EmflowError(
            f"{height} × {width} pixels of {pixel_size_angstrom:g} Å are too few: denoising needs "
            f"at least {math.ceil(32 / factor)} on each side."
        )
    pixel = pixel_size_angstrom / factor
    resampled = resample(_without_outliers(image), small)
    background = smooth(resampled, scale.background_angstrom / pixel)
    rest = resampled - background
    spread = 1.4826 * float(_sample(rest).abs().median())
    if not spread > 1e-6 * float(_sample(resampled).abs().median()) or not math.isfinite(spread):
        raise EmflowError(
            "Most pixels hold one single value, or are no numbers: there is nothing to denoise."
        )
    squares = rest.clamp(-_CLIP * spread, _CLIP * spread) ** 2
    local = smooth(squares, scale.deviation_angstrom / pixel).clamp(min=(0.1 * spread) ** 2).sqrt()
    return Scaled(rest / local, background, local, pixel, (height, width))


def _sample(image: Tensor) -> Tensor:
    flat = image.flatten()
    return flat[:: max(1, flat.numel() // _SAMPLE)]


def _without_outliers(image: Tensor) -> Tensor:
    some = _sample(image)
    middle = some.median()
    reach = _CLIP_PIXELS * 1.4826 * (some - middle).abs().median()
    return image.clamp(middle - reach, middle + reach) if reach > 0 else image


def resample(image: Tensor, shape: tuple[int, int]) -> Tensor:
    """Resample by cosine transforms: an ideal low-pass with mirrored borders, for any sizes; means are kept.

    A transform and its inverse of another length make one matrix per axis, so white noise stays white and
    what is made finer is made coarser again unchanged.
    """
    for axis, size in enumerate(shape):
        if image.shape[axis] != size:
            matrix = _resampler(image.shape[axis], size).to(image)
            image = matrix @ image if axis == 0 else image @ matrix.T
    return image


def smooth(image: Tensor, sigma_px: float) -> Tensor:
    """Gaussian low-pass with mirrored borders, (H, W)."""
    down, across = (_blur(size, sigma_px).to(image) for size in image.shape)
    return down @ image @ across.T


@lru_cache(maxsize=8)
def _cosines(size: int, terms: int) -> Tensor:
    """First ``terms`` rows of the orthonormal DCT-II matrix of a length, float64 (terms, size)."""
    k = torch.arange(terms, dtype=torch.float64)[:, None]
    n = torch.arange(size, dtype=torch.float64)[None] + 0.5
    rows = torch.cos(math.pi / size * k * n) * math.sqrt(2 / size)
    rows[0] = math.sqrt(1 / size)
    return rows


@lru_cache(maxsize=8)
def _resampler(size: int, new: int) -> Tensor:
    terms = min(size, new)
    return (_cosines(new, terms).T @ _cosines(size, terms) * math.sqrt(new / size)).float()


@lru_cache(maxsize=8)
def _blur(size: int, sigma_px: float) -> Tensor:
    terms = min(size, math.ceil(2 * size * 0.8 / sigma_px) + 1)  # beyond, exp(−2π²σ²f²) is below 1e-5
    frequency = torch.arange(terms, dtype=torch.float64) / (2 * size)
    gain = torch.exp(-2 * (math.pi * sigma_px * frequency) ** 2)
    rows = _cosines(size, terms)
    return (rows.T @ (gain[:, None] * rows)).float()
