"""Poses by likelihood: a global search as matrix products, and local refinement in a growing band.

With white noise of power σ² at each half pixel, an image y seen through the CTF C from the slice P has

    log p(y | P) = Σ [2·Re(P*·C·y) − C²·|P|²]/σ² + a constant,

the sum over the pixels of the half plane (each stands for itself and its Friedel mate, which is why no
factor ½ remains). C·y/σ² and C²/σ² are all that is needed of an image. For B images at T shifts and Q
slices both terms are matrix products: (B·T × 2M)·(2M × Q) and (B × M)·(M × Q).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from emflow.device import free_memory_bytes
from emflow.em.batches import in_batches
from emflow.em.slices import HalfPlane, Spectrum, complex_product

_NEGLIGIBLE = 1e-3
"""An orientation is left out of a batch's sums where no image gives it this share of an even one."""
_SCORES = 1 << 22
"""Log-likelihoods held at a time on a CPU (16 MB); a GPU holds 64 times as many, if its memory allows."""
_SCORE_BYTES = 24
"""Per log-likelihood, with what is made of it on the way."""


@dataclass(frozen=True)
class WeightedImages:
    """Images as the likelihood sees them."""

    data: Tensor
    """C·y/σ², (B, 2, M)."""
    power: Tensor
    """C²/σ², (B, M)."""

    @staticmethod
    def make(transforms: Tensor, ctf: Tensor, inverse_noise: Tensor) -> WeightedImages:
        """From ``HalfPlane.transform`` (B, 2, M), the CTF (B, M) and 1/σ² (M,) or (B, M)."""
        weight = ctf * inverse_noise
        return WeightedImages(transforms * weight[:, None], ctf * weight)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, rows: slice | Tensor) -> WeightedImages:
        """Some of the images."""
        return WeightedImages(self.data[rows], self.power[rows])

    def within(self, count: int) -> WeightedImages:
        """The first pixels only: a smaller band."""
        return WeightedImages(self.data[:, :, :count], self.power[:, :count])

    def repeated(self, count: int) -> WeightedImages:
        """Each image ``count`` times in a row."""
        if count == 1:
            return self
        return WeightedImages(self.data.repeat_interleave(count, 0), self.power.repeat_interleave(count, 0))

    def moved(self, phases: Tensor) -> WeightedImages:
        """Each image moved by its own ``HalfPlane.phases``, (B, 2, M)."""
        return WeightedImages(complex_product(self.data, phases), self.power)

    def shifted(self, phases: Tensor) -> Tensor:
        """C·y/σ² moved by ``HalfPlane.phases``: (B, 2, M) times (T, 2, M) → (B, T, 2, M)."""
        return complex_product(self.data[:, None], phases)


@dataclass(frozen=True)
class References:
    """Slices of a map at a grid of orientations, laid out for matrix products."""

    rotations: Tensor
    """A, (Q, 3, 3)."""
    slices: Tensor
    """Twice the slices, (2M, Q)."""
    power: Tensor
    """|P|², (M, Q)."""

    @staticmethod
    def make(spectrum: Spectrum, rotations: Tensor, plane: HalfPlane) -> References:
        """Slice a map's transform."""
        slices = spectrum.slices(rotations, plane)
        power = slices.square().sum(1).T.contiguous()
        return References(rotations, slices.flatten(1).T.mul(2).contiguous(), power)

    def __len__(self) -> int:
        return len(self.rotations)


