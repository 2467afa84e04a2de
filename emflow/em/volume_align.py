"""Bring one map onto another: rotation, shift and, where the hand is open, inversion.

Both maps are low-passed, whitened per shell and compared in Fourier space, so that the score is the FSC
averaged over the band. A grid of orientations at low resolution, with all shifts at once by phase
correlation, gives candidates; these are refined by gradient (the interpolated transform is
differentiable), in growing bands.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as functional
from torch import Tensor

from emflow.em.grids import orientation_grid
from emflow.em.poses import mirror_rotations, rotation_vector_to_matrix
from emflow.em.slices import Spectrum, volume_spectrum

_COARSE_BAND = 7
_COARSE_SPACING_DEG = 10.0
_COARSE_GRID = 16  # shifts per axis tried at once; at least 2·_COARSE_BAND + 2
_MIDDLE_BAND = 12
_CANDIDATES = 40
_BATCH = 512


@dataclass(frozen=True)
class Alignment:
    """aligned(r) = moving′(R⁻¹(r − t)), r from the centre n//2; moving′ is moving(−r) if mirrored."""

    rotation: Tensor
    """R, (3, 3), float64, acting on x, y, z."""
    shift: Tensor
    """t, (3,), float64: x, y, z in voxels, after the rotation."""
    mirrored: bool
    """Whether the moving map was inverted through its centre first."""
    score: float
    """Whitened correlation after alignment, −1 to 1: the FSC averaged over the band's Fourier pixels."""


