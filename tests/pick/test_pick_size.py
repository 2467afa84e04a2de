"""The particle's diameter told from the data: peaks of the evidence, a real specimen, noise."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from emflow.io.image import read_image
from emflow.io.mrc import write_mrc
from emflow.pick import command
from emflow.pick.config import PickSize
from emflow.pick.size import DIAMETERS, LEAST, estimate
from emflow.step import EmflowError


def bump(middle: float, height: float, width: float = 0.2) -> np.ndarray:
    return np.asarray(height * np.exp(-0.5 * (np.log(DIAMETERS / middle) / width) ** 2))


@pytest.mark.parametrize("diameter", [80.0, 130.0, 210.0, 400.0])
def test_the_peak_of_the_evidence_is_the_diameter(diameter: float) -> None:
    told = estimate(bump(diameter, 30.0))
    assert told is not None
    assert told.diameter_angstrom == pytest.approx(diameter, rel=0.05)
    assert told.low_angstrom <= told.diameter_angstrom <= told.high_angstrom


def test_parts_of_the_particle_do_not_outvote_it() -> None:
    told = estimate(bump(200.0, 10.0) + bump(75.0, 13.0))
    assert told is not None
    assert told.diameter_angstrom == pytest.approx(200, rel=0.08)


def test_no_diameter_is_told_from_little_or_beyond_the_range() -> None:
    assert estimate(bump(200.0, 0.5 * LEAST)) is None
    assert estimate(bump(50.0, 30.0)) is None
    assert estimate(bump(700.0, 30.0)) is None
    assert estimate(np.full(len(DIAMETERS), 30.0)) is None


def test_noise_is_refused_and_apoferritin_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, real_data: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    noise = torch.randn(512, 512, generator=torch.Generator().manual_seed(2))
    write_mrc(Path("noise/a.mrc"), noise.numpy(), 3.0)
    with pytest.raises(EmflowError, match="cannot be told from 1 micrographs"):
        command.size(Path("noise"), Path("size.json"), cfg=PickSize(pixel_size_angstrom=3.0))
    assert not Path("size.json").exists()
    path = sorted((real_data / "apoferritin").glob("*.tif"))[0]
    write_mrc(Path("real/a.mrc"), read_image(path)[:1000, :1000].astype(np.float32), 1.5)
    command.size(Path("real"), Path("size.json"), cfg=PickSize(pixel_size_angstrom=1.5, contrast="dark"))
    told = json.loads(Path("size.json").read_text())
    assert 115 <= told["diameter_angstrom"] <= 145  # the published 120 to 130
    assert told["micrographs"] == 1
