"""Density of the population in latent space, with each image's uncertainty taken out of it.

The scatter of posterior means is the population blurred by what the images leave open, and shrunken by the prior.
Extreme deconvolution (Bovy, Hogg and Roweis, Ann. Appl. Stat. 5 (2011) 1657) finds the mixture of Gaussians that, blurred by
each image's own uncertainty, makes the images likeliest.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

_FLOOR = 1e-4
"""Least variance of a Gaussian, where the population's is 1."""
_LEAST_TOLD = 0.05
"""Part of the prior's variance that an image must take away to count."""
_FITTED = 10_000
"""Particles, at most, that the mixture is fitted to."""
_TURNS = 500
_BOOTSTRAP_TURNS = 25
_TOLERANCE = 2e-6
_CELLS = 60
_LEAST = 10.0
"""The landscape ends ln(N over this) above its lowest point."""


@dataclass(frozen=True)
class Seen:
    """What images say about one or two coordinates: likelihood exp(h·z − z·A·z/2), A diagonal."""

    precision: np.ndarray
    """A, (N, D)."""
    product: np.ndarray
    """h, (N, D)."""

    @staticmethod
    def of(latent: np.ndarray, deviation: np.ndarray) -> Seen:
        """Take the prior N(0, 1) out of posterior means and deviations (N, D).

        An image whose posterior is hardly narrower than the prior, or wider (by the model's own error), says nothing:
        what little it says would be divided by next to nothing.
        """
        variance = np.maximum(deviation, 1e-6) ** 2
        told = variance < 1 - _LEAST_TOLD
        return Seen(np.where(told, 1 / variance - 1, 0.0), np.where(told, latent / variance, 0.0))

    def some(self, rows: np.ndarray | slice) -> Seen:
        """A part of the images."""
        return Seen(self.precision[rows], self.product[rows])


@dataclass(frozen=True)
class Gaussians:
    """A mixture in D = 1 or 2 dimensions."""

    weight: np.ndarray
    """(S,)."""
    mean: np.ndarray
    """(S, D)."""
    covariance: np.ndarray
    """(S, D, D)."""

    def at(self, points: np.ndarray) -> np.ndarray:
        """Density at points (P, D): (P,)."""
        inverse, determinant = _inverse(self.covariance)
        off = points[:, None] - self.mean
        square = np.einsum("psi,sij,psj->ps", off, inverse, off)
        norm = self.weight / np.sqrt((2 * np.pi) ** points.shape[1] * determinant)
        return np.asarray((norm * np.exp(-square / 2)).sum(1))

    @property
    def parameters(self) -> int:
        """How many numbers it is made of."""
        count, d = self.mean.shape
        return count - 1 + count * d + count * d * (d + 1) // 2


