"""From atoms to the electrostatic potential that a low-dose image of a hydrated molecule sees."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from emflow.simulate.specimen import Atoms

PROTEIN_VOLT = 7.8
"""Mean inner potential of protein; of vitreous ice: :data:`ICE_VOLT`. M. Vulović et al., J. Struct. Biol. 183 (2013) 19."""
ICE_VOLT = 4.5
_DISPLACED_ANGSTROM3_PER_ELECTRON = 1.21 * 110 / 58  # 1.21 Å³/Da, 58 electrons per 110 Da
# Electron scattering of carbon, L.-M. Peng et al., Acta Cryst. A52 (1996) 257, as fractions of f(0).
_CARBON_A = np.array([0.0893, 0.2563, 0.7570, 1.0487, 0.3575]) / 2.5088
_CARBON_B = np.array([0.2465, 1.7100, 6.4094, 18.6113, 50.2523])
_CHUNK = 20000


def potential(atoms: Atoms, box: int, pixel_size_angstrom: float, b_factor_angstrom2: float) -> Tensor:
    """Potential of a molecule in ice, relative to the ice, low-passed at the voxels' Nyquist frequency.

    Each atom is a Gaussian blob with carbon's scattering fall-off times exp(-B s²/4), laid down exactly
    in Fourier space (spread by a Gaussian on a grid of half the voxel, then divided by its transform:
    L. Greengard & J.-Y. Lee, SIAM Rev. 46 (2004) 443). The ice that the molecule displaces is subtracted
    inside its soft envelope; without that, low frequencies would be those of a molecule in vacuum.

    Parameters
    ----------
    atoms
        Positions relative to the box centre box//2.
    box, pixel_size_angstrom
        Side in voxels (even) and voxel size.

    Returns
    -------
    float32, shape (box, box, box), axes z, y, x, in volt.
    """
    spectrum, s2 = _spread(atoms, box, pixel_size_angstrom, b_factor_angstrom2)
    density = _real(spectrum, box)
    # The envelope: displaced volume, smoothed over 2.5 Å, saturating, smoothed again.
    plain, _ = _spread(atoms, box, pixel_size_angstrom, 8 * math.pi**2 * 2.5**2, falloff=False)
    filled = _real(plain, box) * _DISPLACED_ANGSTROM3_PER_ELECTRON / pixel_size_angstrom**3
    envelope = torch.fft.rfftn(torch.fft.ifftshift((1.3 * filled).clamp(0, 1)))
    envelope = _real(envelope * torch.exp(-2 * math.pi**2 * 1.5**2 * s2), box)
    weight = density.sum() / envelope.sum()
    return (density / weight * PROTEIN_VOLT - envelope * ICE_VOLT).float()


def _real(spectrum: Tensor, box: int) -> Tensor:
    return torch.fft.fftshift(torch.fft.irfftn(spectrum, s=(box, box, box)))


def _spread(
    atoms: Atoms, box: int, pixel: float, b_factor: float, falloff: bool = True
) -> tuple[Tensor, Tensor]:
    """Fourier transform (rfftn, origin at the centre) of the atoms on the box's own grid; and s² in 1/Å²."""
    total: Tensor | None = None
    s2 = _frequency2(box, pixel)
    inside = torch.outer(_keep(box), _keep(box))[:, :, None] * _keep(box)[: box // 2 + 1]
    for blur in np.unique(atoms.blur_angstrom):
        chosen = atoms.blur_angstrom == blur
        part = _grid(atoms.position[chosen] / pixel, atoms.electrons[chosen], box)
        decay = torch.exp(-(0.25 * b_factor + 2 * math.pi**2 * blur**2) * s2)
        if falloff:
            decay = decay * sum(
                a * torch.exp(-0.25 * b * s2) for a, b in zip(_CARBON_A, _CARBON_B, strict=True)
            )
        total = part * decay if total is None else total + part * decay
    assert total is not None
    return total * inside, s2


def _keep(box: int) -> Tensor:
    return (torch.fft.fftfreq(box, 1 / box).abs() < box // 2).double()


def _frequency2(box: int, pixel: float) -> Tensor:
    f = torch.fft.fftfreq(box, pixel, dtype=torch.float64) ** 2
    return f[:, None, None] + f[None, :, None] + f[None, None, : box // 2 + 1]


def _grid(position: np.ndarray, weight: np.ndarray, box: int) -> Tensor:
    """Transform of point weights at voxel positions x, y, z from the centre, exact to about 1e-4."""
    fine = 2 * box
    at = (position[:, ::-1] * 2 + fine // 2).copy()  # z, y, x on the fine grid
    nearest = np.rint(at).astype(np.int64)
    offsets = np.arange(-4, 5)
    grid = np.zeros(fine**3)
    for start in range(0, len(at), _CHUNK):
        base, here = nearest[start : start + _CHUNK], at[start : start + _CHUNK]
        index = (base[:, :, None] + offsets) % fine
        w = np.exp(-0.5 * (base[:, :, None] + offsets - here[:, :, None]) ** 2) / math.sqrt(2 * math.pi)
        flat = (index[:, 0, :, None, None] * fine + index[:, 1, None, :, None]) * fine + index[
            :, 2, None, None
        ]
        value = w[:, 0, :, None, None] * w[:, 1, None, :, None] * w[:, 2, None, None]
        value = value * weight[start : start + _CHUNK, None, None, None]
        grid += np.bincount(flat.ravel(), value.ravel(), minlength=fine**3)
    spectrum = torch.fft.rfftn(torch.fft.ifftshift(torch.from_numpy(grid.reshape(fine, fine, fine))))
    rows = torch.fft.fftfreq(box, 1 / box).long() % fine
    spectrum = spectrum[rows][:, rows][:, :, : box // 2 + 1]
    undo = torch.exp(2 * math.pi**2 * (torch.fft.fftfreq(box, 2.0, dtype=torch.float64)) ** 2)
    return spectrum * undo[:, None, None] * undo[None, :, None] * undo[: box // 2 + 1]
