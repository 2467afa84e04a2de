"""Which detail to add to a mean, and how much of it, so that most texture is had for a given loss of PSNR.

A sample of what may be there lies as far from the mean as the truth does: its squared error is twice the mean's,
3 dB. Within a loss of δ dB only 10^(δ/10) − 1 of the mean's squared error may be added, 12 % for 0.5 dB. Added to all
frequencies alike that is seen nowhere. Added where the spectrum of the mean is lowest, along the axis, it goes
furthest: beyond half of Nyquist, the power that frequencies lack is filled up to a common level (water-filling, as in
T. Cover & J. Thomas, Elements of Information Theory, 9.4; the trade itself: Y. Blau & T. Michaeli, CVPR 2018).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from emflow.vem.score import HIGH_BAND

AXIAL_REACH, LATERAL_REACH = 12, 6
"""Voxels on either side of the centre of the filters."""

_CUT = HIGH_BAND + 0.05
"""Where the filter about measured rows begins, as a part of Nyquist."""


@dataclass(frozen=True)
class Texture:
    """What is added to a mean."""

    taps: Tensor
    """Filter along the axis that takes from an error the part to be sampled, (2 · AXIAL_REACH + 1,)."""
    variance: float
    """Of what is added, in a filled voxel."""
    power: float
    """High-frequency power, as a part of the truth's, if all went where it is cheapest, no band above the truth's."""
    power_before: float
    loss_needed_db: float
    """Least loss of PSNR at which independent detail could reach ``ENOUGH``; infinite where the mean is too strong."""


ENOUGH = 0.7
"""High-frequency power from which on a texture counts as the truth's."""


def axial_powers(planes: Tensor, cone: bool = False) -> Tensor:
    """Power along the axis of planes (N, Z, W), summed over lateral frequencies; it adds up to their variance.

    Parameters
    ----------
    cone
        Leave out lateral frequencies above the axial one, as :func:`emflow.vem.score.axial_spectra` does.

    Returns
    -------
    (Z,), at the frequencies of ``torch.fft.fftfreq``.
    """
    sides = planes.shape[1:]
    window = torch.outer(*(torch.hann_window(n, periodic=False, device=planes.device) for n in sides))
    spectrum = torch.fft.fft2((planes - planes.mean((1, 2), keepdim=True)) * window)
    power = (spectrum.abs() ** 2).mean(0).double() / (window.square().sum() * window.numel())
    if cone:
        z, x = (torch.fft.fftfreq(n, device=planes.device).abs() for n in sides)
        power = power * (x[None] <= z[:, None])
    return power.sum(1)


def choose(truth: Tensor, mean: Tensor, factor: int, error: float, loss_db: float) -> Texture:
    """Choose what to add.

    Parameters
    ----------
    truth, mean
        Planes with the measured rows in them, (N, Z, W).
    error
        Mean squared error of filled voxels, of which the loss is reckoned.
    loss_db
        Allowed loss of PSNR.
    """
    p_truth, p_mean, p_error = (axial_powers(planes) for planes in (truth, mean, truth - mean))
    lacking = torch.minimum((p_truth - p_mean).clamp_min(0), p_error)
    filled = 1 - 1 / factor  # nothing is added to measured rows
    allowed = (10 ** (loss_db / 10) - 1) * error * filled
    high = 2 * torch.fft.fftfreq(len(p_truth), device=truth.device).abs() > HIGH_BAND
    added = _filled_up(p_mean, lacking * high, allowed)
    taps = narrow((added / p_error.clamp_min(1e-12)).sqrt())
    costs, powers = _cheapest(axial_powers(truth, cone=True)[high], axial_powers(mean, cone=True)[high])
    power = float(np.interp(allowed, costs, powers))
    cost = float(np.interp(ENOUGH, powers, costs)) if powers[-1] >= ENOUGH else math.inf
    needed = 10 * math.log10(1 + cost / filled / max(error, 1e-30))
    return Texture(taps, float(added.sum()) / filled, power, float(powers[0]), needed)


