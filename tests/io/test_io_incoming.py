"""What comes in is listed by name and time alone."""

import os
from pathlib import Path

import pandas as pd
import pytest

from emflow.io.incoming import NothingFoundError, list_micrographs
from emflow.io.listing import list_images
from emflow.io.star import write_star
from emflow.step import EmflowError, OpticsFacts

FACTS = OpticsFacts(pixel_size_angstrom=1.5)


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def names(source: object) -> list[str]:
    return [Path(image.name).name for image in list_images(str(source))]


def test_folder_glob_list_and_file(tmp_path: Path) -> None:
    touch(
        *(
            tmp_path / n
            for n in ("b.mrc", "a.TIF", "c.tiff", ".hidden.mrc", "notes.txt", "a.csv", "sub/d.mrc")
        )
    )
    (tmp_path / "folder.mrc").mkdir()
    assert names(tmp_path) == ["a.TIF", "b.mrc", "c.tiff"]
    assert names(tmp_path / "*.mrc") == ["b.mrc"]
    assert names(tmp_path / "**" / "*.mrc") == ["b.mrc", "d.mrc"]
    assert names(tmp_path / "b.mrc") == ["b.mrc"]
    (tmp_path / "list.txt").write_text(
        f"# mine\r\n{tmp_path}/c.tiff\r\nb.mrc\n\nb.mrc\ngone.mrc\n", encoding="utf-8"
    )
    assert names(tmp_path / "list.txt") == ["c.tiff", "b.mrc", "gone.mrc"]
    assert [image.size for image in list_images(tmp_path / "list.txt")] == [1, 1, -1]


def test_broken_links_are_listed_not_dropped(tmp_path: Path) -> None:
    os.symlink(tmp_path / "away.mrc", tmp_path / "link.mrc")
    assert [image.size for image in list_images(tmp_path)] == [-1]


def test_id_changes_with_content_and_not_with_folder(tmp_path: Path) -> None:
    touch(tmp_path / "x" / "a.mrc")
    os.utime(tmp_path / "x" / "a.mrc", ns=(5, 5))
    first = list_images(tmp_path / "x")[0].identity
    os.rename(tmp_path / "x", tmp_path / "y")
    assert list_images(tmp_path / "y")[0].identity == first
    os.utime(tmp_path / "y" / "a.mrc", ns=(6, 6))
    assert list_images(tmp_path / "y")[0].identity != first


def test_half_sums_are_expanded_and_not_taken_for_micrographs(tmp_path: Path) -> None:
    touch(*(tmp_path / n for n in ("a.mrc", "a_EVN.mrc", "a_ODD.mrc", "b.mrc")))
    table, _ = list_micrographs(
        str(tmp_path), FACTS, f"{tmp_path}/{{name}}_EVN.mrc", f"{tmp_path}/{{name}}_ODD.mrc"
    )
    assert [Path(n).name for n in table["rlnMicrographName"]] == ["a.mrc", "b.mrc"]
    assert [Path(n).name for n in table["emflowEvenName"]] == ["a_EVN.mrc", "b_EVN.mrc"]
    with pytest.raises(EmflowError, match=r"input.odd: the pattern 'odd.mrc' has no \{name\}"):
        list_micrographs(str(tmp_path), FACTS, None, "odd.mrc")


def relion(tmp_path: Path, optics: pd.DataFrame | None) -> Path:
    """A RELION project: names count from its root, the table lies in a job's folder."""
    job = tmp_path / "project" / "MotionCorr" / "job002"
    touch(job / "Movies" / "a.mrc", job / "Movies" / "b.mrc")
    table = pd.DataFrame(
        {
            "rlnMicrographName": ["MotionCorr/job002/Movies/b.mrc", "MotionCorr/job002/Movies/a.mrc"],
            "rlnMicrographNameEven": [
                "MotionCorr/job002/Movies/b_EVN.mrc",
                "MotionCorr/job002/Movies/a_EVN.mrc",
            ],
            "rlnOpticsGroup": ["2", "1"],
            "rlnRandomSubset": ["2", "2"],
            "rlnAccumMotionTotal": ["12.0010", "7"],
            "emflowShard": ["9", "9"],
        },
        dtype=object,
    )
    blocks = {"micrographs": table} if optics is None else {"optics": optics, "micrographs": table}
    write_star(job / "corrected_micrographs.star", blocks)
    return job / "corrected_micrographs.star"


OPTICS = pd.DataFrame(
    {
        "rlnOpticsGroup": ["1", "2"],
        "rlnMicrographPixelSize": ["0.885", "1.1"],
        "rlnVoltage": "200.0",
        "rlnSphericalAberration": "1.4",
        "rlnAmplitudeContrast": "0.1",
    },
    dtype=object,
)


def test_relion_table_with_its_optics_and_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    table, optics = list_micrographs(str(relion(tmp_path, OPTICS)), OpticsFacts())
    assert table["rlnMicrographName"][0] == "project/MotionCorr/job002/Movies/b.mrc"
    assert table["emflowEvenName"][1] == "project/MotionCorr/job002/Movies/a_EVN.mrc"
    assert list(table["emflowSize"]) == ["1", "1"]
    assert list(table["rlnAccumMotionTotal"]) == ["12.0010", "7"]
    assert list(table["rlnRandomSubset"]) == ["2", "2"]
    assert "emflowShard" not in table
    assert list(optics["rlnVoltage"]) == ["200.0", "200.0"]


def test_pixel_size_must_come_from_somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EmflowError, match="pixel size is not known: set sample.pixel_size_angstrom"):
        list_micrographs(str(relion(tmp_path, None)), OpticsFacts())
    _, optics = list_micrographs(str(relion(tmp_path, OPTICS.drop(columns="rlnMicrographPixelSize"))), FACTS)
    assert [float(p) for p in optics["rlnMicrographPixelSize"]] == [1.5, 1.5]


def test_nothing_there_is_an_error_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(NothingFoundError, match="holds no MRC or TIFF image"):
        list_micrographs(str(tmp_path / "*.mrc"), FACTS)
    write_star(tmp_path / "movies.star", {"movies": pd.DataFrame({"rlnMicrographMovieName": ["a"]})})
    with pytest.raises(EmflowError, match="lists movies"):
        list_micrographs(str(tmp_path / "movies.star"), FACTS)
