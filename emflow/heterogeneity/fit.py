"""The verb fit: two independent halves, fitted in growing bands, and what they have in common."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from emflow.device import generator
from emflow.em.basis import BasisGrid, rebox
from emflow.em.fourier import good_size
from emflow.heterogeneity.agree import (
    Evidence,
    ShellAgreement,
    align_halves,
    apply_weights,
    canonical_correlations,
    correlations,
    judge_held_out,
    local_weights,
    shell_agreement,
    weigh_evidence,
)
from emflow.heterogeneity.config import HeterogeneityFit
from emflow.heterogeneity.model import (
    Model,
    Seen,
    Stack,
    em_pass,
    image_power,
    maximise,
    renormalise,
    statistics,
)
from emflow.heterogeneity.prior import Mixture, population_covariance
from emflow.heterogeneity.rigid import rigid_fraction, rigid_motions

log = logging.getLogger("emflow")

FRACTIONS = (0.26, 0.45, 0.71, 1.0)
"""Bands, as fractions of the finest."""
_LEAST_BAND = 6.0
_RIGID_WEIGHT = 0.1
_WINDOW = 1.5
"""Width of the window in which the halves are compared locally, in units of the finest detail."""
_FIRST_MIXED = 1
"""Band from which a mixture is the coordinates' prior: before, they are not yet told apart from noise."""
_WARM_FROM = 2
"""Band from which a fit goes on that has earlier components."""
_SAME_MEAN = 0.9
Models = tuple[Model, Model]


@dataclass(frozen=True)
class Stage:
    """Both halves' models after a band: what a killed fit goes on from."""

    number: int
    """Bands that are done."""
    band: float
    models: Models
    warm: bool = False
    """Whether it began from an earlier fit."""


@dataclass(frozen=True)
class Fit:
    """The model that the halves agree on, and each particle's latents."""

    volumes: Tensor
    """V0 and the kept components, (K+1, n, n, n); a component is the change over one standard deviation."""
    halves: tuple[Tensor, Tensor]
    """The halves' own V0 … VK on the common axes, unfiltered."""
    latent: Tensor
    """Posterior means, (N, K)."""
    covariance: Tensor
    """Posterior covariances, (N, K, K)."""
    contrast: Tensor
    """(N,)."""
    evidence: Evidence
    kept: Tensor
    """Which of the tried components were kept, (K_tried,)."""
    canonical: Tensor
    """Cosines of the canonical angles between the halves' kept components (of all, where none is kept)."""
    shells: ShellAgreement
    band: float
    contrast_deviation: float
    rigid: Tensor
    """Part of each kept component's power that shifts and turns of the whole map explain, (K,)."""
    warm: bool = False
    """Whether it began from an earlier fit."""

    def rigid_total(self) -> float:
        """The same of all components together."""
        power = self.volumes[1:].flatten(1).double().square().sum(1).cpu()
        return float((self.rigid * power).sum() / power.sum().clamp(min=1e-30))


def fit_model(
    stack: Stack,
    halves: tuple[Tensor, Tensor],
    mask: Tensor,
    cfg: HeterogeneityFit,
    finest: float,
    resume: Stage | None = None,
    on_stage: Callable[[Stage], None] | None = None,
    earlier: Models | None = None,
) -> Fit:
    """Fit V(z) in two independent halves and merge what they agree on.

    Parameters
    ----------
    stack
        All particles.
    halves
        Rows of each half-set.
    mask
        Soft mask, (n, n, n).
    finest
        Largest frequency index that may be used.
    resume
        Go on from here.
    on_stage
        Called after each band.
    earlier
        Each half's own model of an earlier fit, in the units of this stack: the halves go on from these, if the
        mean maps are still the same structure in the same frame.
    """
    stage = resume or _warm(_mean_models(stack, halves, mask, finest), earlier)
    if resume is None and on_stage:
        on_stage(stage)
    for number in range(stage.number, len(FRACTIONS)):
        band = band_of(stage.band, number)
        models = [
            _fit_band(stack, rows, model, mask, band, cfg, (number, half))
            for half, (rows, model) in enumerate(zip(halves, stage.models, strict=True))
        ]
        stage = replace(stage, number=number + 1, models=(models[0], models[1]))
        log.info("heterogeneity: band %.0f of %.0f done", band, stage.band)
        if on_stage:
            on_stage(stage)
    return _merge(stack, halves, mask, cfg, stage)


