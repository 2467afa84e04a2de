"""Reality checks of coordinates: what both halves' models say of the same images, beside chance, poses and contrast.

Every image gets the statistics G and b (``model.Statistics``) of a row of volumes by each half's model: V0, the
components, the volumes that small errors of the poses make, and components of random phases. All questions are
answered from parts of G and b, without another pass over the images.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from emflow.device import generator
from emflow.em.basis import BasisGrid
from emflow.em.fsc import randomise_phases
from emflow.heterogeneity.agree import align_halves, apply_weights, correlations, shell_agreement
from emflow.heterogeneity.model import Model, Seen, Stack, Statistics, em_pass, statistics
from emflow.heterogeneity.rigid import rigid_motions

_POSES = 6
_CHANCE = 12
"""Components of random phases, at least."""
_TURNS = 20


@dataclass(frozen=True)
class Side:
    """One half's model, as it judges images."""

    model: Model
    """V0 and components, each weighted by shell by what the halves agree on; noise of its own images."""
    mean: Tensor
    """V0 unweighted, (n, n, n): what the half's difference maps are taken from."""
    row: Tensor
    """All volumes that images are compared with: V0, components, poses, chance, (C, n, n, n)."""
    table: Tensor
    """The same on the grid."""


@dataclass(frozen=True)
class Sides:
    """Both halves' models on one grid."""

    grid: BasisGrid
    first: Side
    second: Side
    inner: Tensor
    """Mask, (n, n, n)."""
    volume: Tensor
    """Correlation of the halves' components, (K,)."""
    volume_chance: Tensor
    """The same of components of random phases that were aligned in the same way, (R·K,)."""

    @property
    def components(self) -> int:
        """K."""
        return self.first.model.components

    def both(self) -> tuple[Side, Side]:
        """Half 1's and half 2's."""
        return self.first, self.second