def _inverse(matrices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Inverse and determinant of symmetric 1×1 or 2×2 matrices (…, D, D)."""
    if matrices.shape[-1] == 1:
        return 1 / matrices, matrices[..., 0, 0]
    a, b, d = matrices[..., 0, 0], matrices[..., 0, 1], matrices[..., 1, 1]
    determinant = a * d - b * b
    inverse = np.stack([np.stack([d, -b], -1), np.stack([-b, a], -1)], -2)
    return inverse / determinant[..., None, None], determinant


def _posterior(seen: Seen, mixture: Gaussians) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Shares (N, S), means (N, S, D), covariances (N, S, D, D) and log-likelihood (N,), but for a constant."""
    inverse, determinant = _inverse(mixture.covariance)
    pull = np.einsum("sij,sj->si", inverse, mixture.mean)
    precision = seen.precision[:, None, :, None] * np.eye(seen.precision.shape[1]) + inverse
    covariance, detail = _inverse(precision)
    right = seen.product[:, None] + pull
    mean = np.einsum("nsij,nsj->nsi", covariance, right)
    logarithm = (
        np.log(np.maximum(mixture.weight, 1e-300))
        - 0.5 * np.log(determinant)
        - 0.5 * (mixture.mean * pull).sum(1)
        - 0.5 * np.log(detail)
        + 0.5 * (right * mean).sum(2)
    )
    top = logarithm.max(1, keepdims=True)
    share = np.exp(logarithm - top)
    total = share.sum(1, keepdims=True)
    return share / total, mean, covariance, (top + np.log(total))[:, 0]


def _maximise(seen: Seen, times: np.ndarray, mixture: Gaussians, turns: int) -> tuple[Gaussians, float]:
    """Passes of expectation and maximisation; images count ``times`` (N,)."""
    before = -np.inf
    for _ in range(turns):
        share, mean, covariance, evidence = _posterior(seen, mixture)
        likelihood = float((times * evidence).sum())
        if likelihood - before < _TOLERANCE * times.sum():
            break
        before = likelihood
        share = share * times[:, None]
        total = np.maximum(share.sum(0), 1e-9)
        centre = np.einsum("ns,nsi->si", share, mean) / total[:, None]
        off = mean - centre
        spread = np.einsum("ns,nsi,nsj->sij", share, off, off) + np.einsum("ns,nsij->sij", share, covariance)
        spread = spread / total[:, None, None]
        spread = spread + np.eye(spread.shape[-1]) * np.maximum(
            _FLOOR - np.linalg.eigvalsh(spread)[:, :1, None], 0
        )
        mixture = Gaussians(total / total.sum(), centre, spread)
    return mixture, before


def deconvolve(seen: Seen, most: int, seed: int) -> Gaussians:
    """Fit mixtures of 1 … ``most`` Gaussians; the Bayesian information criterion chooses.

    Where fewer than 20 images say anything, the population is taken to be the prior.
    """
    count = len(seen.product)
    shrink = np.clip(seen.precision / (seen.precision + 1), 0.05, 1)
    told = (seen.precision > 0).any(1)  # images that say nothing lie all at the prior's mean
    sure = told & (shrink.mean(1) >= np.median(shrink[told].mean(1) if told.any() else 1.0))
    points = (seen.product / (seen.precision + 1) / shrink)[sure]
    best: tuple[float, Gaussians] | None = None
    for number in range(1, most + 1):
        if told.sum() < 20 * number:
            break
        first = GaussianMixture(number, n_init=2, reg_covar=1e-3, random_state=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the passes go on from it
            first.fit(points)
        start = Gaussians(first.weights_, first.means_, first.covariances_)
        mixture, likelihood = _maximise(seen, np.ones(count), start, _TURNS)
        criterion = mixture.parameters * np.log(count) - 2 * likelihood
        if best is None or criterion < best[0]:
            best = criterion, mixture
        elif criterion > best[0] + 30:
            break
    if best is None:
        d = seen.product.shape[1]
        return Gaussians(np.ones(1), np.zeros((1, d)), np.eye(d)[None])
    return best[1]


@dataclass(frozen=True)
class Landscape:
    """Density on a grid, with its errors."""

    axes: tuple[np.ndarray, ...]
    """Coordinates of the cells along each dimension."""
    density: np.ndarray
    """(n,) or (n, n), the first coordinate along the first axis."""
    density_error: np.ndarray
    energy: np.ndarray
    """−ln p above its lowest point, in k_B·T; NaN where it is higher than ln(N/10)."""
    energy_error: np.ndarray
    """Standard deviation over bootstraps."""
    profile: np.ndarray
    """Density along the first coordinate, (n,)."""
    profile_error: np.ndarray
    mixture: Gaussians
    weight_error: np.ndarray
    """Standard deviation over bootstraps of each Gaussian's weight, (S,)."""
    own: np.ndarray
    """Density at each particle's own place, (N,)."""


def make_landscape(
    latent: np.ndarray, deviation: np.ndarray, most: int, bootstraps: int, seed: int
) -> Landscape:
    """Deconvolve the leading one or two coordinates and put the density on a grid.

    Parameters
    ----------
    latent, deviation
        Posterior means and standard deviations of the leading coordinates under N(0, 1), (N, 1) or (N, 2).
    most
        Gaussians, at most.
    bootstraps
        Times that the particles are drawn again, for the errors.
    """
    everything = Seen.of(latent, deviation)
    seen = everything.some(slice(None, None, max(1, -(-len(latent) // _FITTED))))
    mixture = deconvolve(seen, most, seed)
    reach = 3 * np.sqrt(mixture.covariance.diagonal(axis1=1, axis2=2))
    low = np.minimum((mixture.mean - reach).min(0), np.percentile(latent, 0.5, axis=0))
    high = np.maximum((mixture.mean + reach).max(0), np.percentile(latent, 99.5, axis=0))
    axes = tuple(np.linspace(a, b, _CELLS) for a, b in zip(low, high, strict=True))
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), -1)
    points, shape = grid.reshape(-1, len(axes)), grid.shape[:-1]
    density = mixture.at(points)
    rng = np.random.default_rng((seed, 59))
    drawn, weights = [], []
    for _ in range(bootstraps):
        times = rng.multinomial(len(seen.product), np.full(len(seen.product), 1 / len(seen.product)))
        again, _ = _maximise(seen, times.astype(np.float64), mixture, _BOOTSTRAP_TURNS)
        drawn.append(again.at(points))
        weights.append(again.weight)
    step = axes[1][1] - axes[1][0] if len(axes) == 2 else 1.0
    profiles = np.stack([density, *drawn]).reshape(len(drawn) + 1, _CELLS, -1).sum(2) * step
    lowest = int(density.argmax())
    tiny = np.finfo(float).tiny
    energy = np.log(density[lowest]) - np.log(np.maximum(density, tiny))
    each = np.stack(drawn)
    heights = np.log(np.maximum(each, tiny))
    energies = heights[:, lowest : lowest + 1] - heights
    shown = energy <= np.log(max(len(latent), 2) / _LEAST)
    place = _places(everything, mixture)
    return Landscape(
        axes,
        density.reshape(shape),
        each.std(0, ddof=1).reshape(shape),
        np.where(shown, energy, np.nan).reshape(shape),
        np.where(shown, energies.std(0, ddof=1), np.nan).reshape(shape),
        profiles[0],
        profiles[1:].std(0, ddof=1),
        mixture,
        np.std(weights, axis=0, ddof=1),
        mixture.at(place),
    )


def _places(seen: Seen, mixture: Gaussians) -> np.ndarray:
    """Posterior mean of each image's coordinates under the mixture, (N, D), a block at a time."""
    blocks = range(0, len(seen.product), _FITTED)
    parts = []
    for first in blocks:
        share, mean, _, _ = _posterior(seen.some(slice(first, first + _FITTED)), mixture)
        parts.append(np.einsum("ns,nsi->ni", share, mean))
    return np.concatenate(parts)
