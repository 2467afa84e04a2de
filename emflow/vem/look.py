"""What one slice looks like, and what is wrong with it beside its neighbours."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import median_filter
from torch import Tensor

from emflow.vem.config import VemCheck

_BANDS = ((1 / 32, 1 / 8), (1 / 8, 1 / 4), (1 / 4, 3 / 8))
"""Coarse, middle and fine detail, in cycles per pixel."""
_FLOOR = (0.45, 0.5)
"""Where there is little but noise."""
_CHANCE = 20.0
"""Correlations differ by chance by at most about this over the square root of the number of pixels."""
_SEEN = 1.0
"""Detail can be missed where its power beyond noise usually is this part of the noise's."""


@dataclass(frozen=True)
class Look:
    """Figures of a slice."""

    mean: float
    """Median intensity."""
    deviation: float
    """Half the range that holds the middle 68 %."""
    extreme: float
    """Share of pixels at either end of its range."""
    middle_detail: float
    fine_detail: float
    """Power of detail beyond noise as a part of the coarse."""
    middle_seen: float
    fine_seen: float
    """The same as a part of the noise's."""
    digest: str
    """Tells equal slices."""


def look_at(image: Tensor) -> Look:
    """Measure a slice (H, W)."""
    low, middle, high = torch.quantile(
        image[::2, ::2].flatten()[: 2**24], torch.tensor([0.16, 0.5, 0.84])
    ).tolist()
    at_ends = ((image == image.min()) | (image == image.max())).float().mean()
    details = _details(image)
    return Look(
        middle,
        (high - low) / 2,
        float(at_ends),
        *details,
        digest=hashlib.sha256(image.numpy().tobytes()).hexdigest(),
    )


def _details(image: Tensor) -> tuple[float, float, float, float]:
    windows = [torch.hann_window(n, periodic=False) for n in image.shape]
    power = torch.fft.rfft2((image - image.mean()) * torch.outer(*windows)).abs() ** 2
    fy, fx = torch.fft.fftfreq(image.shape[0])[:, None], torch.fft.rfftfreq(image.shape[1])[None]
    radius = (fy**2 + fx**2).sqrt()
    floor = _mean_in(power, radius, _FLOOR)
    coarse, *finer = (_mean_in(power, radius, band) - floor for band in _BANDS)
    middle, fine = (max(detail, 0.0) for detail in finer)
    base, coarse = max(floor, 1e-12), max(coarse, 1e-12)
    return middle / coarse, fine / coarse, middle / base, fine / base


def _mean_in(power: Tensor, radius: Tensor, band: tuple[float, float]) -> float:
    chosen = power[(radius >= band[0]) & (radius < band[1])]
    return float(chosen.mean()) if len(chosen) else 0.0


def running_median(values: np.ndarray, window: int) -> np.ndarray:
    """Median over neighbours; at the ends over those there are."""
    return median_filter(values, size=min(window, len(values)) | 1, mode="nearest")


def faults(
    looks: list[Look], similar: np.ndarray, across: np.ndarray, pixels: int, cfg: VemCheck
) -> list[list[str]]:
    """Say of each stored slice why it is not fit to be used; mostly nothing.

    Parameters
    ----------
    similar
        (n,) correlation with the more similar of its neighbours.
    across
        (n,) correlation of its neighbours with one another; NaN at the ends.
    pixels
        Of a slice.
    """
    chance = max(0.03, _CHANCE / pixels**0.5)
    extreme = np.array([look.extreme for look in looks])
    usual = float(np.median([look.deviation for look in looks]))
    expected = np.fmax(across, running_median(similar, cfg.window_slices))
    details = np.array([(look.middle_detail, look.fine_detail) for look in looks])
    usually = np.column_stack([running_median(band, cfg.window_slices) for band in details.T])
    seen = np.median([(look.middle_seen, look.fine_seen) for look in looks], axis=0) > _SEEN
    blurred = np.any((details < cfg.least_detail * usually)[:, seen], axis=1)
    out = []
    for n, look in enumerate(looks):
        why = []
        if n and look.digest == looks[n - 1].digest:
            why.append("the same as the slice before")
        elif look.deviation <= 0.1 * usual:
            why.append("blank")
        elif extreme[n] > np.median(extreme) + cfg.most_saturated:
            why.append("saturated")
        elif similar[n] < cfg.least_similarity * expected[n] - chance:
            why.append("unlike both neighbours")
        elif blurred[n]:
            why.append("blurred")
        out.append(why)
    return out


def brightness(looks: list[Look], fit: np.ndarray, window: int) -> tuple[np.ndarray, np.ndarray]:
    """Scale and offset (n,) by which fit slices get the brightness and contrast that is usual about them."""
    scale, offset = np.ones(len(looks)), np.zeros(len(looks))
    if not fit.any():
        return scale, offset
    mean = np.array([look.mean for look in looks])
    deviation = np.array([look.deviation for look in looks])
    scale[fit] = running_median(deviation[fit], window) / deviation[fit]
    offset[fit] = running_median(mean[fit], window) - scale[fit] * mean[fit]
    return scale, offset
