"""A network that says how likely each pixel of a plane is membrane, and learns it from labelled planes."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional

from emflow.device import generator
from emflow.nn.tiles import crop, run_tiled
from emflow.nn.train import Checkpoint, Plan, train
from emflow.nn.unet import UNet, on_device
from emflow.vem.config import VemTrainMembranes

WIDTHS = (16, 32, 64, 128)
NEIGHBOURS = ((0, 3), (3, 0), (0, 9), (9, 0), (0, 27), (27, 0))
"""Offsets (down, across), in pixels, of the pairs of pixels whose togetherness the network learns beside membranes."""
_SIDE_WEIGHT = 0.5
_BATCH_PIXELS = 2**19


@dataclass
class MembraneNetwork:
    """A network with what turns its output into a probability."""

    network: UNet
    slope: float = 1.0
    offset: float = 0.0
    """The probability is σ(slope · logit + offset), found on held-out pixels."""
    turns: bool = True
    """Average over the eight ways to turn and flip a plane."""

    def probability(self, planes: Tensor) -> Tensor:
        """Membrane probability of planes.

        Parameters
        ----------
        planes
            (N, H, W) in units of the volume's deviation about its mean; sides are multiples of the network's stride.

        Returns
        -------
        (N, H, W), of which the outermost ``margin`` pixels see the planes' edges.
        """
        return self.calibrated(self.logits(planes))

    def calibrated(self, logits: Tensor) -> Tensor:
        """Turn logits into probabilities."""
        return torch.sigmoid(self.slope * logits + self.offset)

    @torch.no_grad()
    def logits(self, planes: Tensor) -> Tensor:
        """Mean over the turns of what the network says of planes (N, H, W), as for :meth:`probability`."""
        out = torch.zeros_like(planes)
        step = max(1, _BATCH_PIXELS // planes[0].numel())
        turns = list(itertools.product(range(4), (False, True))) if self.turns else [(0, False)]
        for first in range(0, len(planes), step):
            part = planes[first : first + step]
            for turn, flip in turns:
                seen = torch.rot90(part, turn, (1, 2))
                seen = seen.flip(2) if flip else seen
                found = self.network(seen[:, None].contiguous(memory_format=torch.channels_last))[:, 0]
                found = found.flip(2) if flip else found
                out[first : first + step] += torch.rot90(found, -turn, (1, 2)) / len(turns)
        return out

    @property
    def stride(self) -> int:
        """Of the network: sides of planes are multiples of it."""
        return self.network.stride

    @property
    def margin(self) -> int:
        """Of the network: so many pixels near a plane's edges see what is not there."""
        return self.network.margin

    def __call__(self, planes: Tensor) -> Tensor:
        """Logits (N, 1, H, W) of planes (N, 1, H, W), as tiling asks for them."""
        return self.logits(planes[:, 0])[:, None]

    def whole_logits(self, plane: Tensor) -> Tensor:
        """Logits of a whole plane (H, W) of any size, which is continued by its mirror image."""
        return run_tiled(self, plane)


def build(affinities: bool) -> UNet:
    """Return the network, with random first weights."""
    return UNet(WIDTHS, (1, 1 + len(NEIGHBOURS) * affinities))


def targets(labels: np.ndarray) -> np.ndarray:
    """Segments of a labelled plane, 0 where membrane is.

    Parameters
    ----------
    labels
        (H, W), 0 for membrane. With one other value it is a mask, whose connected parts are the segments. With
        more they are the segments; where two touch, the pixels on both sides are membrane.

    Returns
    -------
    int32.
    """
    inside = labels != 0
    if len(np.unique(labels[inside])) <= 1:
        return ndimage.label(inside)[0].astype(np.int32)
    touching = np.zeros(labels.shape, bool)
    for axis in (0, 1):
        a, b = (tuple(cut if i == axis else slice(None) for i in (0, 1)) for cut in (np.s_[:-1], np.s_[1:]))
        differ = (labels[a] != labels[b]) & inside[a] & inside[b]
        touching[a] |= differ
        touching[b] |= differ
    return np.where(touching, 0, labels).astype(np.int32)


