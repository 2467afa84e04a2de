"""Particles' offsets and contrasts, each drawn towards its micrograph's by as much as the data of all say.

Empirical Bayes: a particle's offset is drawn from a Gaussian about a plane over its micrograph (mean and two slopes: the ice
may be tilted), the planes' numbers from Gaussians about nothing. The widths of all of these are what makes the images
of the half likeliest, found by expectation-maximisation (Dempster, Laird and Rubin 1977). The likelihood of an offset is
the grid's, not a parabola: side lobes of a weak image count for what they are. Only towards its micrograph does an image
speak as the Gaussian that takes the same prior to the same moments (expectation propagation, Minka 2001).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_PASSES = 300
_STRIDE = 1.7
"""Widths go so many times as far as expectation-maximisation says (in the logarithm): below 2 it still converges."""
_CHUNK = 4096


@dataclass(frozen=True)
class Population:
    """Posterior of the offsets of N particles on m micrographs, in the unit of the grid."""

    mean: Tensor
    """(N,)."""
    deviation: Tensor
    """(N,)."""
    expected: Tensor
    """What the particle's micrograph says of it, (N,)."""
    expected_deviation: Tensor
    """How uncertain that is, the spread between particles left out; (N,)."""
    spread: float
    """Of particles about their micrograph's plane."""
    spread_of_micrographs: float
    spread_of_slopes: float
    """Of the slopes, per standard deviation of the coordinates."""
    plane: Tensor
    """Mean and slopes of each micrograph, (m, 3)."""


def fit_population(
    likelihood: Tensor, offsets: Tensor, micrograph: Tensor, place: Tensor, first_spread: float = 300.0
) -> Population:
    """Find the widths, and with them every particle's posterior.

    Parameters
    ----------
    likelihood
        Log-likelihood of each particle at each offset, (N, T).
    offsets
        (T,), even steps.
    micrograph
        Number of each particle's micrograph from 0, (N,).
    place
        Coordinates of each particle, mean 0 on its micrograph, in units of one deviation for all; (N, 2).
    first_spread
        Where the widths begin.
    """
    n, count = len(likelihood), int(micrograph.max()) + 1
    design = torch.cat([torch.ones(n, 1), place], 1).double()
    outer = design[:, :, None] * design[:, None]
    variance = torch.full((), first_spread**2, dtype=torch.float64)
    prior = torch.tensor([first_spread**2, *2 * [first_spread**2 / 9]], dtype=torch.float64)
    floor = max(1e-4 * first_spread**2, float(offsets[1] - offsets[0]) ** 2 / 12)
    # what the others on the micrograph say of each particle: a Gaussian of this centre and this variance
    centre, uncertain = torch.zeros(n, dtype=torch.float64), design.square() @ prior
    for _ in range(_PASSES):
        width = variance + uncertain
        mean, spread = _moments(likelihood, offsets, centre, width)
        # the image's own say, as a Gaussian of precision λ about μ: what took the prior to the posterior
        precision = 1 / spread - 1 / width
        usable = precision > 0
        precision = torch.where(usable, precision, 0.0)
        pull = torch.where(usable, mean / spread - centre / width, 0.0)
        weight, told = precision / (1 + precision * variance), pull / (1 + precision * variance)
        gram = torch.zeros(count, 3, 3, dtype=torch.float64)
        gram.index_add_(0, micrograph, outer * weight[:, None, None])
        right = torch.zeros(count, 3, dtype=torch.float64).index_add_(0, micrograph, design * told[:, None])
        covariance = torch.linalg.inv(gram + torch.diag(1 / prior))
        plane = (covariance @ right[..., None])[..., 0]
        old, ratio = variance, variance / width
        variance = ratio**2 * ((mean - centre) ** 2 + spread) + ratio * uncertain
        variance = _stride(old, variance.mean()).clamp(min=floor)
        widths = (plane * plane + covariance.diagonal(dim1=1, dim2=2)).mean(0)
        prior = _stride(prior, torch.stack([widths[0], *2 * [widths[1:].mean()]])).clamp(min=floor)
        whole = torch.einsum("ni,nij,nj->n", design, covariance[micrograph], design)
        expected = (design * plane[micrograph]).sum(1)
        left = (1 - whole * weight).clamp(min=1e-6)
        centre, uncertain = (expected - whole * told) / left, whole / left
        if abs(float(variance / old) - 1) < 1e-4:
            break
    mean, spread = _moments(likelihood, offsets, centre, variance + uncertain)
    between, slopes = float(prior[0].sqrt()), float(prior[1].sqrt())
    return Population(
        mean, spread.sqrt(), expected, whole.sqrt(), float(variance.sqrt()), between, slopes, plane
    )


