"""Pooling: what only shows across shards, the figures and the verdicts; the commands end to end."""

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from emflow.cli import main
from emflow.io.mrc import write_mrc
from emflow.io.star import read_star, write_star
from emflow.session.join import Contrast, judge_session, measure_session, settle

from .conftest import PIXEL, blobs


def quality(*rows: dict[str, str]) -> pd.DataFrame:
    base = {
        "rlnMicrographName": "a.mrc",
        "rlnOpticsGroup": "1",
        "emflowShard": "1",
        "rlnRandomSubset": "1",
        "rlnImageSizeX": "10",
        "rlnImageSizeY": "20",
        "emflowHeaderPixelSize": "3",
        "emflowAccepted": "1",
        "emflowStep": "None",
        "emflowReason": "None",
        "emflowExpected": "None",
    }
    filled = [
        {
            **base,
            "emflowDigest": f"d{i}",
            "rlnMicrographName": f"m{i}.mrc",
            "emflowMicrographId": f"id{i}",
            **row,
        }
        for i, row in enumerate(rows)
    ]
    return pd.DataFrame(filled, dtype=object)


def accepted(table: pd.DataFrame) -> str:
    return "".join(table["emflowAccepted"])


def test_copies_across_shards_keep_the_oldest() -> None:
    times = [{"emflowMtimeNs": "20", "emflowDigest": "d"}, {"emflowMtimeNs": "10", "emflowDigest": "d"}]
    assert accepted(settle(quality(*times))) == "01"
    table = settle(quality({}, {"emflowDigest": "d0", "emflowShard": "2"}, {}))
    assert accepted(table) == "101"
    assert table["emflowReason"][1] == "a copy of m0.mrc"
    assert table["emflowStep"][1] == "session.join"


def test_rejected_originals_have_no_copies() -> None:
    rejected = {"emflowAccepted": "0", "emflowStep": "ctf.fit", "emflowReason": "no rings"}
    table = settle(quality(rejected, {"emflowDigest": "d0"}))
    assert accepted(table) == "01"
    assert table["emflowReason"][0] == "no rings"


def test_newest_version_of_a_file_wins_unless_only_its_time_changed() -> None:
    changed = settle(quality({}, {"rlnMicrographName": "m0.mrc", "emflowShard": "2"}))
    assert accepted(changed) == "01"
    assert "replaced by a newer version" in changed["emflowReason"][0]
    touched = settle(quality({}, {"rlnMicrographName": "m0.mrc", "emflowDigest": "d0"}))
    assert accepted(touched) == "10"
    assert "only newer" in touched["emflowReason"][1]


def test_odd_shapes_across_shards_go_by_optics_group() -> None:
    odd = {"rlnImageSizeX": "40", "emflowShard": "2"}
    assert accepted(settle(quality({}, {}, odd))) == "110"
    assert accepted(settle(quality({}, {}, {**odd, "rlnOpticsGroup": "2"}))) == "111"


def verdicts(table: pd.DataFrame, contrasts: list[Contrast], pixel: float = 3.0) -> dict[str, str]:
    rows = judge_session(table, measure_session(table, pixel), contrasts, [])
    words = ("sound", "half-sets", "dark or bright", "headers")
    return {word: verdict for question, verdict, _, _ in rows for word in words if word in question}


DARK = Contrast("dark", "dark", -9.0)


def test_verdicts_tell_the_truth() -> None:
    table = quality({}, {"rlnRandomSubset": "2"}, {}, {"rlnRandomSubset": "2"})
    assert set(verdicts(table, [DARK]).values()) == {"pass"}
    assert verdicts(table, [DARK], pixel=1.5)["headers"] == "warn"
    one_differs = table.assign(emflowHeaderPixelSize=["3", "3", "6", "None"])
    assert verdicts(one_differs, [DARK])["headers"] == "warn"
    assert verdicts(table.assign(emflowHeaderPixelSize="None"), [DARK])["headers"] == "unknown"
    assert verdicts(table.assign(rlnRandomSubset="1"), [DARK])["half-sets"] == "fail"
    assert verdicts(table.assign(emflowAccepted="0"), [])["sound"] == "fail"
    assert verdicts(table, [Contrast("dark", "unknown", -1.0)])["dark or bright"] == "unknown"
    assert verdicts(table, [Contrast("bright", "set", 0.0)])["dark or bright"] == "pass"
    assert verdicts(table, [DARK, Contrast("bright", "bright", 9.0)])["dark or bright"] == "fail"


