"""Classes from images to the selected particles: known views, noise boxes, noise alone, labels."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from emflow.classify.command import run, select
from emflow.classify.config import ClassifyRun, ClassifySelect
from emflow.io.mrc import read_mrc
from emflow.io.star import floats, integers, read_star, write_star
from emflow.step import EmflowError

SETTINGS = ClassifyRun(n_classes=6, n_iterations=10, diameter_angstrom=120)


@pytest.fixture(scope="session")
def classified(make_views: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 300 particles of three views and 60 boxes of noise, classified and selected."""
    folder = tmp_path_factory.mktemp("classes")
    star = make_views(folder, 300, 60)
    run(star, folder / "classify" / "run", cfg=SETTINGS)
    select(folder / "classify" / "run", folder / "classify", cfg=ClassifySelect(labels=""))
    return folder


def test_views_go_to_classes_of_their_own(classified: Path) -> None:
    table = read_star(classified / "classify" / "run" / "particles.star")["particles"].iloc[:300]
    view, number = integers(table, "emflowView"), integers(table, "rlnClassNumber")
    same = sum(np.bincount(view[number == k]).max() for k in set(number))
    assert same > 0.9 * len(view)


def test_psi_within_a_class_is_the_true_one_but_for_a_turn_of_the_class(classified: Path) -> None:
    table = read_star(classified / "classify" / "run" / "particles.star")["particles"].iloc[:300]
    view, number = integers(table, "emflowView"), integers(table, "rlnClassNumber")
    off = np.deg2rad(floats(table, "rlnAnglePsi") - floats(table, "emflowTruePsi"))
    largest = np.bincount(number).argmax()
    own = (number == largest) & (view == np.bincount(view[number == largest]).argmax())
    assert abs(np.exp(1j * off[own]).mean()) > 0.9


def test_noise_boxes_go_and_particles_stay_with_their_columns(classified: Path) -> None:
    kept = read_star(classified / "classify" / "selected.star")["particles"]
    removed = read_star(classified / "classify" / "removed.star")["particles"]
    assert len(kept) + len(removed) == 360
    assert (integers(kept, "emflowView") >= 0).sum() > 0.95 * 300
    assert (integers(removed, "emflowView") < 0).sum() > 0.9 * 60
    assert (removed["emflowReason"].str.len() > 10).all()
    assert set(kept["emflowOdd"]) == {"0012"}
    verdicts = json.loads((classified / "classify" / "verdicts.json").read_text())
    assert [row["verdict"] for row in verdicts] == ["pass", "pass"]


def test_classes_are_listed_with_score_and_picture(classified: Path) -> None:
    classes = read_star(classified / "classify" / "classes.star")["classes"]
    averages = read_mrc(classified / "classify" / "classes.mrcs")
    assert len(classes) == len(averages) == 6
    assert floats(classes, "emflowClassScore").max() > 0.9
    assert (classified / "classify" / "figures" / "classes.png").stat().st_size > 1000


def test_the_same_again_gives_the_same_bytes(classified: Path, tmp_path: Path) -> None:
    run(classified / "particles.star", tmp_path, cfg=SETTINGS)
    for name in ("particles.star", "classes.star", "classes.mrcs"):
        assert (tmp_path / name).read_bytes() == (classified / "classify" / "run" / name).read_bytes()


def test_a_person_overrules_without_new_classes(classified: Path, tmp_path: Path) -> None:
    listed = read_star(classified / "classify" / "classes.star")["classes"]
    count = integers(listed, "emflowClassParticles")
    largest, labels = int(count.argmax()) + 1, tmp_path / "classes.star"

    def choose(number: int, choice: int) -> pd.DataFrame:
        table = pd.DataFrame({"rlnClassNumber": [str(number)], "emflowSelected": [str(choice)]}, dtype=object)
        write_star(labels, {"classes": table})
        select(classified / "classify" / "run", tmp_path / "out", cfg=ClassifySelect(labels=str(labels)))
        return read_star(tmp_path / "out" / "selected.star")["particles"]

    assert largest not in integers(choose(largest, 0), "rlnClassNumber")
    assert (integers(choose(largest, 1), "rlnClassNumber") == largest).sum() == count.max()
    with pytest.raises(EmflowError, match="class 7; this classification has the classes 1 to 6"):
        choose(7, 1)


def test_of_noise_nothing_is_selected(make_views: Callable[..., Path], tmp_path: Path) -> None:
    run(make_views(tmp_path, 0, 300), tmp_path / "run", cfg=SETTINGS)
    select(tmp_path / "run", tmp_path / "out", cfg=ClassifySelect(labels=""))
    assert len(read_star(tmp_path / "out" / "removed.star")["particles"]) > 0.98 * 300
    verdicts = json.loads((tmp_path / "out" / "verdicts.json").read_text())
    assert verdicts[0]["verdict"] == "fail"


def test_of_a_few_particles_none_is_removed(make_views: Callable[..., Path], tmp_path: Path) -> None:
    run(make_views(tmp_path, 20, 0), tmp_path / "run", cfg=SETTINGS)
    select(tmp_path / "run", tmp_path / "out", cfg=ClassifySelect(labels=""))
    assert len(read_star(tmp_path / "out" / "selected.star")["particles"]) == 20
    assert json.loads((tmp_path / "out" / "verdicts.json").read_text())[0]["verdict"] == "unknown"


def test_restored_particles_are_refused(make_views: Callable[..., Path], tmp_path: Path) -> None:
    star = make_views(tmp_path, 60, 0)
    tables = read_star(star)
    write_star(star, {**tables, "particles": tables["particles"].assign(emflowRestored="1")})
    with pytest.raises(EmflowError, match=r"restored \(denoised\)"):
        run(star, tmp_path / "run", cfg=SETTINGS)
