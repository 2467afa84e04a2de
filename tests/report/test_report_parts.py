"""Counting, choosing and naming."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from emflow.io.star import write_star
from emflow.report.gather import count_rows
from emflow.report.pictures import choose, jpeg_bytes, particle_jpeg
from emflow.report.summary import short_reason
from emflow.report.targets import compare_with_targets
from emflow.report.words import label_and_unit, number, plural, seconds


def test_rows_are_counted_without_reading_the_table(tmp_path: Path) -> None:
    table = pd.DataFrame({"a": range(7), "b": ["_x", "#", "loop_", "data_1", "", "two words", "x"]})
    write_star(tmp_path / "t.star", {"optics": table.iloc[:2], "particles": table, "more": table.iloc[:3]})
    assert count_rows(tmp_path / "t.star", "particles") == 7
    assert count_rows(tmp_path / "t.star", "optics") == 2
    assert count_rows(tmp_path / "t.star", "absent") == 0
    write_star(tmp_path / "e.star", {"particles": table.iloc[:0]})
    assert count_rows(tmp_path / "e.star", "particles") == 0


def test_the_gallery_shows_the_range_of_the_session() -> None:
    table = pd.DataFrame(
        {
            "rlnCtfMaxResolution": ["9", "3", "None", "5", "4", "8", "6", "7", "2"],
            "emflowPickCount": ["5", "5", "0", "5", "99", "5", "5", "5", "5"],
            "emflowMaskedFraction": ["0", "0", "0", "0", "0", "0", "0", ".4", "0"],
        }
    )
    assert choose(table) == [
        (8, "best CTF fit"),
        (6, "median CTF fit"),
        (0, "worst CTF fit"),
        (4, "many picks"),
        (2, "few picks"),
        (7, "large masked area"),
    ]
    assert [row for row, _ in choose(table.iloc[:, :1])] == [8, 6, 0, 1, 4, 3]
    assert len(choose(table.iloc[:3])) == 3
    assert [row for row, _ in choose(pd.DataFrame({"a": range(9)}), 3)] == [0, 1, 2]


@pytest.mark.parametrize(
    ("name", "label", "unit"),
    [("defocus_median_um", "defocus median", "µm"), ("dose_e_per_a2", "dose", "e/Å²"), ("pick_f1", "pick F1", ""),
     ("mask_volume_angstrom3", "mask volume", "Å³"), ("particles", "particles", "")],
)  # fmt: skip
def test_names_end_in_their_unit(name: str, label: str, unit: str) -> None:
    assert label_and_unit(name) == (label, unit)


def test_numbers_have_as_many_digits_as_they_deserve() -> None:
    assert number(12345) == "12\u202f345"
    assert number(3.14159) == "3.142"
    assert number(None) == number(float("nan")) == "–"
    assert number(54321.7) == "54\u202f322"
    assert number(3.0) == "3"
    assert number(0.00001234) == "1.23e-05"
    assert (seconds(3.21), seconds(45.0), seconds(600), seconds(8000)) == (
        "3.2 s",
        "45 s",
        "10 min",
        "2 h 13 min",
    )
    assert (plural(1, "pick"), plural(0, "pick"), plural(2, "pick")) == ("1 pick", "no picks", "2 picks")


def test_reasons_of_one_kind_are_counted_together() -> None:
    a = short_reason("micrographs/a.mrc: has 12 blank rows; expected none. Copy it again.")
    b = short_reason("micrographs/b.tif: has 399 blank rows; expected none. Copy it again.")
    assert a == b == "has … blank rows"
    assert short_reason("excluded by hand") == "excluded by hand"


def test_pictures_of_flat_images_do_not_fail() -> None:
    assert jpeg_bytes(np.zeros((8, 8)))[:2] == b"\xff\xd8"
    assert particle_jpeg(np.zeros((3, 16, 16), np.float32))[:2] == b"\xff\xd8"


def test_truth_is_held_against_its_targets() -> None:
    truth = {
        "pick_f1": 0.8,
        "refine_pose_error_median_deg": 7.0,
        "halves_over_truth_ratio": None,
        "other": 1.0,
    }
    rows = {row["name"]: row["met"] for row in compare_with_targets({"truth": truth})}
    assert rows == {
        "pick_f1": True,
        "refine_pose_error_median_deg": False,
        "halves_over_truth_ratio": False,
        "other": None,
    }
    assert compare_with_targets({}) == []
