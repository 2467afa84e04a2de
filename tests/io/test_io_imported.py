"""Somebody's CTF and picks find our micrographs by name."""

from pathlib import Path

import pandas as pd
import pytest

from emflow.io.imported import match_by_name, read_imported_ctf, read_imported_picks
from emflow.io.micrographs import Micrographs, load_micrographs, optics_table
from emflow.io.star import read_star, write_star
from emflow.step import EmflowError, OpticsFacts


def ours(*names: str) -> Micrographs:
    table = pd.DataFrame(
        {
            "rlnMicrographName": names,
            "emflowMicrographId": [f"id{i}" for i in range(len(names))],
            "rlnOpticsGroup": "1",
        },
        dtype=object,
    )
    return Micrographs(table, optics_table(OpticsFacts(pixel_size_angstrom=2.0)))


def theirs(*names: str, **columns: str) -> pd.DataFrame:
    return pd.DataFrame({"rlnMicrographName": names, **columns}, dtype=object)


def test_names_match_without_folder_and_suffix() -> None:
    match = match_by_name(
        theirs("MotionCorr/job002/b.mrc", "x/other.mrc", "a.mrc", "a.mrc"),
        ours("raw/a.tif", "raw/b.tif", "c.tif"),
    )
    assert list(match.table["rlnMicrographName"]) == ["raw/b.tif", "raw/a.tif", "raw/a.tif"]
    assert list(match.table["emflowMicrographId"]) == ["id1", "id0", "id0"]
    assert match.row.tolist() == [1, 0, 0]
    assert match.unmatched == ["x/other.mrc"]
    assert match.missing == [2]


def test_folders_decide_between_equal_names() -> None:
    two = ours("grid1/day1/a.mrc", "grid2/day1/a.mrc")
    assert match_by_name(theirs("job/grid2/day1/a.mrc"), two).row.tolist() == [1]
    one = ours("raw/grid2/a.mrc")
    match = match_by_name(theirs("job/grid1/a.mrc", "job/grid2/a.mrc"), one)
    assert match.row.tolist() == [0]
    assert match.unmatched == ["job/grid1/a.mrc"], (
        "that is of another session, whose micrographs are elsewhere"
    )
    with pytest.raises(EmflowError, match="fits several micrographs"):
        match_by_name(theirs("a.mrc"), two)


CTF = {
    "rlnDefocusU": "10000.5",
    "rlnDefocusV": "9000",
    "rlnDefocusAngle": "0012",
    "rlnCtfMaxResolution": "4.5",
}


def test_ctf_of_micrographs_is_taken_as_it_stands(tmp_path: Path) -> None:
    write_star(tmp_path / "ctf.star", {"micrographs": theirs("b.mrc", rlnVoltage="200", **CTF)})
    tables = read_imported_ctf(tmp_path / "ctf.star", ours("raw/a.mrc", "raw/b.mrc"))
    (row,) = tables["micrographs"].to_dict("records")
    assert row["rlnMicrographName"] == "raw/b.mrc"
    assert {k: row[k] for k in CTF} == CTF
    assert "rlnVoltage" not in row
    assert list(tables["set_aside"]["rlnMicrographName"]) == ["raw/a.mrc"]
    write_star(tmp_path / "out.star", tables)
    assert load_micrographs(tmp_path / "out.star").facts(0).pixel_size_angstrom == 2.0


def test_ctf_of_particles_becomes_their_median(tmp_path: Path) -> None:
    particles = pd.concat(
        [
            theirs("a.mrc", **{**CTF, "rlnDefocusU": str(u), "rlnDefocusV": str(u)})
            for u in (1000, 90000, 2000)
        ]
    )
    write_star(tmp_path / "p.star", {"particles": particles})
    table = read_imported_ctf(tmp_path / "p.star", ours("a.mrc"))["micrographs"]
    assert list(table["rlnDefocusU"]) == ["2000"]


