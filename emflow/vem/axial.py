"""What neighbouring slices tell of one another, found on the measured slices alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from emflow.vem.train import conformal

MOST = 32
"""Pairs or triples of slices that are looked at."""
SIDE = 384
"""Side of the middle part that is looked at, in pixels."""
_LEAST = 0.03
"""Correlation that neighbours must have beyond that of slices far apart."""

Read = Callable[[int], Tensor]
"""Reads the middle part of a measured slice, (H, W)."""


@dataclass(frozen=True)
class Told:
    """Whether a slice tells anything of the next: in pure noise it does not, and nothing can be restored."""

    correlation: float
    """Of neighbouring slices, mean over pairs."""
    apart: float
    """The same of slices far apart: what all have in common, such as shading; 0 where there are too few slices."""
    error: float
    """Standard error of the difference."""
    mean: float
    deviation: float
    half_width: float
    """Of the interval about the mean that holds the stated share of all values."""

    @property
    def anything(self) -> bool:
        """Whether neighbours have more in common than slices far apart."""
        return self.correlation - self.apart > max(_LEAST, 3 * self.error)


def what_neighbours_tell(read: Read, pairs: Sequence[int], coverage: float) -> Told:
    """Compare slices with the next, and with slices far away.

    Parameters
    ----------
    pairs
        The first slices of pairs of neighbours, in order; :data:`MOST` of them are taken.
    """
    chosen = spread(pairs, MOST)
    below, above = (torch.stack([read(z + step) for z in chosen]) for step in (0, 1))
    deviation, mean = torch.std_mean(below.double())
    width = conformal((below[:, ::2, ::2] - mean.float()).abs(), coverage)
    correlations = _unit(below) @ _unit(above).T
    near = correlations.diagonal()
    places = torch.tensor(chosen)
    distance = (places[:, None] - places[None]).abs()
    away = distance >= max(4, int(distance.max()) // 3)
    apart = correlations[away].mean() if away.any() else torch.zeros(())
    error = near.std() / len(near) ** 0.5 if len(near) > 2 else torch.zeros(())
    return Told(float(near.mean()), float(apart), float(error), float(mean), float(deviation), width)


def linear_misses(read: Read, used: Sequence[bool], gap: int, coverage: float) -> list[float] | None:
    """Half-widths of the interval about linear interpolation across a wide gap, from slices that are there.

    Parameters
    ----------
    gap
        Distance of the slices on either side of what is absent, in slices.

    Returns
    -------
    One for each absent slice of such a gap; None where no place in the volume is fit to measure it.
    """
    ends = [z for z in range(len(used) - gap) if used[z] and used[z + gap]]
    out = []
    for step in range(1, gap):
        part = step / gap
        scores = []
        for z in spread([z for z in ends if used[z + step]], MOST // 2):
            guess = read(z) * (1 - part) + read(z + gap) * part
            scores.append((read(z + step) - guess).abs()[::2, ::2].flatten())
        if not scores:
            return None
        out.append(conformal(torch.cat(scores), coverage))
    return out


def spread(items: Sequence[int], most: int) -> list[int]:
    """At most so many items, evenly spread, first and last among them."""
    if len(items) <= most:
        return list(items)
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


def _unit(slices: Tensor) -> Tensor:
    """Slices as vectors of mean 0 and length 1; a constant one is 0."""
    flat = slices.flatten(1).double()
    flat = flat - flat.mean(1, keepdim=True)
    return flat / flat.norm(dim=1, keepdim=True).clamp_min(1e-12)
