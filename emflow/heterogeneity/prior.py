"""A mixture of Gaussians as the prior of the coordinates: what the population looks like, learnt from it.

Under one Gaussian each weak coordinate is judged by its own images' noise alone. Where the coordinates lie in
clusters or along a curve, a mixture lets the strong ones say where the weak ones must be (Verbeek et al.,
Mixtures of probabilistic principal component analysers; Bovy et al., Ann. Appl. Stat. 5 (2011) 1657). The
likelihood of an image stays the linear model's.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from torch import Tensor

_LEAST_VARIANCE = 1e-2
"""Of a Gaussian, where the population's is 1: none shrinks to a point."""
_LEAST_SPREAD = 1e-3
"""Added to the variance of a coordinate that images say nothing of."""
_FITTED = 20_000
"""Particles, at most, that the first guess is made from."""


@dataclass(frozen=True)
class Mixture:
    """Gaussians in the space of z."""

    weight: Tensor
    """(S,)."""
    mean: Tensor
    """(S, K)."""
    covariance: Tensor
    """(S, K, K)."""

    @staticmethod
    def guess(latent: Tensor, covariance: Tensor, most: int, seed: int) -> Mixture | None:
        """Mixture of the posterior means; None where one Gaussian is enough by the Bayesian information criterion.

        Parameters
        ----------
        latent
            Posterior means, (N, K).
        covariance
            Mean posterior covariance, (K, K).
        """
        points = latent[:: max(1, -(-len(latent) // _FITTED))].cpu().numpy()
        best: tuple[float, GaussianMixture] | None = None
        for number in range(1, most + 1):
            if len(points) < 20 * number:
                break
            mixture = GaussianMixture(number, reg_covar=1e-4, random_state=seed)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)  # the passes go on from a first guess
                mixture.fit(points)
            criterion = float(mixture.bic(points))
            if best is None or criterion < best[0]:
                best = criterion, mixture
        if best is None or len(best[1].weights_) == 1:
            return None
        weight, mean, spread = (
            torch.from_numpy(np.asarray(v)).to(covariance)
            for v in (best[1].weights_, best[1].means_, best[1].covariances_)
        )
        return Mixture(weight, mean, _floored(spread + covariance))

    def posterior(self, gram: Tensor, product: Tensor, contrast_variance: float) -> Posterior:
        """Of a = (contrast, z), given G (B, C, C) and b (B, C) of images (see ``model.Statistics``)."""
        weight, means, spread = (part.to(gram) for part in (self.weight, self.mean, self.covariance))
        kinds, count = means.shape
        prior = torch.zeros(kinds, count + 1, count + 1).to(gram)
        prior[:, 0, 0] = 1 / contrast_variance
        prior[:, 1:, 1:] = torch.linalg.inv(spread)
        centre = torch.cat([means.new_ones(kinds, 1), means], 1)
        pull = (prior @ centre[..., None])[..., 0]
        base = (
            weight.clamp(min=1e-12).log()
            - 0.5 * (centre * pull).sum(1)
            - 0.5 * torch.linalg.slogdet(spread)[1]
        )
        factor = torch.linalg.cholesky(2 * gram[:, None] + prior)
        right = 2 * product[:, None] + pull
        mean = torch.cholesky_solve(right[..., None], factor)[..., 0]
        logarithm = base + 0.5 * (right * mean).sum(2) - factor.diagonal(dim1=2, dim2=3).log().sum(2)
        share = torch.softmax(logarithm, 1)
        moment = torch.cholesky_inverse(factor) + mean[..., :, None] * mean[..., None, :]
        return Posterior(share, mean, moment)


@dataclass(frozen=True)
class Posterior:
    """Of a batch of images, under each Gaussian."""

    share: Tensor
    """(B, S)."""
    mean: Tensor
    """(B, S, C)."""
    moment: Tensor
    """Mean of a·aᵀ, (B, S, C, C)."""

    def pooled(self) -> tuple[Tensor, Tensor]:
        """Mean (B, C) and mean of a·aᵀ (B, C, C) over all Gaussians."""
        return (
            (self.share[..., None] * self.mean).sum(1),
            (self.share[..., None, None] * self.moment).sum(1),
        )


class Census:
    """Adds up the posteriors of a pass; what the next mixture is made from."""

    def __init__(self, kinds: int, count: int) -> None:
        self.share = torch.zeros(kinds, dtype=torch.float64)
        self.mean = torch.zeros(kinds, count, dtype=torch.float64)
        self.moment = torch.zeros(kinds, count, count, dtype=torch.float64)

    def add(self, found: Posterior) -> None:
        """Count a batch."""
        mean = torch.einsum("bs,bsi->si", found.share, found.mean[..., 1:]).cpu()
        moment = torch.einsum("bs,bsij->sij", found.share, found.moment[..., 1:, 1:]).cpu()
        self.share += found.share.sum(0).cpu()
        self.mean += mean
        self.moment += moment

    def mixture(self) -> Mixture:
        """The mixture that makes these posteriors likeliest."""
        total = self.share.clamp(min=1e-6)
        mean = self.mean / total[:, None]
        spread = self.moment / total[:, None, None] - mean[:, :, None] * mean[:, None]
        return Mixture(total / total.sum(), mean, _floored(spread))


def population_covariance(mean: Tensor, covariance: Tensor, turns: int = 30) -> Tensor:
    """Covariance (K, K) of the Gaussian population of z that makes images likeliest.

    Components that were found in noise come out smaller than they are, so that N(0, 1) draws their coordinates
    too far to 0. An image's posterior under N(0, 1) holds all that it says about a = (contrast, z): from these,
    expectation and maximisation find the population without looking at an image again.

    Parameters
    ----------
    mean, covariance
        Posteriors under N(0, 1) by a model that did not see the images, (N, K+1) and (N, K+1, K+1).
    """
    some = slice(None, None, max(1, -(-len(mean) // _FITTED)))
    told = torch.linalg.inv(covariance[some])
    right = (told @ mean[some, :, None])[..., 0]
    spread = torch.eye(mean.shape[1] - 1).to(mean)
    told[:, 1:, 1:] -= spread
    for _ in range(turns):
        prior = torch.zeros_like(told[0])
        prior[1:, 1:] = torch.linalg.inv(spread)
        factor = torch.linalg.cholesky(told + prior)
        z = torch.cholesky_solve(right[..., None], factor)[:, 1:, 0]
        inner = torch.cholesky_inverse(factor)[:, 1:, 1:].mean(0)
        spread = z.T @ z / len(z) + inner + _LEAST_SPREAD * torch.eye(len(spread)).to(mean)
    return spread


def _floored(covariance: Tensor) -> Tensor:
    return covariance + _LEAST_VARIANCE * torch.eye(covariance.shape[-1]).to(covariance)
