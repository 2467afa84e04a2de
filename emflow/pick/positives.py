"""Learn what a particle looks like from some labelled ones, without examples of what is none."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor, nn
from torch.nn import functional

from emflow.device import generator
from emflow.nn.train import Plan, train
from emflow.nn.unet import UNet, on_device
from emflow.pick.calibration import Calibration
from emflow.pick.config_tools import PickTrain
from emflow.pick.prior import calibrate, part_of_particles
from emflow.pick.view import View, peaks_of

log = logging.getLogger("emflow")

CENTRE = 0.16
"""Radius around a centre in which pixels count as the particle, in diameters."""
NEAR = 0.35
"""Distance at which a peak is a label's, in diameters."""
BALANCE = 0.3
"""Weight of the positive risk against that of the rest."""
WARM = 0.4
"""Part of the steps in which whatever is not labelled counts as none; then the class prior is estimated."""
MEMBERS = 3


@dataclass(frozen=True)
class Example:
    """A micrograph's view with its labels."""

    view: View
    labels: np.ndarray
    """Places (n, 2) as y, x in pixels of the view."""


@dataclass(frozen=True)
class Learned:
    """What was learned."""

    networks: list[UNet]
    calibration: Calibration
    held_out: np.ndarray
    """Score of each label by the network that had not seen it, in the examples' order; −inf where it has no peak."""
    peaks: np.ndarray
    """Scores of all peaks in the examples, by each network."""
    losses: list[float]
    particles: float
    """Part of the peaks that are particles."""


def learn(examples: Sequence[Example], cfg: PickTrain, device: torch.device) -> Learned:
    """Train three networks, each without a third of the labels, and calibrate their mean on these.

    Parameters
    ----------
    examples
        Micrographs; those without labels tell what else there is.
    """
    rng = generator(cfg.seed, 61)
    fold = [torch.randperm(len(e.labels), generator=rng).numpy() % MEMBERS for e in examples]
    networks: list[UNet] = []
    held = [np.full(len(e.labels), -np.inf) for e in examples]
    scores, losses = [], []
    for member in range(MEMBERS):
        known = [e.labels[f != member] for e, f in zip(examples, fold, strict=True)]
        network, loss = _train_member(examples, known, cfg, member, device)
        networks.append(network)
        losses += loss
        for number, example in enumerate(examples):
            found, label = label_scores([network], example)
            held[number][fold[number] == member] = label[fold[number] == member]
            scores.append(found)
        log.info("network %d of %d trained", member + 1, MEMBERS)
    peaks, labels = np.concatenate(scores), np.concatenate(held)
    return Learned(
        networks, calibrate(peaks, labels), labels, peaks, losses, part_of_particles(peaks, labels)
    )


def label_scores(networks: list[UNet], example: Example) -> tuple[np.ndarray, np.ndarray]:
    """Scores of all peaks, and of each label's peak (−inf where none is near)."""
    peaks = peaks_of(networks, example.view, 2 * NEAR)
    label = np.full(len(example.labels), -np.inf)
    if len(label) and len(peaks.score):
        places = example.view.place(peaks.xy_px)
        distance, nearest = cKDTree(places).query(example.labels)
        near = distance <= NEAR * example.view.diameter
        label[near] = peaks.score[nearest[near]]
    return peaks.score, label


def _train_member(
    examples: Sequence[Example], known: list[np.ndarray], cfg: PickTrain, member: int, device: torch.device
) -> tuple[UNet, list[float]]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(cfg.seed * MEMBERS + member)
        network = on_device(UNet(cfg.widths), device)
    maps = [_labelled(e, labels) for e, labels in zip(examples, known, strict=True)]
    warm = max(1, round(WARM * cfg.steps))

    def loss_with(prior: float, stream: int):  # type: ignore[no-untyped-def]
        def loss_of(net: nn.Module, step: int, part: slice) -> Tensor:
            rng = generator(cfg.seed, 62, member, stream, step)
            images, targets, weights = (t.to(device)[part] for t in _batch(examples, known, maps, cfg, rng))
            share = len(images) / cfg.batch
            return share * positive_unlabelled_risk(net(images), targets, weights, prior)

        return loss_of

    plan = Plan(warm, cfg.batch, cfg.learning_rate, averaging=0.9)
    first = train(network, loss_with(0.0, 0), plan)
    prior = _pixel_prior(first.network, examples, known)  # type: ignore[arg-type]
    log.info("class prior of a pixel: %.4f", prior)
    plan = Plan(max(1, cfg.steps - warm), cfg.batch, cfg.learning_rate, averaging=0.95)
    second = train(network, loss_with(prior, 1), plan)
    return second.network.requires_grad_(False), first.losses + second.losses  # type: ignore[return-value]


