"""The peer: a conditional diffusion model as vEMDiffuse-a is one, written anew from its paper and published settings.

C. Lu et al., Nat. Commun. 15, 4677 (2024); settings of github.com/Luchixiang/EMDiffuse (MIT), config/vEMDiffuse-a.json:
a U-Net of 32 to 256 channels on the full grid, two residual blocks a level, attention in the middle, dropout 0.2; told
of the slices below and above, of the noise level and of the number of the missing slice; it predicts the noise. Trained
on 2000 noise levels (variances from 1e-6 to 1e-2, linear), applied with 1000 (1e-4 to 0.09), or fewer of the same range.
The training, as there, takes the axis y (here x, too) for z; slices are repeated to fill the coarse axis.
Other than there: steps as few as a processor allows, and hence a higher learning rate and a shorter average.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from emflow.device import generator
from emflow.nn.train import Checkpoint, Plan, train

INNER, LEVELS, BLOCKS, DROPOUT = 32, (1, 2, 4, 8), 2, 0.2
CROP, BATCH, RATE = 64, 4, 2e-4


class _Residual(nn.Module):
    """Two convolutions about a shift and scale by what the network is told; halves or doubles the grid on request."""

    def __init__(self, channels: int, out: int, told: int, grid: str = "") -> None:
        super().__init__()
        self.grid = grid
        self.before, self.first = nn.GroupNorm(32, channels), nn.Conv2d(channels, out, 3, padding=1)
        self.told, self.between = nn.Linear(told, 2 * out), nn.GroupNorm(32, out)
        self.second = nn.Conv2d(out, out, 3, padding=1)
        self.around = nn.Conv2d(channels, out, 1) if channels != out else nn.Identity()
        nn.init.zeros_(self.second.weight)

    def _resized(self, x: Tensor) -> Tensor:
        if self.grid == "half":
            return functional.avg_pool2d(x, 2)
        return functional.interpolate(x, scale_factor=2.0) if self.grid == "double" else x

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        h = self.first(self._resized(functional.silu(self.before(x))))
        scale, shift = self.told(functional.silu(told))[:, :, None, None].chunk(2, dim=1)
        h = functional.silu(self.between(h) * (1 + scale) + shift)
        h = self.second(functional.dropout(h, DROPOUT, self.training))
        return self.around(self._resized(x)) + h


class _Attention(nn.Module):
    """Each place looks at all others, by heads of 32 channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = channels // 32
        self.norm = nn.GroupNorm(32, channels)
        self.asked, self.out = nn.Conv1d(channels, 3 * channels, 1), nn.Conv1d(channels, channels, 1)
        nn.init.zeros_(self.out.weight)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        split = self.asked(self.norm(x).flatten(2)).view(n, self.heads, 96, h * w).transpose(2, 3)
        seen = functional.scaled_dot_product_attention(*split.chunk(3, dim=3))
        return x + self.out(seen.transpose(2, 3).reshape(n, c, h * w)).view(n, c, h, w)


