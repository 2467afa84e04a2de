"""Poses to the bottom of their likelihood, and how sure each is: Gauss-Newton in five dimensions.

Around a pose (A, s) the slice P changes by D·θ, θ = (ω, δ): a rotation vector ω multiplied from the left,
exp(ω)·A, and a shift δ. With C·y/σ² moved by s, the log-likelihood of :mod:`emflow.em.search` has the gradient
2·Re(D*(C·y/σ² − C²/σ²·P)) and the Fisher information 2·Re(D*·C²/σ²·D). Seven slices a step replace the dozens
of a grid; the inverse of the information is the covariance of the pose (Laplace's approximation).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from emflow.em.batches import in_batches
from emflow.em.poses import rotation_vector_to_matrix
from emflow.em.search import Poses, WeightedImages, batch_size
from emflow.em.slices import HalfPlane, Spectrum, complex_product

MAX_TURN = 2.0
"""Longest step in rotation, in units of band⁻¹ (one step moves the outermost pixels by no more frequency indices)."""
MAX_SHIFT = 1.0
"""Longest step in shift, in pixels of the band (box/2/band pixels of the image)."""


LEAST = 1.0
"""Information that is taken for granted: a direction in which the map says nothing stays as uncertain as a radian
or a pixel."""

UNDAMPED = 1e-3
"""Damping of a step whose last one raised the likelihood."""
TRUSTED = 0.1
"""Log-likelihood promised below which an undamped step is taken without looking, as the last: it is less than half of the
pose's deviation, and the likelihood is quadratic there."""

FIELDS = ("rotations", "shifts_px", "scores", "covariance")
"""Of :class:`FittedPoses`."""