def test_figures_add_up() -> None:
    table = settle(quality({}, {"rlnRandomSubset": "2"}, {"emflowDigest": "d0"}, {"emflowAccepted": "0"}))
    assert measure_session(table, 3.0) == {
        "micrographs": 4,
        "accepted": 2,
        "set_aside": 2,
        "half1_micrographs": 1,
        "half2_micrographs": 1,
        "copies": 1,
        "pixel_size_angstrom": 3.0,
        "header_pixel_size_angstrom": 3.0,
    }


def as_ctf_and_pick(project: Path) -> None:
    """Stand-ins for the two steps between check and select."""
    for path in (project / "session" / "check").glob("shard_*.star"):
        checked = read_star(path)
        known = checked["micrographs"][["rlnMicrographName", "emflowMicrographId"]]
        nothing = checked["set_aside"][:0]
        ctf = {"micrographs": known.assign(rlnCtfMaxResolution="5"), "set_aside": nothing}
        write_star(project / "ctf" / path.name, ctf)
        pick = {"micrographs": known.assign(emflowPickCount="3"), "set_aside": nothing}
        write_star(project / "pick" / path.name, pick)


def chain(source: Path, project: Path, shard_size: int) -> None:
    find = ["session", "find", str(source), f"{project}/session", "--pixel-size-angstrom", "3"]
    main([*find, "--shard-size", str(shard_size)])
    for path in sorted((project / "session").glob("shard_*.star")):
        main(["session", "check", str(path), f"{project}/session/check/{path.name}"])
    as_ctf_and_pick(project)
    for path in sorted((project / "session").glob("shard_*.star")):
        tables = [
            f"{project}/{place}/{path.name}" for place in ("session/check", "ctf", "pick", "session/select")
        ]
        main(["session", "select", *tables])
    selected = sorted(str(p) for p in (project / "session" / "select").glob("shard_*.star"))
    main(["session", "join", *selected, f"{project}/session"])


@pytest.mark.parametrize("shard_size", [50, 5])
def test_commands_end_to_end(
    good: Path, tmp_path: Path, spoil: Callable[[Path, Path], dict[str, str]], shard_size: int
) -> None:
    reasons = spoil(good, tmp_path / "bad")
    chain(tmp_path / "bad", tmp_path / "p", shard_size)
    session = tmp_path / "p" / "session"
    table = read_star(session / "quality.star")["micrographs"]
    assert len(table) == len(set(table["emflowMicrographId"])) == 12 + len(reasons)
    kept = read_star(session / "micrographs.star")["micrographs"]
    found = {Path(name).name for name in kept["rlnMicrographName"]}
    # among five, one header of another magnification has no majority against it; then the verdict tells
    assert found - {p.name for p in good.iterdir()} <= ({"mic_04b_pixel.mrc"} if shard_size == 5 else set())
    assert {p.name for p in good.iterdir()} <= found
    aside = read_star(session / "set_aside.star")["set_aside"]
    assert len(aside) + len(kept) == len(table)
    assert list(aside.columns[:4]) == [
        "rlnMicrographName",
        "emflowMicrographId",
        "emflowReason",
        "emflowExpected",
    ]
    metrics = json.loads((session / "metrics.json").read_text())
    assert (metrics["accepted"], metrics["set_aside"]) == (len(kept), len(aside))
    assert {v["verdict"] for v in json.loads((session / "verdicts.json").read_text())} <= {
        "pass",
        "warn",
        "unknown",
    }


def test_session_without_one_sound_micrograph_still_ends(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    write_mrc(tmp_path / "raw" / "a.mrc", blobs(0) * 0, PIXEL)
    chain(tmp_path / "raw", tmp_path / "p", 5)
    session = tmp_path / "p" / "session"
    assert json.loads((session / "metrics.json").read_text())["accepted"] == 0
    assert len(read_star(session / "micrographs.star")["micrographs"]) == 0
    assert json.loads((session / "verdicts.json").read_text())[0]["verdict"] == "fail"


def test_join_without_tables_is_the_users_to_mend(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["session", "join", str(tmp_path)])
    assert stop.value.code == 2
    assert "give the shards' tables" in capsys.readouterr().err