def _waves(number: Tensor) -> Tensor:
    rates = torch.exp(-math.log(10_000) * torch.arange(INNER // 2) / (INNER // 2))
    angles = number.float()[:, None] * rates
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class Denoiser(nn.Module):
    """Predict the noise in a slice from it, its neighbours, its noise level and its number; sides multiples of 8."""

    def __init__(self) -> None:
        super().__init__()
        wide = 4 * INNER
        self.level = nn.Sequential(nn.Linear(INNER, wide), nn.SiLU(), nn.Linear(wide, wide))
        self.number = nn.Sequential(nn.Linear(INNER, wide), nn.SiLU(), nn.Linear(wide, wide))
        self.begin = nn.Conv2d(3, INNER, 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        channels, kept = INNER, [INNER]
        for level, many in enumerate(LEVELS):
            for _ in range(BLOCKS):
                self.down.append(_Residual(channels, many * INNER, 2 * wide))
                channels = many * INNER
                kept.append(channels)
            if level < len(LEVELS) - 1:
                self.down.append(_Residual(channels, channels, 2 * wide, "half"))
                kept.append(channels)
        self.middle = nn.ModuleList(
            [
                _Residual(channels, channels, 2 * wide),
                _Attention(channels),
                _Residual(channels, channels, 2 * wide),
            ]
        )
        for level, many in reversed(list(enumerate(LEVELS))):
            for _ in range(BLOCKS + 1):
                self.up.append(_Residual(channels + kept.pop(), many * INNER, 2 * wide))
                channels = many * INNER
            if level:
                self.up.append(_Residual(channels, channels, 2 * wide, "double"))
        self.end = nn.Sequential(nn.GroupNorm(32, channels), nn.SiLU(), nn.Conv2d(channels, 1, 3, padding=1))

    def forward(self, x: Tensor, level: Tensor, number: Tensor) -> Tensor:
        """Map (N, 3, H, W), levels (N,) and numbers (N,) to (N, 1, H, W)."""
        told = torch.cat([self.level(_waves(level)), self.number(_waves(number))], dim=1)
        x = self.begin(x)
        kept = [x]
        for block in self.down:
            x = block(x, told)
            kept.append(x)
        first, attention, second = self.middle
        x = second(attention(first(x, told)), told)
        for block in self.up:
            x = block(x if block.grid else torch.cat([x, kept.pop()], dim=1), told)
        return self.end(x)


def remaining(steps: int, first: float, last: float) -> tuple[Tensor, Tensor]:
    """Variances of each step, linear, and the part of the signal's that remains after it."""
    betas = torch.linspace(first, last, steps, dtype=torch.float64)
    return betas, torch.cumprod(1 - betas, dim=0)


def learn(
    slices: Tensor, factor: int, steps: int, seed: int, checkpoint: Checkpoint | None = None
) -> Denoiser:
    """Train on measured slices (S, H, W) in [-1, 1], y or x taken for z."""
    solid = slices.repeat_interleave(factor, dim=0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Denoiser()
    _, gammas = remaining(2000, 1e-6, 1e-2)

    def loss_of(net: nn.Module, step: int, part: slice) -> Tensor:
        rng = generator(seed, 61, step)
        stacks, numbers = [], torch.randint(factor - 1, (BATCH,), generator=rng)
        for number in numbers.tolist():
            axis, flips = (int(torch.randint(n, (1,), generator=rng)) for n in (2, 4))
            stack = solid.movedim(axis + 1, 0)
            y, z, x = (
                int(torch.randint(n - m + 1, (1,), generator=rng))
                for n, m in zip(stack.shape, (factor + 1, CROP, CROP), strict=True)
            )
            planes = stack[[y, y + factor, y + 1 + number], z : z + CROP, x : x + CROP]
            stacks.append(planes.flip([a for a in (1, 2) if flips >> (a - 1) & 1]))
        planes = torch.stack(stacks)
        at = torch.randint(1, 2000, (BATCH,), generator=rng)
        part_of = torch.rand(BATCH, generator=rng)
        gamma = (gammas[at - 1] + (gammas[at] - gammas[at - 1]) * part_of).float()
        noise = torch.randn(planes[:, 2:].shape, generator=rng)
        wide = gamma[:, None, None, None]
        noisy = wide.sqrt() * planes[:, 2:] + (1 - wide).sqrt() * noise
        found = net(torch.cat([planes[:, :2], noisy], dim=1)[part], gamma[part], numbers[part])
        return (found - noise[part]).square().sum() / noise.numel()

    network = train(network, loss_of, Plan(steps, BATCH, RATE, averaging=0.99), checkpoint).network
    assert isinstance(network, Denoiser)
    return network


@torch.no_grad()
def fill(network: Denoiser, below: Tensor, above: Tensor, factor: int, evaluations: int, seed: int) -> Tensor:
    """Missing slices between two measured ones (H, W) in [-1, 1]: a sample, (factor − 1, H, W)."""
    betas, gammas = remaining(evaluations, 1e-4, 0.09)
    rng = generator(seed, 62)
    many = factor - 1
    told = torch.stack([below, above]).expand(many, 2, *below.shape)
    numbers = torch.arange(many)
    x = torch.randn((many, 1, *below.shape), generator=rng)
    for step in reversed(range(evaluations)):
        gamma, beta = float(gammas[step]), float(betas[step])
        last = float(gammas[step - 1]) if step else 1.0
        noise = network(torch.cat([told, x], dim=1), torch.full((many,), gamma), numbers)
        clean = ((x - math.sqrt(1 - gamma) * noise) / math.sqrt(gamma)).clamp(-1, 1)
        x = (beta * math.sqrt(last) * clean + (1 - last) * math.sqrt(1 - beta) * x) / (1 - gamma)
        if step:
            x = x + math.sqrt(beta * (1 - last) / (1 - gamma)) * torch.randn(x.shape, generator=rng)
    return x[:, 0]
