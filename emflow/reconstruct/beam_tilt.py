"""Beam tilt of an optics group, from the phases by which images differ from their references.

Summed over particles, the products c·P*y/σ² leave at each Fourier pixel a complex number whose phase is that of the
group's odd aberrations, and whose length says how well it is known (Zivanov et al., eLife 7 (2018) e42166; IUCrJ 7
(2020) 253). A tilt makes it −2πCs·λ²·s²(s·t). A shift of all images stands beside it: poses found without the tilt
have taken up its linear part.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from emflow.em.optics import Ctf, beam_tilt_phase
from emflow.reconstruct.ctf_match import Changes, Geometry, Matcher

_STARTS = 9
"""Shifts tried along each axis before the fit: phases wrap."""
_STEPS = 30


@dataclass(frozen=True)
class PhaseSums:
    """Sums over a half's images of one optics group, at its current tilt."""

    product: Tensor
    """Σ c·P*y/σ², (2, M), float64."""
    power: Tensor
    """Σ c²|P|²/σ², (M,), float64."""


@dataclass(frozen=True)
class TiltFit:
    """A tilt and the shift beside it, added to what the sums were made with."""

    tilt_mrad: Tensor
    """x and y, (2,), float64."""
    shift_px: Tensor
    """(2,): moves the images to where the untilted ones are."""
    error_mrad: Tensor
    """Standard deviation of each by the noise alone, (2,)."""
    contrast: float
    """How much of the reference the images show with this tilt; 1 where they are what it is made of."""


def sum_phases(matcher: Matcher, half: int, changes: Changes) -> list[PhaseSums]:
    """Sums of a half's images, by optics group."""
    count, device = len(matcher.geometry.plane), matcher.images.device
    product = torch.zeros(len(matcher.views.ctf), 2, count, dtype=torch.float64, device=device)
    power = torch.zeros(len(matcher.views.ctf), count, dtype=torch.float64, device=device)
    for group, part in matcher.chunks(half):
        match = matcher.match(half, group, part, changes)
        ctf = -torch.sin(match.phase)
        product[group] += (match.product * ctf[:, None]).sum(0)
        power[group] += (match.power * ctf * ctf).sum(0)
    return [PhaseSums(a.cpu(), b.cpu()) for a, b in zip(product, power, strict=True)]


def fit_tilt(sums: PhaseSums, geometry: Geometry, optics: Ctf, tilted: bool = True) -> TiltFit:
    """Most likely tilt and shift: maximises Σ Re[exp(iφ)·product] by Newton's method with damping.

    Parameters
    ----------
    sums
        Of one half or of both.
    geometry, optics
        Pixels, and the group's voltage and spherical aberration.
    tilted
        False fits the shift alone.
    """
    design = design_of(geometry, optics)
    free = torch.tensor([tilted, tilted, True, True])
    best, value = torch.zeros(4, dtype=torch.float64), -math.inf
    line = torch.linspace(-2, 2, _STARTS, dtype=torch.float64)
    for x in line.tolist():  # the phases of a tilt wrap where it is strong; its linear part brings them near
        for y in line.tolist():
            start = torch.tensor([0.0, 0.0, x, y], dtype=torch.float64)
            found = likelihood(sums, design, start)
            if found > value:
                best, value = start, found
    damping = 1e-3
    for _ in range(_STEPS):
        gradient, curvature = _derivatives(sums, design, best)
        gradient, curvature = gradient[free], curvature[free][:, free]
        scale = curvature.diagonal().abs().clamp(min=1e-12)
        step = torch.zeros_like(best)
        step[free] = torch.linalg.solve(curvature + torch.diag(damping * scale), gradient)
        trial = best + step
        new = likelihood(sums, design, trial)
        if new > value:
            gain, best, value, damping = new - value, trial, new, damping / 5
            if gain < 1e-9 * max(abs(value), 1.0):
                break
        else:
            damping *= 10
    known = 2 * (design * sums.power) @ design.T
    error = torch.linalg.pinv(known).diagonal().clamp(min=0).sqrt()
    contrast = 0.5 * likelihood(sums, design, best) / max(float(sums.power.sum()), 1e-20)
    return TiltFit(best[:2], best[2:], error[:2], contrast)


def held_out_gain(fit: TiltFit, sums: PhaseSums, geometry: Geometry, optics: Ctf) -> tuple[float, float]:
    """Log-likelihood that one half's tilt gains in the other half's images, each with its own shift; its deviation by noise.

    The deviation is what images without any particle would give, √(2 Σ W|exp(iφ) − 1|²) for the change of phase φ.
    """
    turned = turn(sums, geometry, optics, fit.tilt_mrad)
    design = design_of(geometry, optics)
    values, phases = [], []
    for these, tilt in ((turned, fit.tilt_mrad), (sums, 0 * fit.tilt_mrad)):
        shift = fit_tilt(these, geometry, optics, tilted=False).shift_px
        values.append(likelihood(these, design, torch.cat([torch.zeros(2).double(), shift])))
        phases.append(torch.cat([tilt, shift]) @ design)
    moved = 2 - 2 * torch.cos(phases[0] - phases[1])
    return values[0] - values[1], math.sqrt(2 * float((sums.power * moved).sum()))


def turn(sums: PhaseSums, geometry: Geometry, optics: Ctf, tilt_mrad: Tensor) -> PhaseSums:
    """The sums with a further tilt taken off."""
    phase = torch.cat([tilt_mrad, torch.zeros(2)]).double() @ design_of(geometry, optics)
    real, imaginary = sums.product
    cosine, sine = torch.cos(phase), torch.sin(phase)
    return PhaseSums(
        torch.stack([real * cosine - imaginary * sine, real * sine + imaginary * cosine]), sums.power
    )


def likelihood(sums: PhaseSums, design: Tensor, values: Tensor) -> float:
    """Log-likelihood of (tilt x, tilt y, shift x, shift y) but for a constant; ``design`` is (4, M)."""
    phase = values @ design
    return 2 * float((sums.product[0] * torch.cos(phase) - sums.product[1] * torch.sin(phase)).sum())


def _derivatives(sums: PhaseSums, design: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient (4,) and minus the second derivatives (4, 4), where those are positive."""
    phase = values @ design
    real, imaginary = sums.product
    slope = -2 * (real * torch.sin(phase) + imaginary * torch.cos(phase))
    bend = 2 * (real * torch.cos(phase) - imaginary * torch.sin(phase))
    return design @ slope, (design * bend.clamp(min=0)) @ design.T


def design_of(geometry: Geometry, optics: Ctf) -> Tensor:
    """Phase that mends an image per mrad of tilt (x, y) and per pixel of shift (x, y): (4, M), float64."""
    fy, fx = geometry.fy.cpu().double(), geometry.fx.cpu().double()
    tilts = [
        beam_tilt_phase(unit, optics.voltage_kv, optics.cs_mm, fy, fx) for unit in ((1.0, 0.0), (0.0, 1.0))
    ]
    line = -2 * math.pi / geometry.plane.box
    return torch.stack(
        [*tilts, line * geometry.plane.kx.cpu().double(), line * geometry.plane.ky.cpu().double()]
    )
