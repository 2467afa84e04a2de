"""Reality checks of states: each made again in both halves, from labels that its own images did not help to make.

An image of half 1 is put into a state by half 2's model, and the other way round. The state's difference from the
mean is then reconstructed in each half, and the two are compared: nothing but the structure is common to
them. The same is done with labels drawn at random.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import cohen_kappa_score
from torch import Tensor

from emflow.em.basis import Neighbours
from emflow.em.fsc import fsc, shell_index
from emflow.heterogeneity.model import Seen, Stack, statistics
from emflow.heterogeneity.reality import Sides
from emflow.heterogeneity.rigid import rigid_motions

_CHANCE = 16
"""Difference maps of random labels, at least."""
_FLOOR = 0.1
"""Regularisation of a difference map, in units of its mean Σ C²/σ²: what stands on nothing is nothing."""


@dataclass(frozen=True)
class StateMaps:
    """What both halves make of each state, (S, …)."""

    number: Tensor
    """Of each state, as analyze counts them, (S,)."""
    particles: Tensor
    """In each half by the other's labels, (S, 2)."""
    curves: Tensor
    """FSC of the halves' difference maps, (S, shells)."""
    chance: Tensor
    """The same for random labels, (R, shells)."""
    score: Tensor
    """Summed FSC by number of its Fourier components, at the best band, in deviations of chance, (S,)."""
    above: Tensor
    """Part of the random maps that score as high or higher, (S,)."""
    predicted: Tensor
    """Score that the state as the fit decodes it would reach with as many particles, (S,)."""
    pose_fraction: Tensor
    """Part of the difference that small shifts and turns of the whole map explain, (S,)."""
    kappa: Tensor
    """Agreement of both halves' models on who belongs to the state, beyond chance (Cohen's κ), (S,)."""


