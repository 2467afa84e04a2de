"""What images show beyond the linear model, as volumes that go with functions of their coordinates.

V(z) = V0 + Σ z_k V_k + Σ φ_j(z) U_j: both halves find their own U_j from the residuals r of their own images, in one
Newton step, S⁻¹ Σ φ_j C·r/σ² / Σ C²/σ², S the mean of φφᵀ. What the halves agree on decides how far each function
counts: by shell, about each voxel, and at all. Fine functions are those of a narrow kernel, so that the halves choose
the bandwidth, shell by shell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from emflow.em.basis import BasisGrid, rebox
from emflow.em.fourier import good_size
from emflow.heterogeneity.agree import ShellAgreement, apply_weights, local_weights, shell_agreement
from emflow.heterogeneity.kernel import Functions
from emflow.heterogeneity.model import Model, Seen, Stack, image_power, statistics

_DETAIL = 0.5
"""Width of the window in which the halves' U_j are compared locally, in units of the finest detail."""
_MEAN_DETAIL = 0.36
"""The same for the mean map, in which more is seen."""
_DEVIATIONS = 4.0
"""How far above chance a function's volume must agree between the halves."""
_LEVEL = 0.01
"""Regulariser of the Newton step, in units of the shell's mean of Σ C²/σ²: where nearly no image has a say."""
_RIDGE = 1e-6
_TABLE_BYTES = 1 << 30
"""Memory for what a pass adds up; more functions at once would take more."""


@dataclass(frozen=True)
class Coordinates:
    """What is known of each particle."""

    latent: np.ndarray
    """(N, K)."""
    contrast: np.ndarray
    """(N,)."""


@dataclass(frozen=True)
class Curved:
    """A linear model that goes on in functions of its coordinates."""

    functions: Functions
    kept: np.ndarray
    """Which functions count, (J,)."""
    standing: np.ndarray
    """Agreement of the halves on each U_j, in standard deviations of chance, (J,)."""
    volumes: Tensor
    """V0 (weighted about each voxel), V1 … VK and the kept U_j, (K + 1 + J', n, n, n)."""
    halves: tuple[Tensor, Tensor]
    """The same of each half: V0 … VK unfiltered, U_j weighted by shell."""
    passes: int
    """Over all images."""

    def extend(self, points: np.ndarray) -> np.ndarray:
        """Coordinates of ``volumes``: z and the kept functions of it, (P, K) → (P, K + J')."""
        return np.concatenate([points, self.functions.of(points)[:, self.kept]], 1)

    def times(self, scale: float) -> Curved:
        """The same in other units, in main memory."""
        first, second = (half.cpu() * scale for half in self.halves)
        return replace(self, volumes=self.volumes.cpu() * scale, halves=(first, second))


def fit_curved(
    stack: Stack,
    halves: tuple[Tensor, Tensor],
    known: Coordinates,
    linear: tuple[Tensor, tuple[Tensor, Tensor]],
    mask: Tensor,
    functions: Functions,
) -> Curved:
    """Regress what the linear model leaves on functions of the coordinates, in both halves.

    Parameters
    ----------
    halves
        Rows of each half-set.
    known
        Coordinates of all rows.
    linear
        The fit's V0 … VK on the principal coordinates, and each half's own, in the units of the stack,
        (K + 1, n, n, n).
    mask
        Soft mask, (n, n, n).
    """
    volumes, own = linear
    n, band = mask.shape[-1], stack.plane.radius[-1].item()
    grid = BasisGrid.build(min(n, good_size(2 * band + 4)), band, device=stack.device)
    inner = (rebox(mask[None], grid.box)[0] * (grid.box / n) ** 2).clamp(0, 1)
    table = grid.to_table(rebox(volumes, grid.box))
    amplitude = torch.from_numpy(np.concatenate([known.contrast[:, None], known.latent], 1)).float()
    values = torch.from_numpy(functions.of(known.latent)).float()
    at_once = max(1, int(_TABLE_BYTES / (24 * grid.points)))  # sums, and what a batch adds to them
    parts = list(torch.arange(functions.count).split(at_once))
    found = []
    for rows in halves:
        model = Model(volumes, 1.0, image_power(stack, rows))
        maps = [
            _regress(stack, rows, (grid, table, model), amplitude, values[:, part]) * inner for part in parts
        ]
        second = (values[rows].T @ values[rows]).double() / len(rows)
        apart = torch.linalg.inv(second + _RIDGE * torch.eye(len(second)).double()).to(volumes)
        found.append(torch.tensordot(apart, torch.cat(maps), 1))
    first, second = found
    tables = grid.to_table(first), grid.to_table(second)
    standing = _standing(grid, tables)
    kept = standing > _DEVIATIONS
    detail = grid.box / grid.band
    agreed = shell_agreement(grid, *tables)
    merged, sides = _merged(grid, tables, agreed, inner, _DETAIL * detail)
    chosen = torch.from_numpy(kept).to(stack.device)
    extra, *ends = (_boxed(part[chosen], n) for part in (merged, *sides))
    weight = _mean_weight(grid, [rebox(half[:1], grid.box) for half in own], inner, _MEAN_DETAIL * detail)
    mean = rebox(rebox(volumes[:1], grid.box) * weight, n)
    whole = torch.cat([mean, volumes[1:], extra])
    first, second = (torch.cat([half, end]) for half, end in zip(own, ends, strict=True))
    return Curved(functions, kept, standing, whole, (first, second), len(parts))


