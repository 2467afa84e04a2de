"""The power spectrum of a micrograph: patches, background, polar form."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.interpolate import BSpline
from torch import Tensor

PATCHES_AT_ONCE = 16


@dataclass(frozen=True)
class Spectrum:
    """Pixels of a power spectrum (half plane) between two resolutions.

    Attributes
    ----------
    power
        P/B: the spectrum divided by its smooth background, shape (n,); 1 on average.
    fy, fx
        Frequencies of the pixels in 1/ångström, shape (n,).
    step
        Distance of two pixels, 1/ångström.
    """

    power: Tensor
    fy: Tensor
    fx: Tensor
    step: float

    @property
    def radius(self) -> Tensor:
        """Frequency of each pixel, 1/ångström."""
        return torch.sqrt(self.fx**2 + self.fy**2)


def averaged_power(micrograph: Tensor, patch: int) -> Tensor:
    """Return the power spectrum averaged over patches that overlap by half (Welch 1967).

    Patches are spread evenly so that the whole micrograph is used, their mean is removed and a Hann
    window applied, which keeps the edges' cross out of the spectrum.

    Parameters
    ----------
    micrograph
        Shape (ny, nx), at least ``patch`` on each side.
    patch
        Side of a patch in pixels, even.

    Returns
    -------
    Shape (patch, patch//2 + 1), the layout of ``torch.fft.rfft2``.
    """
    corners = [_starts(side, patch) for side in micrograph.shape]
    window = torch.hann_window(patch, device=micrograph.device)
    window = window[:, None] * window
    total = micrograph.new_zeros(patch, patch // 2 + 1)
    places = [(y, x) for y in corners[0] for x in corners[1]]
    for first in range(0, len(places), PATCHES_AT_ONCE):
        some = places[first : first + PATCHES_AT_ONCE]
        patches = torch.stack([micrograph[y : y + patch, x : x + patch] for y, x in some])
        patches = (patches - patches.mean((-2, -1), keepdim=True)) * window
        transform = torch.view_as_real(torch.fft.rfft2(patches))
        total += transform.square_().sum((0, -1))
    return total / (len(places) * window.square().sum())


def _starts(side: int, patch: int) -> list[int]:
    count = max(1, math.ceil((side - patch) / (patch / 2)) + 1)
    return [round(i * (side - patch) / max(1, count - 1)) for i in range(count)]


def flatten(power: Tensor, pixel_size_angstrom: float, band: tuple[float, float], knot: float) -> Spectrum:
    """Divide a power spectrum by its smooth radial background and keep a band of it.

    The background is a cubic spline through the logarithm of the rotational average (least squares,
    knots every ``knot`` 1/ångström: wider than a Thon ring, so that it cannot follow the rings). A
    ratio, not a difference, because the noise of a power spectrum is proportional to its mean: what is
    left has the same noise everywhere.

    Parameters
    ----------
    power
        Shape (n, n//2 + 1).
    pixel_size_angstrom
        Pixel size of the micrograph.
    band
        Lowest and highest frequency kept, 1/ångström.
    knot
        Distance of the spline's knots, 1/ångström.
    """
    n = power.shape[0]
    step = 1 / (n * pixel_size_angstrom)
    fy = torch.fft.fftfreq(n, pixel_size_angstrom, device=power.device)[:, None].expand_as(power)
    fx = torch.fft.rfftfreq(n, pixel_size_angstrom, device=power.device)[None, :].expand_as(power)
    radius = torch.sqrt(fx * fx + fy * fy)
    # fx = 0 holds each value twice (Friedel): keep the upper half of that column.
    keep = (radius >= band[0]) & (radius <= band[1]) & ((fx > 0) | (fy > 0))
    fy, fx, radius, power = fy[keep], fx[keep], radius[keep], power[keep]
    ring = (radius / step).round().long()
    first, count = int(ring.min()), torch.bincount(ring)
    mean = torch.bincount(ring, weights=power.double()) / count.clamp(min=1)
    spline = _fit_spline(
        np.arange(first, len(mean)) * step,
        mean[first:].clamp(min=1e-30).log().cpu().numpy(),
        count[first:].sqrt().cpu().numpy(),
        knot,
    )
    background = torch.from_numpy(np.exp(spline(radius.double().cpu().numpy()))).to(power)
    return Spectrum(power / background, fy, fx, step)


def _fit_spline(x: np.ndarray, y: np.ndarray, weight: np.ndarray, knot: float) -> BSpline:
    intervals = max(1, round((x[-1] - x[0]) / knot))
    inner = np.linspace(x[0], x[-1], intervals + 1)
    knots = np.concatenate([[x[0]] * 3, inner, [x[-1]] * 3])
    design = BSpline.design_matrix(np.clip(x, x[0], x[-1]), knots, 3).toarray()
    coefficients = np.linalg.lstsq(design * weight[:, None], y * weight, rcond=None)[0]
    return BSpline(knots, coefficients, 3)
