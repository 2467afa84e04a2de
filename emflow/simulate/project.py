"""Projections of a volume at given poses, shifted by parts of a pixel."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from emflow.em.poses import euler_to_matrix, quaternion_to_matrix
from emflow.em.slices import HalfPlane, complex_product, volume_spectrum

_BATCH = 256


class Projector:
    """Projects one volume (box, box, box) again and again; its transform is made once."""

    def __init__(self, volume: Tensor, pixel_size_angstrom: float) -> None:
        self.box = volume.shape[-1]
        self._pixel = pixel_size_angstrom
        band = self.box // 2 - 1
        self._plane = HalfPlane.build(self.box, band, volume.device)
        self._spectrum = volume_spectrum(volume, band)

    def __call__(self, rotations: Tensor, shifts_px: Tensor) -> Tensor:
        """Project at poses.

        Parameters
        ----------
        rotations
            (N, 3, 3) matrices A with r_image = A r (x, y, z).
        shifts_px
            (N, 2) shifts of the projection by x, y, in pixels.

        Returns
        -------
        (N, box, box), the integral along the beam: the volume's unit times ångström.
        """
        out = rotations.new_empty(len(rotations), self.box, self.box)
        for start in range(0, len(rotations), _BATCH):
            part = slice(start, start + _BATCH)
            slices = self._spectrum.slices(rotations[part], self._plane)
            out[part] = self._images(complex_product(slices, self._plane.phases(shifts_px[part])))
        return out

    def _images(self, pixels: Tensor) -> Tensor:
        """Inverse of ``HalfPlane.transform``: (B, 2, M) → (B, box, box), times the pixel size."""
        plane, box = self._plane, self.box
        spectrum = pixels.new_zeros(len(pixels), box, box // 2 + 1, 2)
        rows, columns = plane.ky.long() % box, plane.kx.long()
        spectrum[:, rows, columns] = pixels.transpose(1, 2)
        axis = (columns == 0) & (plane.ky > 0)  # this column must be its own Friedel mate
        mates = pixels[:, :, axis] * pixels.new_tensor([1.0, -1.0])[:, None]
        spectrum[:, (-plane.ky[axis]).long() % box, 0] = mates.transpose(1, 2)
        images = torch.fft.irfft2(torch.view_as_complex(spectrum), s=(box, box))
        return torch.fft.fftshift(images, dim=(-2, -1)) * (box * self._pixel)


def random_rotations(n: int, generator: torch.Generator) -> Tensor:
    """Return n rotation matrices uniform over all rotations, float32 (n, 3, 3)."""
    quaternion = torch.randn(n, 4, generator=generator, dtype=torch.float64)
    return quaternion_to_matrix(quaternion / quaternion.norm(dim=-1, keepdim=True)).float()


def draw_rotations(n: int, preference: float, generator: torch.Generator) -> Tensor:
    """Return n rotation matrices whose views prefer the specimen's z axis, float32 (n, 3, 3).

    The beam's direction in the specimen is von Mises-Fisher distributed about z with concentration
    ``preference`` (0: uniform over all rotations), drawn by inversion (G. Ulrich, Appl. Stat. 33 (1984) 158).
    """
    if preference == 0:
        return random_rotations(n, generator)
    u, rot, psi = torch.rand(3, n, generator=generator, dtype=torch.float64)
    cosine = 1 + torch.log(u + (1 - u) * math.exp(-2 * preference)) / preference
    tilt = torch.rad2deg(torch.acos(cosine.clamp(-1, 1)))
    return euler_to_matrix(torch.stack([360 * rot, tilt, 360 * psi], -1)).float()