def train_network(
    images: list[Tensor],
    labels: list[Tensor],
    cfg: VemTrainMembranes,
    device: torch.device,
    checkpoint: Checkpoint | None = None,
) -> MembraneNetwork:
    """Learn from labelled planes.

    Beside the membrane the network learns whether pixels some way apart are of one segment (affinities, K. Lee et
    al., arXiv:1706.00120); they share all layers but the last, and only the membrane is used afterwards. Crops are
    turned, flipped, bent, and changed in contrast, brightness and noise, at times so noisy that nothing can be
    known: so that the answer to noise is the share of membranes and no picture.

    Parameters
    ----------
    images
        Planes (H, W), in units of their volume's deviation about its mean.
    labels
        Segments (H, W), 0 for membrane, as :func:`targets` gives them.
    """
    pairs = NEIGHBOURS if cfg.affinities else ()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(cfg.seed)
        network = build(cfg.affinities)
    on_device(network, device)
    stacks = [
        torch.stack([image, label.to(image.dtype)]) for image, label in zip(images, labels, strict=True)
    ]
    areas = torch.tensor([float(image.numel()) for image in images])

    def loss_of(net: nn.Module, step: int, part: slice) -> Tensor:
        rng = generator(cfg.seed, 61, step)
        chosen = torch.multinomial(areas, cfg.batch, replacement=True, generator=rng)
        drawn = torch.stack([_drawn(stacks[int(i)], cfg, rng) for i in chosen])[part].to(device)
        segments = drawn[:, 1]
        out = net(drawn[:, :1].contiguous(memory_format=torch.channels_last))
        loss = functional.binary_cross_entropy_with_logits(out[:, 0], (segments == 0).float())
        for channel, offset in enumerate(pairs, start=1):
            loss = loss + _SIDE_WEIGHT / len(pairs) * _affinity_loss(out[:, channel], segments, offset)
        return loss * (len(drawn) / cfg.batch)

    plan = Plan(cfg.steps, cfg.batch, cfg.learning_rate, averaging=0.99)
    trained = train(network, loss_of, plan, checkpoint).network
    assert isinstance(trained, UNet)
    return MembraneNetwork(trained, turns=cfg.turns)


def _affinity_loss(logits: Tensor, segments: Tensor, offset: tuple[int, int]) -> Tensor:
    down, across = offset
    height, width = segments.shape[1:]
    here, there = segments[:, : height - down, : width - across], segments[:, down:, across:]
    together = (here == there) & (here != 0)
    return functional.binary_cross_entropy_with_logits(
        logits[:, : height - down, : width - across], together.float()
    )


def _drawn(stack: Tensor, cfg: VemTrainMembranes, rng: torch.Generator) -> Tensor:
    """A crop of an image and its labels (2, H, W), changed at random."""
    if not cfg.augment:
        return crop(stack, cfg.crop_px, rng)
    bent, contrast, brightness, noisy = torch.rand(4, generator=rng).tolist()
    if bent < 0.5:
        part = _bent(crop(stack, cfg.crop_px * 3 // 2, rng), cfg.crop_px, rng)
    else:  # as sharp as the image is: bending interpolates
        part = crop(stack, cfg.crop_px, rng)
    image = part[0] * (0.6 + 0.8 * contrast) + (brightness - 0.5)
    if noisy < 0.3:
        level = 3.0 * float(torch.rand(1, generator=rng)) ** 3
        image = image + level * torch.randn(image.shape, generator=rng)
        image = image / (1 + level**2) ** 0.5  # a volume is brought to unit deviation, noise and all
    return torch.stack([image, part[1]])


def _bent(stack: Tensor, size: int, rng: torch.Generator) -> Tensor:
    """The middle of (2, H, W), turned, stretched and bent smoothly; labels by nearest pixels."""
    height = stack.shape[1]
    angle = (float(torch.rand(1, generator=rng)) - 0.5) * 1.57
    stretch = 1 + (torch.rand(2, generator=rng) - 0.5) * 0.3
    turn = torch.tensor(
        [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]], dtype=torch.float32
    )
    axis = (torch.arange(size) + 0.5 - size / 2) * (2 / height)
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1).flip(-1) @ (turn * stretch)
    knots = torch.randn(1, 2, 6, 6, generator=rng) * (4.0 / height)
    bend = functional.interpolate(knots, size=(size, size), mode="bicubic", align_corners=True)
    grid = (grid + bend[0].permute(1, 2, 0))[None]
    image = functional.grid_sample(
        stack[None, :1], grid, mode="bilinear", padding_mode="reflection", align_corners=False
    )
    label = functional.grid_sample(
        stack[None, 1:], grid, mode="nearest", padding_mode="reflection", align_corners=False
    )
    return torch.cat([image[0], label[0]])


def calibrate(logits: Tensor, membrane: Tensor) -> tuple[float, float]:
    """Slope and offset that make σ(slope · logit + offset) likeliest (J. Platt, 1999), by Newton's method.

    Parameters
    ----------
    logits, membrane
        Of held-out pixels, one shape.
    """
    x, y = logits.double().flatten(), membrane.double().flatten()
    features = torch.stack([x, torch.ones_like(x)])
    found = torch.tensor([1.0, 0.0], dtype=torch.float64, device=x.device)
    for _ in range(20):
        p = torch.sigmoid(found @ features)
        gradient = features @ (p - y) / len(x)
        curvature = (features * (p * (1 - p))) @ features.T / len(x) + 1e-6 * torch.eye(2, device=x.device)
        step = torch.linalg.solve(curvature, gradient)
        found = found - step * min(1.0, 2.0 / float(step.abs().max() + 1e-12))
        if float(step.abs().max()) < 1e-6:
            break
    return float(found[0]), float(found[1])
