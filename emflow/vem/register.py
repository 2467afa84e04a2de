"""Lay a clean image onto a noisy one of the same field: shift, smooth local displacement, intensities, and what differs.

The clean one is resampled, never the noisy one, whose noise must stay as the microscope makes it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates, zoom

from emflow.step import EmflowError

_COARSE, _FINE = 3.0, 1.5
"""Deviations of the Gaussians, in pixels, below which detail is left out of the comparison, first and then."""
_WINDOW = 24.0
"""Deviation of the window, in pixels, in which the displacement is taken as one."""
_REDUCED = 4
"""The windows' sums are formed on a grid so many times coarser."""
_ROUNDS = 4
"""Steps at each level of detail."""
_TONES = 4.0
"""Deviation of the Gaussian, in pixels, beyond which intensities are matched."""
_PEAK = 8.0
"""Least height of the cross-correlation's peak, in deviations; the highest by chance is 4 to 6."""
_DIFFERENT = 4.0
"""Structure that differs so many times as much as is usual (in squares), and correlates by half, is another one."""


@dataclass(frozen=True)
class Registered:
    """A clean image on the noisy one's grid, with how it came there."""

    clean: np.ndarray
    """(H, W) float32, in its own intensities."""
    matched: np.ndarray
    """(H, W) whether both show the same there."""
    shift_px: tuple[float, float]
    """Displacement (y, x) of the whole: the noisy image's pixel p shows what the clean one's p + shift does."""
    local_px: float
    """Root mean square of the displacement beyond it."""
    correlation: float
    """Of the two images' structures where they match."""
    gain: float
    """Noisy intensities are ``gain`` times the clean ones, plus ``offset``."""
    offset: float


def register(noisy: np.ndarray, clean: np.ndarray) -> Registered:
    """Register a pair.

    The whole shift is the peak of the cross-correlation. What is left is followed by Gauss-Newton steps in Gaussian
    windows (B. Lucas & T. Kanade, IJCAI 1981), from coarse structure to fine. Intensities are matched by mean and
    deviation of smoothed images, so that noise in neither biases them.

    Parameters
    ----------
    noisy, clean
        (H, W) each, of one pixel size; the sides may differ.

    Raises
    ------
    EmflowError
        If the two do not show the same field.
    """
    sides = tuple(max(a, b) for a, b in zip(noisy.shape, clean.shape, strict=True))
    shift, sign = _whole_shift(_padded(_band(noisy, _COARSE), sides), _padded(_band(clean, _COARSE), sides))
    displacement = np.broadcast_to(np.asarray(shift)[:, None, None], (2, *noisy.shape)).copy()
    for detail in (_COARSE, _FINE):
        still, moving = _band(noisy, detail), sign * _band(clean, detail)
        for _ in range(_ROUNDS):
            displacement += _step(still, moving, displacement)
    laid, within = _warped(clean, displacement, order=3)
    matched = within & _alike(_band(noisy, _COARSE), sign * _band(laid, _COARSE), within)
    if matched.mean() < 0.25:
        raise EmflowError(
            f"{100 * matched.mean():.0f} % of the two images match; expected most of the field. Give another pair."
        )
    a, b = (_band(image, _FINE)[matched] for image in (noisy, laid))
    correlation = float(np.corrcoef(a, b)[0, 1])
    a, b = (gaussian_filter(image, _TONES)[matched].astype(float) for image in (noisy, laid))
    gain = sign * float(a.std() / b.std())
    whole = np.array(shift) + (displacement - np.asarray(shift)[:, None, None])[:, matched].mean(1)
    local = displacement[:, matched] - whole[:, None]
    return Registered(
        laid.astype(np.float32),
        matched,
        (float(whole[0]), float(whole[1])),
        float(np.sqrt((local**2).sum(0).mean())),
        correlation,
        gain,
        float(a.mean() - gain * b.mean()),
    )


def _band(image: np.ndarray, detail: float) -> np.ndarray:
    """An image without its finest detail and its slow changes, of deviation 1."""
    image = image.astype(np.float32)
    band = gaussian_filter(image, detail) - gaussian_filter(image, 8 * detail)
    return band / max(float(band.std()), 1e-12)