def _warm(stage: Stage, earlier: Models | None) -> Stage:
    """Put earlier components in the place of random starts: the low bands, where those sort themselves out, are spared.

    The band is the one that the new mean maps agree in, the noise is theirs. An earlier mean that hardly
    correlates with its half's new one is of another frame or structure: the fit begins from nothing.
    """
    if earlier is None:
        return stage
    size = good_size(2 * band_of(stage.band, _WARM_FROM - 1) + 4)
    models = []
    for now, before in zip(stage.models, earlier, strict=True):
        pair = (rebox(model.volumes[:1], min(size, model.volumes.shape[-1])) for model in (now, before))
        likeness = float(correlations(*pair))
        if likeness < _SAME_MEAN:
            log.info("the mean map is another than that of the earlier fit (%.2f): beginning anew", likeness)
            return stage
        volumes = rebox(before.volumes, now.volumes.shape[-1])
        models.append(replace(now, volumes=volumes, contrast_variance=before.contrast_variance))
    return Stage(_WARM_FROM, stage.band, (models[0], models[1]), warm=True)


def band_of(finest: float, number: int) -> float:
    """Band of a stage; no smaller than a few shells."""
    return min(finest, max(_LEAST_BAND, round(finest * FRACTIONS[number])))


def _grid(box: int, band: float, device: torch.device) -> BasisGrid:
    """Grid of the smallest box that holds a band."""
    return BasisGrid.build(min(box, good_size(2 * band + 4)), band, device=device)


def _mask_of(mask: Tensor, size: int) -> Tensor:
    n = mask.shape[-1]
    return (rebox(mask[None], size)[0] * (size / n) ** 2).clamp(0, 1)


def _fill(grid: BasisGrid, inner: Tensor) -> float:
    """Part of the padded box that the mask fills."""
    return float(inner.square().sum()) / grid.padded**3


def _mean_models(stack: Stack, halves: tuple[Tensor, Tensor], mask: Tensor, finest: float) -> Stage:
    """Each half's mean map, and the band in which the two agree."""
    grid = _grid(mask.shape[-1], finest, stack.device)
    inner = _mask_of(mask, grid.box)
    models = []
    for rows in halves:
        start = torch.zeros(1, grid.box, grid.box, grid.box, device=stack.device)
        model = Model(start, 1e-4, image_power(stack, rows))
        for _ in range(3):
            table = grid.to_table(model.volumes)
            sums = em_pass(stack, rows, grid, table, model, torch.ones(len(rows), 1))
            table = maximise(grid, table, sums, _fill(grid, inner))
            model = replace(model, volumes=grid.to_volumes(table) * inner, noise=sums.noise)
        models.append(model)
    tables = [grid.to_table(model.volumes) for model in models]
    curve = shell_agreement(grid, tables[0], tables[1]).correlation[:, 0]
    below = torch.nonzero(curve[1:] < 0.143)
    agreed = float(below[0, 0]) + 1 if len(below) else finest
    return Stage(0, min(finest, max(_LEAST_BAND, agreed)), (models[0], models[1]))


