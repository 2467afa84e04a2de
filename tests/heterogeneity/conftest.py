"""Tiny stacks with known truth."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from emflow.em.masks import soft_sphere
from emflow.em.optics import Ctf, ctf_values
from emflow.em.poses import matrix_to_euler, quaternion_to_matrix
from emflow.em.slices import HalfPlane, volume_spectrum
from emflow.io.mrc import write_mrc
from emflow.io.star import write_star

BOX, PIXEL = 32, 6.0
VOLTAGE, CS, CONTRAST = 300.0, 2.7, 0.1


def balls(centres: list[list[float]], width: float = 2.0) -> torch.Tensor:
    """Gaussian balls at centres (x, y, z), in voxels from the centre: (BOX, BOX, BOX)."""
    line = torch.arange(BOX).float() - BOX // 2
    z, y, x = torch.meshgrid(line, line, line, indexing="ij")
    volume = torch.zeros(BOX, BOX, BOX)
    for a, b, c in centres:
        volume += torch.exp(-((x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2) / (2 * width**2))
    return volume


CORE = [[0.0, 0, 0], [3, 1, -2], [-3, 2, 1], [0, -4, 2], [1, 3, 3]]
STATES = [CORE, [*CORE, [7.0, 3, 0]], [*CORE, [-6.0, -3, 4]]]


@pytest.fixture(scope="session")
def true_volumes() -> list[torch.Tensor]:
    """Maps of the states."""
    return [balls(centres) for centres in STATES]


@pytest.fixture(scope="session")
def make_stack(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Path, np.ndarray]]:
    """Write a stack; returns its folder (particles.star, maps/mask.mrc) and each particle's state."""

    def make(
        states: int,
        count: int = 600,
        snr: float = 0.5,
        signal: bool = True,
        groups: int = 1,
        volumes: list[torch.Tensor] | None = None,
    ) -> tuple[Path, np.ndarray]:
        folder = tmp_path_factory.mktemp("stack")
        rng = torch.Generator().manual_seed(5)
        labels = np.random.default_rng(5).integers(states, size=count)
        quaternions = torch.nn.functional.normalize(torch.randn(count, 4, generator=rng))
        rotations = quaternion_to_matrix(quaternions)
        shifts = torch.randn(count, 2, generator=rng)
        defocus = torch.rand(count, generator=rng) + 1.0
        ctf = Ctf(defocus + 0.03, defocus, torch.rand(count, generator=rng) * 180, VOLTAGE, CS, CONTRAST)
        plane = HalfPlane.build(BOX, BOX / 2 - 1)
        transfer = ctf_values(ctf, plane.ky / (BOX * PIXEL), plane.kx / (BOX * PIXEL))
        phases = plane.phases(-shifts)
        half = torch.zeros(count, BOX, BOX // 2 + 1, dtype=torch.complex64)
        for state in range(states):
            rows = torch.from_numpy(np.flatnonzero(labels == state))
            true = balls(STATES[state]) if volumes is None else volumes[state]
            slices = volume_spectrum(true, BOX / 2 - 1).slices(rotations[rows], plane)
            values = torch.complex(slices[:, 0], slices[:, 1]) * BOX * transfer[rows]
            values = values * torch.complex(phases[rows, 0], phases[rows, 1])
            ky, kx = plane.ky.long(), plane.kx.long()
            half[rows[:, None], ky % BOX, kx] = values
            edge = kx == 0
            half[rows[:, None], (-ky[edge]) % BOX, 0] = values[:, edge].conj()
        clean = torch.fft.fftshift(torch.fft.irfft2(half, s=(BOX, BOX)), dim=(-2, -1))
        clean = clean * (snr / clean.var()).sqrt() * float(signal)
        images = clean + torch.randn(count, BOX, BOX, generator=rng)
        write_mrc(folder / "stack.mrcs", images.numpy(), PIXEL)
        angles = matrix_to_euler(rotations).numpy()
        table = {
            "rlnImageName": [f"{i + 1:06d}@stack.mrcs" for i in range(count)],
            **{f"rlnAngle{name}": angles[:, i] for i, name in enumerate(("Rot", "Tilt", "Psi"))},
            **{f"rlnOrigin{name}Angst": (shifts[:, i] * PIXEL).numpy() for i, name in enumerate("XY")},
            "rlnDefocusU": (ctf.defocus_u_um * 1e4).numpy(),
            "rlnDefocusV": (ctf.defocus_v_um * 1e4).numpy(),
            "rlnDefocusAngle": ctf.defocus_angle_deg.numpy(),
            "rlnRandomSubset": np.arange(count) % 2 + 1,
            "rlnOpticsGroup": np.arange(count) % groups + 1,
            "foreignColumn": [f"00{i}e-9" for i in range(count)],
            "emflowParticleId": [f"p{i}" for i in range(count)],
        }
        optics = {
            "rlnOpticsGroup": range(1, groups + 1),
            "rlnImagePixelSize": PIXEL,
            "rlnImageSize": BOX,
            "rlnVoltage": VOLTAGE,
            "rlnSphericalAberration": CS,
            "rlnAmplitudeContrast": CONTRAST,
        }
        tables = {"optics": pd.DataFrame(optics), "particles": pd.DataFrame(table)}
        write_star(folder / "particles.star", tables)
        write_mrc(folder / "maps" / "mask.mrc", soft_sphere(BOX, 10, 4).numpy(), PIXEL)
        return folder, labels

    return make
