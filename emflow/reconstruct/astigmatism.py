"""Astigmatism of micrographs or optics groups, from their particles at fixed poses.

A common change (δ, a1, a2) of defocus and astigmatism takes ψ(k) = πλ[δs² + a1(sx² − sy²) + 2·a2·sx·sy] off every
particle's phase γ. Sums over the particles of P*y·cos γ, P*y·sin γ, |P|²·cos 2γ and |P|²·sin 2γ at each pixel give
the likelihood of any change exactly; Newton's method finds its maximum for all micrographs at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from emflow.em.optics import wavelength_angstrom
from emflow.reconstruct.ctf_match import Changes, Match, Matcher

_STEPS = 12
_PASSES = 40


@dataclass(frozen=True)
class AstigmatismFit:
    """Changes of astigmatism of U units (micrographs or optics groups), in ångström."""

    change: Tensor
    """Drawn towards none by as much as the data say, (U, 2): cosine and sine part of (U − V)/2 at 2α."""
    deviation: Tensor
    """Of each, (U,)."""
    spread: float
    """Width of the changes' distribution that was found."""
    gain: Tensor
    """Log-likelihood that the change found from half of a unit's particles gains in the others, (U,)."""


class _Sums:
    """The four sums of every unit, for two alternating parts of its particles: (U, 2, 4, M)."""

    def __init__(self, units: int, matcher: Matcher) -> None:
        self.values = torch.zeros(units, 2, 4, len(matcher.geometry.plane), device=matcher.images.device)

    def add(self, match: Match, unit: Tensor, part: Tensor) -> None:
        """Add a batch: its units and parts (0 or 1), (B,)."""
        real, power = match.product[:, 0], match.power
        sine, cosine = torch.sin(match.phase), torch.cos(match.phase)
        terms = torch.stack(
            [
                real * sine,
                real * cosine,
                power * (cosine * cosine - sine * sine),
                power * (2 * sine * cosine),
            ],
            1,
        )
        self.values.view(-1, *self.values.shape[2:]).index_add_(0, (2 * unit + part).to(terms.device), terms)


def fit_astigmatism(
    matcher: Matcher, half: int, changes: Changes, unit: Tensor, contrast: float
) -> AstigmatismFit:
    """Find the change of astigmatism of each unit from the particles of one half.

    Parameters
    ----------
    matcher, half
        The images and the half-set.
    changes
        What is known of each particle's defocus.
    unit
        Number of each particle's unit, (N,); units without particles of this half get no change.
    contrast
        Common contrast of the half's images.
    """
    units = int(unit.max()) + 1
    basis = matcher.geometry.basis() * (math.pi * wavelength_angstrom(matcher.views.ctf[0].voltage_kv))
    best, known = torch.zeros(units, 3, dtype=torch.float64), torch.zeros(units, 3, 3, dtype=torch.float64)
    gain, seen = torch.zeros(units, dtype=torch.float64), torch.zeros(units, dtype=torch.bool)
    for sums, here in _blocks(matcher, half, changes, unit):
        best[here], known[here] = _maximise(sums.sum(1), basis, contrast)
        gain[here] = _held_out(sums, basis, best[here, :1], contrast)
        seen[here] = True
    known[~seen] = torch.eye(3, dtype=torch.float64)
    change, deviation, spread = _shrink(best, known, seen)
    return AstigmatismFit(change, deviation, spread, gain)


