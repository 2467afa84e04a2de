"""The particle store: the same Fourier pixels as from the images, bounded memory, never stale."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from emflow.em.images import ImageSet, noise_spectra, read_ahead
from emflow.io import particle_store
from emflow.io.mrc import write_mrc
from emflow.io.particle_images import image_set
from emflow.io.particle_store import open_store
from emflow.io.particles import Particles, load_particles
from emflow.io.star import read_star, write_star
from emflow.step import EmflowError

BOX, COUNT = 24, 90
CPU = torch.device("cpu")


@pytest.fixture
def star(tmp_path: Path) -> Path:
    """Two stacks, interleaved in the table; two optics groups of different spherical aberration."""
    random = np.random.default_rng(3)
    for name in "ab":
        pixels = 40 * random.standard_normal((COUNT // 2, BOX, BOX), dtype=np.float32)
        write_mrc(tmp_path / f"{name}.mrcs", pixels, 3.0)
    table = pd.DataFrame(
        {
            "rlnImageName": [f"{i // 2 + 1:06d}@{'ab'[i % 2]}.mrcs" for i in range(COUNT)],
            "rlnDefocusU": [f"{10000 + 100 * i}" for i in range(COUNT)],
            "rlnDefocusV": [f"{10000 + 90 * i}" for i in range(COUNT)],
            "rlnDefocusAngle": "20",
            "rlnOpticsGroup": [str(i // 20 % 2 + 1) for i in range(COUNT)],
            "rlnRandomSubset": [str(i // 7 % 2 + 1) for i in range(COUNT)],
        },
        dtype=object,
    )
    optics = pd.DataFrame(
        [["1", 3.0, BOX, 300, 2.7, 0.07], ["2", 3.0, BOX, 300, 0.01, 0.07]],
        columns=pd.Index(
            ["rlnOpticsGroup", "rlnImagePixelSize", "rlnImageSize", "rlnVoltage",
             "rlnSphericalAberration", "rlnAmplitudeContrast"]
        ),
        dtype=object,
    )  # fmt: skip
    write_star(tmp_path / "particles.star", {"optics": optics, "particles": table})
    return tmp_path / "particles.star"


def opened(star: Path) -> tuple[Particles, ImageSet]:
    particles = load_particles(star)
    return particles, image_set(particles, CPU)


def made(star: Path, path: Path) -> ImageSet:
    particles, images = opened(star)
    plane = images.plane(BOX / 2)
    return replace(images, spectra=open_store(path, particles, images, plane))


@pytest.mark.parametrize("band", [2.0, 4.5, 8.0, 10.0, 12.0])
def test_a_band_from_the_store_is_the_transform_of_the_images(
    star: Path, tmp_path: Path, band: float
) -> None:
    _, images = opened(star)
    stored = made(star, tmp_path / "store")
    plane = images.plane(band)
    for rows in (torch.arange(COUNT), torch.tensor([3, 4, 5, 60]), torch.tensor([7, 2, 2, 80, 8])):
        expected, ctf = images.transforms(rows, plane)
        found, same = stored.transforms(rows, plane)
        assert torch.equal(ctf, same)
        # half precision: 11 bits of each number
        assert (found - expected).abs().max() <= 2**-11 * expected.abs().max()
        assert torch.allclose(found, expected, rtol=2**-10, atol=1e-3)


def test_batches_come_in_order_from_either_source(
    star: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("emflow.em.images._BATCH_PIXELS", 7 * BOX**2)
    _, images = opened(star)
    stored = made(star, tmp_path / "store")
    plane, rows = images.plane(9), images.rows(2)
    for source in (images, stored):
        parts = list(source.batches(rows, plane))
        assert [len(part) for part, _, _ in parts][:2] == [7, 7]
        assert torch.equal(torch.cat([part for part, _, _ in parts]), rows)
        whole, ctf = source.transforms(rows, plane)
        assert torch.equal(torch.cat([pixels for _, pixels, _ in parts]), whole)
        assert torch.allclose(torch.cat([values for _, _, values in parts]), ctf)
        assert not list(source.batches(rows[:0], plane))
    spectra = noise_spectra(images, rows, plane), noise_spectra(stored, rows, plane)
    assert torch.allclose(*spectra, rtol=1e-3)


def test_an_error_of_the_reader_reaches_the_caller() -> None:
    def read(part: torch.Tensor) -> torch.Tensor:
        if int(part[0]) == 4:
            raise EmflowError("gone")
        return part

    seen: list[int] = []
    with pytest.raises(EmflowError, match="gone"):
        seen.extend(int(part[0]) for part, _ in read_ahead(torch.arange(8).split(2), read))
    assert seen == [] or seen == [0, 2]


def test_a_whole_store_is_kept_and_any_other_is_made_again(
    star: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "store"
    made(star, path)
    first = path.read_bytes()
    making: list[int] = []
    transforms = particle_store._transforms

    def counted(images: ImageSet, *words: Any) -> Any:
        making.append(len(images))
        return transforms(images, *words)

    monkeypatch.setattr(particle_store, "_transforms", counted)
    made(star, path)
    assert not making
    flipped = bytearray(first)
    flipped[-100] ^= 1
    for spoilt in (bytes(flipped), first[:-8], first + b"more", first[:100], b"", b"[1]".ljust(5000)):
        path.write_bytes(spoilt)
        made(star, path)
        assert path.read_bytes() == first
    assert len(making) == 6
    tables = read_star(star)
    tables["particles"] = tables["particles"].assign(rlnAngleRot="1.0")
    write_star(star, tables)
    made(star, path)
    assert len(making) == 6, "poses change nothing of the pixels"
    tables["particles"] = tables["particles"].iloc[::-1]
    write_star(star, tables)
    made(star, path)
    assert len(making) == 7, "another order is another store"
    os.utime(tmp_path / "a.mrcs", ns=(1, 1))
    made(star, path)
    assert len(making) == 8


def test_what_a_killed_run_left_is_removed(
    star: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "folder" / "some.store"
    with monkeypatch.context() as killed:
        killed.setattr(Path, "unlink", lambda *_, **__: None)
        killed.setattr(particle_store, "_check_finite", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            made(star, path)
    assert [left.name[0] for left in path.parent.iterdir()] == ["."]
    made(star, path)
    assert list(path.parent.iterdir()) == [path]


def test_a_failure_leaves_no_store(star: Path, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).standard_normal((COUNT // 2, BOX, BOX), dtype=np.float32)
    pixels[30, 3, 3] = np.nan
    content = (tmp_path / "b.mrcs").read_bytes()[: -pixels.nbytes] + pixels.tobytes()
    (tmp_path / "b.mrcs").write_bytes(content)
    with pytest.raises(EmflowError, match="Particle 62 .000031@.*b.mrcs. holds values that are not finite"):
        made(star, tmp_path / "folder" / "store")
    assert not list((tmp_path / "folder").iterdir())


def test_a_store_cut_short_while_open_is_named(star: Path, tmp_path: Path) -> None:
    stored = made(star, tmp_path / "store")
    os.truncate(tmp_path / "store", 5000)
    with pytest.raises(EmflowError, match="cut short"):
        stored.transforms(torch.arange(COUNT), stored.plane(12))


def test_reading_maps_nothing(star: Path, tmp_path: Path) -> None:
    """Pages of a mapped file count as resident memory: a pass would grow with the number of particles."""
    stored = made(star, tmp_path / "store")
    kept = list(stored.batches(torch.arange(COUNT), stored.plane(12)))
    assert len(kept) == 1
    assert str(tmp_path / "store") not in Path("/proc/self/maps").read_text()


@pytest.mark.parametrize("box", [32, 64, 128, 256, 512, 2048])
def test_a_batch_is_bounded_whatever_the_box(box: int) -> None:
    one = torch.ones(1, dtype=torch.long)
    images = ImageSet(lambda rows: rows, lambda rows, fy, fx: fy, box, 1.0, one, one, CPU)
    assert 1 <= images.batch <= 512
    assert images.batch == 1 or images.batch * box**2 <= 1 << 21