def _stride(old: Tensor, new: Tensor) -> Tensor:
    return old * (new / old) ** _STRIDE


def _moments(likelihood: Tensor, offsets: Tensor, centre: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of each particle's offset under its likelihood and a Gaussian (N,), (N,)."""
    means, variances = [], []
    parts = zip(likelihood.split(_CHUNK), centre.split(_CHUNK), variance.split(_CHUNK), strict=True)
    for part, middle, width in parts:
        square = (offsets - middle[:, None].float()) ** 2
        share = torch.softmax(part - square / (2 * width[:, None].float()), 1)
        mean = share @ offsets
        means.append(mean)
        variances.append((share * (offsets - mean[:, None]) ** 2).sum(1))
    step = float(offsets[1] - offsets[0])
    # a posterior narrower than a step sits on one point: it is known to a step's uniform deviation at best
    return torch.cat(means).double(), torch.cat(variances).double().clamp(min=step**2 / 12)


@dataclass(frozen=True)
class Contrasts:
    """Posterior of the contrasts of N particles."""

    mean: Tensor
    deviation: Tensor
    centre: Tensor
    """Contrast of each particle's micrograph, (N,)."""
    common: float
    spread: float
    """Of particles about their micrograph's contrast."""


def fit_contrasts(overlap: Tensor, energy: Tensor, micrograph: Tensor) -> Contrasts:
    """Contrast of each particle, drawn towards its micrograph's, and that towards the half's.

    Parameters
    ----------
    overlap, energy
        The log-likelihood of a contrast s is 2·s·overlap − s²·energy; (N,).
    micrograph
        Number of each particle's micrograph, (N,).
    """
    overlap, energy = overlap.double(), energy.double().clamp(min=1e-12)
    count = int(micrograph.max()) + 1
    number = torch.bincount(micrograph, minlength=count).double()
    common = overlap.sum() / energy.sum()
    within = between = (0.2 * common) ** 2
    floor = (1e-3 * common) ** 2 + 1e-12
    centre = torch.full((count,), float(common), dtype=torch.float64)
    for _ in range(_PASSES):
        variance = 1 / (2 * energy + 1 / within)
        mean = variance * (2 * overlap + centre[micrograph] / within)
        total = torch.zeros(count, dtype=torch.float64).index_add_(0, micrograph, mean)
        uncertain = 1 / (number / within + 1 / between)
        centre = uncertain * (total / within + common / between)
        common = centre.mean()
        left = (variance + (mean - centre[micrograph]) ** 2 + uncertain[micrograph]).mean()
        within = _stride(within, left).clamp(min=floor)
        between = _stride(between, (uncertain + (centre - common) ** 2).mean()).clamp(min=floor)
    return Contrasts(mean, variance.sqrt(), centre[micrograph], float(common), float(within.sqrt()))


def marginal(overlap: Tensor, energy: Tensor, centre: Tensor, spread: float) -> Tensor:
    """Log-likelihood (N, T) with the contrast integrated over a Gaussian about ``centre`` (N,)."""
    precision = 1 / spread**2
    pull = 2 * overlap + precision * centre.float()[:, None]
    total = 2 * energy + precision
    constant = 0.5 * precision * centre.float()[:, None] ** 2
    return pull * pull / (2 * total) - constant - 0.5 * torch.log(total / precision)
