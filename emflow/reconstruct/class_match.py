"""Classes of two half-sets that were found apart: which belong together, and how far the halves agree on them."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import adjusted_rand_score
from torch import Tensor

from emflow.em.fourier import resample
from emflow.em.frames import align_nearby
from emflow.em.symmetry import symmetry_operators
from emflow.em.volume_align import align_poses
from emflow.em.wiener import Accumulator
from emflow.reconstruct.agreement import Agreement, compare
from emflow.reconstruct.class_em import (
    add_up,
    class_maps,
    class_sums,
    expect_classes,
    likeliest,
    mean_of,
    prior_of,
)
from emflow.reconstruct.class_images import Posed, Specimen, Weighted
from emflow.reconstruct.classify3d import Found


@dataclass(frozen=True)
class MatchedClass:
    """A class as both half-sets see it."""

    half1: Tensor
    """Raw map of half 1's particles, weighted by their posteriors, (n, n, n)."""
    half2: Tensor
    agreement: Agreement
    """Of the two maps."""
    difference: Agreement
    """Of what each differs from its half's mean map: noise alone gives no agreement."""
    stability: float
    """Share of its particles that the other half's maps put into it too."""


@dataclass(frozen=True)
class Matched:
    """Classes of all particles, the largest first."""

    classes: list[MatchedClass]
    label: Tensor
    """Class of each image of the set, from 0, (N,)."""
    probability: Tensor
    """Posterior of that class, (N,)."""
    rotations: Tensor
    """A, (N, 3, 3)."""
    shifts_px: Tensor
    rand: float
    """Adjusted Rand index between the classes that a half-set found for its particles and those that the other
    half-set's maps give them; the mean of both ways. 0 is chance."""


def match(specimen: Specimen, found: tuple[Found, Found], relaxed: str, move: bool) -> Matched:
    """Match the classes of two half-sets.

    Each half's particles are sorted once more, by the other half's maps; the pairing of classes that most particles
    agree with is taken (prediction strength; Tibshirani & Walther, J. Comput. Graph. Stat. 14, 511, 2005).

    Parameters
    ----------
    specimen
        The particle.
    found
        Classes of half-sets 1 and 2.
    relaxed
        Group whose operators the candidates of a pose are.
    move
        Whether poses were searched, so that half 2's frame may have drifted from half 1's: undone as a whole.
    """
    band = max(half.band for half in found)
    images = [Weighted(specimen.images, half.posed, band) for half in found]
    means = [mean_of(specimen, own) for own in images]
    sums = [class_sums(specimen, own, half.posterior) for own, half in zip(images, found, strict=True)]
    if move:
        mean1, mean2 = (
            add_up([fold for folds in of_half for fold in folds]).solve() * specimen.sphere(of_half[0][0].box)
            for of_half in sums
        )
        found = found[0], _brought_back(specimen, found[1], mean1, mean2, relaxed)
        images[1] = Weighted(specimen.images, found[1].posed, band)
        means[1], sums[1] = mean_of(specimen, images[1]), class_sums(specimen, images[1], found[1].posterior)
    count = found[0].posterior.shape[1]
    own = [likeliest(half.posterior)[0] for half in found]
    other = []
    for here in (0, 1):
        there = 1 - here
        maps = class_maps(specimen, means[there], sums[there], found[there].fraction)
        prior = prior_of(found[there].posterior)
        expected = expect_classes(images[here], maps.mean(0, keepdim=True), prior, band)
        other.append(likeliest(expected.posterior)[0])
    # rows: half 1's classes, columns: half 2's
    table = np.zeros((count, count))
    np.add.at(table, (own[0].numpy(), other[0].numpy()), 1)
    np.add.at(table, (other[1].numpy(), own[1].numpy()), 1)
    first, second = linear_sum_assignment(-table)
    size = [int((own[0] == a).sum() + (own[1] == b).sum()) for a, b in zip(first, second, strict=True)]
    order = np.argsort(-np.array(size), kind="stable")
    first, second = first[order], second[order]
    rank = [torch.empty(count, dtype=torch.long) for _ in found]
    for half, members in enumerate((first, second)):
        rank[half][torch.from_numpy(members)] = torch.arange(count)
    own = [rank[half][labels] for half, labels in enumerate(own)]
    other = [rank[1 - half][labels] for half, labels in enumerate(other)]
    ordered = tuple(
        replace(half, posterior=half.posterior[:, torch.from_numpy(members)])
        for half, members in zip(found, (first, second), strict=True)
    )
    same = torch.cat([a == b for a, b in zip(own, other, strict=True)]).float()
    label = torch.cat(own)
    stability = [float(same[label == k].mean()) if bool((label == k).any()) else 0.0 for k in range(count)]
    rand = float(
        np.mean([adjusted_rand_score(a.numpy(), b.numpy()) for a, b in zip(own, other, strict=True)])
    )
    gauge = _gauges(specimen, ordered, relaxed)
    return _collect(specimen, ordered, gauge, stability, rand)


