"""STAR tables keep every value as text, to the last character."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emflow.io.star import (
    concat,
    floats,
    format_value,
    integers,
    read_star,
    read_table,
    require_whole,
    write_star,
)
from emflow.step import EmflowError

QUICK = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
# Any text but line breaks, NUL, and unpaired surrogates outside the range that stands for odd bytes of file names.
TEXT = st.text(
    st.characters(blacklist_characters="\n\r\f\v\0", blacklist_categories=("Cs",)), max_size=12
).filter(lambda t: not ('"' in t and "'" in t))
NAMES = st.lists(st.from_regex(r"\A(rln|emflow)[A-Z][A-Za-z0-9]{0,8}\Z"), min_size=1, max_size=5, unique=True)


def text_table(columns: list[str], rows: list[list[str]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=pd.Index(columns, dtype=object), dtype=object)


@st.composite
def tables(draw: st.DrawFn) -> pd.DataFrame:
    columns = draw(NAMES)
    row = st.lists(TEXT, min_size=len(columns), max_size=len(columns))
    return text_table(columns, draw(st.lists(row, max_size=5)))


def round_trip(path: Path, blocks: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    write_star(path, blocks)
    return read_star(path)


@QUICK
@given(table=tables(), other=tables())
def test_any_text_comes_back(tmp_path: Path, table: pd.DataFrame, other: pd.DataFrame) -> None:
    back = round_trip(tmp_path / "t.star", {"optics": other, "micrographs": table})
    assert list(back) == ["optics", "micrographs"]
    pd.testing.assert_frame_equal(back["micrographs"], table, check_column_type=False, check_index_type=False)
    pd.testing.assert_frame_equal(back["optics"], other, check_column_type=False, check_index_type=False)


@pytest.mark.parametrize(
    "value",
    [
        "1e-9", "0012", "-0", "1.0000000000000000001", "it's.mrc", "'tis.mrc", 'a"b.mrc', '"', "'", "", " ", "a b",
        "data_001.mrc", "loop_", "_x", "#1", "übung/Ångström.mrc", "no\u00a0break", "line\u2028sep", "tab\tbed",
        "a\x1cb", "x\x85y", "don't won't", "[1,2,3]", "\udcff\udcfe.mrc", 'say "hi" now', "None",
    ],
)  # fmt: skip
@pytest.mark.parametrize("place", [0, 1])
def test_difficult_values_come_back(tmp_path: Path, value: str, place: int) -> None:
    row = ["first", "second"]
    row[place] = value
    table = text_table(["rlnMicrographName", "emflowReason"], [row, row])
    back = round_trip(tmp_path / "t.star", {"micrographs": table})["micrographs"]
    assert back.to_numpy().tolist() == [row, row]


def test_what_star_cannot_hold_does_not_break_the_table(tmp_path: Path) -> None:
    hopeless = """both 'a' and "b" here"""
    table = text_table(["emflowReason", "b"], [[hopeless, "1"], ["two\nlines\r\nlong", "2"]])
    back = round_trip(tmp_path / "t.star", {"x": table})["x"]
    assert list(back["b"]) == ["1", "2"]
    assert back["emflowReason"][0].startswith("both 'a' and \"b")
    assert back["emflowReason"][1] == "two lines long"


@QUICK
@given(value=st.floats(allow_nan=False, allow_infinity=False), integer=st.integers(-(2**62), 2**62))
def test_numbers_keep_all_digits(tmp_path: Path, value: float, integer: int) -> None:
    table = pd.DataFrame({"rlnDefocusU": [value], "emflowMtimeNs": [integer]})
    back = round_trip(tmp_path / "t.star", {"x": table})["x"]
    assert floats(back, "rlnDefocusU")[0] == value
    assert integers(back, "emflowMtimeNs")[0] == integer


def test_numbers_are_short_and_float32_is_not_blown_up() -> None:
    assert format_value(0.1) == "0.1"
    assert format_value(np.float32(0.1)) == "0.100000001"
    assert np.float32(format_value(np.float32(1e-9))) == np.float32(1e-9)
    assert format_value(True) == "1"
    assert format_value(None) == "None"
    assert format_value(np.int64(7)) == "7"


def test_windows_line_ends_mark_and_comments(tmp_path: Path) -> None:
    path = tmp_path / "t.star"
    lines = [
        "\ufeff# version 30001",
        "",
        "data_optics",
        "",
        "loop_ ",
        "_rlnOpticsGroup #1 ",
        "_rlnVoltage #2 ",
    ]
    text = "\r\n".join([*lines, " 1  300.000000 ", ""])
    path.write_bytes(text.encode())
    table = read_star(path)["optics"]
    assert table.to_dict("records") == [{"rlnOpticsGroup": "1", "rlnVoltage": "300.000000"}]


def test_pairs_without_loop(tmp_path: Path) -> None:
    path = tmp_path / "t.star"
    path.write_text("data_general\n\n_rlnFinalResolution  4.1\n_rlnUnfilteredMapHalf1 'my map.mrc'\n")
    assert read_star(path)["general"].to_dict("records") == [
        {"rlnFinalResolution": "4.1", "rlnUnfilteredMapHalf1": "my map.mrc"}
    ]


def test_foreign_rows_that_begin_like_names_of_columns(tmp_path: Path) -> None:
    path = tmp_path / "t.star"
    path.write_text(
        "data_micrographs\nloop_\n_rlnMicrographName #1\n_rlnOpticsGroup\n_a.mrc 1\ndata_2.mrc 2\n"
    )
    assert list(read_star(path)["micrographs"]["rlnMicrographName"]) == ["_a.mrc", "data_2.mrc"]


def test_empty_tables_keep_their_columns(tmp_path: Path) -> None:
    back = round_trip(
        tmp_path / "t.star",
        {"particles": text_table(["rlnImageName", "b"], []), "x": text_table(["a"], [["1"]])},
    )
    assert list(back["particles"].columns) == ["rlnImageName", "b"]
    assert len(back["particles"]) == 0
    assert len(back["x"]) == 1


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no data_ block"),
        (b"hello\n", "Not a STAR file"),
        (b"MAP \0\0\0" * 100, "not a text file"),
        (b"data_x\nloop_\n_a\n_b\n1 2\n3\n", "line 6.*1 values where the table has 2"),
        (b"data_x\nloop_\n_a\n_a\n1 2\n", "_a stands twice"),
        (b"data_x\nloop_\n_a\n1\ndata_x\nloop_\n_a\n1\n", "data_x stands twice"),
        (b"data_x\n_a\n", "expected a column's name and its value"),
    ],
)
def test_broken_files_are_named(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "broken.star"
    path.write_bytes(content)
    with pytest.raises(EmflowError, match=words) as error:
        read_star(path)
    assert "broken.star" in str(error.value)


def test_missing_file_block_and_column(tmp_path: Path) -> None:
    with pytest.raises(EmflowError, match="no such STAR file"):
        read_star(tmp_path / "none.star")
    with pytest.raises(EmflowError, match="cannot be read"):
        read_star(tmp_path)
    write_star(tmp_path / "t.star", {"optics": text_table(["a"], [["1"]])})
    with pytest.raises(EmflowError, match=r"no block data_particles; it has data_optics"):
        read_table(tmp_path / "t.star", "particles")
    with pytest.raises(EmflowError, match=r"lacks the column _rlnVoltage; it has a"):
        read_table(tmp_path / "t.star", "optics", "rlnVoltage")
    with pytest.raises(EmflowError, match="_a holds something that is no number"):
        floats(text_table(["a"], [["x"]]), "a")


@pytest.mark.parametrize("name", ["relion31.star", "relion5.star", "relion31.6opticsgroups.star"])
def test_real_tables_come_back_to_the_last_digit(real_data: Path, tmp_path: Path, name: str) -> None:
    tables = read_star(real_data / "metadata" / name)
    assert set(tables) == {"optics", "particles"}
    back = round_trip(tmp_path / name, tables)
    for block, table in tables.items():
        pd.testing.assert_frame_equal(back[block], table)
        # every value stands in the original file as it is, none was reformatted
        words = set((real_data / "metadata" / name).read_text().split())
        assert set(table.to_numpy().ravel()) <= words


def test_same_table_same_bytes(tmp_path: Path) -> None:
    table = text_table(["a", "b"], [["1", "x y"]])
    write_star(tmp_path / "a.star", {"t": table})
    write_star(tmp_path / "b.star", {"t": table.copy()})
    text = (tmp_path / "a.star").read_text()
    assert text == (tmp_path / "b.star").read_text()
    first, *rows, last = text.splitlines()
    assert "\n".join(rows) == '\ndata_t\n\nloop_\n_a #1\n_b #2\n1 "x y"\n'
    assert first[0] == last[0] == "#"


def test_concat_fills_missing_columns() -> None:
    both = concat([text_table(["a"], [["1"]]), text_table(["b"], [["2"]]), text_table(["a", "b"], [])])
    assert both.to_dict("records") == [{"a": "1", "b": "None"}, {"a": "None", "b": "2"}]
    assert len(concat([])) == 0


def test_a_table_of_ours_that_was_cut_short_is_refused_wherever_it_ends(tmp_path: Path) -> None:
    path = tmp_path / "a.star"
    write_star(
        path, {"optics": pd.DataFrame({"x": ["1"]}), "t": pd.DataFrame({"a": ["1", "2"], "b": ["3", "456"]})}
    )
    whole = path.read_bytes()
    first_line = whole.index(b"\n") + 1
    for end in range(first_line, len(whole) - 1):
        path.write_bytes(whole[:end])
        with pytest.raises(EmflowError):
            read_star(path)
        with pytest.raises(EmflowError, match="cut short"):
            require_whole(path)
    path.write_bytes(whole)
    require_whole(path)
    path.write_bytes(whole.replace(b"1 3\n", b""))  # a row less, by an editor
    assert len(read_star(path)["t"]) == 1
    path.write_bytes(whole[first_line:].replace(b"# emflow: end of the table\n", b""))
    assert len(read_star(path)["t"]) == 2, "a table of another program says nothing of its end"


def test_others_read_a_table_with_our_first_and_last_line(tmp_path: Path) -> None:
    import gemmi

    write_star(tmp_path / "a.star", {"t": pd.DataFrame({"rlnA": ["1", "2"]})})
    block = gemmi.cif.read(str(tmp_path / "a.star")).sole_block()
    assert block.name == "t"
    assert list(block.find_loop("_rlnA")) == ["1", "2"]