def positive_unlabelled_risk(logit: Tensor, positive: Tensor, weight: Tensor, prior: float) -> Tensor:
    """Non-negative risk of positive and unlabelled pixels, balanced.

    b·E_P[ℓ(f)] + (1−b)/(1−π)·max(0, E_U[ℓ(−f)] − π·E_P[ℓ(−f)]) with the logistic loss ℓ (R. Kiryo et al., NeurIPS 2017;
    balanced as by G. Su et al., IJCAI 2021). Where the second term is negative, the network has learned which particles
    are labelled: then that alone is undone.

    Parameters
    ----------
    logit, positive
        Shape (N, 1, H, W); 1 on the labelled centres.
    weight
        1 where a pixel counts among the unlabelled: in the first half of the batch nowhere but at labels.
    prior
        Class prior π of an unlabelled pixel.
    """
    n_positive, n_all = positive.sum().clamp_min(1.0), weight.sum().clamp_min(1.0)
    miss = (functional.softplus(-logit) * positive).sum() / n_positive
    hit = (functional.softplus(logit) * positive).sum() / n_positive
    rest = (functional.softplus(logit) * weight).sum() / n_all - prior * hit
    scale = (1 - BALANCE) / (1 - prior)
    return -scale * rest if float(rest.detach()) < 0 else BALANCE * miss + scale * rest


def _pixel_prior(network: UNet, examples: Sequence[Example], known: list[np.ndarray]) -> float:
    """Part of the pixels that are particles' centres: from the part of peaks that are, and their number."""
    peaks, labels, room, disc = [], [], 0.0, 0.0
    for example, places in zip(examples, known, strict=True):
        found, label = label_scores([network.eval()], Example(example.view, places))
        peaks.append(found)
        labels.append(label)
        room += float(example.view.weight.sum())
        disc = max(disc, math.pi * (CENTRE * example.view.diameter) ** 2)
    scores = np.concatenate(peaks)
    return min(0.5, part_of_particles(scores, np.concatenate(labels)) * len(scores) * disc / max(room, 1.0))


def _labelled(example: Example, places: np.ndarray) -> Tensor:
    """1 on the pixels around labelled centres, (y, x)."""
    marks = torch.zeros_like(example.view.image)
    if len(places):
        radius = CENTRE * example.view.diameter
        pixel = np.indices(marks.shape).reshape(2, -1).T
        near = cKDTree(places).query(pixel, distance_upper_bound=radius)[0] <= radius
        marks = torch.from_numpy(near.reshape(marks.shape)).to(marks)
    return marks


def _batch(
    examples: Sequence[Example],
    known: list[np.ndarray],
    maps: list[Tensor],
    cfg: PickTrain,
    rng: torch.Generator,
) -> tuple[Tensor, Tensor, Tensor]:
    """Crops, labelled pixels and weights (N, 1, c, c): in the first half around labels, in the second anywhere.

    Turned and mirrored at random. Only crops from anywhere tell what there is: around labels it is not as elsewhere.
    """
    owner = np.concatenate([np.full(len(places), i) for i, places in enumerate(known)])
    places = np.concatenate(known)
    half, size = cfg.batch // 2, cfg.crop_px
    area = torch.tensor([float(e.view.image.numel()) for e in examples])
    chosen = torch.randint(len(places), (half,), generator=rng).numpy()
    anywhere = torch.multinomial(area, cfg.batch - half, replacement=True, generator=rng).tolist()
    shift = (torch.rand(cfg.batch, 2, generator=rng).numpy() - 0.5) * size * 0.6
    turns = torch.randint(8, (cfg.batch,), generator=rng).tolist()
    uniform = torch.rand(cfg.batch, 2, generator=rng).numpy()
    crops: list[list[Tensor]] = []
    for number in range(cfg.batch):
        around = number < half
        index = int(owner[chosen[number]]) if around else anywhere[number - half]
        view = examples[index].view
        limit = np.array(view.image.shape) - size
        start = places[chosen[number]] + shift[number] - size / 2 if around else uniform[number] * (limit + 1)
        y, x = np.clip(start.astype(int), 0, np.maximum(limit, 0)).tolist()
        window = (slice(y, y + size), slice(x, x + size))
        mark = maps[index][window] * view.weight[window]
        layers = [view.image[window], mark, view.weight[window] * (not around)]
        if not around:
            layers[1] = torch.zeros_like(mark)
        crops.append([_padded(_turned(layer, turns[number]), size) for layer in layers])
    images, targets, weights = (torch.stack(layers)[:, None] for layers in zip(*crops, strict=True))
    return images.contiguous(memory_format=torch.channels_last), targets, weights


def _turned(image: Tensor, turn: int) -> Tensor:
    turned = torch.rot90(image, turn % 4)
    return turned.flip(0) if turn >= 4 else turned


def _padded(image: Tensor, size: int) -> Tensor:
    """Fill up crops of a micrograph that is smaller than they are; what is filled in has weight 0."""
    return functional.pad(image, (0, size - image.shape[1], 0, size - image.shape[0]))
