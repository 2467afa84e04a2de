"""One half-set's linear model and one pass of expectation and maximisation over its images.

An image is y = C·P(a0·V0 + Σ a_k·V_k) + noise, with a0 ~ N(1, σ_c²) its contrast and z = (a_1 …) ~ N(0, 1).
Given the volumes, the posterior of a is Gaussian and known in closed form (Tipping and Bishop, J. R. Stat.
Soc. B 61 (1999) 611; for cryo-EM: Tagare et al., J. Struct. Biol. 191 (2015) 245; Punjani and Fleet, J.
Struct. Biol. 213 (2021) 107702). Given the posteriors, the volumes take a preconditioned Newton step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from emflow.em.basis import BasisGrid, Neighbours
from emflow.em.batches import in_batches
from emflow.em.images import Spectra, read_ahead
from emflow.em.slices import HalfPlane
from emflow.heterogeneity.prior import Census, Mixture

_SAMPLES = 400_000
"""Pixels of all images in a batch: what keeps a batch's arrays near 100 MB at nine volumes."""
_LEAST_CONTRAST_VARIANCE = 1e-4
_HEADROOM = 10.0
"""Power that the prior leaves to any volume, in units of the noise's: a weak one is not crushed on its way."""


@dataclass(frozen=True)
class Stack:
    """Particles as the model sees them: centred half-plane spectra with poses and CTF."""

    spectra: Spectra
    """Fourier pixels in memory or on disk, divided by their scale."""
    plane: HalfPlane
    rotations: Tensor
    """A, (N, 3, 3)."""
    ctf: Callable[[Tensor, HalfPlane], Tensor]
    """Rows (B,) and pixels → CTF (B, M)."""
    group: Tensor
    """Noise group of each, from 0, (N,)."""
    device: torch.device

    def batches(self, rows: Tensor, plane: HalfPlane) -> Iterator[tuple[slice, Tensor, Tensor, Tensor]]:
        """Place among ``rows``, rows, spectra (B, M, 2) and CTF (B, M), a batch at a time."""
        step = max(1, _SAMPLES // max(1, len(plane)))
        start = 0
        for part, pixels in read_ahead(rows.split(step), lambda part: self.spectra.read(part, len(plane))):
            yield slice(start, start + len(part)), part, pixels.to(self.device).float(), self.ctf(part, plane)
            start += len(part)


@dataclass(frozen=True)
class Model:
    """Volumes V0 … VK (K+1, n, n, n), in the smallest box that holds their band, and what goes with them."""

    volumes: Tensor
    contrast_variance: float
    noise: Tensor
    """Power per noise group and shell, (G, S)."""
    mixture: Mixture | None = None
    """Prior of z in the next pass; None: N(0, 1)."""

    @property
    def components(self) -> int:
        """K."""
        return len(self.volumes) - 1


@dataclass(frozen=True)
class Statistics:
    """What an image says about a: log-likelihood = 2 bᵀa − aᵀGa + constant."""

    gram: Tensor
    """G = Re(Pᴴ C² P/σ²), (B, C, C), float64."""
    product: Tensor
    """b = Re(Pᴴ C y/σ²), (B, C), float64."""

    def posterior(self, contrast_variance: float, count: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Mean (B, c), covariance (B, c, c) and log evidence (B,) with the first ``count`` volumes only."""
        c = self.product.shape[1] if count is None else count
        prior = torch.ones(c, dtype=torch.float64, device=self.product.device)
        prior[0] = 1 / contrast_variance
        precision = 2 * self.gram[:, :c, :c] + torch.diag(prior)
        right = 2 * self.product[:, :c]
        right = torch.cat([right[:, :1] + prior[0], right[:, 1:]], 1)
        factor = torch.linalg.cholesky(precision)
        mean = torch.cholesky_solve(right[..., None], factor)[..., 0]
        halflog = factor.diagonal(dim1=1, dim2=2).log().sum(1)
        evidence = 0.5 * (right * mean).sum(1) - halflog + 0.5 * prior[0].log() - 0.5 * prior[0]
        return mean, torch.cholesky_inverse(factor), evidence


@dataclass
class Sums:
    """What one pass over the images adds up."""

    numerator: Tensor
    """Gradient of the log-likelihood, (points, 2·C)."""
    denominator: Tensor
    """Σ C²/σ², (points,)."""
    mean: Tensor
    """Mean of a, (C,)."""
    second: Tensor
    """Mean of a·aᵀ with its covariance, (C, C)."""
    noise: Tensor
    """Expected residual power per group and shell, (G, S)."""
    mixture: Mixture | None
    """The prior that this pass found, if it had a mixture."""


def image_power(stack: Stack, rows: Tensor) -> Tensor:
    """Mean power per noise group and shell: where the fit's noise estimate begins."""
    groups, shells = int(stack.group.max()) + 1, int(stack.plane.shell[-1]) + 1
    sums = torch.zeros(groups, shells, dtype=torch.float64, device=stack.device)
    counts = torch.zeros_like(sums)
    for _, part, spectra, _ in stack.batches(rows, stack.plane):
        for group in stack.group[part].unique().tolist():
            power = spectra[(stack.group[part] == group).to(stack.device)].square().sum(2)
            sums[group].index_add_(0, stack.plane.shell, power.sum(0).double())
            counts[group].index_add_(
                0, stack.plane.shell, torch.full_like(stack.plane.radius, len(power)).double()
            )
    common = sums.sum(0) / counts.sum(0).clamp(min=1)
    return torch.where(counts > 0, sums / counts.clamp(min=1), common).float()


def weights(stack: Stack, rows: Tensor, plane: HalfPlane, noise: Tensor) -> Tensor:
    """1/σ² of each pixel of some images, (B, M); 0 at zero frequency, which normalisation has set."""
    inverse = 1 / noise[:, plane.shell].clamp(min=1e-12)
    inverse = inverse * (plane.shell > 0)
    return inverse[stack.group[rows].to(noise.device)]


@dataclass(frozen=True)
class Seen:
    """A batch of images, and what was made of them on the way to their statistics."""

    place: slice
    """Among the rows of the pass."""
    rows: Tensor
    stats: Statistics
    where: Neighbours
    spectra: Tensor
    weight: Tensor
    """1/σ², (B, M)."""
    data: Tensor
    """C·y/σ², (B, 2M, 1)."""
    power: Tensor
    """C²/σ², (B, M)."""
    slices: Tensor
    """(B, 2M, C)."""
    weighted: Tensor
    """Slices times C²/σ²."""


def statistics(
    stack: Stack, rows: Tensor, table: Tensor, grid: BasisGrid, model: Model, use: Callable[[Seen], None]
) -> None:
    """Call ``use`` on what one batch of images after another says.

    Where a batch does not fit in memory it is called again on parts of it: it must have changed nothing by then
    (:func:`emflow.em.batches.in_batches`).
    """
    plane = stack.plane.within(grid.band)
    count = table.shape[1] // 2
    for place, part, spectra, ctf in stack.batches(rows, plane):

        def on_piece(
            here: slice,
            first: int = place.start,
            part: Tensor = part,
            spectra: Tensor = spectra,
            ctf: Tensor = ctf,
        ) -> None:
            own, c = part[here], ctf[here]
            where = grid.locate(stack.rotations[own].to(stack.device), plane)
            y = torch.stack([spectra[here, :, 0], spectra[here, :, 1] * where.sign], -1)
            weight = weights(stack, own, plane, model.noise)
            data = (y * (c * weight)[..., None]).reshape(len(own), -1, 1)
            power = c * c * weight
            slices = grid.gather(table, where).view(len(own), -1, count)
            weighted = slices * power.repeat_interleave(2, 1)[..., None]
            turned = slices.transpose(1, 2)
            stats = Statistics((turned @ weighted).double(), (turned @ data)[..., 0].double())
            at = slice(first + here.start, first + here.stop)
            use(Seen(at, own, stats, where, y, weight, data, power, slices, weighted))

        in_batches(on_piece, len(part), len(part), "images compared with a linear model")


def em_pass(
    stack: Stack,
    rows: Tensor,
    grid: BasisGrid,
    table: Tensor,
    model: Model,
    given: Tensor | None = None,
) -> Sums:
    """Pass once over the images of a half-set.

    Parameters
    ----------
    rows
        The half-set's rows, (N,).
    table
        The volumes on the grid, (points, 2·C).
    given
        Coordinates (N, C) to be taken as they are: the random start.
    """
    plane = stack.plane.within(grid.band)
    count = table.shape[1] // 2
    device = stack.device
    groups, shells = model.noise.shape
    numerator = torch.zeros(grid.points, 2 * count + 1, device=device)
    first = torch.zeros(count, dtype=torch.float64, device=device)
    second = torch.zeros(count, count, dtype=torch.float64, device=device)
    residual = torch.zeros(groups, shells, dtype=torch.float64, device=device)
    pixels = torch.zeros_like(residual)
    census = Census(*model.mixture.mean.shape) if model.mixture is not None else None

    def add(seen: Seen) -> None:
        stats, found = seen.stats, None
        if given is not None:
            mean = given[seen.place].to(stats.product)
            moment = mean[:, :, None] * mean[:, None]
        elif model.mixture is not None:
            found = model.mixture.posterior(stats.gram, stats.product, model.contrast_variance)
            mean, moment = found.pooled()
        else:
            mean, covariance, _ = stats.posterior(model.contrast_variance)
            moment = mean[:, :, None] * mean[:, None] + covariance
        fitted = seen.weighted @ moment.float()
        amplitude = mean.float()[:, None]
        gradient = (seen.data * amplitude - fitted).reshape(-1, 2 * count)
        slopes = grid.scatter(torch.cat([gradient, seen.power.reshape(-1, 1)], 1), seen.where)
        # E|y − C·P·a|²/σ² = |y|²/σ² − 2 Re(C·y*/σ²·P·ā) + Re(C²/σ²·P·E[aaᵀ]·Pᴴ)
        model_part = (seen.slices * (fitted - 2 * seen.data * amplitude)).sum(2)
        model_part = model_part.view(len(seen.rows), -1, 2).sum(2)
        square = seen.spectra.square().sum(2) + model_part / seen.weight.clamp(min=1e-12) * (seen.weight > 0)
        left, numbers = torch.zeros_like(residual), torch.zeros_like(pixels)
        for group in stack.group[seen.rows].unique().tolist():
            own = (stack.group[seen.rows] == group).to(device)
            left[group].index_add_(0, plane.shell, square[own].sum(0).double())
            numbers[group].index_add_(0, plane.shell, torch.full_like(plane.radius, own.sum()).double())
        parts = mean.sum(0), moment.sum(0), slopes, left, numbers
        if census is not None and found is not None:
            census.add(found)
        for whole, part in zip((first, second, numerator, residual, pixels), parts, strict=True):
            whole += part

    statistics(stack, rows, table, grid, model, add)
    grid.add_mates(numerator[:, : 2 * count], count)
    grid.add_mates(numerator[:, 2 * count :], 1)
    noise = torch.where(pixels > 0, residual / pixels.clamp(min=1), model.noise.double()).float()
    total = max(1, len(rows))
    return Sums(
        numerator[:, : 2 * count],
        numerator[:, 2 * count],
        first / total,
        second / total,
        noise,
        census.mixture() if census is not None else None,
    )


def maximise(grid: BasisGrid, table: Tensor, sums: Sums, fill: float) -> Tensor:
    """Newton step of the volumes: V + (S⁻¹·gradient − Λ·V)/(Σ C²/σ² + Λ), S the mean of a·aᵀ.

    The prior's precision Λ per shell and volume is fill/(power that the volume has now, with ten times
    what noise would leave). A volume that fills a part of its padded box is smooth in Fourier space: its power
    sits in that part of all patterns, each of which is measured by so many more grid points. Without the
    factor the prior would crush weak components.

    Parameters
    ----------
    fill
        Volume of the mask over that of the padded box.
    """
    count = table.shape[1] // 2
    shell = torch.floor(grid.radius() + 0.5).long()
    inside = grid.radius() <= grid.band + 0.5
    counts = torch.bincount(shell).clamp(min=1)
    square = table[:, :count].square() + table[:, count:].square()
    power = table.new_zeros(len(counts), count).index_add_(0, shell, square) / counts[:, None]
    level = table.new_zeros(len(counts)).index_add_(0, shell, sums.denominator) / counts
    tau = power + _HEADROOM * fill / level.clamp(min=1e-6)[:, None]
    precision = (fill / tau.clamp(min=1e-12))[shell].repeat(1, 2)
    inverse = torch.linalg.inv(sums.second).float()
    gradient = torch.cat([sums.numerator[:, :count] @ inverse, sums.numerator[:, count:] @ inverse], 1)
    step = (gradient - precision * table) / (sums.denominator[:, None] + precision)
    return torch.where(inside[:, None], table + step, 0.0)


def renormalise(volumes: Tensor, sums: Sums) -> tuple[Tensor, float]:
    """Give the latents mean 0, covariance 1 and no correlation with the contrast, whose mean is made 1.

    The model a·V is unchanged; what of the contrast goes with a latent becomes part of its component.

    Returns
    -------
    Volumes and the variance of the contrast.
    """
    scale = float(sums.mean[0])
    mean = sums.mean[1:]
    covariance = sums.second - sums.mean[:, None] * sums.mean
    flat = volumes.flatten(1).double()
    average = scale * flat[0] + mean @ flat[1:]
    contrast = float(covariance[0, 0]) / scale**2
    out = [average]
    if len(mean):
        inner = covariance[1:, 1:] + 1e-8 * torch.eye(len(mean)).to(covariance)
        factor = torch.linalg.cholesky(inner)
        share = torch.linalg.solve_triangular(factor, covariance[1:, :1], upper=False)[:, 0] / scale
        out += list(factor.T @ flat[1:] + share[:, None] * average)
        contrast -= float(share.square().sum())
    changed = torch.stack(out).to(volumes.dtype).view_as(volumes)
    return changed, max(contrast, _LEAST_CONTRAST_VARIANCE)