def _fit_band(
    stack: Stack,
    rows: Tensor,
    model: Model,
    mask: Tensor,
    band: float,
    cfg: HeterogeneityFit,
    stream: tuple[int, int],
) -> Model:
    """EM passes of one half within one band."""
    number, half = stream
    grid = _grid(mask.shape[-1], band, stack.device)
    inner = _mask_of(mask, grid.box)
    fill = _fill(grid, inner)
    volumes = rebox(model.volumes, grid.box)
    given = None
    if model.components == 0:
        empty = volumes.new_zeros(cfg.components, *volumes.shape[1:])
        volumes = torch.cat([volumes, empty])
        given = torch.randn(
            len(rows), cfg.components + 1, generator=generator(cfg.seed, half), dtype=torch.float64
        )
        given[:, 0] = 1
        model = replace(model, contrast_variance=cfg.contrast_deviation**2)
    model = replace(model, volumes=volumes)
    if number >= _FIRST_MIXED and cfg.prior_gaussians > 1 and cfg.iterations[number]:
        model = replace(model, mixture=_guess_mixture(stack, rows, model, grid, cfg))
    for turn in range(cfg.iterations[number]):
        table = grid.to_table(model.volumes)
        sums = em_pass(stack, rows, grid, table, model, given)
        volumes = grid.to_volumes(maximise(grid, table, sums, fill)) * inner
        if given is not None:
            model = replace(model, volumes=volumes)
        elif sums.mixture is not None and turn < cfg.iterations[number] - 1:
            model = replace(model, volumes=volumes, noise=sums.noise, mixture=sums.mixture)
        else:
            volumes, contrast = renormalise(volumes, sums)
            model = Model(volumes, contrast, sums.noise)
        given = None
    return model


def _guess_mixture(
    stack: Stack, rows: Tensor, model: Model, grid: BasisGrid, cfg: HeterogeneityFit
) -> Mixture | None:
    """What one half's coordinates look like, by its own model."""
    means, spread = [], torch.zeros(model.components, model.components, dtype=torch.float64)

    def gather(seen: Seen) -> None:
        mean, covariance, _ = seen.stats.posterior(model.contrast_variance)
        own, part = mean[:, 1:].cpu(), covariance[:, 1:, 1:].sum(0).cpu()
        means.append(own)
        spread.add_(part)

    statistics(stack, rows, grid.to_table(model.volumes), grid, model, gather)
    return Mixture.guess(torch.cat(means), spread / len(rows), cfg.prior_gaussians, cfg.seed)


def _merge(
    stack: Stack, halves: tuple[Tensor, Tensor], mask: Tensor, cfg: HeterogeneityFit, stage: Stage
) -> Fit:
    """Common axes, evidence on held-out images, the Wiener-filtered mean of what is kept, final latents."""
    grid = _grid(mask.shape[-1], stage.band, stack.device)
    aligned = align_halves(*(rebox(model.volumes, grid.box) for model in stage.models))
    tables = [grid.to_table(volumes) for volumes in aligned]
    shells = shell_agreement(grid, tables[0], tables[1])
    single = [apply_weights(grid, table, shells.single()) for table in tables]
    gains, own, other, spreads = [], [], [], []
    for half, rows in enumerate(halves):
        model = replace(stage.models[1 - half], noise=stage.models[half].noise)
        held_out = judge_held_out(stack, rows, grid, single[1 - half], model)
        gains.append(held_out.gain)
        other.append(held_out.mean[:, 1:])
        spreads.append(population_covariance(held_out.mean, held_out.covariance))
        own.append(judge_held_out(stack, rows, grid, single[half], stage.models[half]).mean[:, 1:])
    evidence = weigh_evidence(
        torch.cat(gains), torch.cat(own), torch.cat(other), correlations(*aligned)[1:].cpu()
    )
    kept = evidence.kept(cfg.evidence_deviations, cfg.evidence_nat, cfg.agreement)
    chosen = torch.cat([torch.tensor([True]), kept]).to(stack.device)
    merged = apply_weights(grid, (tables[0] + tables[1]) / 2, shells.merged())
    inner = _mask_of(mask, grid.box)
    volumes = grid.to_volumes(merged) * inner
    seen = [grid.to_volumes(table)[1:] * inner for table in single]
    volumes[1:] *= local_weights(seen[0], seen[1], _WINDOW * grid.box / grid.band)
    volumes = volumes[chosen]
    spread = ((spreads[0] + spreads[1]) / 2)[kept][:, kept]
    root = torch.linalg.cholesky(spread).T.to(volumes)
    volumes[1:] = torch.tensordot(root, volumes[1:], 1)
    variance = sum(model.contrast_variance for model in stage.models) / 2
    latent, covariance, contrast = _latents(stack, halves, grid, volumes, stage, variance)
    between = torch.cat(own) - torch.cat(other)  # the errors of two models; the mean of both has half of it
    between = torch.linalg.solve(root.T.double().cpu(), between[:, kept].T)
    error = between @ between.T / (4 * between.shape[1])
    volumes, latent, covariance = principal_axes(volumes, latent, covariance, error)
    compared = [v[1:][kept] if bool(kept.any()) else v[1:] for v in aligned]
    return Fit(
        rebox(volumes, mask.shape[-1]),
        (rebox(aligned[0], mask.shape[-1]), rebox(aligned[1], mask.shape[-1])),
        latent,
        covariance,
        contrast,
        evidence,
        kept,
        canonical_correlations(compared[0], compared[1]).cpu(),
        shells,
        stage.band,
        variance**0.5,
        rigid_fraction(volumes),
        stage.warm,
    )


