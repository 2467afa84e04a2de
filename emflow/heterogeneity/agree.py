"""What two independently fitted halves agree on: common axes, Wiener weights, evidence on held-out images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as functional
from torch import Tensor

from emflow.em.basis import BasisGrid
from emflow.heterogeneity.model import Model, Seen, Stack, statistics


def align_halves(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Rotate the latents of two halves onto common axes, ordered by the variance that both explain.

    Latents of covariance 1 may be rotated at will. With M = V₁V₂ᵀ = U S Wᵀ, the components Uᵀ V₁ and Wᵀ V₂
    correspond one to one.

    Parameters
    ----------
    first, second
        Volumes V0 … VK of each half, (K+1, n, n, n).
    """
    flat = [volumes[1:].flatten(1).double() for volumes in (first, second)]
    left, _, right = torch.linalg.svd(flat[0] @ flat[1].T)
    turned = []
    for volumes, own, rotation in zip((first, second), flat, (left.T, right), strict=True):
        components = (rotation @ own).to(volumes.dtype).view_as(volumes[1:])
        turned.append(torch.cat([volumes[:1], components]))
    return turned[0], turned[1]


def correlations(first: Tensor, second: Tensor) -> Tensor:
    """Correlation of corresponding volumes, (C,)."""
    a, b = first.flatten(1).double(), second.flatten(1).double()
    return (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1)).clamp(min=1e-30)


def canonical_correlations(first: Tensor, second: Tensor) -> Tensor:
    """Cosines of the canonical angles between the spans of two sets of volumes (K, n, n, n): (K,), falling."""
    bases = [torch.linalg.qr(v.flatten(1).double().T).Q for v in (first, second)]
    return torch.linalg.svdvals(bases[0].T @ bases[1]).clamp(max=1.0)


@dataclass(frozen=True)
class ShellAgreement:
    """Power of two halves by shell and volume."""

    cross: Tensor
    """Re⟨V₁V₂*⟩, smoothed over three shells, (S, C)."""
    power: Tensor
    """½(⟨|V₁|²⟩ + ⟨|V₂|²⟩), (S, C)."""
    correlation: Tensor
    """FSC per volume, (S, C)."""

    def single(self) -> Tensor:
        """Wiener weight of one half: signal/(signal + its noise), (S, C)."""
        return (self.cross / self.power.clamp(min=1e-20)).clamp(0, 1)

    def merged(self) -> Tensor:
        """Wiener weight of the mean of both halves, whose noise is half as large: 2F/(1 + F), (S, C)."""
        single = self.single()
        return 2 * single / (1 + single)


def shell_agreement(grid: BasisGrid, first: Tensor, second: Tensor) -> ShellAgreement:
    """Compare the tables (points, 2·C) of two halves shell by shell."""
    count = first.shape[1] // 2
    shell = torch.floor(grid.radius() + 0.5).long()
    times = grid.multiplicity()[:, None]
    shells = int(shell.max()) + 1

    def by_shell(a: Tensor, b: Tensor) -> Tensor:
        product = times * (a * b)
        both = product[:, :count] + product[:, count:]
        return both.new_zeros(shells, count).index_add_(0, shell, both)

    counts = by_shell(torch.ones_like(first), torch.zeros_like(first) + 0.5).clamp(min=1)
    cross, one, two = by_shell(first, second), by_shell(first, first), by_shell(second, second)
    smooth = [
        functional.avg_pool1d(functional.pad(v.T[None], (1, 1), mode="replicate"), 3, 1)[0].T
        for v in (cross / counts, one / counts, two / counts)
    ]
    correlation = smooth[0] / (smooth[1] * smooth[2]).sqrt().clamp(min=1e-20)
    return ShellAgreement(smooth[0], (smooth[1] + smooth[2]) / 2, correlation)


def apply_weights(grid: BasisGrid, table: Tensor, weights: Tensor) -> Tensor:
    """Multiply a table (points, 2·C) by weights per shell and volume (S, C)."""
    shell = torch.floor(grid.radius() + 0.5).long()
    return table * weights[shell].repeat(1, 2) * (grid.radius() <= grid.band + 0.5)[:, None]


