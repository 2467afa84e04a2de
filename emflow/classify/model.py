"""Class averages: their sums in two half-sets, and the averages that follow from them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from emflow.em.masks import soft_sphere
from emflow.em.turns import Turns
from emflow.em.wiener import shell_mean

_CLASSES = 64
"""Classes whose turned sums are brought back at a time."""


@dataclass
class Sums:
    """What the particles add up to, in each half-set and class."""

    grid: Tensor
    """Real and imaginary parts of Σ C·y/σ², and Σ C²/σ², (2, K, 3, s, s)."""
    count: Tensor
    """Particles, by their posterior weights, (2, K)."""

    @staticmethod
    def empty(classes: int, turns: Turns) -> Sums:
        """Nothing yet."""
        device = turns.points.device
        grid = torch.zeros(2, classes, 3, turns.side, turns.side, device=device)
        return Sums(grid, torch.zeros(2, classes, device=device))

    def fade(self, memory: float) -> None:
        """Forget a part of what was summed."""
        self.grid *= memory
        self.count *= memory

    def add(self, half: int, numerator: Tensor, denominator: Tensor, count: Tensor, turns: Turns) -> None:
        """Add what the particles of half-set 0 or 1 leave at each angle: (K, Q, 2, M), (K, Q, M), (K,)."""
        for start in range(0, len(numerator), _CLASSES):
            part = slice(start, start + _CLASSES)
            self.grid[half, part] += turns.insert(numerator[part], denominator[part])
        self.count[half] += count


def average(grid: Tensor, turns: Turns, radius_px: float) -> Tensor:
    """Wiener averages of sums (K, 3, s, s), masked by a soft disc: (K, box, box).

    The prior's power per class and shell is what the raw average holds above its own noise,
    S = max(⟨|n/d|²⟩ − 1/⟨d⟩, 0), smoothed over three shells; the average is n/(d + 1/S).
    """
    radius = turns.radius()
    shell = torch.floor(radius + 0.5).long()
    band = float(turns.plane.radius[-1])
    inside = radius <= band
    shells = int(shell.max()) + 1
    out = []
    for numerator_re, numerator_im, weight in grid:
        mean = shell_mean(torch.where(inside, weight, 0.0), shell, shells)
        floor = weight + 0.05 * mean[shell] + 1e-12
        power = (numerator_re.square() + numerator_im.square()) / floor.square()
        observed = shell_mean(torch.where(inside, power, 0.0), shell, shells)
        signal = (observed - 1 / mean.clamp(min=1e-20)).clamp(min=0)
        signal = torch.nn.functional.avg_pool1d(signal[None, None], 3, 1, 1, count_include_pad=False)[0, 0]
        total = weight + 1 / signal.clamp(min=1e-12)[shell]
        out.append(torch.where(inside, torch.complex(numerator_re, numerator_im) / total, 0.0))
    images = turns.to_real(torch.stack(out))
    disc = soft_sphere(turns.plane.box, radius_px, max(2.0, 0.15 * radius_px), 2, device=images.device)
    return images * disc


def raw_average(grid: Tensor, turns: Turns) -> Tensor:
    """Averages of sums (K, 3, s, s) without prior or mask, (K, box, box)."""
    radius = turns.radius()
    shell = torch.floor(radius + 0.5).long()
    inside = radius <= float(turns.plane.radius[-1])
    out = []
    for numerator_re, numerator_im, weight in grid:
        mean = shell_mean(weight, shell, int(shell.max()) + 1)
        total = torch.maximum(weight, 0.05 * mean[shell]).clamp(min=1e-20)
        out.append(torch.where(inside, torch.complex(numerator_re, numerator_im) / total, 0.0))
    return turns.to_real(torch.stack(out))
