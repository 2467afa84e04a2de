"""Learn a sampler from thinned-out planes, and judge it on planes kept from the training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from emflow.device import generator
from emflow.nn.flow import follow
from emflow.nn.train import Checkpoint, Plan, train
from emflow.step import EmflowError
from emflow.vem.config import VemTrainSampler
from emflow.vem.gaps import COLUMNS, divide, fold, unfold
from emflow.vem.model import Filler
from emflow.vem.restore import fill_block
from emflow.vem.sampler import Flow, Sampler, tell
from emflow.vem.score import axial_spectra, high_frequency_power, psnr, ssim
from emflow.vem.texture import (
    AXIAL_REACH,
    LATERAL_REACH,
    Texture,
    choose,
    field_kernel,
    filtered,
    fitted,
)

ROWS = 72
"""Rows of a crop, as near as the factor allows: the filters need them, whatever the factor."""
_DESIGN, _JUDGED = 48, 32
"""Crops from which the texture is measured, and on which the sampler is judged."""


@dataclass(frozen=True)
class Planes:
    """Planes to be thinned out along their first axis: stacks (S, H, W), in the filler's units."""

    stacks: Sequence[Tensor]
    turn: bool
    """Whether both axes are alike, as those of a slice are."""

    def draw(self, factor: int, number: int, width: int, rng: torch.Generator) -> Tensor:
        """Draw crops, (number, factor · L + 1, width) or as large as the planes allow; flipped, and turned if alike.

        Raises
        ------
        EmflowError
            If the planes are too small.
        """
        height = min(min(stack.shape[1:]) if self.turn else stack.shape[1] for stack in self.stacks)
        width = min(width, *(min(stack.shape[1:]) if self.turn else stack.shape[2] for stack in self.stacks))
        gaps = min(round(ROWS / factor), (height - 1) // factor) // 2 * 2
        width = width // (4 * COLUMNS) * (4 * COLUMNS)
        if gaps * factor < 2 * AXIAL_REACH or width < 4 * LATERAL_REACH:
            raise EmflowError(
                f"Planes of {height} × {width} pixels are too small to learn texture from: expected at least "
                f"{2 * AXIAL_REACH + 2 * factor} × {4 * LATERAL_REACH}."
            )
        out = []
        for _ in range(number):
            stack = self.stacks[int(torch.randint(len(self.stacks), (1,), generator=rng))]
            chosen, turned, flips = (int(torch.randint(n, (1,), generator=rng)) for n in (len(stack), 2, 4))
            plane = stack[chosen].T if turned and self.turn else stack[chosen]
            y, x = (
                int(torch.randint(n - m + 1, (1,), generator=rng))
                for n, m in zip(plane.shape, (gaps * factor + 1, width), strict=True)
            )
            part = plane[y : y + gaps * factor + 1, x : x + width]
            axes = [axis for axis in (0, 1) if flips >> axis & 1]
            out.append(part.flip(axes) if axes else part)
        return torch.stack(out)


def whole(rows: Tensor, gaps: Tensor) -> Tensor:
    """Measured rows (N, L + 1, W) with what fills their gaps (N, L, factor − 1, W); (N, L · factor + 1, W)."""
    return torch.cat([torch.cat([rows[:, :-1, None], gaps], 2).flatten(1, 2), rows[:, -1:]], 1)


@torch.no_grad()
def saved_by_joining(filler: Filler, slices: Tensor) -> float:
    """Mean squared error that joining both families of planes saves, beside one family alone.

    The joined value's error and its distance from one family's are taken as independent.

    Parameters
    ----------
    slices
        Measured slices in the filler's units, (L + 1, H, W); strides cut off what is over.
    """
    down, across = filler.network.strides
    sides = [n // (across * COLUMNS) * (across * COLUMNS) for n in slices.shape[1:]]
    gaps = (len(slices) - 1) // down * down
    if not gaps or not all(sides):
        return 0.0
    part = slices[: gaps + 1, : sides[0], : sides[1]]
    joined = fill_block(filler, part)[0]
    first = tell(filler, part.permute(1, 0, 2)).mean.permute(1, 2, 0, 3)
    second = tell(filler, part.permute(2, 0, 1)).mean.permute(1, 2, 3, 0)
    return float((first - joined).square().mean() + (second - joined).square().mean()) / 2


@torch.no_grad()
def begin(
    filler: Filler, planes: Planes, error: float, cfg: VemTrainSampler, device: torch.device
) -> tuple[Sampler, Texture]:
    """Choose the texture and return a sampler that adds noise of its spectrum; its flow is not trained.

    Parameters
    ----------
    error
        Mean squared error of the restored volume, in the filler's units.
    """
    truth = planes.draw(filler.factor, _DESIGN, cfg.crop_px, generator(cfg.seed, 70)).to(device)
    rows, _ = divide(truth, filler.factor)
    filled = whole(rows, tell(filler, rows).mean)
    texture = choose(truth, filled, filler.factor, error, cfg.psnr_loss_db)
    kernel = field_kernel(filtered(truth - filled, texture.taps))
    noise = noise_of_planes(kernel, filler.factor, (_DESIGN, *truth.shape[1:]), generator(cfg.seed, 71))
    kernel /= noise.square().mean().sqrt().clamp_min(1e-6)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(cfg.seed)
        network = Flow(filler.factor).to(device)
    return Sampler(network, filler, texture.taps, kernel, math.sqrt(texture.variance)), texture


@torch.no_grad()
def plane_error(filler: Filler, planes: Planes, cfg: VemTrainSampler, device: torch.device) -> float:
    """Mean squared error of thinned-out planes, in the filler's units."""
    truth = planes.draw(filler.factor, _DESIGN, cfg.crop_px, generator(cfg.seed, 74)).to(device)
    rows, missing = divide(truth, filler.factor)
    return float((missing - tell(filler, rows).mean).square().mean())


def noise_of_planes(kernel: Tensor, factor: int, shape: tuple[int, int, int], rng: torch.Generator) -> Tensor:
    """Missing rows (N, L, factor − 1, W) of planes (N, L · factor + 1, W) through noise, each through another field."""
    number, height, width = shape
    deep, layers, wide = kernel.shape
    reach = AXIAL_REACH
    white = torch.randn((number, layers, height - 1 + 2 * reach + deep - 1, width + wide - 1), generator=rng)
    field = functional.conv2d(white, kernel.cpu().permute(1, 0, 2)[None])[:, 0]
    return fitted(field, factor, -reach)[:, reach:-reach].unflatten(1, (-1, factor))[:, :, 1:]


def _drawn(
    sampler: Sampler, planes: Planes, number: int, cfg: VemTrainSampler, rng: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Crops, and noise for their missing rows."""
    truth = planes.draw(sampler.filler.factor, number, cfg.crop_px, rng)
    shape = len(truth), truth.shape[1], truth.shape[2]
    return truth, noise_of_planes(sampler.kernel, sampler.filler.factor, shape, rng)


@torch.no_grad()
def texture_of(sampler: Sampler, truth: Tensor) -> tuple[Tensor, Tensor]:
    """The part of the filler's true error that is to be sampled, in missing rows, and what the flow is told."""
    factor = sampler.filler.factor
    rows, _ = divide(truth, factor)
    told = tell(sampler.filler, rows)
    error = filtered(truth - whole(rows, told.mean), sampler.taps)
    return divide(fitted(error, factor), factor)[1], told.folded


def train_flow(
    sampler: Sampler,
    planes: Planes,
    cfg: VemTrainSampler,
    device: torch.device,
    checkpoint: Checkpoint | None = None,
) -> Flow:
    """Train the flow: its velocity regresses r·cos θ − n·sin θ, for the texture r of the filler's true error."""
    first, _ = _drawn(sampler, planes, _DESIGN, cfg, generator(cfg.seed, 75))
    unit = max(float(texture_of(sampler, first.to(device))[0].square().mean().sqrt()), 1e-6)

    def loss_of(net: nn.Module, step: int, part: slice) -> Tensor:
        rng = generator(cfg.seed, 72, step)
        angle = (torch.rand(cfg.batch, generator=rng) * (math.pi / 2))[part].to(device)
        truth, noise = _drawn(sampler, planes, cfg.batch, cfg, rng)
        texture, told = texture_of(sampler, truth[part].to(device))
        r, n = fold(texture / unit), fold(noise[part].to(device))
        cos, sin = angle.cos().view(-1, 1, 1, 1), angle.sin().view(-1, 1, 1, 1)
        found = net(n * cos + r * sin, told, angle)
        error = (found - (r * cos - n * sin)).square()
        edge = min(-(-AXIAL_REACH // sampler.filler.factor), (error.shape[2] - 1) // 3)  # a filter cut off
        return error[:, :, edge : error.shape[2] - edge].mean() * (len(error) / cfg.batch)

    plan = Plan(cfg.steps, cfg.batch, cfg.learning_rate, averaging=0.995)
    network = train(sampler.network, loss_of, plan, checkpoint).network
    assert isinstance(network, Flow)
    return network


@torch.no_grad()
def strength(sampler: Sampler, planes: Planes, cfg: VemTrainSampler, device: torch.device) -> float:
    """Root mean square of what the flow makes of noise of deviation 1."""
    truth, noise = _drawn(sampler, planes, _DESIGN, cfg, generator(cfg.seed, 76))
    _, told = texture_of(sampler, truth.to(device))
    found = unfold(follow(sampler.network, fold(noise.to(device)), told, cfg.evaluations))
    return float(found.square().mean().sqrt())


@dataclass(frozen=True)
class Judged:
    """What planes kept from the training tell, without (mean) and with one sample's texture."""

    psnr_mean_db: float
    psnr_db: float
    power_mean: float
    power: float
    ssim_mean: float
    ssim: float


@torch.no_grad()
def judge(
    sampler: Sampler, unseen: Planes, evaluations: int, cfg: VemTrainSampler, device: torch.device
) -> Judged:
    """Fill thinned-out planes that were kept from the training, and compare mean and sample with the truth."""
    factor = sampler.filler.factor
    truth, noise = _drawn(sampler, unseen, _JUDGED, cfg, generator(cfg.seed, 73))
    truth = truth.to(device)
    rows, missing = divide(truth, factor)
    told = tell(sampler.filler, rows)
    texture = unfold(follow(sampler.network, fold(noise.to(device)), told.folded, evaluations))
    peak = float(truth.max() - truth.min()) or 1.0
    figures = []
    for gaps in (told.mean, told.mean + sampler.deviation * texture):
        filled = whole(rows, gaps)
        frequency, _, power = axial_spectra(filled, truth)
        figures += [
            psnr(gaps, missing, peak),
            high_frequency_power(frequency, power),
            ssim(filled, truth, peak),
        ]
    return Judged(figures[0], figures[3], figures[1], figures[4], figures[2], figures[5])