def batch_size(scores_per_image: int, device: torch.device) -> int:
    """Images whose scores are held at a time: fewer where memory is short."""
    room = _SCORES
    if device.type == "cuda":
        room = min(64 * _SCORES, free_memory_bytes(device) // _SCORE_BYTES)
    return max(1, room // max(1, scores_per_image))


def log_likelihoods(images: WeightedImages, references: References, phases: Tensor) -> Tensor:
    """Log-likelihood, up to a constant of the image, of every shift and orientation.

    Parameters
    ----------
    images
        B images within the references' band.
    references
        Q slices.
    phases
        Of T shifts, from ``HalfPlane.phases``, (T, 2, M).

    Returns
    -------
    Shape (B, T, Q).
    """
    scores = images.shifted(phases).flatten(2) @ references.slices
    scores -= (images.power @ references.power)[:, None]
    return scores


@dataclass(frozen=True)
class Expectation:
    """What the expectation step leaves of all images."""

    numerator: Tensor
    """Σ_i w(i, t, q)·C·y/σ² shifted by t, per orientation: (Q, 2, M)."""
    denominator: Tensor
    """Σ_i w(i, q)·C²/σ² per orientation, (Q, M)."""
    evidence: Tensor
    """Log of the likelihood summed over the grid with equal prior weights, per image: (B,)."""
    orientation: Tensor
    """Most likely orientation of each image, all shifts taken together, (B,)."""
    shift: Tensor
    """Most likely shift, all orientations taken together, (B,)."""
    mass: Tensor
    """Number of images at each orientation, (Q,); 0 where it is negligible."""


def expect(images: WeightedImages, references: References, phases: Tensor) -> Expectation:
    """Weigh every orientation and shift of every image by its posterior probability.

    The expectation step of maximum likelihood over poses (Sigworth, J. Struct. Biol. 122, 328, 1998), for
    the grid of ``references`` and ``phases``, equally likely beforehand.
    """
    q, t, m = len(references), len(phases), phases.shape[-1]
    data = images.data
    numerator = data.new_zeros(q, 2 * m)
    denominator, mass = data.new_zeros(q, m), data.new_zeros(q)

    def weigh(here: slice) -> tuple[Tensor, Tensor, Tensor]:
        batch = images[here]
        moved = batch.shifted(phases).flatten(2)
        scores = (moved @ references.slices).sub_((batch.power @ references.power)[:, None])
        scores, peak, total = _posterior(scores)
        evidence = peak + torch.log(total) - torch.log(torch.tensor(float(q * t)))
        by_orientation = scores.sum(1)
        orientation, shift = by_orientation.argmax(1), scores.sum(2).argmax(1)
        counted = (by_orientation.amax(0) > _NEGLIGIBLE / q).nonzero()[:, 0]
        if 2 * len(counted) >= q:
            weight = by_orientation.sum(0)
            numerator.addmm_(scores.flatten(0, 1).T, moved.flatten(0, 1))
            denominator.addmm_(by_orientation.T, batch.power)
            mass.add_(weight)
        else:
            scores, by_orientation = scores[:, :, counted], by_orientation[:, counted]
            some = (
                scores.flatten(0, 1).T @ moved.flatten(0, 1),
                by_orientation.T @ batch.power,
                by_orientation.sum(0),
            )
            for whole, part in zip((numerator, denominator, mass), some, strict=True):
                whole.index_add_(0, counted, part)
        return evidence, orientation, shift

    found = in_batches(weigh, len(images), batch_size(q * t, data.device), "images in a sum over poses")
    evidence, orientation, shift = (torch.cat(parts) for parts in zip(*found, strict=True))
    return Expectation(
        numerator.view(q, 2, m),
        denominator,
        evidence,
        orientation,
        shift,
        mass,
    )


def log_evidence(images: WeightedImages, references: References, phases: Tensor) -> Tensor:
    """Log of the likelihood averaged over the grid, (B,)."""
    count = len(references) * len(phases)

    def evidence(here: slice) -> Tensor:
        return torch.logsumexp(log_likelihoods(images[here], references, phases), (1, 2))

    size = batch_size(count, images.data.device)
    return torch.cat(in_batches(evidence, len(images), size, "images in a sum over poses")) - math.log(count)


def likeliest_shifts(images: WeightedImages, references: References, phases: Tensor) -> Tensor:
    """Most likely of T shifts for each image, all orientations taken together: indices (B,)."""

    def likeliest(here: slice) -> Tensor:
        return torch.logsumexp(log_likelihoods(images[here], references, phases), 2).argmax(1)

    size = batch_size(len(references) * len(phases), images.data.device)
    return torch.cat(in_batches(likeliest, len(images), size, "images in a sum over poses"))


def _posterior(scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Softmax over all but the first axis, in place: probabilities, the peak and the sum of exp(score − peak)."""
    peak = scores.flatten(1).amax(1)
    scores.sub_(peak[:, None, None]).exp_()
    total = scores.sum((1, 2))
    return scores.div_(total[:, None, None]), peak, total


@dataclass(frozen=True)
class Poses:
    """Candidate poses of images, best first."""

    rotations: Tensor
    """A, (B, K, 3, 3)."""
    shifts_px: Tensor
    """Shifts (x, y) that centre the particle, (B, K, 2)."""
    scores: Tensor
    """Log-likelihoods, (B, K)."""

    def __len__(self) -> int:
        return len(self.scores)


def search_globally(
    images: WeightedImages, references: References, plane: HalfPlane, shifts_px: Tensor, keep: int
) -> Poses:
    """Find the best orientations of a grid, each with its best shift.

    Parameters
    ----------
    images
        B images within the references' band.
    references, plane
        Q slices and their pixels.
    shifts_px
        Shifts to try: (T, 2) for all images.
    keep
        Candidates to return.
    """
    phases = plane.phases(shifts_px)
    keep = min(keep, len(references))

    def best_of(here: slice) -> tuple[Tensor, Tensor, Tensor]:
        best, shift = log_likelihoods(images[here], references, phases).max(1)
        top, orientation = best.topk(keep, 1)
        chosen = shifts_px[torch.gather(shift, 1, orientation)]
        return references.rotations[orientation], chosen, top

    size = batch_size(len(references) * len(phases), images.data.device)
    found = in_batches(best_of, len(images), size, "images in the global search")
    rotations, shifts, top = (torch.cat(parts) for parts in zip(*found, strict=True))
    return Poses(rotations, shifts, top)


def search_locally(
    images: WeightedImages,
    spectrum: Spectrum,
    plane: HalfPlane,
    poses: Poses,
    turns: Tensor,
    moves_px: Tensor,
    keep: int,
) -> Poses:
    """Try small rotations and shifts around each candidate and keep the best.

    Parameters
    ----------
    images
        B images within the band of ``plane``.
    spectrum
        The map.
    poses
        K candidates each.
    turns
        Small rotations, (L, 3, 3), multiplied from the left (``grids.local_rotations``).
    moves_px
        Small shifts, (T, 2).
    keep
        Candidates to return, of K·L with the best shift of each.
    """
    phases = plane.phases(moves_px)
    candidates, samples = poses.scores.shape[1], len(turns) * len(plane)

    def best_of(here: slice) -> tuple[Tensor, Tensor, Tensor]:
        batch = images[here]
        b, k, n = len(batch), candidates, len(turns)
        rotations = turns @ poses.rotations[here, :, None]
        centres = poses.shifts_px[here]
        slices = spectrum.slices(rotations.reshape(-1, 3, 3), plane).view(b * k, n, 2, -1)
        moved = complex_product(batch.data[:, None], plane.phases(centres))
        moved = complex_product(moved[:, :, None], phases).view(b * k, len(phases), -1)
        scores = 2 * torch.bmm(moved, slices.flatten(2).transpose(1, 2))
        power = slices.square_().sum(2).view(b, k * n, -1)
        loss = torch.bmm(power, batch.power[:, :, None]).view(b * k, 1, n)
        best, move = (scores - loss).max(1)
        top, index = best.view(b, k * n).topk(min(keep, k * n), 1)
        shifts = centres[:, :, None] + moves_px[move.view(b, k, n)]
        chosen = rotations.view(b, k * n, 9).gather(1, index[..., None].expand(-1, -1, 9))
        at = shifts.view(b, k * n, 2).gather(1, index[..., None].expand(-1, -1, 2))
        return chosen.view(b, -1, 3, 3), at, top

    size = batch_size(candidates * samples, images.data.device)
    found = in_batches(best_of, len(images), size, "images in the local search")
    rotations, shifts, top = (torch.cat(parts) for parts in zip(*found, strict=True))
    return Poses(rotations, shifts, top)
