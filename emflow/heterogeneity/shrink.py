"""Each particle's coordinates under a prior that is learnt from the population, for distances between particles.

Under N(0, 1) the last coordinates are mostly noise, and noise counts in distances. Where the particles lie in
clusters or along a curve, the strong coordinates say where the weak ones must be: the posterior mean under a mixture
of Gaussians in all coordinates at once (extreme deconvolution, Bovy, Hogg and Roweis, Ann. Appl. Stat. 5 (2011) 1657).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from emflow.heterogeneity.prior import Census, Mixture, Posterior

_TURNS = 30
_BLOCK = 10_000
_CONTRAST = 1.0
"""The contrast is no part of this; its variance cancels."""
_LEAST_DEVIATION = 1e-3


def shrink(latent: np.ndarray, deviation: np.ndarray, most: int, seed: int) -> np.ndarray:
    """Posterior means under the learnt prior, (N, K); as they are where one Gaussian describes the population.

    Parameters
    ----------
    latent, deviation
        Posterior means and deviations under N(0, 1), (N, K).
    most
        Gaussians, at most; their number by the Bayesian information criterion.
    """
    if not latent.size:
        return latent
    means = torch.from_numpy(np.asarray(latent, dtype=np.float64))
    variance = torch.from_numpy(np.clip(deviation, _LEAST_DEVIATION, None) ** 2)
    mixture = Mixture.guess(means, torch.diag(variance.mean(0)), most, seed)
    if mixture is None:
        return latent
    for _ in range(_TURNS):
        census = Census(*mixture.mean.shape)
        for part in _blocks(len(means)):
            census.add(_posterior(mixture, means[part], variance[part]))
        mixture = _of_unit_variance(census.mixture())
    parts = [
        _posterior(mixture, means[part], variance[part]).pooled()[0][:, 1:] for part in _blocks(len(means))
    ]
    return torch.cat(parts).numpy()


def _of_unit_variance(mixture: Mixture) -> Mixture:
    """Shrink coordinates in which the population has become wider than 1, the deviation that defines them.

    The deviations hold the model's own error too, and the prior was not quite N(0, 1): weak coordinates would grow.
    """
    mean = mixture.weight @ mixture.mean
    second = mixture.covariance.diagonal(dim1=1, dim2=2) + (mixture.mean - mean).square()
    scale = (mixture.weight @ second).clamp(min=1).rsqrt()
    return Mixture(mixture.weight, mixture.mean * scale, mixture.covariance * scale[:, None] * scale)


def _blocks(count: int) -> list[slice]:
    return [slice(first, first + _BLOCK) for first in range(0, count, _BLOCK)]


def _posterior(mixture: Mixture, means: Tensor, variance: Tensor) -> Posterior:
    """Of some particles: their likelihood is the posterior without N(0, 1), coordinate by coordinate."""
    gram = torch.zeros(len(means), means.shape[1] + 1, means.shape[1] + 1, dtype=means.dtype)
    gram[:, 1:, 1:] = torch.diag_embed((1 / variance - 1).clamp(min=0) / 2)
    product = torch.cat([torch.zeros_like(means[:, :1]), means / variance / 2], 1)
    product[:, 1:] *= variance < 1
    return mixture.posterior(gram, product, _CONTRAST)
