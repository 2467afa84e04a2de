"""Images turned in their plane, in Fourier space, and the exact adjoint: what 2D classes need.

A class average turned by ψ is to a 2D image what a central slice is to a volume: F(Rᵀ·k). Averages are
zero-padded, transformed once and interpolated bilinearly; the triangle that this convolves with is divided
out in real space, as for volumes (:mod:`emflow.em.slices`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as functional
from torch import Tensor

from emflow.em.slices import HalfPlane, grid_half_size, sinc_window


@dataclass(frozen=True)
class Turns:
    """The pixels of a half plane at Q in-plane angles, on a padded Fourier grid."""

    plane: HalfPlane
    angles_deg: Tensor
    """rlnAnglePsi: r_image = Rz(ψ)·r_average; (Q,)."""
    padding: int
    reach: int
    """Of the grid: its side is 2·reach + 1."""
    points: Tensor
    """Where the half pixels fall, in grid steps (x, y): (Q, M, 2)."""

    @staticmethod
    def build(plane: HalfPlane, angles_deg: Tensor, padding: int = 2) -> Turns:
        """Lay the pixels of a plane out at some angles."""
        psi = torch.deg2rad(angles_deg.to(plane.kx))[:, None]
        # RELION's Rz(ψ) is ((cos, sin), (−sin, cos)); its transpose takes an image's pixel to the average's
        x = psi.cos() * plane.kx - psi.sin() * plane.ky
        y = psi.sin() * plane.kx + psi.cos() * plane.ky
        band = float(plane.radius[-1])
        reach = min(grid_half_size(band, padding), plane.box * padding // 2 - 1)
        return Turns(plane, angles_deg, padding, reach, torch.stack([x, y], -1) * float(padding))

    def __len__(self) -> int:
        return len(self.points)

    @property
    def side(self) -> int:
        """Side of the grid."""
        return 2 * self.reach + 1

    def spectra(self, averages: Tensor) -> Tensor:
        """Transform averages (K, box, box) for :meth:`slices`: (K, 2, side, side)."""
        n, padded = self.plane.box, self.plane.box * self.padding
        window = sinc_window(n, padded, averages.device)
        space = functional.pad(averages / (window[:, None] * window), [(padded - n) // 2] * 4)
        spectrum = torch.fft.rfft2(space)
        index = torch.arange(-self.reach, self.reach + 1, device=averages.device)
        right = spectrum[:, index % padded, : self.reach + 1]
        sign = 1.0 - 2.0 * (index % 2)
        right = right * (sign[:, None] * sign[self.reach :] / n)
        left = right[:, :, 1:].flip((1, 2)).conj()
        return torch.view_as_real(torch.cat([left, right], 2)).permute(0, 3, 1, 2).contiguous()

    def slices(self, spectra: Tensor) -> Tensor:
        """Turned averages, in the units of ``HalfPlane.transform``: (K, 2, s, s) → (K, Q, 2, M)."""
        k = len(spectra)
        flat = spectra.reshape(1, 2 * k, self.side, self.side)
        sampled = functional.grid_sample(
            flat, self.points[None] / self.reach, mode="bilinear", padding_mode="zeros", align_corners=True
        )
        return sampled[0].view(k, 2, len(self), -1).transpose(1, 2)

    def insert(self, numerator: Tensor, denominator: Tensor) -> Tensor:
        """Sum turned images back into their averages' frame: the adjoint of :meth:`slices`.

        Parameters
        ----------
        numerator, denominator
            C·y/σ² and C²/σ² summed at each angle, (K, Q, 2, M) and (K, Q, M).

        Returns
        -------
        Real and imaginary parts and weight on the grid, Friedel mates summed, (K, 3, s, s).
        """
        k, s = len(numerator), self.side
        values = torch.cat([numerator, denominator[:, :, None]], 2)
        values = values.permute(1, 3, 0, 2).reshape(-1, 3 * k)
        flat = self.points.reshape(-1, 2)
        low = torch.floor(flat)
        upper = flat - low
        corner = (low.long() + self.reach).clamp_(0, s - 2)
        sums = values.new_zeros(s * s, 3 * k)
        for dy in (0, 1):
            for dx in (0, 1):
                weight = (upper if dx else 1 - upper)[:, 0] * (upper if dy else 1 - upper)[:, 1]
                place = (corner[:, 1] + dy) * s + corner[:, 0] + dx
                sums.index_add_(0, place, values * weight[:, None])
        cube = sums.view(s, s, k, 3).permute(2, 3, 0, 1)
        mate = cube.flip((2, 3))
        return torch.stack([cube[:, 0] + mate[:, 0], cube[:, 1] - mate[:, 1], cube[:, 2] + mate[:, 2]], 1)

    def radius(self) -> Tensor:
        """Frequency index (of the unpadded box) of each grid point, (s, s)."""
        line = (torch.arange(self.side, device=self.points.device) - self.reach) / self.padding
        return torch.hypot(line[:, None], line)

    def to_real(self, spectra: Tensor) -> Tensor:
        """Averages (K, box, box) of complex grids (K, s, s), interpolation's taper divided out."""
        n, padded, reach = self.plane.box, self.plane.box * self.padding, self.reach
        line = torch.arange(-reach, reach + 1, device=spectra.device)
        sign = 1.0 - 2.0 * (line % 2)
        right = spectra[:, :, reach:] * (sign[:, None] * sign[reach:])
        full = torch.zeros(len(spectra), padded, padded // 2 + 1, dtype=spectra.dtype, device=spectra.device)
        full[:, line % padded, : reach + 1] = right
        images = torch.fft.irfft2(full, s=(padded, padded))
        crop = slice(padded // 2 - n // 2, padded // 2 + n // 2)
        window = sinc_window(n, padded, spectra.device)
        return images[:, crop, crop] * n / (window[:, None] * window)


def angle_spacing_deg(box: int, band: float, radius_px: float) -> float:
    """In-plane step at which a particle's rim moves by half of the finest period of a band."""
    return math.degrees(box / (2 * max(band, 1.0) * max(radius_px, 1.0)))


def angles_deg(spacing: float, device: torch.device | None = None) -> Tensor:
    """Angles around the circle at most ``spacing`` degrees apart, (Q,)."""
    count = max(4, math.ceil(360 / spacing))
    return torch.arange(count, device=device) * (360.0 / count)
