"""How near is an image to the noise-free one? The measures of PEERS' table, contamination left out."""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
import torch
from skimage.metrics import structural_similarity

from denoising.sets import Scene
from emflow.simulate.score_denoise import snr_db

HIGH_PASS_ANGSTROM = 600.0
LOW_PASS_ANGSTROM = (15, 20, 25, 30, 40, 50, 60, 80, 100, 130, 170)
RINGS_ANGSTROM = (60, 40, 30, 20)
FIGURES = ("snr_db", "inside_db", "inside_fitted_db", "ssim", *(f"frc_{r}" for r in RINGS_ANGSTROM))


class Measure(Protocol):
    """Measures an image against the noise-free one; without similarity it is quick, and SSIM and FRC are left out."""

    def __call__(self, image: np.ndarray, similarity: bool = True, /) -> dict[str, float]:
        """Return the figures by name."""
        ...


def gain(shape: tuple[int, ...], pixel: float, length: float) -> np.ndarray:
    """Gaussian low-pass on the grid of rfft2 with half the amplitude at a length in ångström."""
    fy, fx = np.fft.fftfreq(shape[0], pixel)[:, None], np.fft.rfftfreq(shape[1], pixel)[None]
    return np.exp(-math.log(2) * (fy**2 + fx**2) * length**2)


def filtered(image: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Image times a weight in Fourier space."""
    return np.fft.irfft2(np.fft.rfft2(image) * weight, s=image.shape)


def frc(a: np.ndarray, b: np.ndarray, pixel: float, length: float) -> float:
    """Fourier ring correlation of two images in a band of ±15 % around 1/length."""
    fy, fx = np.fft.fftfreq(a.shape[0], pixel)[:, None], np.fft.rfftfreq(a.shape[1], pixel)[None]
    s = np.hypot(fy, fx) * length
    ring = (s > 0.85) & (s < 1.15)
    p, q = np.fft.rfft2(a)[ring], np.fft.rfft2(b)[ring]
    return float((p * q.conj()).real.sum() / math.sqrt((abs(p) ** 2).sum() * (abs(q) ** 2).sum()))


def measure_of(scene: Scene, pixel: float) -> Measure:
    """Return what measures images of a scene.

    Contamination is set to the mean of the rest before the high-pass (Gaussian, 600 Å), and left out after it. SSIM
    (Wang et al. 2004, Gaussian window of 1.5 pixels) is of images brought to mean 0 and deviation 1.
    """
    high = 1 - gain(scene.raw.shape, pixel, HIGH_PASS_ANGSTROM)

    def passed(image: np.ndarray) -> np.ndarray:
        image = filtered(np.where(scene.kept, image, image[scene.kept].mean()), high)
        return np.where(scene.kept, image, 0.0)

    target = passed(scene.clean)
    unit = target / target[scene.kept].std()
    span = float(np.subtract(*np.percentile(unit[scene.kept], [99.5, 0.5])))

    def measure(image: np.ndarray, similarity: bool = True) -> dict[str, float]:
        x = passed(image.astype(float))
        whole, inside = (
            snr_db(torch.from_numpy(x[where]), torch.from_numpy(target[where]))
            for where in (scene.kept, scene.inside)
        )
        found = {"snr_db": whole, "inside_db": inside}
        found["inside_fitted_db"] = 10 * math.log10(1 + 10 ** (inside / 10))
        if similarity:
            unit_x = x / max(x[scene.kept].std(), 1e-30)
            maps = structural_similarity(unit_x, unit, data_range=span, gaussian_weights=True, full=True)[1]
            found["ssim"] = float(maps[scene.kept].mean())
            found |= {f"frc_{ring}": frc(x, target, pixel, ring) for ring in RINGS_ANGSTROM}
        return found

    return measure


def best_gaussian(scene: Scene, pixel: float, measure: Measure) -> dict[str, float]:
    """Figures of the low-pass that is best over the whole image, of eleven, and the best inside of any."""
    filled = np.where(scene.kept, scene.raw, scene.raw[scene.kept].mean())
    images = {length: filtered(filled, gain(filled.shape, pixel, length)) for length in LOW_PASS_ANGSTROM}
    tried = {length: measure(image, False) for length, image in images.items()}
    best = max(tried, key=lambda length: tried[length]["snr_db"])
    inside = {key: max(row[key] for row in tried.values()) for key in ("inside_db", "inside_fitted_db")}
    return measure(images[best], True) | inside