def test_a_shard_without_any_match_is_set_aside_and_said(tmp_path: Path, caplog) -> None:
    write_star(tmp_path / "ctf.star", {"micrographs": theirs("z.mrc", **CTF)})
    tables = read_imported_ctf(tmp_path / "ctf.star", ours("a.mrc"))
    assert list(tables["set_aside"]["rlnMicrographName"]) == list(ours("a.mrc").table["rlnMicrographName"])
    assert not len(tables["micrographs"])
    assert "z.mrc" in caplog.text
    assert "Names must agree" in caplog.text
    write_star(tmp_path / "p.star", {"particles": theirs("z.mrc", **PICKS)})
    tables = read_imported_picks(tmp_path / "p.star", ours("a.mrc"))
    assert not len(tables["particles"])
    assert list(tables["micrographs"]["emflowPickCount"]) == ["0"]


def test_a_table_without_defocus_is_an_error(tmp_path: Path) -> None:
    write_star(tmp_path / "none.star", {"micrographs": theirs("a.mrc")})
    with pytest.raises(EmflowError, match="_rlnDefocusU"):
        read_imported_ctf(tmp_path / "none.star", ours("a.mrc"))


PICKS = {"rlnCoordinateX": "100.25", "rlnCoordinateY": "7"}


def test_picks_keep_their_text_and_count(tmp_path: Path) -> None:
    table = pd.concat([theirs("x/a.mrc", **PICKS), theirs("x/a.mrc", **{**PICKS, "rlnCoordinateY": "90"})])
    write_star(tmp_path / "p.star", {"particles": table})
    found = read_imported_picks(tmp_path / "p.star", ours("a.mrc", "b.mrc"))
    assert list(found["particles"]["rlnCoordinateX"]) == ["100.25", "100.25"]
    assert list(found["particles"]["emflowParticleId"]) == ["id0-100-7", "id0-100-90"]
    assert list(found["micrographs"]["emflowPickCount"]) == ["2", "0"]
    write_star(tmp_path / "out.star", found)
    assert len(read_star(tmp_path / "out.star")["particles"]) == 2


def test_picks_of_binned_micrographs_are_scaled(tmp_path: Path) -> None:
    optics = pd.DataFrame({"rlnOpticsGroup": ["1"], "rlnMicrographPixelSize": ["4.0"]}, dtype=object)
    table = theirs("a.mrc", rlnOpticsGroup="1", **PICKS)
    write_star(tmp_path / "p.star", {"optics": optics, "particles": table})
    found = read_imported_picks(tmp_path / "p.star", ours("a.mrc"))["particles"]
    assert float(found["rlnCoordinateX"][0]) == 200.5
    # a movie's pixel size says nothing: motion correction may have binned
    movie = optics.rename(columns={"rlnMicrographPixelSize": "rlnMicrographOriginalPixelSize"})
    write_star(tmp_path / "q.star", {"optics": movie, "particles": table})
    assert (
        read_imported_picks(tmp_path / "q.star", ours("a.mrc"))["particles"]["rlnCoordinateX"][0] == "100.25"
    )


def test_relions_list_of_coordinate_files(tmp_path: Path) -> None:
    job = tmp_path / "AutoPick" / "job005"
    write_star(job / "a_autopick.star", {"": theirs("ignored", **PICKS).drop(columns="rlnMicrographName")})
    files = theirs("Mic/a.mrc", rlnMicrographCoordinates="AutoPick/job005/a_autopick.star")
    write_star(job / "autopick.star", {"coordinate_files": files})
    found = read_imported_picks(job / "autopick.star", ours("a.mrc"))
    assert len(found["particles"]) == 1


def test_no_picks_at_all_is_no_error(tmp_path: Path) -> None:
    write_star(tmp_path / "p.star", {"particles": theirs(**{k: [] for k in PICKS})})
    found = read_imported_picks(tmp_path / "p.star", ours("a.mrc"))
    assert len(found["particles"]) == 0
    assert list(found["micrographs"]["emflowPickCount"]) == ["0"]
