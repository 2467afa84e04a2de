"""Small sets of particles with known truth, as files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from emflow.em.optics import Ctf, ctf_values
from emflow.em.poses import matrix_to_euler, quaternion_to_matrix
from emflow.em.slices import HalfPlane, complex_product, volume_spectrum
from emflow.em.symmetry import symmetry_operators
from emflow.io.mrc import write_mrc
from emflow.io.star import write_star

BOX, PIXEL, DIAMETER = 32, 6.0, 120.0


@dataclass(frozen=True)
class ParticleSet:
    """Particles on disk and what they are made of."""

    star: Path
    volume: Tensor
    rotations: Tensor
    shifts_px: Tensor


def specimen(symmetry: str = "C1", seed: int = 11) -> Tensor:
    """Lumps within a sphere of 20 pixels' diameter, (32, 32, 32)."""
    random = torch.Generator().manual_seed(seed)
    order = len(symmetry_operators(symmetry))
    atoms = torch.randn(max(3, 24 // order), 3, generator=random)
    radius = 3 + 6 * torch.rand(len(atoms), 1, generator=random)
    atoms = atoms / atoms.norm(dim=1, keepdim=True) * radius
    atoms = (atoms @ symmetry_operators(symmetry).float()).reshape(-1, 3)
    line = (torch.arange(BOX) - BOX // 2).float()
    x, y, z = (torch.exp(-((line - atoms[:, i : i + 1]) ** 2) / (2 * 1.2**2)) for i in range(3))
    return torch.einsum("az,ay,ax->zyx", z, y, x)


def images_of(volume: Tensor, rotations: Tensor, origins: Tensor, ctf: Ctf) -> Tensor:
    """Projections of a volume with shift and CTF, (N, 32, 32)."""
    plane = HalfPlane.build(BOX, BOX // 2 - 1)
    values = volume_spectrum(volume, BOX // 2 - 1).slices(rotations, plane)
    values = complex_product(values, plane.phases(-origins))
    values = values * ctf_values(ctf, plane.ky / (BOX * PIXEL), plane.kx / (BOX * PIXEL))[:, None] * BOX
    full = torch.zeros(len(rotations), BOX, BOX // 2 + 1, dtype=torch.complex64)
    full[:, plane.ky.long() % BOX, plane.kx.long()] = torch.complex(values[:, 0], values[:, 1])
    rows = torch.arange(1, BOX // 2)
    full[:, BOX - rows, 0] = full[:, rows, 0].conj()
    return torch.fft.fftshift(torch.fft.irfft2(full, s=(BOX, BOX)), dim=(1, 2))


@pytest.fixture(scope="session")
def project() -> Callable[[Tensor, Tensor, Tensor, Ctf], Tensor]:
    """Project a volume with shift and CTF."""
    return images_of


@pytest.fixture(scope="session")
def make_particles() -> Callable[..., ParticleSet]:
    """Write particles: folder, count, signal-to-noise ratio in the box (0: noise alone), point group, halves, offsets."""

    def make(
        folder: Path,
        count: int,
        snr: float,
        symmetry: str = "C1",
        halves: bool = True,
        spread_px: float = 0.7,
    ) -> ParticleSet:
        random = torch.Generator().manual_seed(4)
        q = torch.randn(count, 4, generator=random)
        rotations = quaternion_to_matrix(q / q.norm(dim=1, keepdim=True))
        origins = torch.randn(count, 2, generator=random) * spread_px
        micrograph = torch.arange(count) * 10 // count
        defocus = 1.0 + 0.15 * micrograph
        ctf = Ctf(defocus + 0.02, defocus - 0.02, 30.0 + 0 * defocus)
        volume = specimen(symmetry)
        images = images_of(volume, rotations, origins, ctf)
        images *= (snr / images.var(dim=(1, 2)).mean()) ** 0.5
        images += torch.randn(images.shape, generator=random)
        write_mrc(folder / "particles.mrcs", images.numpy(), PIXEL)
        angles = matrix_to_euler(rotations)
        table = pd.DataFrame(
            {
                "rlnImageName": [f"{i + 1:06d}@{folder / 'particles.mrcs'}" for i in range(count)],
                "rlnMicrographName": [f"m{int(m)}.mrc" for m in micrograph],
                "rlnCoordinateX": np.arange(count),
                "rlnCoordinateY": 0,
                "rlnDefocusU": (ctf.defocus_u_um * 1e4).tolist(),
                "rlnDefocusV": (ctf.defocus_v_um * 1e4).tolist(),
                "rlnDefocusAngle": ctf.defocus_angle_deg.tolist(),
                "rlnOpticsGroup": "1",
                "emflowTrueRot": angles[:, 0].tolist(),
                "emflowOdd": ["0012"] * count,
            },
            dtype=object,
        )
        if halves:
            table["rlnRandomSubset"] = [str(int(m) % 2 + 1) for m in micrograph]
        optics = pd.DataFrame(
            [["1", PIXEL, BOX, 300, 2.7, 0.07]],
            columns=pd.Index(
                ["rlnOpticsGroup", "rlnImagePixelSize", "rlnImageSize", "rlnVoltage",
                 "rlnSphericalAberration", "rlnAmplitudeContrast"]
            ),
            dtype=object,
        )  # fmt: skip
        write_star(folder / "particles.star", {"optics": optics, "particles": table})
        return ParticleSet(folder / "particles.star", volume, rotations, origins)

    return make
