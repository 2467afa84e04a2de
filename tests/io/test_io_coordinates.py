"""Other programs' coordinate files, from literal texts."""

from __future__ import annotations

from pathlib import Path

import pytest

from emflow.io.coordinates import X, Y, read_coordinates, stems_of
from emflow.step import EmflowError

RELION = "\n# version 30001\n\ndata_\n\nloop_ \n_rlnCoordinateX #1 \n_rlnCoordinateY #2 \n 12.5 7.0 \n"


def found(path: Path) -> list[tuple[str, float, float]]:
    table = read_coordinates(path).table
    names = stems_of(table["rlnMicrographName"])
    return [(n, float(x), float(y)) for n, x, y in zip(names, table[X], table[Y], strict=True)]


@pytest.mark.parametrize(
    ("file", "text", "expected"),
    [
        ("m.1_autopick.star", RELION, ("m.1", 12.5, 7)),
        ("m_manualpick.star", RELION, ("m", 12.5, 7)),
        ("m.box", "10\t20\t64\t64\n", ("m", 42, 52)),
        ("m_boxes.box", "# a comment\n10 20 64 64 -3\n", ("m", 42, 52)),
        ("t.txt", "image_name\tx_coord\ty_coord\tscore\nmy m\t3\t4\t-1.5\n", ("my m", 3, 4)),
        ("t.tsv", "image_name x_coord y_coord\nm 3 4\n", ("m", 3, 4)),
        ("t.csv", "micrograph,X,Y\nraw/m.tif,3,4\n", ("m", 3, 4)),
    ],
)
def test_each_kind(tmp_path: Path, file: str, text: str, expected: tuple[str, float, float]) -> None:
    (tmp_path / file).write_text(text)
    assert found(tmp_path / file) == [expected]


def test_a_folder_is_read_once_with_its_subfolders_and_without_relions_list(tmp_path: Path) -> None:
    movies = tmp_path / "job" / "movies"
    movies.mkdir(parents=True)
    for name in "ab":
        (movies / f"{name}_autopick.star").write_text(RELION)
    rows = "".join(f"m/{name}.mrc job/movies/{name}_autopick.star\n" for name in "ab")
    columns = "_rlnMicrographName #1\n_rlnMicrographCoordinates #2\n"
    (movies / "autopick.star").write_text(f"data_coordinate_files\n\nloop_\n{columns}{rows}")
    expected = [("a", 12.5, 7), ("b", 12.5, 7)]
    assert found(movies) == found(tmp_path) == found(movies / "autopick.star") == expected


def test_micrographs_without_particles_are_known(tmp_path: Path) -> None:
    (tmp_path / "empty.box").write_text("")
    (tmp_path / "a.box").write_text("0 0 2 2\n")
    assert stems_of(sorted(read_coordinates(tmp_path).listed)).tolist() == ["a", "empty"]


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("m.box", "1 2 3\n", "line 1: '1 2 3' is no box"),
        ("m.box", "x y 3 4\n", "is no box"),
        ("m.star", "data_x\n\nloop_\n_rlnDefocusU\n1\n", "no block with the columns _rlnCoordinateX"),
        ("m.json", "{}", "coordinates are read from .star"),
    ],
)
def test_what_is_none_is_said(tmp_path: Path, file: str, text: str, words: str) -> None:
    (tmp_path / file).write_text(text)
    with pytest.raises(EmflowError, match=words):
        read_coordinates(tmp_path / file)