def _latents(
    stack: Stack,
    halves: tuple[Tensor, Tensor],
    grid: BasisGrid,
    volumes: Tensor,
    stage: Stage,
    contrast_variance: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Posterior means (N, K), covariances (N, K, K) and contrasts (N,) of all particles."""
    table = grid.to_table(volumes)
    count, total = len(volumes), len(stack.rotations)
    means = torch.zeros(total, count, dtype=torch.float64)
    covariances = torch.zeros(total, count, count, dtype=torch.float64)

    def keep(seen: Seen) -> None:
        mean, covariance, _ = seen.stats.posterior(contrast_variance)
        means[seen.rows], covariances[seen.rows] = mean.cpu(), covariance.cpu()

    for rows, own in zip(halves, stage.models, strict=True):
        model = Model(volumes, contrast_variance, own.noise)
        statistics(stack, rows, table, grid, model, keep)
    return means[:, 1:], covariances[:, 1:, 1:], means[:, 0]


def principal_axes(
    volumes: Tensor, latent: Tensor, covariance: Tensor, error: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Turn to principal coordinates of the volumes: uncorrelated, of deviation 1, by falling variance.

    What shifts and turns of the whole map explain counts for a tenth only, so that the marks of imprecise
    poses come last.

    The population's covariance is that of the means plus the mean posterior covariance; the model's own ``error``
    (K, K), which is in the means' already, comes on top of each image's posterior covariance. Each component's
    sign makes its sum of cubes positive, so that equal models look equal.
    """
    count = len(volumes) - 1
    if count == 0:
        return volumes, latent, covariance
    flat = volumes.flatten(1).double().cpu()
    centre = latent.mean(0)
    spread = (latent - centre).T @ (latent - centre) / len(latent) + covariance.mean(0)
    rigid = flat[1:] @ rigid_motions(volumes[0].cpu()).T
    gram = flat[1:] @ flat[1:].T - (1 - _RIGID_WEIGHT) * rigid @ rigid.T
    factor = torch.linalg.cholesky(gram + 1e-12 * gram.diagonal().mean() * torch.eye(count))
    values, vectors = torch.linalg.eigh(factor.T @ spread @ factor)
    scale = values.flip(0).clamp(min=1e-30).sqrt()
    turn = (factor @ vectors.flip(1)) / scale  # z' = z · turn
    components = torch.linalg.solve(turn, flat[1:])
    sign = torch.sign((components**3).sum(1))
    sign = torch.where(sign == 0, 1.0, sign)
    turn, components = turn * sign, components * sign[:, None]
    mean = flat[:1] + centre @ flat[1:]
    out = torch.cat([mean, components]).to(volumes).view_as(volumes)
    return out, (latent - centre) @ turn, turn.T @ (covariance + error) @ turn
