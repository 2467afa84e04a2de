"""Reconstruction: slices accumulated in Fourier space, symmetrised, divided, brought back.

Each half pixel of each image adds C·y/σ² and C²/σ² to the eight grid points around Aᵀ·k (the adjoint of
the trilinear slice). The map is numerator / (denominator + regulariser): with the regulariser
denominator/SSNR per shell this is the Wiener filter (Scheres 2012, J. Struct. Biol. 180, 519, eq. 4);
with a small floor it is the raw, unfiltered map.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as functional
from torch import Tensor

from emflow.device import free_memory_bytes
from emflow.em.batches import in_batches
from emflow.em.optics import Ctf, ctf_values
from emflow.em.slices import HalfPlane, complex_product, grid_half_size, sinc_window
from emflow.em.symmetry import axis_operator_links, split_operators, sum_over_axis_operators

_CHUNK = 1 << 18
"""Samples scattered at a time on a CPU: what fits its caches."""
_SAMPLE_BYTES = 128
"""Per sample that is scattered: its point, its neighbours' places and weights."""


class Accumulator:
    """Numerator and denominator of a reconstruction on a padded Fourier grid."""

    def __init__(
        self,
        box: int,
        band: float,
        padding: int = 2,
        symmetry: str = "C1",
        device: torch.device | None = None,
    ) -> None:
        """Make an empty accumulator for images of side ``box`` (even) within ``band``."""
        self.box, self.padding, self.symmetry = box, padding, symmetry
        self.reach = min(grid_half_size(band, padding), box * padding // 2 - 1)
        self.size = 2 * self.reach + 1
        self.sums = torch.zeros(3, self.size**3, device=device)
        self._cosets, _ = split_operators(symmetry)
        self._links = axis_operator_links(symmetry)

    def add(self, numerator: Tensor, denominator: Tensor, rotations: Tensor, plane: HalfPlane) -> None:
        """Insert slices.

        Parameters
        ----------
        numerator
            C·y/σ² with the particle shifted to the centre, (B, 2, M).
        denominator
            C²/σ², (B, M).
        rotations
            A, (B, 3, 3).
        plane
            The M half pixels.
        """
        xy = torch.stack([plane.kx, plane.ky]) * float(self.padding)
        values = torch.cat([numerator, denominator[:, None]], 1)
        room = _CHUNK
        if xy.is_cuda:
            room = min(len(values) * len(plane), free_memory_bytes(xy.device) // _SAMPLE_BYTES)
        for coset in self._cosets.to(rotations):

            def insert(here: slice, coset: Tensor = coset) -> None:
                rows = (rotations[here] @ coset)[:, :2].transpose(1, 2).to(xy)
                self._scatter(rows @ xy, values[here])

            in_batches(insert, len(values), max(1, room // max(1, len(plane))), "slices in a map")

    def _scatter(self, points: Tensor, values: Tensor) -> None:
        """Spread values (B, 3, M) over the eight neighbours of points (B, 3, M) in grid steps (x, y, z)."""
        low = torch.floor(points)
        upper = points - low
        lower = 1 - upper
        index = (low.long() + self.reach).clamp_(0, self.size - 2)
        base = (index[:, 2] * self.size + index[:, 1]) * self.size + index[:, 0]
        # all memory is taken before the first sum changes, so that running out of it leaves the sums as they were
        target = torch.empty_like(base)
        zy, weight, product = (torch.empty_like(base, dtype=values.dtype) for _ in range(3))
        for dz in (0, 1):
            for dy in (0, 1):
                torch.mul((upper if dz else lower)[:, 2], (upper if dy else lower)[:, 1], out=zy)
                for dx in (0, 1):
                    torch.mul(zy, (upper if dx else lower)[:, 0], out=weight)
                    torch.add(base, (dz * self.size + dy) * self.size + dx, out=target)
                    for row in range(3):
                        torch.mul(weight, values[:, row], out=product)
                        self.sums[row].scatter_add_(0, target.view(-1), product.view(-1))

    def __add__(self, other: Accumulator) -> Accumulator:
        """Sums of both sets of images; both of one box, band and symmetry."""
        whole = copy.copy(self)
        whole.sums = self.sums + other.sums
        return whole

    def merged(self) -> tuple[Tensor, Tensor]:
        """Numerator (s, s, s) complex and denominator (s, s, s), with symmetry and Friedel mates summed."""
        cube = self.sums.view(3, self.size, self.size, self.size)
        for link in self._links:
            cube = sum_over_axis_operators(cube, link)
        mate = cube.flip((1, 2, 3))
        return torch.complex(cube[0] + mate[0], cube[1] - mate[1]), cube[2] + mate[2]

    def radius(self) -> Tensor:
        """Frequency index (of the unpadded box) of each grid point: (s, s, s)."""
        line = (torch.arange(self.size, device=self.sums.device) - self.reach) / self.padding
        return torch.sqrt(line[:, None, None] ** 2 + line[:, None] ** 2 + line**2)

    def solve(self, ssnr: Tensor | None = None, band: float | None = None) -> Tensor:
        """Divide and return to real space.

        Parameters
        ----------
        ssnr
            Spectral signal-to-noise ratio of the map per shell, (S,); shells beyond its end are dropped.
            None divides by the denominator itself, floored at a thousandth of its shell's mean (RELION's
            unfiltered map).
        band
            Drop what lies beyond this radius.

        Returns
        -------
        Map (box, box, box), axes (z, y, x), in the units of the images' projected object.
        """
        numerator, denominator = self.merged()
        radius = self.radius()
        shell = torch.floor(radius + 0.5).long()
        limit = (self.reach - 1) / self.padding if band is None else band
        shells = int(shell.max()) + 1
        mean = shell_mean(denominator, shell, shells)
        if ssnr is None:
            total = torch.maximum(denominator, 1e-3 * mean[shell])
        else:
            limit = min(limit, len(ssnr) - 0.5)
            padded = functional.pad(ssnr.to(mean), (0, max(0, shells - len(ssnr))))[:shells]
            total = denominator + (mean / padded.clamp(min=1e-6))[shell]
        keep = (radius <= limit) & (total > 0)
        return self._to_real(torch.where(keep, numerator / torch.where(keep, total, 1.0), 0.0))

    def _to_real(self, spectrum: Tensor) -> Tensor:
        """Inverse transform of the centred cube, cropped to the box, interpolation's taper divided out."""
        padded, reach, n = self.box * self.padding, self.reach, self.box
        device = spectrum.device
        line = torch.arange(-reach, reach + 1, device=device)
        sign = 1.0 - 2.0 * (line % 2)
        right = spectrum[:, :, reach:] * (sign[:, None, None] * sign[:, None] * sign[reach:])
        full = torch.zeros(padded, padded, padded // 2 + 1, dtype=spectrum.dtype, device=device)
        index = line % padded
        full[index[:, None], index[None], : reach + 1] = right
        volume = torch.fft.irfftn(full, s=(padded,) * 3)
        crop = slice(padded // 2 - n // 2, padded // 2 + n // 2)
        window = sinc_window(n, padded, device)
        # the slices' unit is the transform divided by the box (HalfPlane.transform)
        return volume[crop, crop, crop] * n / (window[:, None, None] * window[:, None] * window)


def shell_mean(values: Tensor, shell: Tensor, shells: int) -> Tensor:
    """Mean of real values over each shell, (shells,)."""
    flat = shell.reshape(-1)
    sums = torch.zeros(shells, dtype=values.dtype, device=values.device)
    sums.index_add_(0, flat, values.reshape(-1))
    counts = torch.bincount(flat, minlength=shells).clamp(min=1)
    return sums / counts


def fsc_to_ssnr(fsc: Tensor) -> Tensor:
    """SSNR of each of two half maps from their FSC: F/(1 − F), F clamped to [0, 0.999]."""
    clamped = fsc.clamp(0.0, 0.999)
    return clamped / (1 - clamped)


@dataclass(frozen=True)
class PosedImages:
    """A batch of images with what is known about them."""

    images: Tensor
    """(B, box, box), protein bright."""
    rotations: Tensor
    """A, (B, 3, 3)."""
    shifts_px: Tensor
    """rlnOriginX/YAngst divided by the pixel size: the shift (x, y) that centres the particle, (B, 2)."""
    ctf: Ctf | None
    """Of the B images; None for images without a CTF."""


def reconstruct_from_poses(
    batches: Iterable[PosedImages],
    box: int,
    pixel_size_angstrom: float,
    *,
    symmetry: str = "C1",
    ssnr: Tensor | None = None,
    noise: Tensor | None = None,
    band: float | None = None,
    padding: int = 2,
) -> Tensor:
    """Reconstruct a map from images with known poses.

    Parameters
    ----------
    batches
        Images with poses and CTF, a batch at a time; memory holds one batch and the Fourier grid.
    box
        Side of the images in pixels, even.
    pixel_size_angstrom
        Of the images.
    symmetry
        Point group.
    ssnr
        Per shell, for a Wiener-filtered map; None for the raw one.
    noise
        Noise power per shell (box/2 + 1,), in the units of ``HalfPlane.transform``; None is white noise.
    band
        Highest frequency index, box/2 − 1 by default.
    padding
        Of the Fourier grid.

    Returns
    -------
    Map (box, box, box), axes (z, y, x), on the device of the images.
    """
    plane: HalfPlane | None = None
    sums: Accumulator | None = None
    limit = box / 2 - 1 if band is None else min(band, box / 2 - 1)
    for batch in batches:
        device = batch.images.device
        if plane is None or sums is None:
            plane = HalfPlane.build(box, limit, device)
            sums = Accumulator(box, limit, padding, symmetry, device)
        inverse = 1 / noise.to(device)[plane.shell] if noise is not None else torch.ones_like(plane.kx)
        scale = box * pixel_size_angstrom
        c = (
            ctf_values(batch.ctf, plane.ky / scale, plane.kx / scale)
            if batch.ctf is not None
            else torch.ones(1, len(plane), device=device)
        )
        centred = complex_product(plane.transform(batch.images), plane.phases(batch.shifts_px.to(plane.kx)))
        weight = (c * c * inverse).expand(len(batch.images), -1)
        sums.add(centred * (c * inverse)[:, None], weight, batch.rotations, plane)
    if sums is None:
        raise ValueError("no images to reconstruct from")
    return sums.solve(ssnr, limit)
