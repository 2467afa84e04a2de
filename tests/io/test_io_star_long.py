"""Long tables are read and written in pieces: nothing is lost between them, and equal values are held once."""

from __future__ import annotations

import pandas as pd
import pytest

from emflow.io import star
from emflow.io.star import read_star, write_star


def long_table(rows: int) -> pd.DataFrame:
    columns = {
        "rlnImageName": [f"{row + 1:06d}@stack.mrcs" for row in range(rows)],
        "rlnMicrographName": [f"micrograph_{row // 4}.mrc" for row in range(rows)],
        "emflowReason": [f"two words {row % 3}" for row in range(rows)],
    }
    return pd.DataFrame(columns, dtype=object)


@pytest.mark.parametrize("rows", [0, 1, 2, 3, 4, 6, 7, 12])
def test_pieces_change_nothing(tmp_path, monkeypatch, rows):
    table = long_table(rows)
    tables = {"optics": table.iloc[:1], "particles": table}
    write_star(tmp_path / "whole.star", tables)
    monkeypatch.setattr(star, "_CHUNK", 3)
    write_star(tmp_path / "t.star", tables)
    assert (tmp_path / "t.star").read_text() == (tmp_path / "whole.star").read_text()
    back = read_star(tmp_path / "t.star")
    pd.testing.assert_frame_equal(back["particles"], table, check_column_type=False, check_index_type=False)
    assert len(back["optics"]) == min(rows, 1)


def test_a_row_like_a_name_of_a_column_after_a_piece_is_a_row(tmp_path, monkeypatch):
    monkeypatch.setattr(star, "_CHUNK", 2)
    (tmp_path / "t.star").write_text("data_x\nloop_\n_rlnMicrographName\na.mrc\nb.mrc\n_c.mrc\n")
    assert list(read_star(tmp_path / "t.star")["x"]["rlnMicrographName"]) == ["a.mrc", "b.mrc", "_c.mrc"]


def test_equal_values_of_a_column_are_held_once(tmp_path):
    write_star(tmp_path / "t.star", {"particles": long_table(100)})
    names = read_star(tmp_path / "t.star")["particles"]["rlnMicrographName"].tolist()
    assert len(set(names)) == len({id(name) for name in names}) == 25


def test_a_tail_of_zeros_is_no_table(tmp_path):
    """What a machine that lost its power leaves of a file."""
    path = tmp_path / "t.star"
    write_star(path, {"particles": long_table(10)})
    path.write_bytes(path.read_bytes()[:-20] + bytes(20))
    with pytest.raises(star.EmflowError, match="not a text file"):
        read_star(path)