def cross_labels(by: tuple[Tensor, Tensor], state: np.ndarray, first: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels of all images by each half's model, (N,) each; the rule is learnt from the half's own images.

    Parameters
    ----------
    by
        Coordinates of all images by half 1's and half 2's model, half 1's images first, (N, K).
    state
        States that analyze found, in the same order, (N,).
    first
        Images of half 1.
    """
    labels = []
    for side, coordinates in enumerate(by):
        own = slice(0, first) if side == 0 else slice(first, None)
        points, known = coordinates.numpy(), state[own]
        if len(np.unique(known)) < 2:
            labels.append(np.full(len(state), known[0]))
            continue
        labels.append(LinearDiscriminantAnalysis().fit(points[own], known).predict(points))
    return labels[0], labels[1]


def compare_states(
    stack: Stack,
    halves: tuple[Tensor, Tensor],
    sides: Sides,
    labels: tuple[np.ndarray, np.ndarray],
    changes: Tensor,
    seed: int,
) -> StateMaps | None:
    """Reconstruct each state in both halves by the other half's labels, and random states of the same sizes.

    Parameters
    ----------
    halves
        Rows of each half's images.
    labels
        By half 1's and by half 2's model, of half 1's images and then half 2's.
    changes
        Difference from the mean of each state as the fit decodes it, by number from 1, (S, n, n, n).

    Returns
    -------
    None if no state has particles in both halves.
    """
    first = len(halves[0])
    crossed = labels[1][:first], labels[0][first:]
    numbers = [s for s in np.unique(np.concatenate(crossed)) if all((c == s).any() for c in crossed)]
    if not numbers:
        return None
    draws = -(-_CHANCE // len(numbers))
    rng = np.random.default_rng((seed, 47))
    maps, sizes = [], []
    for half, (rows, own) in enumerate(zip(halves, crossed, strict=True)):
        place = {s: i for i, s in enumerate(numbers)}
        labelled = np.array([place.get(s, -1) for s in own])
        drawn = np.stack([labelled, *(rng.permutation(labelled) for _ in range(draws))])
        maps.append(_difference_maps(stack, rows, sides, half, torch.from_numpy(drawn), len(numbers)))
        sizes.append([int((labelled == i).sum()) for i in range(len(numbers))])
    found, random = zip(*((m[0], m[1:].flatten(0, 1)) for m in maps), strict=True)
    curves, chance = fsc(found[0], found[1]), fsc(random[0], random[1])
    shells = int(sides.grid.band) + 1
    weight = _components_of_shells(found[0].shape[-1])[:shells]
    level = score(chance[:, :shells], weight)
    middle, spread = level.mean(), level.std().clamp(min=1e-6)
    reached = score(curves[:, :shells], weight)
    noise = _power(torch.cat(random)).view(2, draws, len(numbers), -1).mean((0, 1))
    seen = changes[[int(s) - 1 for s in numbers]].to(sides.inner) * sides.inner
    signal = _power(seen)
    expected = signal / (signal + noise).clamp(min=1e-30)
    motions = rigid_motions(((sides.first.mean + sides.second.mean) / 2) * sides.inner)
    flat = [f.flatten(1).double() for f in found]
    share = ((flat[0] @ motions.T) * (flat[1] @ motions.T)).sum(1) / (flat[0] * flat[1]).sum(1).clamp(
        min=1e-30
    )
    kappa = [cohen_kappa_score(labels[0] == s, labels[1] == s) for s in numbers]
    return StateMaps(
        torch.tensor([int(s) for s in numbers]),
        torch.tensor(sizes).T,
        curves[:, :shells],
        chance[:, :shells],
        (reached - middle) / spread,
        (level[None] >= reached[:, None]).double().mean(1),
        (score(expected[:, :shells], weight) - middle) / spread,
        share.clamp(0, 1),
        torch.tensor(kappa),
    )


def score(curves: Tensor, weight: Tensor) -> Tensor:
    """Σ n·FSC/√(Σ n) over shells 1 to the best one: of noise about 1, (…, shells) → (…)."""
    sums = (curves[..., 1:] * weight[1:]).cumsum(-1) / weight[1:].cumsum(0).sqrt()
    return sums.amax(-1)


def _components_of_shells(n: int) -> Tensor:
    return torch.bincount(shell_index(n).flatten(), minlength=n // 2 + 2)[: n // 2 + 1].double()


def _power(volumes: Tensor) -> Tensor:
    """Mean power per shell, (C, n, n, n) → (C, shells)."""
    n = volumes.shape[-1]
    index = shell_index(n).flatten()
    square = torch.fft.rfftn(volumes, dim=(-3, -2, -1)).abs().square().flatten(1).double()
    sums = square.new_zeros(len(volumes), n // 2 + 2).index_add_(1, index, square)
    return sums[:, : n // 2 + 1] / _components_of_shells(n).clamp(min=1)


def _difference_maps(
    stack: Stack, rows: Tensor, sides: Sides, half: int, labels: Tensor, states: int
) -> Tensor:
    """Difference of each state from the half's own mean, for each labelling (T, N): (T, S, n, n, n).

    The mean's slices are subtracted from the images, so that what the views of a state cover unevenly does not
    look like a change. States are numbered from 0; −1 belongs to none.
    """
    grid, side = sides.grid, sides.both()[half]
    mean = grid.to_table(side.mean[None])
    model = replace(side.model, volumes=side.mean[None])
    sums = torch.zeros(len(labels), states, grid.points, 3)

    def add(seen: Seen) -> None:
        batch = len(seen.rows)
        left = (seen.data - seen.weighted).view(batch, -1, 2)
        values = torch.cat([left, seen.power[..., None]], 2)
        index, weight = (part.view(batch, -1, 8) for part in (seen.where.index, seen.where.weight))
        for turn, own in enumerate(labels[:, seen.place]):
            for state in own[own >= 0].unique().tolist():
                chosen = (own == state).nonzero()[:, 0]
                where = Neighbours(
                    index[chosen].view(-1, 8), weight[chosen].view(-1, 8), seen.where.sign[chosen]
                )
                sums[turn, state] += grid.scatter(values[chosen].view(-1, 3), where).cpu()

    statistics(stack, rows, mean, grid, model, add)
    out = torch.empty(*sums.shape[:2], *side.mean.shape)
    inside = grid.radius() <= grid.band + 0.5
    for turn in range(len(labels)):
        for state in range(states):
            total = sums[turn, state]
            grid.add_mates(total[:, :2], 1)
            grid.add_mates(total[:, 2:], 1)
            floor = _FLOOR * total[:, 2][inside].mean()
            table = torch.where(inside[:, None], total[:, :2] / (total[:, 2:] + floor), 0.0)
            out[turn, state] = (grid.to_volumes(table.to(side.mean))[0] * sides.inner).cpu()
    return out
