"""Is protein dark or bright? The skewness of band-passed micrographs tells.

Ice is a symmetric noise; what scatters more (protein, contamination, carbon) lies to one side of it, and
is sparse, so band-passed pixels are skewed towards it. At particle scale alone this fails where particles
are hollow or crowded (gaps between them are then the sparse thing), so several fine bands are looked at.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

BANDS_ANGSTROM = (4.0, 6.0, 9.0, 13.0, 20.0, 30.0)
"""Standard deviations of the Gaussian low-passes."""
HIGH_PASS_ANGSTROM = 60.0
"""Standard deviation of the Gaussian that is taken away (ice gradients, uneven illumination)."""
CLIP_PIXELS = 5.0
"""Deviations to which single pixels are cut: hot pixels. No protein reaches them before averaging."""
CLIP = 6.0
"""Deviations to which band-passed pixels are cut: crystals of ice, edges of carbon."""
LOWEST_DOSE_E_PER_A2 = 10.0
"""Dose for which the skewness of shot noise is allowed for; higher doses have less."""


def skewness(image: np.ndarray, pixel_size_angstrom: float) -> tuple[list[float], list[float]]:
    """Return the skewness of a micrograph in each band, and its standard error for Gaussian noise.

    The standard error is √(6/n) with n independent values: for noise smoothed by a Gaussian of deviation
    σ the correlation is ρ(r) = exp(−r²/4σ²), the third-order variance sums ρ³, an area of 4πσ²/3.

    Parameters
    ----------
    image
        Pixels (y, x), all finite.
    pixel_size_angstrom
        Pixel size, in ångström.
    """
    from scipy import fft  # select and join, a job for each shard, never need it

    factor = max(1, int(3.0 / pixel_size_angstrom))
    height, width = (side // factor * factor for side in image.shape)
    if min(height, width) < 32 * factor:
        return [0.0] * len(BANDS_ANGSTROM), [1.0] * len(BANDS_ANGSTROM)
    pixels = _clipped(image[:height, :width], CLIP_PIXELS)
    blocks = pixels.reshape(height // factor, factor, width // factor, factor)
    binned = _flattened(blocks.mean(axis=(1, 3), dtype=np.float32))
    pixel = pixel_size_angstrom * factor
    # the cosine transform mirrors the image at its edges, so they ring less than with a Fourier transform
    spectrum = fft.dctn(binned, norm="ortho")
    fy, fx = (np.arange(n, dtype=np.float32) / (2 * n * pixel) for n in binned.shape)
    exponent = -2 * math.pi**2 * (fy[:, None] ** 2 + fx[None, :] ** 2)
    spectrum *= 1 - np.exp(HIGH_PASS_ANGSTROM**2 * exponent)
    values, errors = [], []
    for sigma in BANDS_ANGSTROM:
        band = fft.idctn(spectrum * np.exp(sigma**2 * exponent), norm="ortho")
        values.append(_skewness_of(band))
        correlated = 4 * math.pi / 3 * (sigma**2 + pixel**2 / 12)
        errors.append(math.sqrt(6 * correlated / (binned.size * pixel**2)))
    return values, errors


def _clipped(values: np.ndarray, deviations: float) -> np.ndarray:
    """Cut values to so many robust standard deviations (1.4826 times the median distance) from the median."""
    sample = values.ravel()[:: max(1, values.size // 250_000)]  # enough for a median
    middle = np.median(sample)
    reach = deviations * 1.4826 * np.median(np.abs(sample - middle))
    return np.clip(values, middle - reach, middle + reach) if reach > 0 else values


def _flattened(image: np.ndarray) -> np.ndarray:
    """Take away the best second-order surface."""
    y, x = (np.linspace(-1, 1, n, dtype=np.float32) for n in image.shape)
    grid_y, grid_x = np.meshgrid(y, x, indexing="ij")
    terms = [np.ones_like(image), grid_y, grid_x, grid_y**2, grid_y * grid_x, grid_x**2]
    basis = np.stack([term.ravel() for term in terms])
    weights = np.linalg.solve(basis @ basis.T, basis @ image.ravel())
    return image - (weights @ basis).reshape(image.shape)


def _skewness_of(band: np.ndarray) -> float:
    centred = _clipped(band, CLIP)
    centred = centred - centred.mean()
    squares = centred * centred
    spread = squares.mean()
    return float((squares * centred).mean() / spread**1.5) if spread > 0 else 0.0


def decide(
    values: Sequence[Sequence[float]], errors: Sequence[Sequence[float]], significance: float
) -> tuple[str, float]:
    """Decide between dark and bright protein from several micrographs' skewness; unknown rather than guess.

    In each band the mean skewness is compared with its standard error (the scatter between micrographs,
    at least the theory's), after taking off what shot noise at a low dose could do, 0.376/(σ√dose). The
    most significant band decides, unless another band speaks against it half as strongly.

    Returns
    -------
    dark, bright or unknown, and the deciding band's number of standard errors (negative: dark).
    """
    if not len(values):
        return "unknown", 0.0
    skew, error = np.asarray(values, dtype=np.float64), np.asarray(errors, dtype=np.float64)
    scatter = skew.var(axis=0, ddof=1) if len(skew) > 1 else np.zeros(skew.shape[1])
    standard = np.sqrt(np.maximum(scatter, (error**2).mean(axis=0)) / len(skew))
    mean = skew.mean(axis=0)
    shot_noise = 0.376 / (np.array(BANDS_ANGSTROM) * math.sqrt(LOWEST_DOSE_E_PER_A2))
    strength = np.sign(mean) * np.maximum(np.abs(mean) - shot_noise, 0) / standard
    best = float(strength[np.argmax(np.abs(strength))])
    against = float(np.max(-strength * np.sign(best), initial=0.0))
    if abs(best) < significance or against > 0.5 * abs(best):
        return "unknown", best
    return ("dark" if best < 0 else "bright"), best
