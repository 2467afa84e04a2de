"""Particle tables and their stacks: the right image for each row, and plain words where they do not fit."""

import logging
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from emflow.io import particles as module
from emflow.io.mrc import write_mrc
from emflow.io.particle_ctf import ctf_columns, ctf_of
from emflow.io.particles import load_particles, read_images
from emflow.io.star import floats, write_star
from emflow.step import EmflowError


def optics(**changes: str) -> pd.DataFrame:
    row = {
        "rlnOpticsGroup": "1",
        "rlnVoltage": "300.0",
        "rlnSphericalAberration": "2.7",
        "rlnAmplitudeContrast": "0.1",
        "rlnImagePixelSize": "3.0",
        "rlnImageSize": "4",
    }
    return pd.DataFrame([{**row, **changes}], dtype=object)


def make(folder: Path, counts: tuple[int, ...] = (3, 5), pixel: float = 3.0) -> pd.DataFrame:
    """Stacks whose image i of stack s holds the value 100 s + i; a table in mixed order."""
    names = []
    for s, count in enumerate(counts):
        values = 100 * s + np.arange(count, dtype=np.float32)
        write_mrc(folder / f"s{s}.mrcs", np.broadcast_to(values[:, None, None], (count, 4, 4)), pixel)
        names += [f"{i + 1:06d}@s{s}.mrcs" for i in range(count)]
    order = np.random.default_rng(0).permutation(len(names))
    return pd.DataFrame(
        {
            "rlnImageName": [names[i] for i in order],
            "rlnMicrographName": [f"{names[i][-7]}.mrc" for i in order],
            "rlnCoordinateX": [str(10.4 * i) for i in order],
            "rlnCoordinateY": "7",
            "rlnOpticsGroup": "1",
            "rlnDefocusU": [str(10000 + i) for i in order],
            "rlnDefocusV": "9000",
            "rlnDefocusAngle": "45",
        },
        dtype=object,
    )


def value_of(name: str) -> float:
    return 100 * int(name[-6]) + int(name[:6]) - 1


def test_each_row_gets_its_image_in_any_order(tmp_path: Path) -> None:
    table = make(tmp_path)
    write_star(tmp_path / "p.star", {"optics": optics(), "particles": table})
    particles = load_particles(tmp_path / "p.star")
    rows = np.array([7, 0, 3, 3, 5])
    images = read_images(particles, rows)
    assert images.dtype == np.float32
    assert images.shape == (5, 4, 4)
    expected = [value_of(table["rlnImageName"][row]) for row in rows]
    np.testing.assert_array_equal(images[:, 2, 1], expected)
    assert read_images(particles).shape == (8, 4, 4)
    assert read_images(particles, np.array([], dtype=int)).shape == (0, 4, 4)


def test_stacks_are_found_from_the_working_folder_and_from_the_star(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "results").mkdir()
    table = make(tmp_path)
    write_star(tmp_path / "results" / "p.star", {"optics": optics(), "particles": table})
    with pytest.raises(EmflowError, match=r"s\d.mrcs' named in rlnImageName does not exist"):
        load_particles(tmp_path / "results" / "p.star")
    monkeypatch.chdir(tmp_path)
    assert len(load_particles("results/p.star")) == 8


def test_a_table_written_elsewhere_finds_its_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "job").mkdir()
    write_star(tmp_path / "job" / "p.star", {"optics": optics(), "particles": make(tmp_path / "job")})
    monkeypatch.chdir(tmp_path)
    read = load_particles("job/p.star")  # its names hold from its own folder only
    write_star(tmp_path / "other" / "p.star", {"optics": read.optics, "particles": read.table})
    again = load_particles("other/p.star")
    rows = np.array([1, 4])
    assert np.array_equal(read_images(again, rows), read_images(read, rows))
    assert all(name.partition("@")[2].startswith("job/s") for name in again.table["rlnImageName"])


def test_touches_only_the_stacks_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = make(tmp_path)
    write_star(tmp_path / "p.star", {"optics": optics(), "particles": table})
    particles = load_particles(tmp_path / "p.star")
    opened: list[str] = []
    original = module.map_mrc
    monkeypatch.setattr(module, "map_mrc", lambda path: opened.append(path.name) or original(path))
    first = [i for i, name in enumerate(table["rlnImageName"]) if "s1" in name]
    read_images(particles, np.array(first))
    assert opened == ["s1.mrcs"]