def _brought_back(specimen: Specimen, half2: Found, mean1: Tensor, mean2: Tensor, relaxed: str) -> Found:
    """Half 2 with the drift of its frame undone."""
    scale = specimen.images.box / mean1.shape[-1]
    alignment = align_nearby(mean2, mean1, specimen.symmetry, max(8, mean1.shape[-1] // 2 - 8))
    if alignment is None:
        return half2
    alignment = replace(alignment, shift=alignment.shift * scale)
    turned, shifts = align_poses(half2.posed.rotations[:, 0], half2.posed.shifts_px, alignment)
    rotations = turned.float()[:, None] @ symmetry_operators(relaxed).float()
    return replace(half2, posed=replace(half2.posed, rotations=rotations, shifts_px=shifts.float()))


def _gauges(specimen: Specimen, found: tuple[Found, ...], relaxed: str) -> list[Tensor]:
    """For each class, the operator that brings half 2's map onto half 1's: its poses A become A·g, (3, 3)."""
    operators = symmetry_operators(relaxed).float()
    count = found[0].posterior.shape[1]
    if len(operators) == 1:
        return [operators[0]] * count
    band = min(half.band for half in found)
    fixed = _raw(specimen, found[0], band, operators[0])
    best: list[tuple[float, Tensor]] = []
    for operator in operators:
        turned = _raw(specimen, found[1], band, operator)
        for k, (a, b) in enumerate(zip(fixed, turned, strict=True)):
            score = float((a * b).sum() / (a.norm() * b.norm()).clamp(min=1e-30))
            if len(best) <= k:
                best.append((score, operator))
            elif score > best[k][0]:
                best[k] = (score, operator)
    return [operator for _, operator in best]


def _raw(specimen: Specimen, half: Found, band: float, operator: Tensor) -> list[Tensor]:
    """Raw maps of a half's classes with every pose A taken as A·g; masked by the sphere."""
    turned = replace(half.posed, rotations=half.posed.rotations @ operator)
    sums = class_sums(specimen, Weighted(specimen.images, turned, band), half.posterior)
    return [add_up(folds).solve() * specimen.sphere(folds[0].box) for folds in sums]


def _collect(
    specimen: Specimen, found: tuple[Found, ...], gauge: list[Tensor], stability: list[float], rand: float
) -> Matched:
    """Raw half maps in the images' box, and how they agree."""
    images = specimen.images
    total = len(images)
    label, probability = torch.zeros(total, dtype=torch.long), torch.zeros(total)
    rotations, shifts = torch.empty(total, 3, 3), torch.empty(total, 2)
    raw: list[list[Tensor]] = []
    for number, half in enumerate(found):
        own, option, likely = likeliest(half.posterior)
        rows, place = half.posed.rows, torch.arange(len(half.posed))
        chosen = half.posed.rotations[place, option]
        posed: Posed = half.posed
        if number == 1:
            chosen = chosen @ torch.stack(gauge)[own]
        label[rows], probability[rows] = own, likely
        rotations[rows], shifts[rows] = chosen, posed.shifts_px
        raw.append(_full_maps(specimen, half, gauge if number == 1 else None))
    voxel, diameter = images.pixel_size_angstrom, specimen.diameter_px * images.pixel_size_angstrom
    means = [of_half.pop() for of_half in raw]
    focus = specimen.focus(images.box)
    classes = []
    for k, (half1, half2) in enumerate(zip(*raw, strict=True)):
        agreement = compare(half1, half2, voxel, diameter, specimen.symmetry)
        parts = [half - mean for half, mean in zip((half1, half2), means, strict=True)]
        if focus is not None:
            parts = [part * focus for part in parts]
        difference = compare(parts[0], parts[1], voxel, diameter, specimen.symmetry)
        classes.append(MatchedClass(half1, half2, agreement, difference, stability[k]))
    return Matched(classes, label, probability, rotations, shifts, rand)


def _full_maps(specimen: Specimen, half: Found, gauge: list[Tensor] | None) -> list[Tensor]:
    """Raw maps of a half's classes, and of all its particles, in the images' box."""
    images = Weighted(specimen.images, half.posed, specimen.images.box / 2)
    maps, sums = [], []
    for k in range(half.posterior.shape[1]):
        turned = images
        if gauge is not None and not torch.equal(gauge[k], torch.eye(3)):
            turned = copy.copy(images)
            turned.posed = replace(half.posed, rotations=half.posed.rotations @ gauge[k])
        folds = class_sums(specimen, turned, half.posterior[:, k : k + 1])[0]
        sums.append(add_up(folds))
        maps.append(_in_box(sums[-1], specimen))
    return [*maps, _in_box(add_up(sums), specimen)]


def _in_box(sums: Accumulator, specimen: Specimen) -> Tensor:
    """The raw map of sums on the images' grid."""
    volume, box = sums.solve(), specimen.images.box
    if sums.box == box:
        return volume
    return resample(volume, 1.0, box, sums.box / box) * (sums.box / box) ** 2
