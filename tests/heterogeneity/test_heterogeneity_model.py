"""The pieces of the model against plain formulas."""

from __future__ import annotations

import numpy as np
import torch

from emflow.heterogeneity.agree import align_halves, local_weights
from emflow.heterogeneity.model import Statistics
from emflow.heterogeneity.prior import Census, Mixture


def _statistics(images: int, count: int) -> Statistics:
    rng = torch.Generator().manual_seed(1)
    root = torch.randn(images, count, 3 * count, generator=rng, dtype=torch.float64)
    return Statistics(root @ root.mT / 9, torch.randn(images, count, generator=rng, dtype=torch.float64) * 2)


def _integral(stats: Statistics, weight: np.ndarray, centre: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Posterior mean of (a0, z) by brute force on a grid; contrast variance 0.04, prior of z a mixture."""
    a0, z = np.meshgrid(np.linspace(-0.4, 2.4, 281), np.linspace(-6, 6, 601), indexing="ij")
    a = np.stack([a0, z], -1)
    prior = sum(
        w * np.exp(-((z - m) ** 2) / (2 * v)) / np.sqrt(v)
        for w, m, v in zip(weight, centre, variance, strict=True)
    ) * np.exp(-((a0 - 1) ** 2) / 0.08)
    out = []
    for gram, product in zip(stats.gram.numpy(), stats.product.numpy(), strict=True):
        likelihood = 2 * a @ product - np.einsum("xyi,ij,xyj->xy", a, gram, a)
        density = prior * np.exp(likelihood - likelihood.max())
        out.append((a * density[..., None]).sum((0, 1)) / density.sum())
    return np.stack(out)


def test_posterior_is_the_integral() -> None:
    stats = _statistics(6, 2)
    mean, _, _ = stats.posterior(0.04)
    np.testing.assert_allclose(mean, _integral(stats, *map(np.array, ([1.0], [0.0], [1.0]))), atol=2e-3)


def test_posterior_under_a_mixture_is_the_integral() -> None:
    stats = _statistics(6, 2)
    weight, centre, variance = [0.3, 0.7], [-1.0, 0.8], [0.1, 0.3]
    mixture = Mixture(
        torch.tensor(weight, dtype=torch.float64),
        torch.tensor(centre, dtype=torch.float64)[:, None],
        torch.tensor(variance, dtype=torch.float64)[:, None, None],
    )
    mean, moment = mixture.posterior(stats.gram, stats.product, 0.04).pooled()
    truth = _integral(stats, np.array(weight), np.array(centre), np.array(variance))
    np.testing.assert_allclose(mean, truth, atol=2e-3)
    assert (torch.linalg.eigvalsh(moment - mean[:, :, None] * mean[:, None]) > 0).all()


def test_one_gaussian_as_a_mixture_is_the_plain_prior() -> None:
    stats = _statistics(20, 4)
    plain = Mixture(torch.ones(1).double(), torch.zeros(1, 3).double(), torch.eye(3).double()[None])
    found = plain.posterior(stats.gram, stats.product, 0.01)
    mean, covariance, _ = stats.posterior(0.01)
    torch.testing.assert_close(found.pooled()[0], mean)
    torch.testing.assert_close(found.pooled()[1], covariance + mean[:, :, None] * mean[:, None])


def test_evidence_is_what_a_component_adds() -> None:
    """With the first k of all volumes the evidence is that of a model which has only these."""
    stats = _statistics(5, 4)
    small = Statistics(stats.gram[:, :3, :3], stats.product[:, :3])
    torch.testing.assert_close(stats.posterior(0.02, 3)[2], small.posterior(0.02)[2])


def test_a_census_finds_the_clusters_again() -> None:
    """Expectation and maximisation from a rough guess: coordinates known through noise of deviation 0.5."""
    rng = np.random.default_rng(0)
    label = rng.integers(2, size=4000)
    z = np.where(label == 0, -1.0, 1.0) + 0.2 * rng.standard_normal(4000)
    seen = z + 0.5 * rng.standard_normal(4000)
    # likelihood exp(2·b·a − a·G·a) with G = 1/(2·0.25), b = G·seen; the contrast is not seen
    gram = torch.zeros(4000, 2, 2, dtype=torch.float64)
    gram[:, 1, 1] = 2.0
    product = torch.from_numpy(np.stack([np.zeros(4000), 2.0 * seen], 1))
    mixture = Mixture.guess(
        torch.from_numpy(seen * 0.8)[:, None], torch.full((1, 1), 0.2, dtype=torch.float64), 4, 0
    )
    assert mixture is not None
    for _ in range(60):
        census = Census(*mixture.mean.shape)
        census.add(mixture.posterior(gram, product, 0.01))
        mixture = census.mixture()
    order = mixture.mean[:, 0].argsort()
    np.testing.assert_allclose(mixture.mean[order, 0], [-1, 1], atol=0.06)
    np.testing.assert_allclose(mixture.weight[order], [0.5, 0.5], atol=0.04)


def test_a_round_cloud_needs_no_mixture() -> None:
    cloud = torch.randn(3000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert Mixture.guess(cloud, torch.eye(3).double() * 0.3, 6, 0) is None


def test_halves_are_turned_onto_each_other() -> None:
    rng = torch.Generator().manual_seed(2)
    scale = torch.tensor([4.0, 2.0, 1.0])
    first = torch.randn(4, 8, 8, 8, generator=rng)
    first[1:] *= scale[:, None, None, None]
    turn = torch.linalg.qr(torch.randn(3, 3, generator=rng)).Q
    second = first.clone()
    second[1:] = torch.tensordot(turn, first[1:], 1)
    a, b = align_halves(first, second)
    torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(a[0], first[0])


def test_local_weights_keep_what_both_halves_have() -> None:
    rng = torch.Generator().manual_seed(3)
    n = 32
    noise = torch.randn(2, 1, n, n, n, generator=rng)
    signal = torch.zeros(1, n, n, n)
    signal[:, 4:14, 4:14, 4:14] = 5.0
    weight = local_weights(signal + noise[0], signal + noise[1], 2.0)
    assert weight[0, 7:11, 7:11, 7:11].min() > 0.9
    assert weight[0, 20:].mean() < 0.15
    assert float(local_weights(torch.zeros(1, n, n, n), torch.zeros(1, n, n, n), 2.0).max()) == 0