def _padded(image: np.ndarray, sides: tuple[int, ...]) -> np.ndarray:
    """Windowed towards its borders, and continued by 0."""
    window = np.outer(*(np.hanning(n + 2)[1:-1] ** 0.5 for n in image.shape))
    return np.pad(image * window, [(0, n - m) for n, m in zip(sides, image.shape, strict=True)])


def _whole_shift(still: np.ndarray, moving: np.ndarray) -> tuple[tuple[float, float], int]:
    """Peak of the cross-correlation, and the sign of it: images may have opposite contrast.

    Raises
    ------
    EmflowError
        If the peak is none.
    """
    spectrum = np.fft.rfft2(still).conj() * np.fft.rfft2(moving)
    found = np.fft.irfft2(spectrum, s=still.shape)
    sign = 1 if found.max() >= -found.min() else -1
    peak = np.unravel_index(np.argmax(sign * found), found.shape)
    if abs(found[peak]) < _PEAK * found.std():
        raise EmflowError(
            "The two images do not show the same field; expected it twice, at one magnification (but for the factor) and "
            "without rotation or mirroring. Give another pair."
        )
    y, x = ((int(p) + n // 2) % n - n // 2 for p, n in zip(peak, found.shape, strict=True))
    return (float(y), float(x)), sign


def _warped(image: np.ndarray, displacement: np.ndarray, order: int) -> tuple[np.ndarray, np.ndarray]:
    """An image at displaced places, and which of these lie within it."""
    rows, columns = (np.arange(n, dtype=np.float32) for n in displacement.shape[1:])
    at = np.stack([rows[:, None] + displacement[0], columns[None] + displacement[1]])
    within = np.ones(displacement.shape[1:], bool)
    for place, size in zip(at, image.shape, strict=True):
        within &= (place >= 0) & (place <= size - 1)
    return map_coordinates(image.astype(np.float32), at, order=order, mode="nearest"), within


def _step(still: np.ndarray, moving: np.ndarray, displacement: np.ndarray) -> np.ndarray:
    """What to add to the displacement, as a smooth field."""
    warped, within = _warped(moving, displacement, order=1)
    slopes = np.gradient(warped)
    missing = np.where(within, still - warped, 0)
    products = [slopes[0] ** 2, slopes[0] * slopes[1], slopes[1] ** 2, *(s * missing for s in slopes)]
    yy, yx, xx, by, bx = (
        gaussian_filter(_reduced(np.where(within, p, 0)), _WINDOW / _REDUCED, mode="constant")
        for p in products
    )
    ridge = 0.05 * float((yy + xx).mean())  # where there is no structure nothing moves
    yy, xx = yy + ridge, xx + ridge
    determinant = yy * xx - yx**2
    fields = (xx * by - yx * bx) / determinant, (yy * bx - yx * by) / determinant
    return np.stack([_enlarged(np.clip(f, -2, 2), still.shape) for f in fields])


def _reduced(image: np.ndarray) -> np.ndarray:
    """Means over squares."""
    more = [(0, -n % _REDUCED) for n in image.shape]
    squares = np.pad(image, more)
    height, width = (n // _REDUCED for n in squares.shape)
    return squares.reshape(height, _REDUCED, width, _REDUCED).mean((1, 3))


def _enlarged(image: np.ndarray, sides: tuple[int, ...]) -> np.ndarray:
    """The opposite of reducing, smoothly."""
    return zoom(image, _REDUCED, order=1, mode="nearest", grid_mode=True)[: sides[0], : sides[1]]


def _alike(still: np.ndarray, warped: np.ndarray, within: np.ndarray) -> np.ndarray:
    """Where two registered images show the same: not where they differ more than is usual and correlate less."""

    def local(image: np.ndarray) -> np.ndarray:
        return gaussian_filter(np.where(within, image, 0), _WINDOW / 3, mode="constant")

    a, b, both = local(still**2), local(warped**2), local(still * warped)
    correlation = both / np.sqrt(np.maximum(a * b, 1e-12))
    far = a + b - 2 * both
    usual = np.median(correlation[within])
    different = (far > _DIFFERENT * np.median(far[within])) & (correlation < usual / 2)
    return gaussian_filter(different.astype(np.float32), _WINDOW / 3) < 0.05  # with what lies about it
