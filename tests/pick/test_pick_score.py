"""Matching and figures of merit on small known cases; positions from CSV and STAR."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emflow.io.star import write_star
from emflow.pick.inputs import read_positions
from emflow.pick.measures import score_picks
from emflow.pick.score import Positions, match
from emflow.step import EmflowError


def positions(rows: list[tuple[str, float, float, float]], listed: set[str] | None = None) -> Positions:
    names = np.array([row[0] for row in rows], dtype=object)
    values = np.array([row[1:] for row in rows], dtype=float).reshape(-1, 3)
    return Positions(names, values[:, :2], values[:, 2], frozenset(listed or set(names)))


def one_by_one(picks: np.ndarray, truth: np.ndarray, radius: float) -> list[int]:
    free, found = set(range(len(truth))), []
    for pick in picks:
        near = sorted((float(np.linalg.norm(pick - truth[j])), j) for j in free)
        ok = bool(near) and near[0][0] <= radius
        found.append(near[0][1] if ok else -1)
        free -= {found[-1]}
    return found


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 40), st.integers(0, 40), st.floats(0.5, 20), st.integers(0, 2**31))
def test_matching_is_that_of_taking_one_pick_after_the_other(
    n: int, m: int, radius: float, seed: int
) -> None:
    random = np.random.default_rng(seed)
    picks, truth = random.uniform(0, 50, (n, 2)), random.uniform(0, 50, (m, 2))
    assert match(picks, truth, radius).tolist() == one_by_one(picks, truth, radius)


def test_figures_of_a_known_case() -> None:
    truth = positions([("a", 10, 10, 0), ("a", 50, 50, 0), ("b", 10, 10, 0), ("b", 90, 90, 0)])
    picks = positions(
        [
            ("a", 12, 10, 0.9),  # true
            ("a", 10, 9, 0.8),  # the same particle again: false
            ("b", 10, 10, 0.7),  # true, at the place of a particle of the other micrograph too
            ("b", 50, 50, 0.6),  # false: that particle is in the other micrograph
            ("c", 10, 10, 0.5),  # nobody looked at this micrograph
        ]
    )
    metrics = score_picks(picks, truth, 5.0)
    assert (metrics["picks"], metrics["picks_elsewhere"], metrics["positions"]) == (4, 1, 4)
    assert metrics["true_picks"] == 2
    assert metrics["precision"] == 0.5
    assert metrics["recall"] == 0.5
    assert metrics["f1"] == 0.5
    assert metrics["f1_best_threshold"] == pytest.approx(2 * 2 / (3 + 4))
    assert metrics["average_precision"] == pytest.approx((1 + 2 / 3) / 4)
    assert metrics["offset_median_px"] == pytest.approx(1.0)
    assert metrics["f1_mean"] == metrics["f1_worst"] == 0.5


def test_nothing_picked_and_nothing_there() -> None:
    truth = positions([("a", 1, 1, 0)])
    assert score_picks(positions([], {"a"}), truth, 5.0)["recall"] == 0
    assert score_picks(positions([], {"a"}), truth, 5.0)["precision"] is None
    empty = positions([], {"a"})
    false = score_picks(positions([("a", 1, 1, 1)]), empty, 5.0)
    assert (false["precision"], false["recall"], false["average_precision"]) == (0, None, None)
    assert score_picks(empty, empty, 5.0)["f1"] is None


def test_a_folder_of_csv_files_whose_names_have_dots(tmp_path: Path) -> None:
    folder = tmp_path / "csv"
    folder.mkdir()
    (folder / "May08_03.05.02.csv").write_text("x_px,y_px\n406.0,32.0\n320.5,36.0\n")
    (folder / "May08_03.05.03.csv").write_text("x_px,y_px\n")
    read = read_positions(folder)
    assert read.micrograph.tolist() == ["May08_03.05.02"] * 2
    assert read.xy_px.tolist() == [[406, 32], [320.5, 36]]
    assert read.listed == {"May08_03.05.02", "May08_03.05.03"}


def test_star_and_csv_with_names(tmp_path: Path) -> None:
    table = pd.DataFrame(
        {
            "rlnMicrographName": ["m/a.1.mrc", "m/b.mrc"],
            "rlnCoordinateX": ["1", "2"],
            "rlnCoordinateY": ["3", "4"],
            "rlnAutopickFigureOfMerit": ["1", "1"],
            "emflowPickScore": ["5", "9"],
        }
    )
    micrographs = pd.DataFrame({"rlnMicrographName": ["m/a.1.mrc", "m/b.mrc", "m/empty.mrc"]})
    write_star(tmp_path / "p.star", {"micrographs": micrographs, "particles": table})
    star = read_positions(tmp_path / "p.star")
    assert star.micrograph.tolist() == ["a.1", "b"]
    assert star.merit.tolist() == [5, 9]
    assert star.listed == {"a.1", "b", "empty"}
    (tmp_path / "p.csv").write_text("micrograph,X,Y,Score\nelsewhere/a.1.tif, 1, 3, .5\nb.tif,2,4,.7\n")
    csv = read_positions(tmp_path / "p.csv")
    assert csv.micrograph.tolist() == star.micrograph.tolist()
    assert csv.xy_px.tolist() == star.xy_px.tolist()


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [("a.csv", "1,2\n3,4\n", "expected x_px"), ("a.csv", "", "not a readable CSV"), ("b.csv", None, "no such file")],
)  # fmt: skip
def test_what_cannot_be_read_is_said(tmp_path: Path, name: str, text: str | None, words: str) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(EmflowError, match=words):
        read_positions(tmp_path / name)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(EmflowError, match="no CSV or STAR"):
        read_positions(empty)
