"""Denoised micrographs against the noise-free ones."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from emflow.em.optics import rfft_frequencies
from emflow.simulate.scoring import Metrics

FIGURES = (
    "denoise_micrographs",
    "denoise_snr_db",
    "denoise_raw_snr_db",
    "denoise_gaussian_snr_db",
    "denoise_gain_over_raw_db",
    "denoise_gain_over_gaussian_db",
    "denoise_gaussian_best_angstrom",
    "denoise_footprint_snr_db",
    "denoise_footprint_gaussian_snr_db",
)
HIGHPASS_ANGSTROM = 600.0
GAUSSIANS_ANGSTROM = (20.0, 30.0, 40.0, 60.0, 80.0, 120.0)
"""Half-width 1/s of the Gaussian exp(−½ (s·d)²) of the low-passes, for each d."""


@dataclass(frozen=True)
class Restored:
    """One micrograph three times (ny, nx), and where its particles lie."""

    denoised: Tensor
    raw: Tensor
    clean: Tensor
    xy_px: np.ndarray
    """Particle centres (N, 2)."""


def score_denoise(images: Iterable[Restored], pixel: float, diameter_angstrom: float) -> Metrics:
    """SNR in decibel over the whole image and in the particles' footprints; means over micrographs.

    The Gaussian low-pass is the best of six for these micrographs.
    """
    rows: list[list[float]] = []
    inside: list[list[float]] = []
    for image in images:
        target = filtered(image.clean, pixel)
        tested = [filtered(image.denoised, pixel), filtered(image.raw, pixel)]
        tested += [filtered(image.raw, pixel, width) for width in GAUSSIANS_ANGSTROM]
        rows.append([snr_db(test, target) for test in tested])
        where = footprint(target.shape, image.xy_px, 0.5 * diameter_angstrom / pixel)
        if bool(where.any()):
            inside.append([snr_db(test[where], target[where]) for test in tested])
    if not rows:
        return dict.fromkeys(FIGURES)
    denoised, raw, *gaussians = np.mean(rows, axis=0).tolist()
    best = int(np.argmax(gaussians))
    within = np.mean(inside, axis=0).tolist() if inside else None
    numbers = (
        len(rows), denoised, raw, gaussians[best], denoised - raw, denoised - gaussians[best],
        GAUSSIANS_ANGSTROM[best], within[0] if within else None, max(within[2:]) if within else None,
    )  # fmt: skip
    return dict(zip(FIGURES, numbers, strict=True))


def filtered(image: Tensor, pixel: float, lowpass_angstrom: float | None = None) -> Tensor:
    """High-pass at 600 Å (Gaussian), and a Gaussian low-pass where one is asked for."""
    fy, fx = rfft_frequencies((image.shape[0], image.shape[1]), pixel)
    s2 = fy**2 + fx**2
    h = 1 - torch.exp(-0.5 * s2 * HIGHPASS_ANGSTROM**2)
    if lowpass_angstrom is not None:
        h = h * torch.exp(-0.5 * s2 * lowpass_angstrom**2)
    return torch.fft.irfft2(torch.fft.rfft2(image - image.mean()) * h, s=image.shape)


def snr_db(image: Tensor, target: Tensor) -> float:
    """Signal-to-noise ratio of an image = a·target + b + rest (least squares): var(a·target)/var(rest), in dB.

    With the correlation r it is r²/(1 − r²); the image's scale and offset do not matter.
    """
    r = torch.corrcoef(torch.stack([image.flatten(), target.flatten()]).double())[0, 1]
    square = float(torch.nan_to_num(r)) ** 2
    return float(10 * np.log10(max(square, 1e-12) / max(1 - square, 1e-12)))


def footprint(shape: torch.Size, xy_px: np.ndarray, radius_px: float) -> Tensor:
    """True within the radius of any particle: boolean (ny, nx)."""
    from scipy.ndimage import distance_transform_edt

    free = np.ones(tuple(shape), dtype=bool)
    if not len(xy_px):
        return torch.from_numpy(~free)
    at = np.rint(xy_px).astype(int)
    free[at[:, 1].clip(0, shape[0] - 1), at[:, 0].clip(0, shape[1] - 1)] = False
    return torch.from_numpy(distance_transform_edt(free) <= radius_px)
