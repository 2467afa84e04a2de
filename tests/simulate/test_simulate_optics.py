"""Stacks whose particles' defocus and beam tilt the table does not tell; and that a told tilt is taken off on reading."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from emflow.em.optics import beam_tilt_phase, rfft_frequencies
from emflow.io.mrc import read_mrc
from emflow.io.particle_images import image_set, read_mended
from emflow.io.particles import load_particles
from emflow.io.star import floats, read_star, read_table, write_star
from emflow.simulate.command import particles
from emflow.simulate.config import SimulateParticles

PLAIN = SimulateParticles(
    mass_kda=60, n_domains=3, diameter_angstrom=80, box_px=48, pixel_size_angstrom=2.0, n_particles=40,
    particles_per_micrograph=20, snr=0.5, keep_clean=True, n_state_volumes=1,
)  # fmt: skip
TILT = (1.5, -0.7)


def made(folder: Path, **changes: object) -> Path:
    particles(folder, cfg=PLAIN.model_copy(update=changes))
    return folder


def clean(folder: Path) -> torch.Tensor:
    return torch.from_numpy(read_mrc(folder / "truth" / "clean.mrcs"))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("plain"))


def test_the_table_tells_the_micrographs_defocus_and_the_truth_each_particles(tmp_path: Path) -> None:
    folder = made(tmp_path, defocus_spread_angstrom=500.0, n_particles=400, keep_clean=False)
    told, true = (
        read_table(folder / name, "particles") for name in ("particles.star", "truth/particles.star")
    )
    assert told.groupby("rlnMicrographName")["rlnDefocusU"].nunique().max() == 1
    assert "emflowDefocusOffset" not in told
    offset = floats(true, "rlnDefocusU") - floats(told, "rlnDefocusU")
    assert offset == pytest.approx(floats(true, "emflowDefocusOffset"), abs=1e-3)
    assert offset == pytest.approx(floats(true, "rlnDefocusV") - floats(told, "rlnDefocusV"), abs=1e-3)
    assert np.std(offset) == pytest.approx(500, rel=0.12)


def test_a_tilt_that_the_table_tells_is_taken_off_on_reading(tmp_path: Path, plain: Path) -> None:
    """With the truth's optics the tilted images are read as those of an untilted beam, and only then."""
    folder = made(tmp_path, beam_tilt_mrad=TILT)
    assert "rlnBeamTiltX" not in read_star(folder / "particles.star")["optics"]
    optics = read_star(folder / "truth" / "particles.star")["optics"]
    assert [float(optics[f"rlnBeamTilt{axis}"].iloc[0]) for axis in "XY"] == list(TILT)
    untilted, tilted = clean(plain), clean(folder)
    fy, fx = rfft_frequencies((48, 48), 2.0)
    phase = beam_tilt_phase(TILT, 300.0, 2.7, fy, fx)
    mended = torch.fft.irfft2(
        torch.fft.rfft2(tilted) * torch.polar(torch.ones_like(phase), phase), s=(48, 48)
    )
    scale = float((mended * untilted).sum() / mended.square().sum())
    power = float(untilted.square().mean())
    assert float((scale * mended - untilted).square().mean()) < 1e-3 * power
    assert float((scale * tilted - untilted).square().mean()) > 1e-2 * power
    tables = read_star(folder / "particles.star")
    write_star(folder / "told.star", {**tables, "optics": optics})
    raw, told = load_particles(folder / "particles.star"), load_particles(folder / "told.star")
    rows = np.arange(0, 40, 3)
    as_read, as_told = read_mended(raw, rows), read_mended(told, rows)
    grain = torch.fft.rfft2(as_read) * torch.polar(torch.ones_like(phase), phase)
    assert torch.allclose(as_told, torch.fft.irfft2(grain, s=(48, 48)), atol=1e-4)
    # the transforms of an ImageSet are mended as the images are
    mine = image_set(told, torch.device("cpu"))
    plane = mine.plane(20)
    transforms, _ = mine.transforms(torch.from_numpy(rows), plane)
    assert torch.allclose(transforms, plane.transform(as_told), atol=1e-4)
    assert image_set(raw, torch.device("cpu")).aberration is None


def test_each_optics_group_has_its_tilt(plain: Path) -> None:
    loaded = load_particles(plain / "particles.star")
    optics = read_star(plain / "particles.star")["optics"]
    both = optics.loc[[0, 0]].assign(
        rlnOpticsGroup=["1", "2"], rlnBeamTiltX=["0", "2"], rlnBeamTiltY=["0", "0"]
    )
    table = loaded.table.assign(rlnOpticsGroup=["1", "2"] * 20)
    mixed = replace(loaded, table=table, optics=both)
    images, same = image_set(mixed, torch.device("cpu")), image_set(loaded, torch.device("cpu"))
    plane = images.plane(20)
    rows = torch.arange(6)
    changed = (images.transforms(rows, plane)[0] - same.transforms(rows, plane)[0]).abs().amax((1, 2))
    assert (changed[::2] == 0).all()
    assert (changed[1::2] > 0.1).all()