def test_ctf_in_micrometre_and_per_row(tmp_path: Path) -> None:
    table = make(tmp_path)
    write_star(tmp_path / "p.star", {"optics": optics(), "particles": table})
    particles = load_particles(tmp_path / "p.star")
    columns = ctf_columns(particles, np.array([2, 0]))
    np.testing.assert_allclose(columns["defocus_u_um"], floats(table, "rlnDefocusU")[[2, 0]] * 1e-4)
    np.testing.assert_array_equal(columns["phase_shift_deg"], [0, 0])
    np.testing.assert_array_equal(columns["voltage_kv"], [300, 300])
    ctf = ctf_of(particles)
    assert ctf.defocus_v_um.shape == (8,)
    assert float(ctf.defocus_v_um[0]) == pytest.approx(0.9)
    assert (ctf.voltage_kv, ctf.cs_mm, ctf.amplitude_contrast) == (300, 2.7, 0.1)


def test_optics_groups_keep_their_facts(tmp_path: Path) -> None:
    table = make(tmp_path)
    table["rlnOpticsGroup"] = ["1" if "s0" in name else "2" for name in table["rlnImageName"]]
    both = pd.concat([optics(), optics(rlnOpticsGroup="2", rlnVoltage="200.0", rlnImagePixelSize="3.1")])
    write_star(tmp_path / "p.star", {"optics": both, "particles": table})
    particles = load_particles(tmp_path / "p.star")
    assert particles.facts("2").voltage_kv == 200
    assert set(ctf_columns(particles)["voltage_kv"]) == {200, 300}
    with pytest.raises(EmflowError, match="different voltage_kv"):
        ctf_of(particles)
    with pytest.raises(EmflowError, match=r"Optics groups 1 and 2 differ: 4 px at 3 Å and 4 px at 3\.1 Å"):
        particles.common_facts()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"optics": {"rlnImageSize": "16"}},
            r"boxes of 16 px at 3 Å .*holds boxes of 4 px.*pixel size is 12 Å",
        ),
        ({"name": "000009@s1.mrcs"}, "names image 9 of .*s1.mrcs, which holds 5"),
        ({"name": "000000@s1.mrcs"}, "expected <number from 1>@"),
        ({"name": "x@s1.mrcs"}, "expected <number from 1>@"),
        ({"group": "7"}, "optics group 7 is not in data_optics"),
    ],
)
def test_what_does_not_fit_is_said(tmp_path: Path, change: dict, words: str) -> None:
    table = make(tmp_path)
    if "name" in change:
        table.loc[4, "rlnImageName"] = change["name"]
    if "group" in change:
        table.loc[4, "rlnOpticsGroup"] = change["group"]
    write_star(tmp_path / "p.star", {"optics": optics(**change.get("optics", {})), "particles": table})
    with pytest.raises(EmflowError, match=words):
        load_particles(tmp_path / "p.star")


def test_header_pixel_size_is_reported_and_not_believed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_star(tmp_path / "p.star", {"optics": optics(), "particles": make(tmp_path, pixel=1.5)})
    with caplog.at_level(logging.WARNING):
        particles = load_particles(tmp_path / "p.star")
    assert "header of" in caplog.text
    assert "1.5 Å" in caplog.text
    assert particles.common_facts().pixel_size_angstrom == 3.0


def test_ids_join_tables_whatever_the_order(tmp_path: Path) -> None:
    table = make(tmp_path)
    write_star(tmp_path / "p.star", {"optics": optics(), "particles": table})
    write_star(tmp_path / "q.star", {"optics": optics(), "particles": table[::-1]})
    ids = load_particles(tmp_path / "p.star").table["emflowParticleId"].tolist()
    assert ids[::-1] == load_particles(tmp_path / "q.star").table["emflowParticleId"].tolist()
    assert len(set(ids)) == 8
    kept = table.assign(emflowParticleId=[f"id{i}" for i in range(8)])
    write_star(tmp_path / "r.star", {"optics": optics(), "particles": kept})
    assert load_particles(tmp_path / "r.star").table["emflowParticleId"][3] == "id3"


