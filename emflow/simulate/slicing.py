"""What an electron microscope measures of stained tissue, slice by slice, with what goes wrong."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter, gaussian_filter1d, map_coordinates, shift, uniform_filter1d

from emflow.simulate.config import SimulateVolume
from emflow.simulate.tissue import smooth_noise

BRIGHT, DARK = 200.0, 60.0
"""Grey values of unstained tissue and of a membrane."""
_KINDS = ("fold", "dirt", "defocus")


@dataclass
class Slices:
    """Measured slices, (S, Y, X) grey values, and what was done to each."""

    pixels: np.ndarray
    facts: dict[str, Any] = field(default_factory=dict)


def expose(staining: np.ndarray, cfg: SimulateVolume) -> np.ndarray:
    """Grey values of a noise-free, aligned, isotropic image of the staining (Z, Y, X); float32."""
    image = BRIGHT - (BRIGHT - DARK) * staining
    return gaussian_filter(image, cfg.blur_px) if cfg.blur_px > 0 else image


def measure(truth: np.ndarray, cfg: SimulateVolume, rng: np.random.Generator) -> Slices:
    """Take slices of a noise-free image, and do to them what the microscope does.

    Parameters
    ----------
    truth
        From :func:`expose`, (Z, Y, X).
    """
    contrast = BRIGHT - DARK
    depth = cfg.section_thickness * cfg.z_factor
    solid = uniform_filter1d(truth, round(depth), axis=0, mode="nearest") if depth >= 1.5 else truth
    if cfg.staining_variation > 0:
        stronger = 1 + cfg.staining_variation * smooth_noise(rng, truth.shape, max(truth.shape) / 6)
        solid = BRIGHT - (BRIGHT - solid) * stronger
    at = np.arange(int((len(truth) - 1) / cfg.z_factor + 1e-9) + 1) * cfg.z_factor
    pixels = _at_heights(solid, at)
    facts: dict[str, Any] = {"position_px": at.tolist()}
    if cfg.charging > 0:
        pixels = pixels + cfg.charging * contrast * _trails(pixels, rng)
    if cfg.curtains > 0:
        pixels = pixels + cfg.curtains * contrast * _curtains(pixels.shape, at, rng)
    shifts = cfg.jitter_px * rng.standard_normal((len(at), 2))
    if cfg.jitter_px > 0:
        pixels = np.stack([shift(s, d, order=3, mode="reflect") for s, d in zip(pixels, shifts, strict=True)])
    gains, offsets = 1 + cfg.slice_brightness * rng.standard_normal((2, len(at)))
    middle = float(truth.mean())
    pixels = middle + (pixels - middle) * gains[:, None, None] + contrast * (offsets[:, None, None] - 1)
    facts |= {"shift_px": shifts.tolist(), "gain": gains.tolist()}
    facts["offset"] = (contrast * (offsets - 1)).tolist()
    facts |= _spoil(pixels, cfg, rng)
    if cfg.electrons_per_px > 0:
        scatter = np.sqrt(pixels.clip(1) * BRIGHT / cfg.electrons_per_px)
        pixels = pixels + scatter * rng.standard_normal(pixels.shape, dtype=np.float32)
    pixels[facts["missing"]] = 0
    return Slices(pixels.astype(np.float32), facts)


def drawn_labels(labels: np.ndarray, facts: dict[str, Any], cfg: SimulateVolume) -> np.ndarray:
    """Labels of some good slices, evenly chosen, as they lie in the measured slice; 0 in all others."""
    spoilt = {*facts["missing"], *(entry["slice"] for entry in facts["damaged"])}
    good = [n for n in range(len(facts["position_px"])) if n not in spoilt]
    chosen = np.unique(np.linspace(0, len(good) - 1, min(cfg.labelled_slices, len(good))).round().astype(int))
    out = np.zeros((len(facts["position_px"]), *labels.shape[1:]), labels.dtype)
    for number in (good[n] for n in chosen):
        plane = labels[round(facts["position_px"][number])]
        out[number] = shift(plane, facts["shift_px"][number], order=0, mode="nearest")
    return out


def _at_heights(solid: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Slices at heights between the planes, by cubic splines; the planes themselves where they are whole."""
    whole = np.rint(at).astype(int)
    if np.allclose(at, whole, atol=1e-6):
        return solid[whole]
    z, y, x = np.meshgrid(at, np.arange(solid.shape[1]), np.arange(solid.shape[2]), indexing="ij")
    return map_coordinates(solid, [z, y, x], order=3, mode="nearest", output=np.float32)


def _trails(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Bright trails along x behind places that charge: resin that nothing is stained in."""
    length = max(4.0, pixels.shape[2] / 8)
    bare = np.stack([gaussian_filter(s, 4) for s in pixels])
    bare = ((bare - bare.mean()) / max(float(bare.std()), 1e-9) - 1).clip(0)
    fall = np.exp(-np.arange(int(3 * length)) / length) / length
    spectrum = np.fft.rfft(bare, 2 * pixels.shape[2], axis=2) * np.fft.rfft(fall, 2 * pixels.shape[2])
    trails = np.fft.irfft(spectrum, axis=2)[:, :, : pixels.shape[2]]
    return trails * rng.uniform(0.3, 1.7, (len(pixels), 1, 1))


def _curtains(shape: tuple[int, ...], at: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Streaks along y, some pixels wide, that last for some tens of pixels in depth."""
    slices, _, width = shape
    fine = rng.standard_normal((max(slices, int(at[-1]) + 1), width))
    streaks = gaussian_filter1d(gaussian_filter1d(fine, 1.0, axis=1), 10.0, axis=0)[np.rint(at).astype(int)]
    fade = np.linspace(0.5, 1.5, shape[1])[None, :, None]
    return (streaks / streaks.std())[:, None] * fade


def _spoil(pixels: np.ndarray, cfg: SimulateVolume, rng: np.random.Generator) -> dict[str, Any]:
    """Spoil slices in place; which are missing, and which are damaged how. The first and last stay."""
    inner = rng.permutation(np.arange(1, max(1, len(pixels) - 1)))
    missing = sorted(int(i) for i in inner[: cfg.missing_slices])
    spoilt = sorted(int(i) for i in inner[cfg.missing_slices : cfg.missing_slices + cfg.damaged_slices])
    kinds = [str(rng.choice(_KINDS)) for _ in spoilt]
    y, x = np.mgrid[: pixels.shape[1], : pixels.shape[2]]
    side = min(pixels.shape[1:])
    for number, kind in zip(spoilt, kinds, strict=True):
        angle, place = rng.uniform(0, np.pi), rng.uniform(0.3, 0.7, 2) * pixels.shape[1:]
        if kind == "defocus":
            pixels[number] = gaussian_filter(pixels[number], 4)
            continue
        away = (y - place[0]) * np.cos(angle) + (x - place[1]) * np.sin(angle)
        if kind == "dirt":
            away = np.hypot(y - place[0], x - place[1]) - side * rng.uniform(0.1, 0.2)
        dark = 1 / (
            1 + np.exp((np.abs(away) if kind == "fold" else away) - (side / 16 if kind == "fold" else 0))
        )
        pixels[number] = pixels[number] * (1 - dark) + 15 * dark
    damaged = [{"slice": n, "kind": k} for n, k in zip(spoilt, kinds, strict=True)]
    return {"missing": missing, "damaged": damaged}
