"""On a linear set with true poses, the true coordinates lie where the posteriors say."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from scipy.stats import chi2
from torch import Tensor

from emflow.em.masks import soft_sphere
from emflow.em.optics import Ctf, ctf_values
from emflow.em.poses import quaternion_to_matrix
from emflow.em.slices import HalfPlane, volume_spectrum
from emflow.heterogeneity.config import HeterogeneityFit
from emflow.heterogeneity.fit import Fit, fit_model
from emflow.heterogeneity.model import Stack
from emflow.heterogeneity.prior import population_covariance

BOX, PIXEL = 32, 6.0


@dataclass(frozen=True)
class Held:
    """Fourier pixels in memory."""

    values: Tensor
    scale: float = 1.0

    def read(self, rows: Tensor, count: int) -> Tensor:
        return self.values[rows, :count]


def linear_set(states: list[Tensor], count: int, snr: float) -> tuple[Stack, Tensor, Tensor]:
    """Images of V0 + Σ z_k V_k with normal z; the stack, the true volumes and z."""
    rng = torch.Generator().manual_seed(0)
    parts = torch.stack([states[1] - states[0], 0.8 * (states[2] - states[0])])
    volumes = torch.cat([(states[0] + 0.5 * parts.sum(0))[None], parts])
    z = torch.randn(count, 2, generator=rng)
    rotations = quaternion_to_matrix(torch.nn.functional.normalize(torch.randn(count, 4, generator=rng)))
    defocus = torch.rand(count, generator=rng) + 1.0
    ctf = Ctf(defocus + 0.03, defocus, torch.rand(count, generator=rng) * 180, 300.0, 2.7, 0.1)
    plane = HalfPlane.build(BOX, BOX / 2 - 1)
    transfer = ctf_values(ctf, plane.ky / (BOX * PIXEL), plane.kx / (BOX * PIXEL))
    weights = torch.cat([torch.ones(count, 1), z], 1)
    clean = sum(
        weights[:, k, None, None] * volume_spectrum(volumes[k], BOX / 2 - 1).slices(rotations, plane)
        for k in range(3)
    )
    assert isinstance(clean, Tensor)
    clean = (clean * transfer[:, None]).transpose(1, 2)
    noisy = clean + (clean.var() / snr).sqrt() * torch.randn(clean.shape, generator=rng)
    group = torch.zeros(count, dtype=torch.long)
    stack = Stack(
        Held(noisy), plane, rotations, lambda rows, p: transfer[rows, : len(p)], group, torch.device("cpu")
    )
    return stack, volumes, z


def inside(fit: Fit, true: Tensor, z: Tensor, mask: Tensor) -> float:
    """Part of the images whose true coefficients in the fitted basis lie within the 90 % region."""
    weights = torch.cat([torch.ones(len(z), 1), z], 1).double()
    masked = (true * mask).flatten(1).double()
    basis = fit.volumes.flatten(1).double()
    into = torch.linalg.solve(basis[1:] @ basis[1:].T, basis[1:])
    told = weights @ (into @ masked.T).T - into @ basis[0]
    off = told - fit.latent
    distance = (off[:, None] @ torch.linalg.solve(fit.covariance, off[..., None]))[:, 0, 0]
    return float((distance < chi2.ppf(0.9, off.shape[1])).double().mean())


@pytest.mark.parametrize("snr", [0.1, 0.02])
def test_true_coordinates_lie_within_their_regions(true_volumes: list[Tensor], snr: float) -> None:
    stack, volumes, z = linear_set(true_volumes, 2000, snr)
    rows = torch.arange(len(z))
    mask = soft_sphere(BOX, 12, 3)
    fit = fit_model(stack, (rows[::2], rows[1::2]), mask, HeterogeneityFit(components=4), 15.0)
    assert fit.latent.shape[1] == 2
    assert 0.87 <= inside(fit, volumes, z, mask) <= 0.93


def test_a_wider_population_than_the_prior_is_found() -> None:
    """Coordinates of variance 4, of which each image says little: N(0, 1) alone would halve them."""
    rng = torch.Generator().manual_seed(1)
    told = 0.5
    z = 2 * torch.randn(20_000, 1, generator=rng, dtype=torch.float64)
    right = told * z + told**0.5 * torch.randn(20_000, 1, generator=rng, dtype=torch.float64)
    precision = torch.diag(torch.tensor([100.0, told + 1], dtype=torch.float64)).expand(len(z), 2, 2)
    mean = torch.cat([torch.ones_like(z), right / (told + 1)], 1)
    found = population_covariance(mean, torch.linalg.inv(precision))
    assert float(found) == pytest.approx(4.0, rel=0.06)