@dataclass(frozen=True)
class FittedPoses:
    """Most likely poses nearby, with their uncertainty."""

    rotations: Tensor
    """A, (B, 3, 3)."""
    shifts_px: Tensor
    """(B, 2)."""
    scores: Tensor
    """Log-likelihoods, (B,)."""
    covariance: Tensor
    """Of (rotation vector in radian, shift in pixels), (B, 5, 5)."""

    def __getitem__(self, rows: slice | Tensor) -> FittedPoses:
        """Some of them."""
        return FittedPoses(
            self.rotations[rows], self.shifts_px[rows], self.scores[rows], self.covariance[rows]
        )

    @staticmethod
    def unknown(count: int) -> FittedPoses:
        """Poses of which nothing is known, on the CPU."""
        rotations, covariance = (torch.eye(n).expand(count, n, n).clone() for n in (3, 5))
        return FittedPoses(rotations, torch.zeros(count, 2), torch.zeros(count), covariance)

    def to(self, device: torch.device) -> FittedPoses:
        """On another device."""
        return FittedPoses(*(getattr(self, name).to(device) for name in FIELDS))

    def at(self, rotations: Tensor, shifts_px: Tensor) -> FittedPoses:
        """The same poses seen in another frame of the object."""
        same = {"rotations": rotations.to(self.rotations), "shifts_px": shifts_px.to(self.shifts_px)}
        return replace(self, **same)

    @staticmethod
    def cat(parts: Sequence[FittedPoses]) -> FittedPoses:
        """One after another."""
        return FittedPoses(*(torch.cat([getattr(part, name) for part in parts]) for name in FIELDS))

    def drawn(self, count: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
        """Poses from the posterior, in pairs around the estimate: (B, count, 3, 3) and (B, count, 2).

        The Gaussian of the covariance stands for the posterior: weighing the draws by their likelihood was tried
        and changes neither the poses' mean nor the map.
        """
        return self.spread_out(torch.randn(len(self.rotations), (count + 1) // 2, 5, generator=random), count)

    def spread_out(self, normal: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """What :meth:`drawn` gives for the normal deviates (B, ⌈count/2⌉, 5)."""
        root = torch.linalg.cholesky(self.covariance)
        half = normal.to(root)
        away = torch.cat([half, -half], 1)[:, :count] @ root.transpose(1, 2)
        turns = rotation_vector_to_matrix(away[..., :3])
        return turns @ self.rotations[:, None], self.shifts_px[:, None] + away[..., 3:]

    @property
    def rotation_sigma_deg(self) -> Tensor:
        """Root mean square of the angle between estimate and truth, in degrees: (B,)."""
        return torch.rad2deg(self.covariance.diagonal(dim1=1, dim2=2)[:, :3].sum(1).sqrt())

    @property
    def shift_sigma_px(self) -> Tensor:
        """Root mean square of the distance between estimated and true shift: (B,)."""
        return self.covariance.diagonal(dim1=1, dim2=2)[:, 3:].sum(1).sqrt()


def fit_poses(
    images: WeightedImages,
    spectrum: Spectrum,
    plane: HalfPlane,
    rotations: Tensor,
    shifts_px: Tensor,
    steps: int,
) -> FittedPoses:
    """Climb to the nearest maximum of the likelihood.

    Parameters
    ----------
    images
        B images within the band of ``plane``.
    spectrum
        The map.
    rotations, shifts_px
        Where to begin, (B, 3, 3) and (B, 2).
    steps
        Steps at most; one that lowers the likelihood is taken back and shortened. One that promises less than
        :data:`TRUSTED` is the last: neither the likelihood nor its slope is computed again.
    """

    def fit(here: slice) -> FittedPoses:
        return _fit(images[here], spectrum, plane, rotations[here], shifts_px[here], steps)

    size = batch_size(7 * 2 * len(plane), images.data.device)
    return FittedPoses.cat(in_batches(fit, len(images), size, "images in a fit of poses"))


def climb(
    images: WeightedImages, spectrum: Spectrum, plane: HalfPlane, candidates: Poses, steps: int
) -> FittedPoses:
    """Climb from every candidate of each image; the best end of each.

    Two steps from all, then the rest from the better half.
    """
    rotations, shifts = candidates.rotations, candidates.shifts_px
    rest = [(rotations.shape[1], min(2, steps)), (max(1, rotations.shape[1] // 2), steps)]
    for count, number in rest:
        rotations, shifts = rotations[:, :count], shifts[:, :count]
        many = images.repeated(count)
        found = fit_poses(many, spectrum, plane, rotations.flatten(0, 1), shifts.flatten(0, 1), number)
        order = found.scores.view(-1, count).argsort(1, descending=True)
        index = order + torch.arange(len(order), device=order.device)[:, None] * count
        rotations, shifts = found.rotations[index], found.shifts_px[index]
    return found[index[:, 0]]


def _fit(
    images: WeightedImages,
    spectrum: Spectrum,
    plane: HalfPlane,
    rotations: Tensor,
    shifts: Tensor,
    steps: int,
) -> FittedPoses:
    """A batch."""
    here = _Slope.at(images, spectrum, plane, rotations, shifts)
    rotations, shifts = rotations.clone(), shifts.clone()
    damping = torch.full_like(here.score, UNDAMPED)
    on = torch.arange(len(rotations), device=rotations.device)
    for _ in range(steps):
        step, promised = here.step(damping, plane)
        step, promised = step[on], promised[on]
        turned = rotation_vector_to_matrix(step[:, :3]) @ rotations[on]
        moved = shifts[on] + step[:, 3:]
        last = (promised <= TRUSTED) & (damping[on] <= UNDAMPED)
        rotations[on[last]], shifts[on[last]] = turned[last], moved[last]
        here.score[on[last]] += promised[last]
        on, turned, moved = on[~last], turned[~last], moved[~last]
        if len(on) == 0:
            break
        there = _Slope.at(images[on], spectrum, plane, turned, moved)
        better = there.score > here.score[on]
        rotations[on[better]], shifts[on[better]] = turned[better], moved[better]
        here.take(on[better], there, better)
        damping[on] = torch.where(better, damping[on] / 4, damping[on].clamp(min=0.1) * 8)
    return FittedPoses(rotations, shifts, here.score, here.covariance())


@dataclass(frozen=True)
class _Slope:
    """Likelihood, gradient and information at a pose."""

    score: Tensor
    gradient: Tensor
    """(B, 5)."""
    information: Tensor
    """(B, 5, 5)."""

    @staticmethod
    def at(
        images: WeightedImages, spectrum: Spectrum, plane: HalfPlane, rotations: Tensor, shifts: Tensor
    ) -> _Slope:
        b, m = len(rotations), len(plane)
        turn = 0.5 / float(plane.radius[-1])
        axes = torch.eye(3, device=rotations.device, dtype=rotations.dtype) * turn
        turns = rotation_vector_to_matrix(torch.cat([torch.zeros_like(axes[:1]), axes, -axes])).to(rotations)
        slices = spectrum.slices((turns @ rotations[:, None]).reshape(-1, 3, 3), plane).view(b, 7, 2, m)
        value = slices[:, 0]
        slope = torch.empty(b, 5, 2, m, dtype=value.dtype, device=value.device)
        torch.sub(slices[:, 1:4], slices[:, 4:7], out=slope[:, :3])
        slope[:, :3] /= 2 * turn
        wave = torch.stack([plane.kx, plane.ky]) * (2 * math.pi / plane.box)
        slope[:, 3:, 0] = -wave * value[:, None, 1]
        slope[:, 3:, 1] = wave * value[:, None, 0]
        data = complex_product(images.data, plane.phases(shifts))
        power = images.power[:, None]
        expected = value * power
        score = (value * (2 * data - expected)).sum((1, 2))
        flat = slope.flatten(2)
        gradient = 2 * torch.bmm(flat, (data - expected).flatten(1)[:, :, None])[:, :, 0]
        weighted = (slope * power[:, None]).flatten(2)
        return _Slope(score, gradient, 2 * torch.bmm(weighted, flat.transpose(1, 2)))

    def step(self, damping: Tensor, plane: HalfPlane) -> tuple[Tensor, Tensor]:
        """Damped step (Levenberg and Marquardt), of limited length, (B, 5), and what it promises to gain, (B,)."""
        diagonal = self.information.diagonal(dim1=1, dim2=2)
        damped = self.information + torch.diag_embed(diagonal * damping[:, None] + LEAST)
        step = torch.linalg.solve(damped, self.gradient[:, :, None])[:, :, 0]
        band = float(plane.radius[-1])
        promised = 0.5 * (self.gradient * step).sum(1)
        turn, shift = step[:, :3], step[:, 3:]
        turn = turn * (MAX_TURN / band / turn.norm(dim=1, keepdim=True).clamp(min=1e-12)).clamp(max=1)
        limit = MAX_SHIFT * plane.box / 2 / band
        shift = shift * (limit / shift.norm(dim=1, keepdim=True).clamp(min=1e-12)).clamp(max=1)
        return torch.cat([turn, shift], 1), promised

    def take(self, rows: Tensor, other: _Slope, from_rows: Tensor) -> None:
        """Put the other's rows in the place of some."""
        for own, others in zip(
            (self.score, self.gradient, self.information),
            (other.score, other.gradient, other.information),
            strict=True,
        ):
            own[rows] = others[from_rows]

    def covariance(self) -> Tensor:
        """Inverse of the information."""
        floor = LEAST * torch.eye(5, device=self.information.device, dtype=self.information.dtype)
        return torch.linalg.inv(self.information + floor)