def test_no_particles_at_all(tmp_path: Path) -> None:
    write_star(tmp_path / "p.star", {"optics": optics(), "particles": make(tmp_path)[:0]})
    particles = load_particles(tmp_path / "p.star")
    assert len(particles) == 0
    assert read_images(particles).shape == (0, 4, 4)
    assert ctf_of(particles).defocus_u_um.shape == (0,)
    assert particles.common_facts().pixel_size_angstrom == 3.0


def test_old_tables_get_optics_and_shifts_in_angstrom(tmp_path: Path) -> None:
    make(tmp_path)
    old = pd.DataFrame(
        {
            "rlnImageName": ["1@s0.mrcs", "2@s0.mrcs"],
            "rlnDefocusU": "10000",
            "rlnDefocusV": "9000",
            "rlnDefocusAngle": "45",
            "rlnVoltage": ["300", "200"],
            "rlnSphericalAberration": "2.7",
            "rlnAmplitudeContrast": "0.1",
            "rlnMagnification": "10000",
            "rlnDetectorPixelSize": "3",
            "rlnOriginX": "2",
            "rlnOriginY": "-1.5",
        },
        dtype=object,
    )
    write_star(tmp_path / "old.star", {"": old})
    particles = load_particles(tmp_path / "old.star")
    assert particles.facts("1").pixel_size_angstrom == pytest.approx(3.0)
    assert (particles.facts("1").voltage_kv, particles.facts("2").voltage_kv) == (300, 200)
    assert particles.facts("2").box_px == 4
    np.testing.assert_allclose(floats(particles.table, "rlnOriginXAngst"), 6)
    np.testing.assert_allclose(floats(particles.table, "rlnOriginYAngst"), -4.5)
    assert "rlnOriginX" not in particles.table
    write_star(tmp_path / "bad.star", {"particles": old[["rlnImageName"]]})
    with pytest.raises(EmflowError, match="no block data_optics, and its table lacks _rlnVoltage"):
        load_particles(tmp_path / "bad.star")


def test_memory_does_not_grow_with_the_stack(tmp_path: Path) -> None:
    """A sparse stack of 8 GB: reading two images must not read it all."""
    make(tmp_path, (2,))
    header = bytearray((tmp_path / "s0.mrcs").read_bytes()[:1024])
    side, count = 512, 8192
    header[:12] = np.array([side, side, count], "<i4").tobytes()
    header[28:40] = np.array([side, side, 1], "<i4").tobytes()
    with open(tmp_path / "big.mrcs", "wb") as handle:
        handle.write(header)
        handle.truncate(1024 + 4 * side * side * count)
    table = pd.DataFrame(
        {"rlnImageName": ["8192@big.mrcs", "1@big.mrcs"], "rlnOpticsGroup": "1"}, dtype=object
    )
    write_star(tmp_path / "p.star", {"optics": optics(rlnImageSize=str(side)), "particles": table})
    images = read_images(load_particles(tmp_path / "p.star"))
    assert images.shape == (2, side, side)
    os.remove(tmp_path / "big.mrcs")


def test_real_particles_whose_box_and_pixel_size_do_not_match(real_data: Path, tmp_path: Path) -> None:
    """The stack was binned by four after the table was written; the table's names are not those of the files."""
    source = real_data / "particles"
    with pytest.raises(EmflowError, match=r"empiar_10076_7.mrc' named in rlnImageName does not exist"):
        load_particles(source / "empiar_10076_7.star")
    shutil.copy(source / "empiar_10076_7.star", tmp_path)
    shutil.copy(source / "emp10076_7p_80px_f16.mrcs", tmp_path / "empiar_10076_7.mrc")
    with pytest.raises(EmflowError, match=r"1\.31 Å per pixel .* header .* 5\.24 Å with boxes of 80 px"):
        load_particles(tmp_path / "empiar_10076_7.star")
    particles = load_particles(real_data / "metadata" / "relion31.6opticsgroups.star", images=False)
    assert len(particles) == 139
    assert particles.facts("4").cs_mm == 2.6
