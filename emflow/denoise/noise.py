"""The noise of one micrograph: its level where no signal is left, its spectrum where the image is quietest."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

_WHITE_BAND = (0.75, 0.95)  # of the Nyquist frequency: where a micrograph's noise is measured
_PATCH_PX = 48
_QUIET = 0.25
"""Part of the patches from which the spectrum is taken."""
_RANKED_BAND = (0.1, 0.6)  # of the Nyquist frequency: where particles have their power
_FITTED_BAND = (0.55, 0.95)
_CLEARLY_LESS = 0.85  # the lower of two measurements is too low by chance


def white_noise(z: Tensor) -> float:
    """Deviation of white noise whose power is that of an image's highest frequencies, where no signal is left."""
    power = torch.fft.rfft2(z, norm="ortho").abs() ** 2
    radius = _radius(z.shape[0], z.shape[1])
    ring = (radius > _WHITE_BAND[0]) & (radius < _WHITE_BAND[1])
    return float(power[ring.to(z.device)].mean().sqrt())


def noise_spectrum(z: Tensor) -> Tensor:
    """Power of an image's noise at radii 0, 1/24, … of the Nyquist frequency, out to the corner; 1 is white of deviation 1.

    The mean over the quietest quarter of overlapping patches (those with the least power where particles have theirs),
    scaled so that its highest frequencies have the power of the whole image's, since the choice of patches must make no
    noise lower than it is; but at most what a detector's response, a Gaussian, fitted to it between 55 and 95 % of the
    Nyquist frequency, would give. So particles that leave no patch free are not taken for noise. What the ice has more
    of at low frequencies stays with the signal there.
    """
    side = min(_PATCH_PX, *z.shape)
    patches = z.unfold(0, side, side // 2).unfold(1, side, side // 2).reshape(-1, side, side)
    line = torch.hann_window(side, periodic=False, device=z.device)
    window = line[:, None] * line
    power = torch.fft.rfft2(patches * window).abs() ** 2 / window.square().sum()
    radius = _radius(side, side).to(z.device)
    ranked = (radius > _RANKED_BAND[0]) & (radius < _RANKED_BAND[1])
    order = power[:, ranked].mean(1).argsort(stable=True)
    quiet = power[order[: max(1, round(_QUIET * len(order)))]].mean(0)
    top = (radius > _WHITE_BAND[0]) & (radius < _WHITE_BAND[1])
    quiet = quiet * (white_noise(z) ** 2 / quiet[top].mean())
    number = _PATCH_PX // 2
    ring = (radius * number).round().long().flatten()
    count, total = (
        torch.zeros(int(1.5 * number), dtype=torch.float64).index_add(0, ring.cpu(), values.double().cpu())
        for values in (torch.ones_like(quiet).flatten(), quiet.flatten())
    )
    filled = (count > 0).numpy()
    rings = np.arange(len(count))
    measured = np.interp(rings, rings[filled], (total / count.clamp(min=1)).numpy()[filled])
    square = (rings / number) ** 2
    high = (square > _FITTED_BAND[0] ** 2) & (square < _FITTED_BAND[1] ** 2)
    slope, start = np.polyfit(square[high], np.log(measured[high].clip(1e-12)), 1)
    response = np.exp(start + slope * square) if slope < 0 else measured[high].mean()
    return torch.from_numpy(np.where(measured < _CLEARLY_LESS * response, measured, response))


def draw_noise(spectrum: Tensor, shape: tuple[int, int], rng: torch.Generator) -> Tensor:
    """Gaussian noise of a spectrum, (h, w), on a torus."""
    radius = (_radius(*shape) * (_PATCH_PX // 2)).numpy()
    amplitude = np.interp(radius, np.arange(len(spectrum)), spectrum.clamp(min=0).sqrt().numpy())
    white = torch.randn(shape, generator=rng)
    return torch.fft.irfft2(torch.fft.rfft2(white) * torch.from_numpy(amplitude).float(), s=shape)


def deviation_of(spectrum: Tensor) -> float:
    """Deviation of noise of a spectrum."""
    radius = (_radius(_PATCH_PX, _PATCH_PX) * (_PATCH_PX // 2)).numpy()
    power = np.interp(radius, np.arange(len(spectrum)), spectrum.clamp(min=0).numpy())
    weight = np.full(radius.shape, 2.0)  # columns that stand for two
    weight[:, [0, -1]] = 1.0
    return float(np.sqrt((power * weight).sum() / weight.sum()))


def _radius(height: int, width: int) -> Tensor:
    """Frequency on the grid of ``rfft2`` over that of Nyquist."""
    return 2 * torch.hypot(torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width)[None])
