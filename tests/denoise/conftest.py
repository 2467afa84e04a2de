"""A small session to denoise: blobs on a noisy background, with half sums."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.ndimage import gaussian_filter

from emflow.io.micrographs import load_micrographs
from emflow.io.mrc import write_mrc
from emflow.io.star import read_star, write_star
from emflow.step import OpticsFacts

PIXEL = 6.0


def blobs(shape: tuple[int, int], rng: np.random.Generator, number: int = 12) -> np.ndarray:
    """Dark blobs of irregular shape, 120 Å across, deviation 1 where they are."""
    points = np.zeros(shape)
    for y, x in rng.uniform(12, np.array(shape) - 12, (number, 2)):
        lumps = rng.normal((y, x), 4, (8, 2)).round().astype(int) % np.array(shape)
        points[lumps[:, 0], lumps[:, 1]] -= 1
    field = gaussian_filter(points, 2.5)
    return field / field[field < 0.2 * field.min()].std()


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
