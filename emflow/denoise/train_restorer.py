"""Learn the error of a regression from simulated micrographs, whose noise-free images are known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from emflow.denoise.config import DenoiseTrainRestorer
from emflow.denoise.restorer import KERNEL_PX, Moments, Restorer
from emflow.denoise.train import Sample, batch_of
from emflow.device import generator
from emflow.nn.flow import follow
from emflow.nn.train import Checkpoint, Plan, train
from emflow.nn.unet import UNet

_MEASURED, _JUDGED = 48, 12
"""Crops from which the error's spectrum is taken, and on which the samples are judged."""
_EVEN = 0.5
"""Part of the flow's loss in which every place counts alike; in the rest those with large errors count more."""


@dataclass(frozen=True)
class Seen:
    """A batch: what the restorer is told (N, 3, H, W), and the mean's error over its deviation (N, 1, H, W)."""

    told: Tensor
    ratio: Tensor
    deviation: Tensor


@torch.no_grad()
def _errors(mean: UNet, drawn: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Noisy images with their means (N, 2, H, W), and the means' errors (N, 1, H, W)."""
    noisy, clean, _ = drawn
    found = mean(noisy)
    return torch.cat([noisy, found], 1), clean - found


@torch.no_grad()
def _seen(restorer: Restorer, mean: UNet, drawn: tuple[Tensor, Tensor, Tensor]) -> Seen:
    seen, error = _errors(mean, drawn)
    log_deviation = restorer.log_deviation(seen)
    return Seen(torch.cat([seen, log_deviation], 1), error * (-log_deviation).exp(), log_deviation.exp())


def train_restorer(
    restorer: Restorer,
    mean: UNet,
    samples: Sequence[Sample],
    cfg: DenoiseTrainRestorer,
    device: torch.device,
    checkpoints: tuple[Checkpoint | None, Checkpoint | None] = (None, None),
) -> tuple[Restorer, list[float], list[float]]:
    """Train the deviation, take the error's spectrum, then train the flow; return the losses of both trainings.

    The deviation minimises log s + e²/2s², the flow (v − (r·cos θ − n·sin θ))² for r = e/s and noise n.
    """

    def drawn(stream: int, step: int, part: slice) -> tuple[Tensor, Tensor, Tensor]:
        return batch_of(samples, cfg.batch, cfg.crop_px, generator(cfg.seed, stream, step), device, part)

    def deviation_loss(net: nn.Module, step: int, part: slice) -> Tensor:
        seen, error = _errors(mean, drawn(35, step, part))
        log_deviation = net(seen).clamp(-5, 5)
        loss = log_deviation + 0.5 * (error * (-log_deviation).exp()).square()
        return loss.mean() * (len(error) / cfg.batch)

    def flow_loss(net: nn.Module, step: int, part: slice) -> Tensor:
        seen = _seen(restorer, mean, drawn(36, step, part))
        rng = generator(cfg.seed, 37, step)
        angle = (torch.rand(cfg.batch, generator=rng) * (math.pi / 2))[part].to(device)
        noise = noise_of(restorer.kernel, (cfg.batch, cfg.crop_px, cfg.crop_px), rng)[part].to(device)
        cos, sin = angle.cos().view(-1, 1, 1, 1), angle.sin().view(-1, 1, 1, 1)
        turn = torch.stack([angle.sin(), angle.cos()], 1)[:, :, None, None]
        place = noise * cos + seen.ratio * sin
        found = net(torch.cat([place, seen.told, turn.expand(-1, -1, *place.shape[2:])], 1))
        power = seen.deviation.square()
        weight = _EVEN + (1 - _EVEN) * power / power.mean()
        missed = (found - (seen.ratio * cos - noise * sin)).square()
        return (weight * missed).mean() * (len(missed) / cfg.batch)

    plan = Plan(cfg.deviation_steps, cfg.batch, cfg.learning_rate)
    learned = train(restorer.deviation, deviation_loss, plan, checkpoints[0])
    restorer.deviation.load_state_dict(learned.network.state_dict())
    rng = generator(cfg.seed, 38)
    measured = _seen(restorer, mean, batch_of(samples, _MEASURED, cfg.crop_px, rng, device)).ratio[:, 0]
    restorer.kernel.copy_(kernel_of(measured))
    plan = Plan(cfg.steps, cfg.batch, cfg.learning_rate, averaging=0.995)
    flown = train(restorer.flow, flow_loss, plan, checkpoints[1])
    restorer.flow.load_state_dict(flown.network.state_dict())
    return restorer.eval().requires_grad_(False), learned.losses, flown.losses


def kernel_of(images: Tensor) -> Tensor:
    """Kernel (KERNEL_PX, KERNEL_PX) that gives white noise the spectrum of images (N, h, w), alike in all directions."""
    side = images.shape[-1]
    line = torch.hann_window(side, periodic=False, device=images.device)
    window = line[:, None] * line
    power = (torch.fft.rfft2(images * window).abs() ** 2).mean(0).double().cpu() / window.square().sum().cpu()
    ring = (
        (torch.hypot(torch.fft.fftfreq(side)[:, None], torch.fft.rfftfreq(side)[None]) * side).round().long()
    )
    count, total = (
        torch.zeros(side, dtype=torch.float64).index_add(0, ring.flatten(), values.flatten())
        for values in (torch.ones_like(power), power)
    )
    rings = total / count.clamp(min=1)
    wide = 2 * KERNEL_PX
    at = torch.hypot(torch.fft.fftfreq(wide)[:, None], torch.fft.fftfreq(wide)[None]).double() * side
    inner = at.floor().long().clamp(max=int(ring.max()) - 1)
    amplitude = torch.lerp(rings[inner], rings[inner + 1], (at - inner).clamp(max=1)).clamp(min=0).sqrt()
    kernel = torch.fft.fftshift(torch.fft.ifft2(amplitude).real)
    middle = slice(wide // 2 - KERNEL_PX // 2, wide // 2 + KERNEL_PX // 2 + 1)
    taper = torch.hann_window(KERNEL_PX + 2, periodic=False, dtype=torch.float64)[1:-1].sqrt()
    kernel = kernel[middle, middle] * taper[:, None] * taper
    return (kernel * (images.square().mean().sqrt().cpu() / kernel.square().sum().sqrt())).to(images)


def noise_of(kernel: Tensor, shape: tuple[int, int, int], rng: torch.Generator) -> Tensor:
    """Coloured noise (N, 1, h, w) on tori."""
    sides = shape[1], shape[2]
    gain = torch.fft.rfft2(kernel.cpu(), s=sides).abs()  # the place of the noise does not matter
    white = torch.randn(shape[0], 1, *sides, generator=rng)
    return torch.fft.irfft2(torch.fft.rfft2(white) * gain, s=sides)


@dataclass(frozen=True)
class Judged:
    """What micrographs kept from the training tell, in their own deviations."""

    error: float
    """Root mean square of the regression's error."""
    spread: float
    """Root mean square of the deviation that the samples tell."""
    error_of_mean: float
    """Root mean square error of the mean of the samples."""

    @property
    def widening(self) -> float:
        """Times which errors are larger than the samples tell."""
        return self.error_of_mean / max(self.spread, 1e-6)


@torch.no_grad()
def judge(
    restorer: Restorer, mean: UNet, samples: Sequence[Sample], cfg: DenoiseTrainRestorer, device: torch.device
) -> Judged:
    """Compare the error with what the samples tell of it, on crops."""
    rng = generator(cfg.seed, 39)
    seen = _seen(restorer, mean, batch_of(samples, _JUDGED, cfg.crop_px, rng, device))
    moments = Moments.like(seen.ratio)
    for _ in range(2):
        noise = noise_of(restorer.kernel, (_JUDGED, cfg.crop_px, cfg.crop_px), rng).to(device)
        first, second = (
            seen.deviation * follow(restorer.velocity, way * noise, seen.told, cfg.evaluations)
            for way in (1, -1)
        )
        moments.add(first, second)
    error = seen.deviation * seen.ratio
    missed = error - moments.mean()
    return Judged(*(float(v.square().mean().sqrt()) for v in (error, moments.deviation(), missed)))
