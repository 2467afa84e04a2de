"""Several pickers' picks joined: what must hold for any picks, and known worlds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from emflow.io.star import floats, read_star, write_star
from emflow.pick import command
from emflow.pick.config import PickConsensus
from emflow.pick.consensus import join, probabilities
from emflow.pick.measures import score_picks
from emflow.pick.score import Positions
from emflow.step import EmflowError

NEAR = 15.0
Picker = tuple[np.ndarray, np.ndarray, np.ndarray]


def world(seed: int, pickers: int) -> tuple[np.ndarray, np.ndarray, list[Picker]]:
    """Particles of four micrographs, and pickers that find 80 to 90 % of them and 15 to 30 % of what is none."""
    random = np.random.default_rng(seed)
    truth, owner = random.uniform(0, 4000, (600, 2)), random.integers(0, 4, 600)
    found = []
    for find, false in ((0.9, 0.2), (0.8, 0.3), (0.85, 0.15))[:pickers]:
        hit = random.uniform(size=600) < find
        n = int(hit.sum() * false / (1 - false))
        xy = np.concatenate(
            [truth[hit] + random.normal(0, 3, (hit.sum(), 2)), random.uniform(0, 4000, (n, 2))]
        )
        score = np.concatenate([random.normal(1.5, 1, hit.sum()), random.normal(0, 1, n)])
        found.append((xy, np.concatenate([owner[hit], random.integers(0, 4, n)]), score))
    return truth, owner, found


def positions(xy: np.ndarray, owner: np.ndarray, merit: np.ndarray) -> Positions:
    return Positions(owner.astype(str).astype(object), xy, merit, frozenset("0123"), merit)


@pytest.mark.parametrize(("pickers", "gain"), [(2, 0.03), (3, 0.08)])
def test_several_are_better_than_the_best_of_them(pickers: int, gain: float) -> None:
    truth, owner, found = world(1, pickers)
    known = positions(truth, owner, np.zeros(len(truth)))
    joined, micrograph = join(*zip(*found, strict=True), NEAR)
    chance = probabilities(joined.rank)
    figures = score_picks(positions(joined.xy_px, micrograph, chance), known, NEAR, 0.5)
    each = [score_picks(positions(*picker), known, NEAR)["average_precision"] for picker in found]
    assert figures["average_precision"] > max(each) + gain  # type: ignore[operator, type-var]
    assert figures["precision"] > 0.95  # type: ignore[operator]
    if pickers == 3:  # two cannot tell probabilities
        assert figures["calibration_error"] < 0.12  # type: ignore[operator]
        assert figures["f1"] > 0.88  # type: ignore[operator]


@settings(max_examples=40, deadline=None)
@example(36813, [2, 2], None)  # two pickers that mirror each other
@given(st.integers(0, 2**31), st.lists(st.integers(0, 25), min_size=2, max_size=4), st.randoms())
def test_what_holds_for_any_picks(seed: int, sizes: list[int], shuffle: object) -> None:
    random = np.random.default_rng(seed)
    pickers = [
        (random.uniform(0, 120, (n, 2)), random.integers(0, 2, n), random.normal(size=n)) for n in sizes
    ]
    joined, owner = join(*zip(*pickers, strict=True), NEAR)
    chance = probabilities(joined.rank)
    assert ((chance >= 0) & (chance <= 1)).all()
    for number in range(2):
        own = joined.xy_px[owner == number]
        apart = np.linalg.norm(own[:, None] - own[None], axis=-1) + 1e9 * np.eye(len(own))
        assert (apart >= NEAR - 1e-6).all()
        # each pick is at a place, or too near to one
        for xy, m, _ in pickers:
            for place in xy[m == number]:
                assert np.linalg.norm(own - place, axis=1).min() < 4 * NEAR
    # the order of the pickers does not matter
    order = random.permutation(len(pickers))
    again, _ = join(*zip(*[pickers[i] for i in order], strict=True), NEAR)
    assert np.allclose(again.xy_px, joined.xy_px)
    assert np.allclose(again.rank, joined.rank[:, order], equal_nan=True)
    np.testing.assert_array_equal(probabilities(again.rank), chance)
    # a picker's scale does not matter
    warped, _ = join([p[0] for p in pickers], [p[1] for p in pickers], [np.exp(p[2]) for p in pickers], NEAR)
    assert np.allclose(warped.rank, joined.rank, equal_nan=True)


def test_a_higher_rank_and_one_more_picker_never_speak_against_a_particle() -> None:
    joined, _ = join(*zip(*world(2, 3)[2], strict=True), NEAR)
    rank = joined.rank
    probe = np.array([[np.nan, 0.1, np.nan], [np.nan, 0.9, np.nan], [0.5, 0.9, np.nan], [0.5, 0.9, 0.9]])
    chance = probabilities(np.concatenate([rank, probe]))[-4:]
    assert (np.diff(chance) >= -1e-9).all()
    assert chance[3] > chance[0] + 0.3


def pick_table(path: Path, rows: list[tuple[str, float, float, float]]) -> None:
    content = [[f"in/{n}.mrc", str(x), str(y), str(p), n] for n, x, y, p in rows]
    names = [
        "rlnMicrographName",
        "rlnCoordinateX",
        "rlnCoordinateY",
        "rlnAutopickFigureOfMerit",
        "emflowMicrographId",
    ]
    listed = pd.DataFrame({"rlnMicrographName": ["in/a.mrc", "in/b.mrc"], "emflowMicrographId": ["a", "b"]})
    write_star(path, {"micrographs": listed, "particles": pd.DataFrame(content, columns=pd.Index(names))})


def test_tables_in_a_table_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    both = [("a", 100.0 * i, 50.0, 0.9) for i in range(20)]
    pick_table(Path("one.star"), [*both, ("b", 10.0, 10.0, 0.1)])
    pick_table(Path("two.star"), [(n, x + 4, y, p) for n, x, y, p in both])
    cfg = PickConsensus(distance_px=10.0, min_probability=0.0)
    command.consensus(Path("one.star"), Path("two.star"), Path("out.star"), cfg=cfg)
    tables = read_star("out.star")
    assert len(tables["particles"]) == 21
    assert tables["particles"]["emflowPickedBy"].value_counts().to_dict() == {"11": 20, "10": 1}
    assert sorted(floats(tables["particles"], "rlnCoordinateX"))[:3] == [2, 10, 102]
    assert tables["micrographs"]["emflowPickCount"].tolist() == ["20", "1"]
    strict = cfg.model_copy(update={"min_probability": 0.5})
    command.consensus(Path("one.star"), Path("two.star"), Path("out.star"), cfg=strict)
    assert read_star("out.star")["particles"]["emflowPickedBy"].unique().tolist() == ["11"]
    with pytest.raises(EmflowError, match="distance-px"):
        command.consensus(Path("one.star"), Path("two.star"), Path("out.star"))
    with pytest.raises(EmflowError, match="two tables"):
        command.consensus(Path("one.star"), Path("out.star"), cfg=cfg)