def align_volume(
    moving: Tensor,
    fixed: Tensor,
    *,
    symmetry: str = "C1",
    allow_mirror: bool = True,
    max_band: int = 24,
    starts: Sequence[Alignment] = (),
) -> Alignment:
    """Find the rotation, shift and hand that bring ``moving`` onto ``fixed``.

    Parameters
    ----------
    moving, fixed
        Maps (n, n, n), axes (z, y, x), n even, of one voxel size.
    symmetry
        Point group of the moving map, on RELION's axes: orientations that it makes equal are searched once.
    allow_mirror
        Try the inverted map too.
    max_band
        Highest shell that is compared, in Fourier pixels of the box: what lies beyond is mostly noise.
    starts
        Alignments that are tried beside those of the global search.

    Returns
    -------
    Alignment; give it to :func:`apply_alignment`.

    Raises
    ------
    ValueError
        If the boxes differ, are no even cubes, or one of the maps is empty.
    """
    n = fixed.shape[-1]
    if moving.shape != fixed.shape or fixed.shape != (n, n, n) or n % 2:
        raise ValueError(
            f"expected two even cubes of one size, got {tuple(moving.shape)}, {tuple(fixed.shape)}"
        )
    match = Match(moving, fixed, min(max_band, n // 2 - 2))
    rotations, shifts, mirrored = match.coarse(orientation_grid(_COARSE_SPACING_DEG, symmetry), allow_mirror)
    if starts:
        rotations = torch.cat([rotations, torch.stack([s.rotation for s in starts]).to(rotations)])
        shifts = torch.cat([shifts, torch.stack([s.shift for s in starts]).to(shifts)])
        mirrored = torch.cat([mirrored, torch.tensor([s.mirrored for s in starts], device=mirrored.device)])
    band = min(_MIDDLE_BAND, match.band)
    rotations, shifts = match.refine(rotations, shifts, mirrored, _COARSE_BAND, 12)
    rotations, shifts = match.refine(rotations, shifts, mirrored, band, 12)
    score = match.scores(rotations, shifts, mirrored, band)
    keep = torch.cat([_best(score, mirrored == hand, 3) for hand in (False, True)])
    rotations, shifts, mirrored = rotations[keep], shifts[keep], mirrored[keep]
    for _ in range(2):  # the weights follow
        rotations, shifts = match.refine(rotations, shifts, mirrored, match.band, 20)
    score = match.scores(rotations, shifts, mirrored, match.band)
    best = int(score.argmax())
    return Alignment(
        rotations[best].double(), shifts[best].double(), bool(mirrored[best]), round(float(score[best]), 6)
    )


def apply_alignment(volume: Tensor, alignment: Alignment) -> Tensor:
    """Return the map brought over by an alignment: (n, n, n) → (n, n, n), interpolated in Fourier space."""
    n = volume.shape[-1]
    band = n // 2 - 1
    spectrum = volume_spectrum(volume, band)
    out = torch.zeros(n, n, n // 2 + 1, dtype=torch.complex64, device=volume.device)
    line = torch.arange(-band, band + 1, device=volume.device)
    ky, kx = torch.meshgrid(line, torch.arange(band + 1, device=volume.device), indexing="ij")
    rotation, shift = alignment.rotation.to(volume)[None], alignment.shift.to(volume)[None]
    hand = torch.tensor([alignment.mirrored], device=volume.device)
    for kz in line.tolist():
        inside = kx**2 + ky**2 + kz**2 <= band**2
        points = torch.stack([kx[inside], ky[inside], torch.full_like(kx[inside], kz)]).float()
        if points.shape[1]:
            values = _moved(spectrum, points, rotation, shift, hand, n)[0]
            out[kz % n, ky[inside] % n, kx[inside]] = torch.complex(values[0], values[1])
    return torch.fft.fftshift(torch.fft.irfftn(out, s=(n, n, n))) * n


def align_poses(rotations: Tensor, shifts_px: Tensor, alignment: Alignment) -> tuple[Tensor, Tensor]:
    """Poses, in the fixed map's frame, of images that were posed in the moving map's.

    Parameters
    ----------
    rotations
        A, (N, 3, 3), r_image = A r.
    shifts_px
        RELION's origins (x, y) in voxels, (N, 2): the shift that centres the particle.
    """
    turned = mirror_rotations(rotations) if alignment.mirrored else rotations
    turned = turned @ alignment.rotation.to(rotations).T
    # r_image = A′(r − t): the fixed map's centre is seen at −A′t
    return turned, shifts_px + (turned @ alignment.shift.to(rotations))[:, :2]


def _best(score: Tensor, among: Tensor, number: int) -> Tensor:
    index = among.nonzero()[:, 0]
    return index[score[index].argsort(descending=True, stable=True)[:number]]


def _sample(spectrum: Spectrum, points: Tensor) -> Tensor:
    """Transform at frequencies (B, 3, K) (x, y, z, in Fourier pixels): (B, 2, K)."""
    half = spectrum.grid.shape[-1] // 2
    at = points.transpose(1, 2) * (spectrum.padding / half)
    sampled = functional.grid_sample(
        spectrum.grid, at[None, None], mode="bilinear", padding_mode="zeros", align_corners=True
    )
    return sampled[0, :, 0].transpose(0, 1)


def _moved(
    spectrum: Spectrum, points: Tensor, rotations: Tensor, shifts: Tensor, mirrored: Tensor, box: int
) -> Tensor:
    """Transform of the moved map at frequencies (3, K): (B, 2, K)."""
    values = _sample(spectrum, rotations.transpose(1, 2) @ points)
    real, imaginary = values[:, 0], values[:, 1] * torch.where(mirrored, -1.0, 1.0)[:, None]
    angle = (-2 * math.pi / box) * (shifts @ points)
    c, s = torch.cos(angle), torch.sin(angle)
    return torch.stack([real * c - imaginary * s, real * s + imaginary * c], 1)


class Match:
    """Two whitened maps within a band, and how well they agree under a movement of the first."""

    def __init__(self, moving: Tensor, fixed: Tensor, band: int) -> None:
        self.box, self.band = fixed.shape[-1], band
        line = torch.arange(-band, band + 1, device=fixed.device)
        kz, ky, kx = torch.meshgrid(line, line, line[band:], indexing="ij")
        radius = torch.sqrt((kx**2 + ky**2 + kz**2).float())
        half = (kx > 0) | (ky > 0) | ((ky == 0) & (kz > 0))  # one of each Friedel pair, no zero frequency
        keep = (radius <= band) & half
        order = torch.argsort(radius[keep], stable=True)
        self.points = torch.stack([kx[keep], ky[keep], kz[keep]])[:, order].float()
        self.radius = radius[keep][order]
        small = 2 * (band + 2)
        self._moving = volume_spectrum(_whiten(moving, small), band)
        plain = volume_spectrum(_whiten(fixed, small), band, padding=1)
        self._fixed = _sample(plain, self.points[None])[0]

    def _within(self, band: int) -> int:
        return int((self.radius <= band).sum())

    def coarse(self, rotations: Tensor, allow_mirror: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Best orientations of a grid with their best shifts: rotations, shifts, mirrored of the candidates."""
        count = self._within(min(_COARSE_BAND, self.band))
        points, fixed = self.points[:, :count], self._fixed[:, :count]
        kx, ky, kz = points.long()
        g = _COARSE_GRID
        fixed = fixed * torch.where(kx == 0, 2.0, 1.0)  # irfftn counts the others twice
        rotations = rotations.to(points)
        hands = (False, True) if allow_mirror else (False,)
        found = []
        for start in range(0, len(rotations), _BATCH):
            batch = rotations[start : start + _BATCH]
            a = _sample(self._moving, batch.transpose(1, 2) @ points)
            for hand in hands:
                moved = torch.complex(a[:, 0], a[:, 1] if hand else -a[:, 1])  # conjugate of the moved map
                cross = moved.new_zeros(len(batch), g, g, g // 2 + 1)
                cross[:, kz % g, ky % g, kx] = moved * torch.complex(fixed[0], fixed[1])
                map_ = torch.fft.irfftn(cross, s=(g, g, g)).flatten(1)
                value, at = map_.max(1)
                hand_column = torch.full_like(value, float(hand))
                number = torch.arange(start, start + len(batch), device=at.device)
                found.append(torch.stack([value, at.float(), hand_column, number.float()], 1))
        table = torch.cat(found)
        parts = [_best(table[:, 0], table[:, 2] == float(h), _CANDIDATES // len(hands)) for h in hands]
        table = table[torch.cat(parts)]
        at = table[:, 1].long()
        steps = torch.stack([at % g, at // g % g, at // (g * g)], 1)
        shifts = ((steps + g // 2) % g - g // 2).to(points) * (self.box / g)
        return rotations[table[:, 3].long()], shifts, table[:, 2] > 0

    def _products(
        self, rotations: Tensor, shifts: Tensor, mirrored: Tensor, count: int
    ) -> tuple[Tensor, Tensor]:
        """Re(conj(F)·M) and |M|² at the first points, (B, K) each."""
        moved = _moved(self._moving, self.points[:, :count], rotations, shifts, mirrored, self.box)
        return (moved * self._fixed[:, :count]).sum(1), moved.square().sum(1)

    def scores(self, rotations: Tensor, shifts: Tensor, mirrored: Tensor, band: int) -> Tensor:
        """Whitened correlation within a band, (B,)."""
        count = self._within(band)
        product, power = self._products(rotations, shifts, mirrored, count)
        return product.sum(1) / (power.sum(1) * self._fixed[:, :count].square().sum()).sqrt().clamp(min=1e-12)

    def refine(
        self,
        rotations: Tensor,
        shifts: Tensor,
        mirrored: Tensor,
        band: int,
        steps: int,
        rate: float = 0.25,
    ) -> tuple[Tensor, Tensor]:
        """Climb each candidate's weighted correlation by Adam, with steps from ``rate`` to a hundredth of it.

        A shell's weight, FSC/(1 − FSC²) as it stands, is that of maximum likelihood where one of two
        whitened maps is noisy.
        """
        band = min(band, self.band)
        count = self._within(band)
        shell = self.radius[:count].round().long()
        with torch.no_grad():
            product, power = self._products(rotations, shifts, mirrored, count)
            sums = [torch.zeros(len(product), band + 2).to(product) for _ in range(2)]
            sums[0].index_add_(1, shell, product)
            sums[1].index_add_(1, shell, (power * self._fixed[:, :count].square().sum(0)).sqrt())
            fsc = (sums[0] / sums[1].clamp(min=1e-12)).clamp(0.02, 0.97)
            weight = (fsc / (1 - fsc**2))[:, shell]
        # one unit of either parameter changes a typical phase at the band's edge by about one radian
        unit_angle, unit_shift = 1.5 / band, self.box / (2 * math.pi * band)
        turn = torch.zeros_like(shifts, requires_grad=True)
        move = torch.zeros_like(shifts, requires_grad=True)
        optimiser = torch.optim.Adam([turn, move], lr=rate, betas=(0.7, 0.95))
        for step in range(steps):
            for group in optimiser.param_groups:
                group["lr"] = rate * 0.01 ** (step / steps)
            optimiser.zero_grad()
            turned = rotation_vector_to_matrix(turn * unit_angle) @ rotations
            product, _ = self._products(turned, shifts + move * unit_shift, mirrored, count)
            loss = -(product * weight).sum()
            loss.backward()
            optimiser.step()
        with torch.no_grad():
            turned = rotation_vector_to_matrix(turn * unit_angle) @ rotations
            return turned, shifts + move * unit_shift


def _whiten(volume: Tensor, small: int) -> Tensor:
    """Fourier-crop to ``small`` (frequency indices stay) and give each shell the same power."""
    n, reach = volume.shape[-1], small // 2 - 1
    spectrum = torch.fft.rfftn(torch.fft.ifftshift(volume.float()))
    index = torch.arange(-reach, reach + 1, device=volume.device)
    cropped = torch.zeros(small, small, small // 2 + 1, dtype=spectrum.dtype, device=volume.device)
    rows = index % small
    part = spectrum[index % n][:, index % n][:, :, : reach + 1]
    shell = (
        (index[:, None, None] ** 2 + index[:, None] ** 2 + index[reach:] ** 2).float().sqrt().round().long()
    )
    power = torch.zeros(int(shell.max()) + 1, device=volume.device)
    power.index_add_(0, shell.reshape(-1), part.abs().square().reshape(-1))
    power = power / torch.bincount(shell.reshape(-1)).clamp(min=1)
    if not bool(power[1:].sum() > 0):
        raise ValueError("a map without any signal cannot be aligned")
    part = part / power.sqrt().clamp(min=1e-12 * float(power.max().sqrt()))[shell] * (shell > 0)
    cropped[rows[:, None], rows[None], : reach + 1] = part
    return torch.fft.fftshift(torch.fft.irfftn(cropped, s=(small,) * 3))