def local_weights(first: Tensor, second: Tensor, width: float) -> Tensor:
    """Wiener weight of the mean of two halves about each voxel: 2F/(1 + F), F from products in a Gaussian window.

    A component is confined to what moves, the mask holds the whole particle: where the halves have nothing
    in common, a component's noise goes. Both halves' signs enter the weight, so it may be used on what is
    shown and on final coordinates, never on a model that is judged by held-out images.

    Parameters
    ----------
    first, second
        Volumes of the halves, each filtered by its shells' weights, (C, n, n, n).
    width
        Standard deviation of the window, in voxels.
    """
    n = first.shape[-1]
    k, half = 2 * torch.pi * torch.fft.fftfreq(n), 2 * torch.pi * torch.fft.rfftfreq(n)
    square = (k[:, None, None] ** 2 + k[:, None] ** 2 + half**2).to(first)
    window = torch.exp(-0.5 * width**2 * square)

    def smooth(values: Tensor) -> Tensor:
        return torch.fft.irfftn(torch.fft.rfftn(values, dim=(-3, -2, -1)) * window, s=(n, n, n))

    power = smooth((first.square() + second.square()) / 2)
    least = 1e-6 * power.amax((-3, -2, -1), keepdim=True).clamp(
        min=1e-30
    )  # beyond the mask, and in lost components
    agreed = (smooth(first * second) / power.clamp(min=least)).clamp(0, 1)
    return 2 * agreed / (1 + agreed)


@dataclass(frozen=True)
class HeldOut:
    """Latents of images by a model that did not see them."""

    mean: Tensor
    """a, (N, C)."""
    covariance: Tensor
    """(N, C, C)."""
    gain: Tensor
    """Log evidence with the first k components, less that with none: (N, K+1)."""


def judge_held_out(stack: Stack, rows: Tensor, grid: BasisGrid, table: Tensor, model: Model) -> HeldOut:
    """Latents and evidence of a half's images under the other half's model."""
    count = table.shape[1] // 2
    means = torch.zeros(len(rows), count, dtype=torch.float64)
    covariances = torch.zeros(len(rows), count, count, dtype=torch.float64)
    gains = torch.zeros(len(rows), count, dtype=torch.float64)

    def judge(seen: Seen) -> None:
        for k in range(1, count + 1):
            mean, covariance, evidence = seen.stats.posterior(model.contrast_variance, k)
            gains[seen.place, k - 1] = evidence.cpu()
        means[seen.place], covariances[seen.place] = mean.cpu(), covariance.cpu()

    statistics(stack, rows, table, grid, model, judge)
    return HeldOut(means, covariances, gains - gains[:, :1])


@dataclass(frozen=True)
class Evidence:
    """How well each component is supported, (K,) each."""

    gain: Tensor
    """Mean gain of the log evidence of a held-out image by this component, in nat."""
    deviations: Tensor
    """The same in its standard errors."""
    latent: Tensor
    """Correlation over images of the coordinates by the one half's model and by the other's."""
    volume: Tensor
    """Correlation of the halves' components, unfiltered."""

    def kept(self, deviations: float, nat: float, agreement: float) -> Tensor:
        """Which components pass all three thresholds, (K,)."""
        return (self.deviations >= deviations) & (self.gain >= nat) & (self.latent >= agreement)


def weigh_evidence(gains: Tensor, own: Tensor, other: Tensor, volume: Tensor) -> Evidence:
    """Gather the evidence of all held-out images: gains (N, K+1), latents by own and by other model (N, K)."""
    steps = gains.diff(dim=1)
    mean = steps.mean(0)
    error = steps.std(0) / max(1, len(steps)) ** 0.5
    a, b = own - own.mean(0), other - other.mean(0)
    latent = (a * b).sum(0) / (a.norm(dim=0) * b.norm(dim=0)).clamp(min=1e-30)
    return Evidence(mean, mean / error.clamp(min=1e-12), latent, volume)
