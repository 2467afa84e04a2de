"""Passes over all particles, each compared with its few likeliest classes only."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from emflow.classify.model import Sums
from emflow.em.batches import in_batches
from emflow.em.images import ImageSet, shell_means, typical_spectra, weigh
from emflow.em.slices import complex_product
from emflow.em.turns import Turns

_PIXELS = 1 << 24
"""Pixels of images that are read at a time."""


@dataclass
class Assigned:
    """Class and pose of each of N particles."""

    candidates: Tensor
    """Likeliest classes, from 0, best first, (N, C)."""
    scores: Tensor
    """Log-likelihoods of the candidates, all angles and shifts taken together, (N, C)."""
    number: Tensor
    """Class, from 0, (N,)."""
    psi_deg: Tensor
    """rlnAnglePsi, (N,)."""
    shifts_px: Tensor
    """Shift (x, y) that centres the particle, (N, 2)."""
    probability: Tensor
    """Of the class among the candidates, (N,)."""
    evidence: Tensor
    """Log of the likelihood, averaged over classes, angles and shifts, over that of noise alone, (N,)."""

    @staticmethod
    def empty(count: int, candidates: int) -> Assigned:
        """Nothing known."""
        return Assigned(
            torch.zeros(count, candidates, dtype=torch.long),
            torch.zeros(count, candidates),
            torch.zeros(count, dtype=torch.long),
            torch.zeros(count),
            torch.zeros(count, 2),
            torch.zeros(count),
            torch.zeros(count),
        )


@dataclass(frozen=True)
class Explained:
    """How well its class explains each particle, per shell."""

    cross: Tensor
    """Σ Re(P* C y)/σ², (N, S)."""
    model: Tensor
    """Σ C²|P|²/σ², (N, S)."""
    image: Tensor
    """Σ |y|²/σ², (N, S)."""
    ctf: Tensor
    """Σ C², (N, S)."""
    pixels: Tensor
    """Half pixels of each shell, (S,)."""
    scale: Tensor
    """σ² by which they were divided, per group, (G, S)."""

    def rest(self) -> Tensor:
        """Power that is left, in units of σ²: (N, S)."""
        return (self.image - 2 * self.cross + self.model) / self.pixels

    def noise(self, images: ImageSet, rows: Tensor) -> Tensor:
        """Noise per group and shell, (G, S), as most of some particles show it."""
        group = images.group
        left = self.rest() * self.scale.cpu()[group]
        found, _ = typical_spectra(left[rows], group[rows], self.pixels)
        return found.clamp(min=1e-12).to(self.scale)


def _chunks(images: ImageSet) -> list[Tensor]:
    return list(torch.arange(len(images)).split(max(64, _PIXELS // images.box**2)))


def assign_near(
    images: ImageSet,
    noise: Tensor,
    turns: Turns,
    spectra: tuple[Tensor, Tensor],
    before: Assigned,
    moves_px: Tensor,
    favour: Tensor,
) -> tuple[Assigned, Sums]:
    """Compare each particle with its candidates at all angles, near its last shift, and sum it up.

    Parameters
    ----------
    images, noise, turns
        Images; noise (G, S); angles and pixels.
    spectra
        Averages for the particles of half-set 1 and of half-set 2, (K, 2, s, s) each.
    before
        Candidates and shifts.
    moves_px
        Small shifts, (T, 2).
    favour
        Log prior of the classes, (K,).
    """
    plane = turns.plane
    after = Assigned.empty(len(images), before.candidates.shape[1])
    sums = Sums.empty(len(spectra[0]), turns)
    moves_px = moves_px.to(plane.kx)
    phases = plane.phases(moves_px)
    grid = math.log(len(spectra[0]) * len(turns) * len(phases))
    for rows in _chunks(images):
        for half in (0, 1):
            part = rows[images.half[rows] == half + 1]

            def assign(here: slice, part: Tensor = part, half: int = half) -> None:
                _assign_part(
                    images,
                    noise,
                    turns,
                    spectra[half],
                    before,
                    after,
                    sums,
                    part[here],
                    half,
                    phases,
                    moves_px,
                    favour,
                )

            in_batches(assign, len(part), len(part), "images compared with a few classes")
    after.evidence -= grid
    return after, sums


def _assign_part(
    images: ImageSet, noise: Tensor, turns: Turns, spectra: Tensor, before: Assigned, after: Assigned, sums: Sums,
    part: Tensor, half: int, phases: Tensor, moves_px: Tensor, favour: Tensor,
) -> None:  # fmt: skip
    plane, q = turns.plane, len(turns)
    device = images.device
    transforms, ctf = images.transforms(part, plane)
    weighted = weigh(transforms, ctf, noise, images.group[part], plane)
    weighted = weighted.moved(plane.phases(before.shifts_px[part].to(plane.kx)))
    candidates = before.candidates[part]
    by_class = torch.full(candidates.shape, -math.inf, device=device)
    pose = torch.zeros(candidates.shape, dtype=torch.long, device=device)
    kept: list[tuple[int, Tensor, Tensor, Tensor]] = []
    for k in candidates.unique().tolist():
        row, column = torch.nonzero(candidates == k, as_tuple=True)
        row, column = row.to(device), column.to(device)
        slices = turns.slices(spectra[k : k + 1])[0]
        own = weighted[row]
        scores = own.shifted(phases).flatten(2) @ slices.flatten(1).T.mul(2)
        scores -= (own.power @ slices.square().sum(1).T)[:, None]
        flat = scores.flatten(1)
        by_class[row, column] = torch.logsumexp(flat, 1)
        pose[row, column] = flat.argmax(1)
        kept.append((k, row, column, scores))
    after.evidence[part] = torch.logsumexp(by_class, 1).cpu()
    scores_alone = by_class.clone()
    by_class += favour[candidates.to(device)]
    total = torch.logsumexp(by_class, 1)
    # a box may hold nothing: noise alone, at as many angles and shifts, is one more class
    whole = torch.logaddexp(total, torch.full_like(total, math.log(q * len(phases))))
    order = by_class.argsort(dim=1, descending=True, stable=True)[:, : after.candidates.shape[1]]
    after.candidates[part] = candidates.to(device).gather(1, order).cpu()
    after.scores[part] = scores_alone.gather(1, order).cpu()
    after.number[part] = after.candidates[part, 0]
    after.probability[part] = torch.exp(by_class.amax(1) - total).cpu()
    best = pose.gather(1, order[:, :1])[:, 0]
    after.psi_deg[part] = turns.angles_deg[best % q].float().cpu()
    after.shifts_px[part] = before.shifts_px[part] + moves_px[best // q].cpu()
    added = []
    for k, row, _, scores in kept:
        weight = torch.exp(scores + favour[k] - whole[row, None, None])
        own = weighted[row]
        numerator = weight.flatten(0, 1).T @ own.shifted(phases).flatten(2).flatten(0, 1)
        by_angle = weight.sum(1)
        denominator = by_angle.T @ own.power
        cube = turns.insert(numerator.view(1, q, 2, -1), denominator[None])
        added.append((k, cube[0], by_angle.sum()))
    for k, grid, count in added:
        sums.grid[half, k] += grid
        sums.count[half, k] += count


def explain(
    images: ImageSet, noise: Tensor, turns: Turns, spectra: Tensor | tuple[Tensor, Tensor], assigned: Assigned
) -> Explained:
    """Compare each particle with its own class at its own pose, shell by shell."""
    plane = turns.plane
    shells = int(plane.shell[-1]) + 1
    out = torch.zeros(4, len(images), shells)
    pixels = torch.bincount(plane.shell, minlength=shells).float()
    spectra = spectra if isinstance(spectra, tuple) else (spectra, spectra)
    for chunk in _chunks(images):
        for half in (0, 1):
            rows = chunk[images.half[chunk] == half + 1]

            def compare(some: slice, mine: Tensor = rows, half: int = half) -> None:
                rows = mine[some]
                transforms, ctf = images.transforms(rows, plane)
                transforms = complex_product(transforms, plane.phases(assigned.shifts_px[rows].to(plane.kx)))
                inverse = 1 / noise[:, plane.shell].clamp(min=1e-20)[images.group[rows].to(noise.device)]
                predicted = torch.empty_like(transforms)
                for k in assigned.number[rows].unique().tolist():
                    here = torch.nonzero(assigned.number[rows] == k)[:, 0]
                    angles = assigned.psi_deg[rows[here]].to(images.device)
                    own = Turns.build(plane, angles, turns.padding)
                    predicted[here.to(images.device)] = own.slices(spectra[half][k : k + 1])[0]
                predicted = predicted * ctf[:, None]
                for place, value in enumerate(
                    (
                        (predicted * transforms).sum(1) * inverse,
                        predicted.square().sum(1) * inverse,
                        transforms.square().sum(1) * inverse,
                        ctf.square(),
                    )
                ):
                    out[place, rows] = (shell_means(value, plane) * pixels.to(value)).cpu()

            in_batches(compare, len(rows), len(rows), "images compared with their class")
    return Explained(out[0], out[1], out[2], out[3], pixels.cpu(), noise[:, :shells])
