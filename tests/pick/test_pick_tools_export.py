"""What is written can be read again, by us and by RELION."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emflow.io.coordinates import read_coordinates, stems_of
from emflow.io.mrc import read_mrc, write_mrc
from emflow.io.star import floats, read_star, write_star
from emflow.pick import command
from emflow.pick.config import PickExport, PickImport
from emflow.step import EmflowError

TARGETS = {
    "star": "p.star",
    "relion": "jobs",
    "relion-manual": "jobs",
    "box": "boxes",
    "csv": "p.csv",
    "topaz": "p.txt",
}
NAMES = ("mic/a b.1.mrc", "mic/c.mrc", "mic/it's.mrc")
place = st.tuples(st.sampled_from(NAMES), *[st.integers(-5, 900_000)] * 2, st.integers(0, 10_000))


def star_of(rows: list[tuple[str, int, int, int]], path: Path) -> None:
    """Our table: coordinates in hundredths of pixels, probabilities in ten thousandths."""
    content = [[n, f"{x / 100:.2f}", f"{y / 100:.2f}", f"{p / 1e4:.4f}", "7"] for n, x, y, p in rows]
    columns = [
        "rlnMicrographName",
        "rlnCoordinateX",
        "rlnCoordinateY",
        "rlnAutopickFigureOfMerit",
        "emflowPickScore",
    ]
    table = pd.DataFrame(content, columns=pd.Index(columns), dtype=object)
    write_star(path, {"micrographs": pd.DataFrame({"rlnMicrographName": NAMES}), "particles": table})


@settings(max_examples=15, deadline=None)
@given(st.lists(place, min_size=1, max_size=20), st.sampled_from(sorted(TARGETS)))
def test_a_round_trip_gives_the_same_coordinates(rows: list, kind: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "in.star"), Path(folder, TARGETS[kind])
        star_of(rows, source)
        command.export(source, target, cfg=PickExport(format=kind, box_px=64))
        back = read_coordinates(target).table
        whole = kind in ("box", "topaz")
        expected = sorted(
            (Path(n).stem, *(np.floor(v / 100 + 0.5) if whole else v / 100 for v in (x, y)))
            for n, x, y, _ in rows
        )
        xy = [floats(back, c).tolist() for c in ("rlnCoordinateX", "rlnCoordinateY")]
        assert sorted(zip(stems_of(back["rlnMicrographName"]), *xy, strict=True)) == expected
        if kind != "box":
            assert sorted(floats(back, "rlnAutopickFigureOfMerit")) == sorted(p / 1e4 for *_, p in rows)


def test_only_relions_columns_and_only_good_picks_go_out(tmp_path: Path) -> None:
    star_of([(NAMES[0], 100, 100, 9000), (NAMES[1], 100, 100, 1000)], tmp_path / "in.star")
    command.export(tmp_path / "in.star", tmp_path / "p.star", cfg=PickExport(min_figure=0.5))
    tables = read_star(tmp_path / "p.star")
    assert list(tables) == ["particles"]
    assert not [c for c in tables["particles"] if not c.startswith("rln")]
    assert tables["particles"]["rlnMicrographName"].tolist() == [NAMES[0]]
    cfg = PickExport(format="relion")
    command.export(tmp_path / "in.star", tmp_path / "job", cfg=cfg)
    assert sorted(str(p.relative_to(tmp_path / "job")) for p in (tmp_path / "job").rglob("*.star")) == [
        "autopick.star", "mic/a b.1_autopick.star", "mic/c_autopick.star",
    ]  # fmt: skip


def test_equal_base_names_do_not_overwrite_each_other(tmp_path: Path) -> None:
    table = pd.DataFrame(
        {
            "rlnMicrographName": ["s1/a.mrc", "s2/a.mrc"],
            "rlnCoordinateX": ["1", "2"],
            "rlnCoordinateY": ["3", "4"],
        }
    )
    write_star(tmp_path / "p.star", {"particles": table})
    command.export(tmp_path / "p.star", tmp_path / "job", cfg=PickExport(format="relion"))
    back = read_coordinates(tmp_path / "job" / "autopick.star").table
    assert back["rlnMicrographName"].tolist() == ["s1/a.mrc", "s2/a.mrc"]
    assert back["rlnCoordinateX"].tolist() == ["1", "2"]
    twice = table.assign(rlnMicrographName=["s/a.mrc", "../s/a.mrc"])
    write_star(tmp_path / "p.star", {"particles": twice})
    with pytest.raises(EmflowError, match="would both go to"):
        command.export(tmp_path / "p.star", tmp_path / "again", cfg=PickExport(format="box"))


def test_an_odd_box_and_a_lowest_figure_without_any_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x,y\n1,2\n")
    with pytest.raises(EmflowError, match="even"):
        command.export(tmp_path / "a.csv", tmp_path / "o", cfg=PickExport(format="box", box_px=63))
    with pytest.raises(EmflowError, match="rlnAutopickFigureOfMerit"):
        command.export(tmp_path / "a.csv", tmp_path / "o", cfg=PickExport(min_figure=0.1))


@pytest.mark.parametrize("kind", sorted(TARGETS))
def test_what_was_exported_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.chdir(tmp_path)
    for name in NAMES:
        write_mrc(Path(name), np.zeros((8, 8), np.float32), 1.0)
    star_of([(NAMES[0], 200, 300, 5000), (NAMES[2], 400, 600, 2500)], Path("in.star"))
    command.export(Path("in.star"), Path(TARGETS[kind]), cfg=PickExport(format=kind, box_px=4))
    cfg = PickImport(pixel_size_angstrom=1.0)
    command.import_(Path("mic"), Path(TARGETS[kind]), Path("out.star"), cfg=cfg)
    table = read_star("out.star")["particles"]
    assert set(table["rlnMicrographName"]) == {NAMES[0], NAMES[2]}
    assert sorted(floats(table, "rlnCoordinateX")) == [2, 4]
    assert sorted(floats(table, "rlnCoordinateY")) == [3, 6]


@pytest.mark.parametrize("kind", ["relion", "relion-manual"])
def test_no_file_of_an_earlier_export_stays_for_a_micrograph_without_particles(
    tmp_path: Path, kind: str
) -> None:
    cfg, folder = PickExport(format=kind), tmp_path / "jobs"
    for names in (NAMES[:2], NAMES[1:2]):
        star_of([(name, 1000, 2000, 9000) for name in names], tmp_path / "p.star")
        command.export(tmp_path / "p.star", folder, cfg=cfg)
    files = sorted(path.name for path in (folder / "mic").iterdir())
    assert files == ["c_autopick.star" if kind == "relion" else "c_manualpick.star"]


@pytest.mark.skipif(shutil.which("relion_preprocess") is None, reason="RELION is not installed")
@pytest.mark.parametrize("kind", ["relion", "relion-manual", "box"])
def test_relion_extracts_at_the_exported_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.chdir(tmp_path)
    image = np.zeros((96, 128), np.float32)
    image[30, 50], image[60, 90] = 1, 2
    write_mrc(Path("mic/a.mrc"), image, 1.5)
    star_of([("mic/a.mrc", 5000, 3000, 9000), ("mic/a.mrc", 9000, 6000, 9000)], Path("p.star"))
    target = "job/mic" if kind == "box" else "job"
    command.export(Path("p.star"), Path(target), cfg=PickExport(format=kind, box_px=16))
    optics = "data_optics\n\nloop_\n_rlnOpticsGroup\n_rlnOpticsGroupName\n_rlnMicrographOriginalPixelSize\n_rlnVoltage\n"
    optics += "_rlnSphericalAberration\n_rlnAmplitudeContrast\n_rlnMicrographPixelSize\n1 o1 1.5 300 2.7 0.1 1.5\n\n"
    micrographs = "data_micrographs\n\nloop_\n_rlnMicrographName\n_rlnOpticsGroup\nmic/a.mrc 1\n"
    Path("m.star").write_text(f"# version 30001\n\n{optics}# version 30001\n\n{micrographs}")
    ending = {"relion": "_autopick.star", "relion-manual": "_manualpick.star", "box": ".box"}[kind]
    words = ["--i", "m.star", "--coord_dir", "job/", "--coord_suffix", ending, "--part_star", "out/p.star"]
    done = subprocess.run(
        ["relion_preprocess", *words, "--part_dir", "out/", "--extract", "--extract_size", "16"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    particles = read_star("out/p.star")["particles"]
    assert floats(particles, "rlnCoordinateX").tolist() == [50, 90]
    assert floats(particles, "rlnCoordinateY").tolist() == [30, 60]
    stack = read_mrc(Path(particles["rlnImageName"].iloc[0].split("@")[1]))
    assert [image.max() for image in stack] == [1, 2]
    assert [np.unravel_index(image.argmax(), image.shape) for image in stack] == [(8, 8)] * 2
