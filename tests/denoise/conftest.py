"""A small session to denoise: clusters of atoms on a noisy background, with half sums."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.ndimage import gaussian_filter

from emflow.em.optics import Ctf, ctf_values, rfft_frequencies
from emflow.io.micrographs import load_micrographs
from emflow.io.mrc import write_mrc
from emflow.io.star import read_star, write_star
from emflow.step import OpticsFacts

PIXEL = 6.0


def blobs(shape: tuple[int, int], rng: np.random.Generator, number: int = 12) -> np.ndarray:
    """Image of clusters 150 Å across at 1.5 µm defocus: the CTF leaves hardly anything of low frequencies."""
    points = np.zeros(shape)
    for y, x in rng.uniform(15, np.array(shape) - 15, (number, 2)):
        atoms = rng.normal((y, x), 4.5, (40, 2)).round().astype(int) % np.array(shape)
        np.add.at(points, (atoms[:, 0], atoms[:, 1]), 1)
    field = torch.from_numpy(gaussian_filter(points, 1.2).astype(np.float32))
    one = torch.ones(1, dtype=torch.float64)
    ctf = Ctf(1.5 * one, 1.5 * one, 0 * one, 300.0, 2.7, 0.07)
    transfer = -ctf_values(ctf, *rfft_frequencies(shape, PIXEL, torch.device("cpu")))[0]
    image = torch.fft.irfft2(torch.fft.rfft2(field) * transfer, s=shape).numpy()
    return image / image[gaussian_filter(points, 4) > 0.1].std()


def noisy_pair(clean: np.ndarray, rng: np.random.Generator, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """Half sums: each has half of the image, and noise so that their sum has the deviation ``noise``."""
    deviation = noise / np.sqrt(2)
    even, odd = (0.5 * clean + rng.normal(0, deviation, clean.shape) for _ in range(2))
    return even, odd


@pytest.fixture
def session(tmp_path: Path) -> Path:
    """A STAR table of three micrographs of odd sizes with half sums, in a folder of their own."""
    rng = np.random.default_rng(1)
    rows = []
    for number in range(3):
        names = {part: tmp_path / "in" / part / f"m{number}.mrc" for part in ("sum", "even", "odd", "clean")}
        clean = 50 + blobs((150, 141), rng)
        even, odd = noisy_pair(clean, rng, 2.0)
        for part, image in {"sum": even + odd, "even": even, "odd": odd, "clean": clean}.items():
            write_mrc(names[part], image, PIXEL)
        rows.append(
            {
                "rlnMicrographName": str(names["sum"]),
                "rlnOpticsGroup": "1",
                "emflowMicrographId": f"id{number}",
                "emflowEvenName": str(names["even"]),
                "emflowOddName": str(names["odd"]),
                "emflowCleanName": str(names["clean"]),
            }
        )
    optics = load_micrographs(tmp_path / "in" / "sum", OpticsFacts(pixel_size_angstrom=PIXEL)).optics
    write_star(tmp_path / "session.star", {"optics": optics, "micrographs": pd.DataFrame(rows)})
    return tmp_path / "session.star"


@pytest.fixture
def noise() -> Callable[[Path], None]:
    """A function that overwrites a session's images with pure noise."""

    def overwrite(session: Path) -> None:
        rng = np.random.default_rng(2)
        for row in read_star(session)["micrographs"].to_dict("records"):
            even, odd = noisy_pair(np.full((150, 141), 50.0), rng, 2.0)
            for name, image in (("EvenName", even), ("OddName", odd)):
                write_mrc(row[f"emflow{name}"], image, PIXEL)
            write_mrc(row["rlnMicrographName"], even + odd, PIXEL)

    return overwrite