def build_sides(grid: BasisGrid, halves: tuple[Tensor, Tensor], inner: Tensor, seed: int) -> Sides:
    """Make both halves' models from their raw volumes V0 … VK (K+1, n, n, n) on common axes.

    Components of chance have the amplitudes of a half's components and random phases within the mask, and are
    turned onto common axes as those were: aligning alone makes noise agree a little.
    """
    tables = [grid.to_table(v) for v in halves]
    weights = shell_agreement(grid, tables[0], tables[1]).single()
    weighted = [grid.to_volumes(apply_weights(grid, table, weights)) * inner for table in tables]
    count = len(halves[0]) - 1
    chance: tuple[list[Tensor], list[Tensor]] = ([], [])
    for draw in range(max(2, -(-_CHANCE // max(1, count)))):
        drawn = []
        for half, own in enumerate(weighted):
            rng = generator(seed, 31, draw, half)
            random = torch.stack([randomise_phases(v, 1, rng) * inner for v in own[1:]])
            size = own[1:].flatten(1).norm(dim=1) / random.flatten(1).norm(dim=1).clamp(min=1e-30)
            drawn.append(torch.cat([own[:1], random * size[:, None, None, None]]))
        for held, aligned in zip(chance, align_halves(drawn[0], drawn[1]), strict=True):
            held.append(aligned[1:])
    sides = []
    for own, raw, random_sets in zip(weighted, halves, chance, strict=True):
        poses = rigid_motions(own[0]).view(_POSES, *own.shape[1:]).to(own)
        poses *= 0.1 * own[0].norm()
        row = torch.cat([own, poses, *random_sets])
        model = Model(own, 1e-2, torch.ones(1, 1))
        sides.append(Side(model, raw[0], row, grid.to_table(row)))
    return Sides(
        grid,
        sides[0],
        sides[1],
        inner,
        correlations(*weighted)[1:],
        correlations(torch.cat(chance[0]), torch.cat(chance[1])),
    )


def with_noise(stack: Stack, halves: tuple[Tensor, Tensor], sides: Sides, contrast_variance: float) -> Sides:
    """Estimate the noise of each half's images under its own model, by two passes."""
    groups, shells = int(stack.group.max()) + 1, int(stack.plane.shell[-1]) + 1
    done = []
    for rows, side in zip(halves, sides.both(), strict=True):
        _, _, spectra, _ = next(iter(stack.batches(rows[:500], stack.plane)))
        level = float(spectra.square().sum(2).mean())
        model = Model(
            side.model.volumes, contrast_variance, torch.full((groups, shells), level).to(stack.device)
        )
        table = sides.grid.to_table(model.volumes)
        for _ in range(2):
            model = replace(model, noise=em_pass(stack, rows, sides.grid, table, model).noise)
        done.append(replace(side, model=model))
    return replace(sides, first=done[0], second=done[1])


def gather(stack: Stack, rows: Tensor, sides: Sides, judge: int, own: int) -> Statistics:
    """What images of half ``own`` (0 or 1) say about the row of volumes of half ``judge``: G (N, C, C), b (N, C)."""
    side = sides.both()[judge]
    model = replace(side.model, noise=sides.both()[own].model.noise)
    count = len(side.row)
    gram = torch.zeros(len(rows), count, count, dtype=torch.float64)
    product = torch.zeros(len(rows), count, dtype=torch.float64)

    def keep(seen: Seen) -> None:
        gram[seen.place], product[seen.place] = seen.stats.gram.cpu(), seen.stats.product.cpu()

    statistics(stack, rows, side.table, sides.grid, model, keep)
    return Statistics(gram, product)


def part_of(stats: Statistics, columns: list[int], variance: Tensor | None = None) -> Statistics:
    """The statistics of some of the volumes; ``variance`` (c,) makes their prior N(0, 1) by scaling them."""
    scale = torch.ones(len(columns), dtype=torch.float64) if variance is None else variance.sqrt()
    gram = stats.gram[:, columns][:, :, columns] * scale[:, None] * scale
    return Statistics(gram, stats.product[:, columns] * scale)


def pose_variance(stats: Statistics, columns: list[int], contrast_variance: float) -> Tensor:
    """Variance of each pose volume's amplitude over images, by EM with V0 alone beside them: (6,)."""
    variance = torch.ones(len(columns) + 1, dtype=torch.float64)
    for _ in range(_TURNS):
        mean, covariance, _ = part_of(stats, [0, *columns], variance).posterior(contrast_variance)
        moment = (mean.square() + covariance.diagonal(dim1=1, dim2=2)).mean(0)
        variance[1:] *= moment[1:]
    return variance[1:]


@dataclass(frozen=True)
class Coordinates:
    """What is known of each coordinate, (K,) each."""

    latent: Tensor
    """Correlation over images of the coordinate by the one and by the other half's model."""
    latent_chance: Tensor
    """The same for components of random phases, (R·K,)."""
    gain: Tensor
    """Mean gain of a held-out image's log evidence, in nat."""
    gain_beyond: Tensor
    """The same where errors of the poses may explain the image first."""
    deviations: Tensor
    """``gain_beyond`` in its standard errors."""
    contrast: Tensor
    """Correlation of the coordinate with the image's contrast."""
    by: tuple[Tensor, Tensor]
    """Coordinates of all images by half 1's and by half 2's model, (N, K)."""

    @property
    def pose_fraction(self) -> Tensor:
        """Part of the gain that errors of the poses explain, 0 to 1."""
        return (1 - self.gain_beyond / self.gain.clamp(min=1e-9)).clamp(0, 1)


def judge_coordinates(stack: Stack, halves: tuple[Tensor, Tensor], sides: Sides) -> Coordinates:
    """Compare what both halves' models say of all images; rows of ``by`` are half 1's images, then half 2's."""
    count = sides.components
    total = len(sides.first.row)
    components = list(range(1, count + 1))
    poses = list(range(count + 1, count + 1 + _POSES))
    chances = [list(range(at, at + count)) for at in range(count + 1 + _POSES, total, count)]
    by: list[list[Tensor]] = [[], []]
    chance: list[list[list[Tensor]]] = [[[] for _ in chances], [[] for _ in chances]]
    plain, beyond, contrasts = [], [], []
    variance = sides.first.model.contrast_variance
    for own, rows in enumerate(halves):
        for judge in (0, 1):
            stats = gather(stack, rows, sides, judge, own)
            mean, _, _ = part_of(stats, [0, *components]).posterior(variance)
            by[judge].append(mean[:, 1:])
            for held, columns in zip(chance[judge], chances, strict=True):
                held.append(part_of(stats, [0, *columns]).posterior(variance)[0][:, 1:])
            if judge == own:
                contrasts.append(mean[:, 0])
                continue
            plain.append(_steps(stats, [], components, None, variance))
            sizes = pose_variance(stats, poses, variance)
            beyond.append(_steps(stats, poses, components, sizes, variance))
    gain, over = torch.cat(plain), torch.cat(beyond)
    first, second = (torch.cat(part) for part in by)
    drawn = [_correlation(torch.cat(a), torch.cat(b)) for a, b in zip(chance[0], chance[1], strict=True)]
    contrast = _correlation((first + second) / 2, torch.cat(contrasts)[:, None])
    error = over.std(0) / max(1, len(over)) ** 0.5
    return Coordinates(
        _correlation(first, second),
        torch.cat(drawn),
        gain.mean(0),
        over.mean(0),
        over.mean(0) / error.clamp(min=1e-12),
        contrast,
        (first, second),
    )


def _steps(
    stats: Statistics, before: list[int], components: list[int], sizes: Tensor | None, variance: float
) -> Tensor:
    """Gain of the log evidence by each component after ``before`` and those ahead of it, (N, K)."""
    columns = [0, *before, *components]
    scale = torch.ones(len(columns), dtype=torch.float64)
    if sizes is not None:
        scale[1 : 1 + len(before)] = sizes
    part = part_of(stats, columns, scale)
    ends = range(1 + len(before), len(columns) + 1)
    evidence = torch.stack([part.posterior(variance, end)[2] for end in ends], 1)
    return evidence.diff(dim=1)


def _correlation(a: Tensor, b: Tensor) -> Tensor:
    """Correlation of corresponding columns."""
    a, b = a - a.mean(0), b - b.mean(0)
    return (a * b).sum(0) / (a.norm(dim=0) * b.norm(dim=0)).clamp(min=1e-30)
