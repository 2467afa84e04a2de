"""Several volumes sliced together, and the exact adjoint: the kernels of linear models V0 + Σ z_k V_k.

The C volumes stand side by side at each point of one padded Fourier grid, so that a neighbour is found once
for all of them: slicing nine volumes of 64³ costs 0.13 CPU-ms an image beyond finding the neighbours, nine
calls of ``grid_sample`` 0.7. Only the half kx ≥ 0 of the grid is stored. A pixel whose kx would be negative
is replaced by its Friedel mate; the caller conjugates that pixel of the image (``Neighbours.sign``), never
the slices.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as functional
from scipy.sparse import csr_matrix
from torch import Tensor

from emflow.em.slices import HalfPlane, sinc_window


@dataclass(frozen=True)
class Neighbours:
    """Where the pixels of B slices lie in a grid."""

    index: Tensor
    """(B·M, 8) int32: the grid points around each pixel."""
    weight: Tensor
    """(B·M, 8): their trilinear weights."""
    sign: Tensor
    """(B, M): −1 where the Friedel mate was taken, so that the image's imaginary part is to be negated."""


@dataclass(frozen=True)
class BasisGrid:
    """Half of a padded Fourier grid that holds C volumes' transforms within a band.

    A table of such transforms has the shape (points, 2·C): C real parts, then C imaginary parts. Units are
    those of :class:`emflow.em.slices.HalfPlane`: a slice is the projection's transform divided by the box.
    """

    box: int
    """Side of the volumes (even)."""
    band: float
    """Largest frequency index that is sliced."""
    padded: int
    """Side of the padded volumes (even)."""
    device: torch.device

    @staticmethod
    def build(box: int, band: float, padding: float = 1.5, device: torch.device | None = None) -> BasisGrid:
        """Make a grid for volumes of side ``box`` zero-padded by about ``padding``."""
        return BasisGrid(box, band, 2 * math.ceil(box * padding / 2), device or torch.device("cpu"))

    @property
    def padding(self) -> float:
        """Grid steps per frequency index."""
        return self.padded / self.box

    @property
    def reach(self) -> int:
        """Grid steps from the zero frequency to the last point along an axis."""
        return math.ceil(self.band * self.padding) + 1

    @property
    def shape(self) -> tuple[int, int, int]:
        """Grid points along kz, ky and kx."""
        return 2 * self.reach + 1, 2 * self.reach + 1, self.reach + 1

    @property
    def points(self) -> int:
        """Number of grid points."""
        return math.prod(self.shape)

    def radius(self) -> Tensor:
        """Frequency index of each point, (points,)."""
        full = torch.arange(-self.reach, self.reach + 1, device=self.device) / self.padding
        half = full[self.reach :]
        return torch.sqrt(full[:, None, None] ** 2 + full[:, None] ** 2 + half**2).reshape(-1)

    def multiplicity(self) -> Tensor:
        """How often each point stands in the whole grid: 2, but 1 on the plane kx = 0; (points,)."""
        return torch.where(torch.arange(self.points, device=self.device) % self.shape[2] == 0, 1.0, 2.0)

    def locate(self, rotations: Tensor, plane: HalfPlane) -> Neighbours:
        """Find the pixels of slices with rotations A, (B, 3, 3), r_image = A·r_object."""
        xy = torch.stack([plane.kx, plane.ky]) * self.padding
        points = rotations[:, :2].transpose(1, 2).to(xy) @ xy
        sign = torch.where(points[:, 0] < 0, -1.0, 1.0)
        points = points * sign[:, None]
        low = torch.floor(points)
        upper = points - low
        lower = 1 - upper
        step_y, step_z = self.shape[2], self.shape[1] * self.shape[2]
        corner = low.to(torch.int32)
        base = (corner[:, 2] + self.reach) * step_z + (corner[:, 1] + self.reach) * step_y + corner[:, 0]
        offsets = [z + y + x for z in (0, step_z) for y in (0, step_y) for x in (0, 1)]
        index = base[..., None] + torch.tensor(offsets, dtype=torch.int32, device=base.device)
        (lx, ly, lz), (ux, uy, uz) = lower.unbind(1), upper.unbind(1)
        zy = torch.stack([lz * ly, lz * uy, uz * ly, uz * uy], -1)
        weight = zy[..., None] * torch.stack([lx, ux], -1)[:, :, None]
        return Neighbours(index.reshape(-1, 8), weight.reshape(-1, 8), sign)

    def gather(self, table: Tensor, where: Neighbours) -> Tensor:
        """Slices of all volumes: table (points, 2·C) → (B·M, 2·C)."""
        return functional.embedding_bag(where.index, table, per_sample_weights=where.weight, mode="sum")

    def scatter(self, rows: Tensor, where: Neighbours) -> Tensor:
        """The adjoint of :meth:`gather`: rows (B·M, D) → (points, D), before :meth:`add_mates`."""
        if rows.device.type == "cpu":  # six times as fast as torch's index_add
            begins = np.arange(0, where.index.numel() + 1, 8, dtype=np.int32)
            spread = csr_matrix(
                (where.weight.reshape(-1).numpy(), where.index.reshape(-1).numpy(), begins),
                shape=(len(rows), self.points),
            )
            return torch.from_numpy(spread.T @ rows.numpy())
        out = rows.new_zeros(self.points, rows.shape[1])
        for corner in range(8):
            out.index_add_(0, where.index[:, corner], rows * where.weight[:, corner, None])
        return out

    def add_mates(self, sums: Tensor, conjugate: int) -> Tensor:
        """Add the Friedel mates that fall on the plane kx = 0 of scattered sums (points, D), in place.

        The columns from ``conjugate`` on are imaginary parts, which change sign.
        """
        whole = sums.view(*self.shape, -1)
        mate = whole[:, :, 0].flip((0, 1))
        mate[..., conjugate:] *= -1
        whole[:, :, 0] += mate
        return sums

    def to_table(self, volumes: Tensor) -> Tensor:
        """Transform volumes (C, n, n, n), axes (z, y, x), centre n//2 → (points, 2·C)."""
        count, n, padded, reach = len(volumes), self.box, self.padded, self.reach
        index = torch.arange(-reach, reach + 1, device=self.device)
        # the centre of the padded box is the phase origin: a factor (−1)^k along each axis
        sign = 1.0 - 2.0 * (index % 2)
        factor = sign[:, None, None] * sign[:, None] * sign[reach:] / n
        window = self._window()
        before = padded // 2 - n // 2
        out = torch.empty(self.points, 2 * count, device=self.device)
        for c, volume in enumerate(volumes):
            space = functional.pad(volume / window, [before, padded - n - before] * 3)
            spectrum = torch.fft.rfftn(space)[index % padded][:, index % padded][:, :, : reach + 1] * factor
            out[:, c] = spectrum.real.reshape(-1)
            out[:, count + c] = spectrum.imag.reshape(-1)
        return out

    def to_volumes(self, table: Tensor) -> Tensor:
        """Back to real space, the inverse of :meth:`to_table`: (points, 2·C) → (C, n, n, n)."""
        count, n, padded, reach = table.shape[1] // 2, self.box, self.padded, self.reach
        index = torch.arange(-reach, reach + 1, device=self.device)
        sign = 1.0 - 2.0 * (index % 2)
        factor = sign[:, None, None] * sign[:, None] * sign[reach:] * n
        rows = index % padded
        crop = slice(padded // 2 - n // 2, padded // 2 + n // 2)
        window = self._window()
        out = torch.empty(count, n, n, n, device=self.device)
        for c in range(count):
            spectrum = torch.complex(table[:, c], table[:, count + c]).view(self.shape) * factor
            full = spectrum.new_zeros(padded, padded, padded // 2 + 1)
            full[rows[:, None], rows[None], : reach + 1] = spectrum
            out[c] = torch.fft.irfftn(full, s=(padded,) * 3)[crop, crop, crop] * window
        return out

    def _window(self) -> Tensor:
        window = sinc_window(self.box, self.padded, self.device)
        return window[:, None, None] * window[:, None] * window


def rebox(volumes: Tensor, size: int) -> Tensor:
    """Crop or zero-pad volumes (C, n, n, n) in Fourier space to an even side ``size``, Nyquist dropped.

    Transforms divided by the side (the unit of slices) stay as they are, so that a band-limited model can
    be worked on in the smallest box that holds its band.
    """
    n = volumes.shape[-1]
    if n == size:
        return volumes
    half = min(n, size) // 2
    index = torch.cat([torch.arange(half), torch.arange(-half + 1, 0)]).to(volumes.device)
    spectrum = torch.fft.rfftn(torch.fft.ifftshift(volumes, dim=(-3, -2, -1)), dim=(-3, -2, -1))
    out = spectrum.new_zeros(len(volumes), size, size, size // 2 + 1)
    old, new = index % n, index % size
    out[:, new[:, None], new[None], :half] = spectrum[:, old[:, None], old[None], :half]
    space = torch.fft.irfftn(out * (size / n), s=(size,) * 3, dim=(-3, -2, -1))
    return torch.fft.fftshift(space, dim=(-3, -2, -1))
