"""Confusion matrix, curves and reliability on cases that can be counted by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from emflow.io.mrc import write_mrc
from emflow.io.star import floats, read_star
from emflow.pick import command
from emflow.pick.config import PickScore
from emflow.pick.measures import curve, figures, measures, per_micrograph, reliability, roc_area
from emflow.pick.score import Positions, match_picks

RADIUS = 10.0
SHAPE = (100, 314)
"""A hundred places less one: 31400/(π·10²) = 99.9."""


def positions(
    rows: list[tuple[str, float, float, float]], listed: set[str], shape: tuple[int, int] | None = SHAPE
) -> Positions:
    values = np.array([row[1:] for row in rows], dtype=float).reshape(-1, 3)
    names = np.array([row[0] for row in rows], dtype=object)
    shapes = dict.fromkeys(listed, shape) if shape else {}
    return Positions(names, values[:, :2], values[:, 2], frozenset(listed), values[:, 2], shapes)


TRUTH = [("a", 20, 20, 0), ("a", 60, 20, 0), ("a", 100, 20, 0), ("b", 20, 20, 0)]
PICKS = [
    ("a", 21, 20, 0.9),  # true
    ("a", 20, 24, 0.8),  # the same again: false
    ("a", 60, 25, 0.7),  # true
    ("b", 90, 60, 0.6),  # false
    ("a", 101, 20, 0.2),  # true, but below the threshold
]


def test_the_confusion_matrix_is_that_of_langlois_and_frank() -> None:
    matched = match_picks(positions(PICKS, {"a", "b"}), positions(TRUTH, {"a", "b"}), RADIUS, threshold=0.5)
    found = figures(matched)
    counted = {"true_picks": 2, "false_picks": 2, "missed": 2, "true_negatives": 2 * 99 - 4 - 2}
    assert {name: found[name] for name in counted} == counted
    assert found["sensitivity"] == found["recall"] == 0.5
    assert found["specificity"] == pytest.approx(192 / 194)
    assert found["accuracy"] == pytest.approx(194 / 198)
    assert found["error"] == pytest.approx(4 / 198)
    assert found["accuracy"] + found["error"] == pytest.approx(1)  # type: ignore[operator]
    assert found["false_discovery_rate"] == 0.5
    assert found["picks_below_threshold"] == 1
    # the curve goes beyond the threshold
    assert curve(matched)["recall"].iloc[-1] == 0.75
    assert found["average_precision"] == pytest.approx((1 + 2 / 3 + 3 / 5) / 4)
    assert (found["f1_best_threshold"], found["best_threshold"]) == (pytest.approx(6 / 9), 0.2)
    each = per_micrograph(matched)
    assert each["micrograph"].tolist() == ["a", "b"]
    assert each["recall"].tolist() == pytest.approx([2 / 3, 0])
    assert each["true_negatives"].tolist() == [99 - 3 - 1, 99 - 1 - 1]


def test_what_cannot_be_counted_is_not_made_up() -> None:
    known, unknown = positions(TRUTH, {"a", "b"}), positions(TRUTH, {"a", "b"}, None)
    found = figures(match_picks(positions(PICKS, {"a"}, None), unknown, RADIUS))
    names = ("true_negatives", "specificity", "accuracy", "error", "false_positive_rate", "roc_area")
    assert [found[name] for name in names] == [None] * len(names)
    assert found["precision"] == 0.6
    # also where the size of one of the two is known only
    assert figures(match_picks(positions(PICKS, {"a"}), unknown, RADIUS))["specificity"] is None
    assert figures(match_picks(positions(PICKS, {"a"}, None), known, RADIUS))["specificity"] is not None
    nothing = measures(0, 0, 0, np.nan)
    assert np.isnan(list(nothing.values())[4:]).all()


def test_places_never_become_negative_in_a_crowd() -> None:
    rows = [("a", float(x), float(y), 0.5) for x in range(0, 314, 6) for y in range(0, 100, 6)]
    found = figures(match_picks(positions(rows, {"a"}), positions(rows[:3], {"a"}), RADIUS))
    assert found["true_negatives"] == 0
    assert found["specificity"] == 0
    assert 0 <= found["roc_area"] <= 1  # type: ignore[operator]


def test_the_roc_of_chance_is_the_diagonal_and_of_truth_a_step() -> None:
    truth = positions([("a", 20 * i + 10, 20, 0) for i in range(10)], {"a"})
    # one true and nine false in every ten, as in the places: no better than chance
    rows = [("a", 20 * i + 10, 20 + 60 * (k > 0), 1 - i / 20) for i in range(10) for k in range(1)]
    assert roc_area(match_picks(positions(rows, {"a"}), truth, RADIUS)) == 1
    assert roc_area(match_picks(positions([], {"a"}), truth, RADIUS)) == 0.5
    wrong = [("a", 20 * i + 10, 80, 1.0) for i in range(15)]
    assert roc_area(match_picks(positions(wrong, {"a"}), truth, RADIUS)) == pytest.approx(0.5 * (1 - 15 / 89))


def test_ties_have_one_point_and_scores_are_no_probabilities() -> None:
    rows = [("a", 20, 20, 3.0), ("a", 250, 80, 3.0), ("a", 60, 20, 1.0)]
    matched = match_picks(positions(rows, {"a"}), positions(TRUTH[:3], {"a"}), RADIUS)
    assert curve(matched)["picks"].tolist() == [2, 3]
    assert reliability(matched).empty
    assert figures(matched)["calibration_error"] is None


def test_reliability_tells_promise_from_fact() -> None:
    random = np.random.default_rng(0)
    p = random.uniform(0, 1, 4000)
    hit = random.uniform(0, 1, 4000) < p
    x = np.arange(4000) * 30.0
    rows = [("a", float(a), 0.0 if h else 50.0, float(q)) for a, h, q in zip(x, hit, p, strict=True)]
    truth = positions([("a", float(a), 0.0, 0.0) for a in x[hit]], {"a"})
    honest = figures(match_picks(positions(rows, {"a"}), truth, RADIUS))
    assert honest["calibration_error"] < 0.03  # type: ignore[operator]
    boasting = [(*row[:3], row[3] ** 0.25) for row in rows]
    assert figures(match_picks(positions(boasting, {"a"}), truth, RADIUS))["calibration_error"] > 0.2  # type: ignore[operator]


def test_files_of_a_scoring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in "ab":
        write_mrc(Path(f"in/{name}.mrc"), np.zeros(SHAPE, np.float32), 1.0)
    for file, rows in (("picks", PICKS), ("truth", TRUTH)):
        lines = [f"in/{n}.mrc,{x},{y},{p}" for n, x, y, p in rows]
        Path(f"{file}.csv").write_text("micrograph,x,y,probability\n" + "\n".join(lines) + "\n")
    cfg = PickScore(radius_px=RADIUS, threshold=0.5)
    command.score(Path("picks.csv"), Path("truth.csv"), Path("out/s.json"), cfg=cfg)
    metrics = json.loads(Path("out/s.json").read_text())
    assert metrics["true_negatives"] == 192
    assert metrics["false_promised"] == pytest.approx(1 - np.mean([0.9, 0.8, 0.7, 0.6]))
    table = read_star("out/s_micrographs.star")["micrographs"]
    assert floats(table, "emflowRecall").tolist() == pytest.approx([2 / 3, 0])
    assert list(read_star("out/s_curve.star")) == ["curve", "reliability"]
    assert Path("out/s.png").read_bytes()[:4] == b"\x89PNG"
    # sizes of images that neither table leads to
    for path in Path().glob("*.csv"):
        path.write_text(path.read_text().replace("in/", "gone/"))
    command.score(Path("picks.csv"), Path("truth.csv"), Path("t.json"), cfg=cfg)
    assert json.loads(Path("t.json").read_text())["true_negatives"] is None
    command.score(Path("picks.csv"), Path("truth.csv"), Path("t.json"), micrographs=Path("in"), cfg=cfg)
    assert json.loads(Path("t.json").read_text()) == metrics
