"""Small stacks of a few views, with noise boxes among them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from emflow.em.optics import Ctf, ctf_values
from emflow.em.poses import euler_to_matrix
from emflow.em.slices import HalfPlane, complex_product, volume_spectrum
from emflow.io.mrc import write_mrc
from emflow.io.star import write_star

BOX, PIXEL = 32, 6.0
VIEWS = torch.tensor([[0.0, 20.0], [70.0, 90.0], [200.0, 120.0]])


def specimen() -> torch.Tensor:
    """Lumps within 60 Å of the centre, (32, 32, 32)."""
    random = torch.Generator().manual_seed(2)
    atoms = torch.randn(14, 3, generator=random)
    atoms = atoms / atoms.norm(dim=1, keepdim=True) * (2 + 6 * torch.rand(14, 1, generator=random))
    line = (torch.arange(BOX) - BOX // 2).float()
    x, y, z = (torch.exp(-((line - atoms[:, i : i + 1]) ** 2) / 2.5) for i in range(3))
    return torch.einsum("az,ay,ax->zyx", z, y, x)


@pytest.fixture(scope="session")
def make_views() -> Callable[..., Path]:
    """Write particles of three views, then boxes of noise: folder, their numbers, signal-to-noise ratio → STAR."""

    def make(folder: Path, count: int, noise: int, snr: float = 0.25) -> Path:
        random = torch.Generator().manual_seed(4)
        view = torch.arange(count) % len(VIEWS)
        psi = 360 * torch.rand(count, generator=random)
        shift = torch.randn(count, 2, generator=random) * 0.7
        rotations = euler_to_matrix(torch.cat([VIEWS[view], psi[:, None]], 1))
        plane = HalfPlane.build(BOX, BOX // 2 - 1)
        defocus = 1.0 + 0.15 * (torch.arange(count + noise) % 10)
        ctf = Ctf(defocus, defocus, 0 * defocus)
        c = ctf_values(ctf, plane.ky / (BOX * PIXEL), plane.kx / (BOX * PIXEL))
        values = volume_spectrum(specimen(), BOX // 2 - 1).slices(rotations, plane)
        values = complex_product(values, plane.phases(shift)) * c[:count, None] * BOX
        full = torch.zeros(count, BOX, BOX // 2 + 1, dtype=torch.complex64)
        full[:, plane.ky.long() % BOX, plane.kx.long()] = torch.complex(values[:, 0], values[:, 1])
        rows = torch.arange(1, BOX // 2)
        full[:, BOX - rows, 0] = full[:, rows, 0].conj()
        clean = torch.zeros(count, BOX, BOX)
        if count:  # the FFT knows no empty batch
            clean = torch.fft.fftshift(torch.fft.irfft2(full, s=(BOX, BOX)), dim=(1, 2))
            clean *= (snr / clean.var(dim=(1, 2)).mean()) ** 0.5
        images = torch.cat([clean, torch.zeros(noise, BOX, BOX)])
        images += torch.randn(images.shape, generator=random)
        write_mrc(folder / "particles.mrcs", images.numpy(), PIXEL)
        total = count + noise
        table = pd.DataFrame(
            {
                "rlnImageName": [f"{i + 1:06d}@{folder / 'particles.mrcs'}" for i in range(total)],
                "rlnMicrographName": [f"m{i % 10}.mrc" for i in range(total)],
                "rlnCoordinateX": np.arange(total),
                "rlnCoordinateY": 0,
                "rlnDefocusU": (defocus * 1e4).tolist(),
                "rlnDefocusV": (defocus * 1e4).tolist(),
                "rlnDefocusAngle": 0.0,
                "rlnOpticsGroup": "1",
                "emflowView": [*view.tolist(), *[-1] * noise],
                "emflowTruePsi": [*psi.tolist(), *[0.0] * noise],
                "emflowOdd": "0012",
            },
            dtype=object,
        )
        names = [
            *("rlnOpticsGroup", "rlnImagePixelSize", "rlnImageSize", "rlnVoltage"),
            *("rlnSphericalAberration", "rlnAmplitudeContrast"),
        ]
        optics = pd.DataFrame([["1", PIXEL, BOX, 300, 2.7, 0.07]], columns=pd.Index(names), dtype=object)
        write_star(folder / "particles.star", {"optics": optics, "particles": table})
        return folder / "particles.star"

    return make
