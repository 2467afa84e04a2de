"""Envelope of each micrograph at fixed poses: how strong its particles are, and how fast their detail falls off.

The amplitude of an image's signal over its reference's is a(k) = s·ρ(k)·exp(−B·k²/4), with ρ common to all. From
sums over the particles and over shells, n = Σ c Re(P* y)/σ² and p = Σ c² |P|²/σ², the likelihood of any (s, B) is
log p = Σ_k 2 a n − a² p. Micrographs differ by ice, motion and dose; a map whose images are weighed by what they
hold gains most at its finest detail (``rlnCtfScalefactor`` and ``rlnCtfBfactor`` of RELION).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from emflow.em.images import shell_means
from emflow.reconstruct.ctf_match import Changes, Matcher

UNIT_ANGSTROM2 = 100.0
"""B factors are fitted in this unit, in which they are about as large as the scale's logarithm."""
_WIDEST = 0.5
"""Deviation of both that is assumed at first."""
_STEPS = 60
_REACH = 0.5
"""Farthest that a step goes."""


@dataclass(frozen=True)
class Envelopes:
    """Envelopes of U micrographs, drawn towards none by as much as the data say."""

    log_scale: Tensor
    """(U,), 0 on average over the particles."""
    b_factor_angstrom2: Tensor
    """(U,), against the others: what all have in common is the map's."""
    gain: Tensor
    """Log-likelihood that the envelope found from half of a micrograph's particles gains in the others, (U,)."""
    seen: Tensor
    """Which have particles, (U,)."""


def fit_envelopes(matcher: Matcher, half: int, changes: Changes) -> Envelopes:
    """Fit the envelope of each micrograph to the particles of one half.

    Parameters
    ----------
    matcher, half
        The images and the half-set.
    changes
        What is known of each particle's CTF.
    """
    micrograph = matcher.views.micrograph
    units = int(micrograph.max()) + 1
    plane = matcher.geometry.plane
    sums = torch.zeros(units, 2, 2, int(plane.shell[-1]) + 1, dtype=torch.float64)
    pixels = torch.bincount(plane.shell).double().cpu()
    counts = torch.zeros(units, dtype=torch.float64)
    for group, part in matcher.chunks(half):
        match = matcher.match(half, group, part, changes)
        c = -torch.sin(match.phase)
        here = micrograph[part]
        place = 2 * here + torch.arange(len(part)) % 2
        told = [shell_means(values, plane) for values in (c * match.product[:, 0], c * c * match.power)]
        sums.view(2 * units, 2, -1).index_add_(0, place, torch.stack(told, 1).double().cpu() * pixels)
        counts.index_add_(0, here, torch.ones(len(part), dtype=torch.float64))
    square = (torch.arange(sums.shape[-1]) / matcher.geometry.extent_angstrom) ** 2
    return envelopes_of(sums, counts, square.double())


def envelopes_of(sums: Tensor, counts: Tensor, square: Tensor) -> Envelopes:
    """Find envelopes from sums (U, 2, 2, S): n and p of two parts of U micrographs' particles; float64.

    Parameters
    ----------
    sums
        As said.
    counts
        Particles of each, (U,).
    square
        k² of each shell, in 1/Å², (S,).
    """
    seen = counts > 0
    both = sums.sum(1)
    common = (both[:, 0].sum(0) / both[:, 1].sum(0).clamp(min=1e-20)).clamp(min=0)
    found = _fit(both, common, square, seen)
    gain = torch.zeros(len(sums), dtype=torch.float64)
    for train, test in ((0, 1), (1, 0)):
        told = _fit(sums[:, train], common, square, seen)
        gain += _value(sums[:, test], common, square, told) - _value(sums[:, test], common, square, 0 * told)
    mean = (found * counts[:, None]).sum(0) / counts.sum()
    found = torch.where(seen[:, None], found - mean, 0.0)
    return Envelopes(found[:, 0], found[:, 1] * UNIT_ANGSTROM2, gain, seen)


def _amplitude(common: Tensor, square: Tensor, values: Tensor) -> Tensor:
    return common * torch.exp(values @ _slopes(square))


def _slopes(square: Tensor) -> Tensor:
    """Derivatives of log a by the logarithm of the scale and by the B factor, (2, S)."""
    return torch.stack([torch.ones_like(square), -square * (UNIT_ANGSTROM2 / 4)])


def _value(sums: Tensor, common: Tensor, square: Tensor, values: Tensor) -> Tensor:
    """Log-likelihood of values (U, 2), (U,)."""
    a = _amplitude(common, square, values)
    return (2 * a * sums[:, 0] - a * a * sums[:, 1]).sum(1)


def _fit(sums: Tensor, common: Tensor, square: Tensor, seen: Tensor) -> Tensor:
    """Likeliest values (U, 2) under a Gaussian population whose width is found as well (empirical Bayes)."""
    slopes = _slopes(square)
    outer = slopes[:, None] * slopes[None]
    values = torch.zeros(len(sums), 2, dtype=torch.float64)
    width = torch.eye(2, dtype=torch.float64) * _WIDEST**2
    for _ in range(_STEPS):
        a = _amplitude(common, square, values)
        slope = (2 * a * (sums[:, 0] - a * sums[:, 1])) @ slopes.T
        bend = torch.einsum("us,ijs->uij", 2 * a * a * sums[:, 1], outer)
        prior = torch.linalg.inv(width)
        covariance = torch.linalg.inv(bend + prior)
        step = torch.einsum("uij,uj->ui", covariance, slope - values @ prior)
        values = values + step.clamp(-_REACH, _REACH)
        spread = torch.einsum("ui,uj->uij", values, values) + covariance
        width = spread[seen].mean(0) + 1e-6 * torch.eye(2, dtype=torch.float64)
    return values