def _boxed(volumes: Tensor, size: int) -> Tensor:
    """``rebox``, also of no volumes, which have no transform."""
    return rebox(volumes, size) if len(volumes) else volumes.new_zeros(0, size, size, size)


def _regress(
    stack: Stack, rows: Tensor, against: tuple[BasisGrid, Tensor, Model], amplitude: Tensor, values: Tensor
) -> Tensor:
    """(Σ φ_j C·r/σ²)/(Σ C²/σ²) of one half, r the residual of an image: (J, n, n, n)."""
    grid, table, model = against
    count = values.shape[1]
    sums = torch.zeros(grid.points, 2 * count + 1, device=stack.device)

    def add(seen: Seen) -> None:
        own = amplitude[seen.rows].to(stack.device)
        residual = seen.data - seen.weighted @ own[..., None]
        slopes = residual * values[seen.rows].to(stack.device)[:, None]
        both = torch.cat([slopes.reshape(-1, 2 * count), seen.power.reshape(-1, 1)], 1)
        sums.add_(grid.scatter(both, seen.where))

    statistics(stack, rows, table, grid, model, add)
    grid.add_mates(sums[:, : 2 * count], count)
    grid.add_mates(sums[:, 2 * count :], 1)
    level = sums[:, 2 * count]
    shell = torch.floor(grid.radius() + 0.5).long()
    shells = torch.bincount(shell).clamp(min=1)
    usual = torch.zeros(len(shells), device=stack.device).index_add_(0, shell, level) / shells
    inside = grid.radius() <= grid.band + 0.5
    step = sums[:, : 2 * count] * (inside / (level + _LEVEL * usual.clamp(min=1e-6)[shell]))[:, None]
    return grid.to_volumes(step)


def _standing(grid: BasisGrid, tables: tuple[Tensor, Tensor]) -> np.ndarray:
    """Agreement of the halves on each volume, all shells' patterns counting alike, in deviations of chance: (J,).

    Chance is what one half's volume of a function has in common with the other half's of another function.
    """
    count = tables[0].shape[1] // 2
    shell = torch.floor(grid.radius() + 0.5).long()
    times = grid.multiplicity()[:, None]
    white = []
    for table in tables:
        square = times * (table[:, :count].square() + table[:, count:].square())
        power = square.new_zeros(int(shell.max()) + 1, count).index_add_(0, shell, square)
        numbers = torch.zeros_like(power).index_add_(0, shell, times.expand(-1, count).contiguous())
        white.append(table / (power / numbers.clamp(min=1)).clamp(min=1e-30).sqrt()[shell].repeat(1, 2))
    inside = grid.radius() <= grid.band + 0.5
    first, second = ((times * inside[:, None]) * white[0]), white[1]
    cross = first[:, :count].T @ second[:, :count] + first[:, count:].T @ second[:, count:]
    cross = cross.double().cpu()
    other = cross[~torch.eye(count, dtype=torch.bool)]
    chance = float(other.square().mean().sqrt()) if count > 1 else float("inf")
    return np.asarray((cross.diagonal() / max(chance, 1e-30)).numpy())


def _merged(
    grid: BasisGrid, tables: tuple[Tensor, Tensor], agreed: ShellAgreement, inner: Tensor, width: float
) -> tuple[Tensor, list[Tensor]]:
    """Mean of the halves' volumes, weighted by shell and about each voxel; each half's, weighted by shell."""
    sides = [grid.to_volumes(apply_weights(grid, table, agreed.single())) * inner for table in tables]
    both = grid.to_volumes(apply_weights(grid, (tables[0] + tables[1]) / 2, agreed.merged())) * inner
    return both * local_weights(sides[0], sides[1], width), sides


def _mean_weight(grid: BasisGrid, means: Sequence[Tensor], inner: Tensor, width: float) -> Tensor:
    """Wiener weight of the mean map about each voxel, from the halves' own means, (1, n, n, n)."""
    tables = [grid.to_table(mean) for mean in means]
    single = shell_agreement(grid, tables[0], tables[1]).single()
    sides = [grid.to_volumes(apply_weights(grid, table, single)) * inner for table in tables]
    return local_weights(sides[0], sides[1], width)
