"""Projections of a volume at given poses, by central slices of its padded transform."""

from __future__ import annotations

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor
from torch_fourier_slice.slice_extraction import extract_central_slices_rfft_3d
from torch_fourier_slice.volume_utils import separable_sinc2_correction

_BATCH = 64


class Projector:
    """Projects one volume (box, box, box) again and again; the transform is made once, padded twofold."""

    def __init__(self, volume: Tensor, pixel_size_angstrom: float) -> None:
        self.box = volume.shape[-1]
        self._pixel = pixel_size_angstrom
        pad = self.box // 2
        padded = torch.nn.functional.pad(volume, [pad] * 6)
        padded = padded / separable_sinc2_correction(padded.shape, device=volume.device)
        spectrum = torch.fft.rfftn(torch.fft.ifftshift(padded))
        self._spectrum = torch.fft.fftshift(spectrum, dim=(-3, -2))

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
        n = 2 * self.box
        fy = torch.fft.fftfreq(n, device=rotations.device)[:, None]
        fx = torch.fft.rfftfreq(n, device=rotations.device)[None]
        out = []
        for start in range(0, len(rotations), _BATCH):
            matrices, shift = rotations[start : start + _BATCH], shifts_px[start : start + _BATCH]
            slices = extract_central_slices_rfft_3d(self._spectrum, matrices.mT.contiguous())
            slices = torch.fft.ifftshift(slices, dim=-2)
            phase = -2 * torch.pi * (fx * shift[:, 0, None, None] + fy * shift[:, 1, None, None])
            images = torch.fft.irfft2(slices * torch.polar(torch.ones_like(phase), phase), s=(n, n))
            images = torch.fft.fftshift(images, dim=(-2, -1))
            edge = self.box // 2
            out.append(images[:, edge:-edge, edge:-edge] * self._pixel)
        return torch.cat(out) if out else rotations.new_zeros(0, self.box, self.box)


def random_rotations(n: int, generator: torch.Generator) -> Tensor:
    """Return n rotation matrices uniform over all rotations, float32 (n, 3, 3)."""
    quaternion = torch.randn(n, 4, generator=generator, dtype=torch.float64)
    if n == 0:
        return torch.zeros(0, 3, 3)
    return torch.from_numpy(Rotation.from_quat(quaternion.numpy()).as_matrix()).float()


def relion_angles(rotations: Tensor) -> np.ndarray:
    """Return rlnAngleRot, Tilt and Psi in degrees, (n, 3), of matrices A with r_image = A r."""
    if len(rotations) == 0:
        return np.zeros((0, 3))
    return Rotation.from_matrix(rotations.double().numpy()).inv().as_euler("ZYZ", degrees=True)