def _cheapest(p_truth: Tensor, p_mean: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """High-frequency power, and what must be added for it at least: bands in which the truth has least come first."""
    order = torch.argsort(p_truth)
    p_truth, p_mean = (p[order].clamp_min(1e-12).cpu() for p in (p_truth, p_mean))
    lacking = (p_truth - p_mean).clamp_min(0)
    gained = (lacking / p_truth).cumsum(0) / len(p_truth)
    start = float((p_mean / p_truth).mean())
    return np.r_[0.0, lacking.cumsum(0).numpy()], np.r_[start, start + gained.numpy()]


def _filled_up(p_mean: Tensor, lacking: Tensor, total: float) -> Tensor:
    """Add up to ``lacking`` to each frequency, so that the lowest sums rise to one level."""
    if float(lacking.sum()) <= total:
        return lacking
    low, up = 0.0, float((p_mean + lacking).max())
    for _ in range(60):
        level = (low + up) / 2
        added = torch.minimum((level - p_mean).clamp_min(0), lacking)
        low, up = (level, up) if float(added.sum()) < total else (low, level)
    return torch.minimum((low - p_mean).clamp_min(0), lacking)


def narrow(response: Tensor) -> Tensor:
    """Filter of 2 · AXIAL_REACH + 1 taps along the axis for a response at the frequencies of ``torch.fft.fftfreq``."""
    taps = torch.fft.fftshift(torch.fft.ifft(response).real)
    centre = len(taps) // 2
    reach = min(AXIAL_REACH, centre - 1)
    taper = torch.hann_window(2 * reach + 3, periodic=False, dtype=taps.dtype, device=taps.device)[1:-1]
    more = AXIAL_REACH - reach
    return functional.pad(taps[centre - reach : centre + reach + 1] * taper, (more, more)).float()


def filtered(planes: Tensor, taps: Tensor) -> Tensor:
    """Filter planes (N, Z, W) along the axis; nothing lies beyond them."""
    return functional.conv2d(planes[:, None], taps.view(1, 1, -1, 1), padding=(len(taps) // 2, 0))[:, 0]


def fitted(planes: Tensor, factor: int, first: int = 0) -> Tensor:
    """Planes (N, Z, W) made zero in measured rows, at little cost to their spectrum.

    Cutting rows out spreads a third of the power to low frequencies, where it costs PSNR and shows nothing. A high-pass
    filter in between, and a second cut, bring most of it back.

    Parameters
    ----------
    first
        Place of the first row along the axis of the restored volume.
    """
    missing = (torch.arange(first, first + planes.shape[1], device=planes.device) % factor != 0)[:, None]
    at = torch.arange(-AXIAL_REACH, AXIAL_REACH + 1, device=planes.device, dtype=planes.dtype)
    taper = torch.hann_window(2 * AXIAL_REACH + 3, periodic=False, device=planes.device)[1:-1]
    high_pass = ((at == 0).to(planes.dtype) - _CUT * torch.sinc(_CUT * at)) * taper
    return filtered(planes * missing, high_pass) * missing


def field_kernel(planes: Tensor) -> Tensor:
    """Kernel that turns white noise of three dimensions into such whose planes covary as the given ones do.

    A stationary field that looks alike in all lateral directions has the covariance of any plane that holds
    the axis, with the lateral distance for the plane's second axis.

    Parameters
    ----------
    planes
        (N, Z, W).

    Returns
    -------
    (2 · AXIAL_REACH + 1, 2 · LATERAL_REACH + 1, the same), of unit energy.
    """
    n, height, width = planes.shape
    spectrum = torch.fft.rfft2(planes, s=(2 * height, 2 * width)).abs().square().mean(0)
    covariance = torch.fft.irfft2(spectrum, s=(2 * height, 2 * width)).double().cpu()
    covariance /= covariance[0, 0].clamp_min(1e-30)
    grid = [4 * AXIAL_REACH, 4 * LATERAL_REACH, 4 * LATERAL_REACH]
    z, y, x = torch.meshgrid(*(torch.fft.fftfreq(n) * n for n in grid), indexing="ij")
    z, radius = z.abs().long(), (y**2 + x**2).sqrt()
    inner = radius.floor().long()
    part = radius - inner
    z, inner = z.clamp_max(height - 1), inner.clamp_max(width - 2)
    field = covariance[z, inner] * (1 - part) + covariance[z, inner + 1] * part
    for distance, reach in ((z, AXIAL_REACH), (radius, LATERAL_REACH)):
        ends = (2 * distance / (reach + 1) - 1).clamp(0, 1)  # the inner half stays as it is
        field = field * (0.5 + 0.5 * torch.cos(torch.pi * ends))
    kernel = torch.fft.ifftn(torch.fft.fftn(field).real.clamp_min(0).sqrt()).real
    kernel = torch.fft.fftshift(kernel)
    middle = tuple(
        slice(n // 2 - r, n // 2 + r + 1)
        for n, r in zip(grid, (AXIAL_REACH, LATERAL_REACH, LATERAL_REACH), strict=True)
    )
    kernel = kernel[middle].float()
    return kernel / kernel.square().sum().sqrt()
