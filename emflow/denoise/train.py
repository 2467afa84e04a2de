"""Learn to denoise from pairs of images with independent noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from emflow.denoise.config import DenoiseTrain
from emflow.denoise.noise import deviation_of, draw_noise, noise_spectrum, white_noise
from emflow.denoise.scale import Scale, Scaled, to_scale
from emflow.device import generator
from emflow.em.batches import in_batches
from emflow.nn.ranks import Ranks
from emflow.nn.tiles import crop
from emflow.nn.train import Checkpoint, Outcome, Plan, train

SPLIT = 0.7
"""Noise added to a single image, in its own noise's deviations; the target has 1/SPLIT of it taken away."""
_FLOOR = 0.1  # signal variance below which a micrograph's weight in the loss grows no more
_HELD_OUT_CROPS = 64


@dataclass(frozen=True)
class Sample:
    """What is learned from one micrograph, at the working scale: two images (2, h, w)."""

    images: Tensor
    kind: str
    """halves: two images of independent noise; single: the image twice; clean: the image and its truth."""
    noise: float
    """Deviation of the noise in the first image (1 is all of it)."""
    weight: float
    """In the loss: 1/(signal variance + a floor), so that no strong micrograph outweighs the weak."""
    spectrum: Tensor | None = None
    """Of that noise (single), as :func:`emflow.denoise.noise.noise_spectrum` has it; None for white."""


def sample_of_halves(even: Tensor, odd: Tensor, pixel_angstrom: float, scale: Scale, sign: float) -> Sample:
    """Make a sample from half sums of one scene (J. Lehtinen et al., Noise2Noise, ICML 2018)."""
    scaled = to_scale(even, pixel_angstrom, scale)
    second = to_scale(odd, pixel_angstrom, scale)
    return _sample(torch.stack([scaled.z, second.z]) * sign, "halves")


def sample_of_one(image: Tensor, pixel_angstrom: float, scale: Scale, sign: float) -> Sample:
    """Make a sample from a micrograph alone."""
    z = to_scale(image, pixel_angstrom, scale).z * sign
    return _sample(torch.stack([z, z]), "single")


def sample_of_clean(image: Tensor, clean: Tensor, pixel_angstrom: float, scale: Scale, sign: float) -> Sample:
    """Make a sample from a simulated micrograph and its noise-free image."""
    scaled: Scaled = to_scale(image, pixel_angstrom, scale)
    return _sample(torch.stack([scaled.z, scaled.like(clean, scale)]) * sign, "clean")


def _sample(images: Tensor, kind: str) -> Sample:
    spectrum = noise_spectrum(images[0]) if kind == "single" else None
    noise = white_noise(images[0]) if spectrum is None else deviation_of(spectrum)
    shared = float((images[0] * images[1]).mean())  # independent noises cancel: the signal's variance
    if kind == "single":
        shared -= noise**2
    return Sample(images, kind, noise, 1 / (max(shared, 0.0) + _FLOOR), spectrum)


def pair_of(sample: Sample, size: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw one crop, input and target, (size, size) each.

    - halves: one half and the other, in random order.
    - single: y + a·n and y − n/a with fresh noise n of the spectrum of the image's own. For Gaussian noise the two
      are independent, so that the pair is as good as halves (T. Pang et al., Recorrupted-to-Recorrupted, CVPR 2021).
    - clean: the image with up to as much noise again, and the truth, so that lower doses are seen too.
    """
    part = crop(sample.images, size, rng)
    if sample.kind == "halves":
        first = int(torch.randint(2, (1,), generator=rng))
        return part[first], part[1 - first]
    if sample.spectrum is not None:
        noise = draw_noise(sample.spectrum, (size, size), rng).to(part)
        norm = math.sqrt(1 + (SPLIT * sample.noise) ** 2)
        return (part[0] + SPLIT * noise) / norm, (part[1] - noise / SPLIT) / norm
    noise = sample.noise * torch.randn(size, size, generator=rng).to(part)
    added = float(torch.rand(1, generator=rng))
    norm = math.sqrt(1 + (added * sample.noise) ** 2)
    return (part[0] + added * noise) / norm, part[1] / norm


def batch_of(
    samples: Sequence[Sample],
    number: int,
    size: int,
    rng: torch.Generator,
    device: torch.device,
    part: slice = slice(None),
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw inputs and targets (number, 1, size, size) and weights (number, 1, 1, 1); a part of them, where one is named.

    All are drawn either way, so that a part is the same in whichever process.
    """
    chosen = torch.randint(len(samples), (number,), generator=rng).tolist()
    pairs = [pair_of(samples[i], size, rng) for i in chosen][part]
    inputs, targets = (torch.stack(images)[:, None].to(device) for images in zip(*pairs, strict=True))
    weights = torch.tensor([samples[i].weight for i in chosen[part]], device=device)[:, None, None, None]
    return inputs.contiguous(memory_format=torch.channels_last), targets, weights


def train_denoiser(
    network: nn.Module,
    samples: Sequence[Sample],
    cfg: DenoiseTrain,
    device: torch.device,
    checkpoint: Checkpoint | None = None,
    ranks: Ranks = Ranks(),
) -> Outcome:
    """Train on samples with the weighted squared error.

    The target's own noise adds a constant to it, so the loss falls by little; :func:`held_out_gain` tells
    what was learned.
    """

    def loss_of(net: nn.Module, step: int, part: slice) -> Tensor:
        rng = generator(cfg.seed, 31, step)
        inputs, targets, weights = batch_of(samples, cfg.batch, cfg.crop_px, rng, device, part)
        return (weights * (net(inputs) - targets) ** 2).mean() * (len(inputs) / cfg.batch)

    return train(network, loss_of, Plan(cfg.steps, cfg.batch, cfg.learning_rate), checkpoint, ranks)


@torch.no_grad()
def held_out_gain(
    network: nn.Module, samples: Sequence[Sample], cfg: DenoiseTrain, device: torch.device
) -> float:
    """Return the part of the shared signal's power that the network predicts of the other image.

    1 − E|f(x) − y|²/E|y|² counts y's own noise; set in relation to the signal's power E[x·y], 1 would be a
    perfect denoiser, 0 one that predicts nothing, less than 0 one that adds what is not there. Where no signal
    can be told from none (four standard errors), it is 0.
    """
    rng = generator(cfg.seed, 32)
    inputs, targets, _ = batch_of(samples, _HELD_OUT_CROPS, cfg.crop_px, rng, device)
    parts = in_batches(lambda here: network(inputs[here]), len(inputs), len(inputs), "held-out crops")
    predicted = torch.cat(parts)
    explained = float((targets**2 - (predicted - targets) ** 2).mean())
    signal = float((inputs * targets).mean())
    pixels = min(inputs.numel(), sum(sample.images[0].numel() for sample in samples))
    error = math.sqrt(float((inputs**2).mean() * (targets**2).mean()) / pixels)
    return explained / signal if signal > 4 * error else 0.0