def _blocks(matcher: Matcher, half: int, changes: Changes, unit: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Sums (u, 2, 4, M) of units that are complete, and their numbers (u,): units within one chunk go at once."""
    chunks = list(matcher.chunks(half))
    within = torch.cat([part_unit.unique() for part_unit in (unit[part] for _, part in chunks)])
    spread_out = within.unique(return_counts=True)[1].max() > 1
    blocks = [chunks] if spread_out else [[chunk] for chunk in chunks]
    for block in blocks:
        here, local = unit[torch.cat([part for _, part in block])].unique(return_inverse=True)
        sums = _Sums(len(here), matcher)
        for (group, part), mine in zip(block, local.split([len(part) for _, part in block]), strict=True):
            sums.add(matcher.match(half, group, part, changes), mine, torch.arange(len(part)) % 2)
        yield sums.values, here


def _held_out(sums: Tensor, basis: Tensor, defocus: Tensor, contrast: float) -> Tensor:
    """Log-likelihood (u,) that the astigmatism of each half of the particles gains in the other, at one defocus (u, 1)."""
    gain = torch.zeros(len(sums), dtype=torch.float64)
    for train, test in ((0, 1), (1, 0)):
        found, sure = _maximise(sums[:, train], basis, contrast)
        drawn, _, _ = _shrink(found, sure, torch.ones(len(sums), dtype=torch.bool))
        gain += _value(sums[:, test], basis, torch.cat([defocus, drawn], 1), contrast)
        gain -= _value(sums[:, test], basis, torch.cat([defocus, 0 * drawn], 1), contrast)
    return gain


def _maximise(sums: Tensor, basis: Tensor, contrast: float) -> tuple[Tensor, Tensor]:
    """Most likely (δ, a1, a2) of each unit, (U, 3), and minus the second derivatives there, (U, 3, 3); float64."""
    units = len(sums)
    values = torch.zeros(units, 3, dtype=torch.float64)
    height = _value(sums, basis, values, contrast)
    damping = torch.full((units,), 1e-2, dtype=torch.float64)
    for _ in range(_STEPS):
        slope, bend = _derivatives(sums, basis, values, contrast)
        scale = bend.diagonal(dim1=1, dim2=2).mean(1).clamp(min=1e-12)
        step = torch.linalg.solve(bend + (damping * scale)[:, None, None] * torch.eye(3), slope[..., None])[
            ..., 0
        ]
        trial = values + step
        new = _value(sums, basis, trial, contrast)
        better = new > height
        values = torch.where(better[:, None], trial, values)
        height = torch.where(better, new, height)
        damping = torch.where(better, damping / 4, damping * 8).clamp(1e-6, 1e6)
    return values, _derivatives(sums, basis, values, contrast)[1]


def _value(sums: Tensor, basis: Tensor, values: Tensor, contrast: float) -> Tensor:
    """Log-likelihood of (δ, a1, a2), (U, 3), but for a constant: (U,)."""
    psi = values.to(basis) @ basis
    s, c, cc, ss = sums.unbind(1)
    first = c * torch.sin(psi) - s * torch.cos(psi)
    second = 0.5 * (cc * torch.cos(2 * psi) + ss * torch.sin(2 * psi))
    return (2 * contrast * first + contrast**2 * second).sum(1).double().cpu()


def _derivatives(sums: Tensor, basis: Tensor, values: Tensor, contrast: float) -> tuple[Tensor, Tensor]:
    """Gradient (U, 3) and minus the second derivatives (U, 3, 3) by Gauss and Newton: none below zero."""
    psi = values.to(basis) @ basis
    s, c, cc, ss = sums.unbind(1)
    slope = 2 * contrast * (c * torch.cos(psi) + s * torch.sin(psi))
    slope = slope + contrast**2 * (ss * torch.cos(2 * psi) - cc * torch.sin(2 * psi))
    bend = 2 * contrast * (c * torch.sin(psi) - s * torch.cos(psi))
    bend = bend + 2 * contrast**2 * (cc * torch.cos(2 * psi) + ss * torch.sin(2 * psi))
    outer = (basis[:, None] * basis[None]).reshape(9, -1)
    curvature = (bend @ outer.t()).reshape(-1, 3, 3).double().cpu()
    values_, vectors = torch.linalg.eigh(0.5 * (curvature + curvature.mT))
    curvature = vectors @ (values_.clamp(min=1e-10)[..., None] * vectors.mT)
    return (slope @ basis.t()).double().cpu(), curvature


def _shrink(best: Tensor, known: Tensor, counted: Tensor) -> tuple[Tensor, Tensor, float]:
    """Draw (a1, a2) towards none by empirical Bayes: changes (U, 2), their deviations (U,), the width found."""
    information = known[:, 1:, 1:] - known[:, 1:, :1] @ known[:, :1, 1:] / known[:, :1, :1]
    found = best[:, 1:]
    pull = (information @ found[..., None])[..., 0]
    variance = torch.full((), 300.0**2, dtype=torch.float64)
    for _ in range(_PASSES):
        covariance = torch.linalg.inv(information + torch.eye(2) / variance)
        mean = (covariance @ pull[..., None])[..., 0]
        second = (mean * mean + covariance.diagonal(dim1=1, dim2=2))[counted]
        variance = second.mean().clamp(min=1.0) if len(second) else variance
    mean = torch.where(counted[:, None], mean, 0.0)
    return mean, covariance.diagonal(dim1=1, dim2=2).mean(1).sqrt(), float(variance.sqrt())
