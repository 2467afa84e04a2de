"""Do half maps hold noise as raw ones do, or has a network, a filter in space or a shared reference been at work?"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from emflow.em.fsc import fourier_correlation, shell_index, shell_sum
from emflow.em.masks import local_mean, radius_grid, soft_sphere


@dataclass(frozen=True)
class NoiseField:
    """How the noise of two halves lies in space. Curves (n//2 + 1,), float64, on the CPU."""

    inside: Tensor
    """Noise power per shell (|F₁ − F₂|²/4) within the particle's mask, per voxel of it."""
    outside: Tensor
    """The same in the solvent: between the mask and the inscribed sphere."""
    inside_fsc: Tensor
    """FSC of the halves within the mask."""
    solvent_fsc: Tensor
    """FSC of the halves in the solvent alone."""
    solvent_fraction: float
    """Part of the box that is solvent; none of the above means anything where it is below a hundredth."""
    beyond: bool
    """Whether there are shells beyond the resolution to judge by."""
    contrast: float
    """Noise within the particle over that in the solvent, beyond the resolution; 1 for raw halves."""
    kurtosis: float
    """Excess kurtosis of the difference beyond the resolution, relative to its local deviation; 0 for Gaussian noise."""
    plateau: float
    """Mean solvent FSC over the shells that are judged."""
    plateau_error: float
    """Its standard error, from the scatter among those shells."""
    inside_plateau: float
    """Mean FSC within the mask over the last fifth of the shells."""
    inside_error: float
    steepest_fall: float
    """Natural logarithm by which F/(1 − F) within the mask falls over a sixth of the shells, where it falls most."""
    last_fall: float
    """The same over the last sixth."""


def noise_field(half1: Tensor, half2: Tensor, mask: Tensor, last_shell: int) -> NoiseField:
    """Measure the noise within the particle, in the solvent, and what the halves share there.

    A raw reconstruction spreads the noise of its images evenly over the box. Restoration (a network,
    non-local means, wavelets, total variation) takes it away where it sees no particle, and leaves a
    difference that is sparse rather than Gaussian. A mask or reference common to the halves shows as
    agreement where nothing should agree.

    Parameters
    ----------
    half1, half2
        Shape (n, n, n).
    mask
        Mask of the particle, 0…1, (n, n, n).
    last_shell
        Last shell that the halves agree to. Noise is judged beyond it (in the upper third where it lies
        higher); the solvent's FSC from three quarters of it on, since loose parts, neighbours and what the
        CTF spreads agree at low resolution with every right.
    """
    n = half1.shape[-1]
    device = half1.device
    index = shell_index(n, device=device)
    shells = n // 2 + 1
    start = min(last_shell + 1, 2 * shells // 3)
    around = _away_from(mask) * soft_sphere(n, n / 2 - 4, 3, device=device)
    powers, curves = [], []
    for window in (mask, around):
        first, second = torch.fft.rfftn(half1 * window), torch.fft.rfftn(half2 * window)
        curves.append(fourier_correlation(first, second, index).cpu())
        difference = first.sub_(second)
        power = shell_sum(difference.real.square() + difference.imag.square(), index)
        weight = float(window.double().square().sum())
        count = shell_sum(torch.ones_like(difference.real), index)
        powers.append((power / count / (4 * max(weight, 1.0))).cpu())
    fraction = float(around.double().mean())
    # reconstructions end one or two shells before Nyquist
    judged = slice(start, max(shells - 2, start + 1))
    sums = [float(power[judged].sum()) for power in powers]
    contrast = sums[0] / sums[1] if sums[1] > 1e-12 * max(sums[0], 1e-300) else 1e12
    first_judged = min(int(0.75 * last_shell) + 1, 2 * shells // 3)
    plateau, error = _level(curves[1][first_judged : shells - 2])
    inside, inside_error = _level(curves[0][round(0.8 * shells) : shells - 2])
    return NoiseField(
        powers[0], powers[1], curves[0], curves[1], fraction, start > last_shell, contrast,
        _kurtosis(half1 - half2, index, start), plateau, error, inside, inside_error,
        *_falls(curves[0]),
    )  # fmt: skip


def _away_from(mask: Tensor) -> Tensor:
    """Return 1 beyond a soft edge outside of a mask (where it is 0), 0 within it."""
    outside = (mask < 0.01).float()
    for _ in range(2):  # a hard edge would carry low-resolution agreement to all shells
        outside = (2 * local_mean(outside, 5) - 1).clamp_min(0)
    return outside


def _level(part: Tensor) -> tuple[float, float]:
    """Mean of a piece of a curve, and its standard error from the scatter among shells."""
    if len(part) < 3:
        return 0.0, 1.0
    return float(part.mean()), max(float(part.std()) / math.sqrt(len(part)), 1e-4)


def _falls(curve: Tensor) -> tuple[float, float]:
    """How far ln(F/(1 − F)) falls from shell to shell of the box's fifths: its steepest step, and its last.

    Independent noise lets a curve fall ever on; what is common to the halves at all frequencies holds it up.
    """
    shells = len(curve)
    edges = [round(shells * part) for part in (0.2, 0.36, 0.52, 0.68, 0.84, 1.0)]
    edges[-1] -= 1  # reconstructions end before Nyquist
    pieces = [curve[start:stop] for start, stop in itertools.pairwise(edges)]
    if min(len(piece) for piece in pieces) < 3:
        return 0.0, math.inf
    means = [min(max(float(piece.mean()), 1e-3), 0.999) for piece in pieces]
    ratios = [math.log(mean / (1 - mean)) for mean in means]
    steps = [first - second for first, second in itertools.pairwise(ratios)]
    return max(steps), steps[-1]


def _kurtosis(difference: Tensor, index: Tensor, start: int) -> float:
    """Excess kurtosis of the difference beyond a shell, over its local deviation (cubes of a sixteenth of the box)."""
    n = difference.shape[-1]
    spectrum = torch.fft.rfftn(difference)
    fine = torch.fft.irfftn(torch.where(index >= start, spectrum, 0), s=(n, n, n))
    width = max(7, n // 8) | 1
    squares = fine.square()
    local = local_mean(squares, width)
    inside = radius_grid(n, device=difference.device) < 0.85 * n / 2
    level = float(local[inside].mean())
    inside &= local > 1e-6 * level
    ratio = squares[inside].double() / local[inside].double()
    if ratio.numel() < 1000:
        return 0.0
    return float(ratio.square().mean() / ratio.mean().square() - 3)
