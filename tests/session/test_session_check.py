"""Bad files are set aside with reasons and change nothing for the good ones; halves never change."""

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from emflow.io import image as image_module
from emflow.io.mrc import RESTORED_LABEL, write_mrc
from emflow.io.star import Tables, read_star, write_star
from emflow.session import command
from emflow.session.check import assign_halves, duplicates, odd_headers, odd_shapes
from emflow.session.config import SessionCheck, SessionFind

from .conftest import PIXEL, blobs

FIND = SessionFind(pixel_size_angstrom=PIXEL, shard_size=50)
CHECK = SessionCheck()
Spoil = Callable[[Path, Path], dict[str, str]]


def run(source: Path, project: Path, find: SessionFind = FIND, cfg: SessionCheck = CHECK) -> list[Tables]:
    shards = command.find_session(str(source), project / "session", find)
    out = []
    for shard in shards:
        table = project / "session" / "check" / shard.path.name
        command.check(shard.path, table, cfg=cfg)
        out.append(read_star(table))
    return out


def by_name(tables: list[Tables], *columns: str) -> dict[str, tuple[str, ...]]:
    rows = pd.concat([t["micrographs"] for t in tables])
    return {Path(r["rlnMicrographName"]).name: tuple(r[c] for c in columns) for r in rows.to_dict("records")}


def test_bad_files_change_nothing_else(good: Path, tmp_path: Path, spoil: Spoil) -> None:
    reasons = spoil(good, tmp_path / "bad")
    alone, mixed = run(good, tmp_path / "p1"), run(tmp_path / "bad", tmp_path / "p2")
    columns = (
        "rlnRandomSubset",
        "emflowContrast",
        "emflowMean",
        "emflowStd",
        "emflowDigest",
        "rlnImageSizeX",
    )
    assert by_name(alone, *columns) == by_name(mixed, *columns)
    assert [halves for (halves,) in by_name(alone, "rlnRandomSubset").values()] == ["1", "2"] * 6
    assert len(alone[0]["set_aside"]) == 0
    found = {Path(r["rlnMicrographName"]).name: r for r in mixed[0]["set_aside"].to_dict("records")}
    assert set(found) == set(reasons)
    for name, words in reasons.items():
        assert re.search(words, found[name]["emflowReason"]), found[name]["emflowReason"]
        assert found[name]["emflowExpected"] not in ("", "None")


def test_same_bytes_twice_and_after_a_kill(good: Path, tmp_path: Path, spoil: Spoil) -> None:
    spoil(good, tmp_path / "bad")
    run(tmp_path / "bad", tmp_path / "p")
    out = tmp_path / "p" / "session" / "check" / "shard_00001.star"
    journal = out.with_name(".shard_00001.journal")
    first = out.read_bytes()
    for keep in (1.0, 0.6, 0.3, 0.0):
        content = journal.read_bytes()
        journal.write_bytes(content[: int(keep * len(content))])
        command.check(tmp_path / "p" / "session" / "shard_00001.star", out)
        assert out.read_bytes() == first


def test_each_file_is_read_once_in_its_life(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    original = command.read_image
    monkeypatch.setattr(command, "read_image", lambda path: read.append(Path(path).name) or original(path))
    run(good, tmp_path / "p")
    assert len(read) == 12
    run(good, tmp_path / "p")
    write_mrc(good / "zz.mrc", blobs(50), PIXEL)
    run(good, tmp_path / "p", cfg=SessionCheck(contrast="dark", contrast_significance=8))
    assert len(read) == 12 + 13  # without the contrast to detect, results have another key
    assert read[12:] == sorted(p.name for p in good.iterdir())


def test_halves_outlive_growth_loss_and_other_settings(good: Path, tmp_path: Path) -> None:
    first = by_name(run(good, tmp_path / "p"), "rlnRandomSubset")
    os.remove(good / "mic_02.mrc")
    os.remove(good / "mic_07.mrc")
    for i in range(20, 23):
        write_mrc(good / f"a_{i}.mrc", blobs(i), PIXEL)
    tables = run(good, tmp_path / "p", cfg=SessionCheck(max_blank_fraction=0.4, contrast="dark"))
    second = by_name(tables, "rlnRandomSubset")
    assert {n: h for n, h in second.items() if n in first} == {
        n: h for n, h in first.items() if n not in ("mic_02.mrc", "mic_07.mrc")
    }
    assert [second[f"a_{i}.mrc"] for i in range(20, 23)] == [("1",), ("2",), ("1",)]
    gone = tables[0]["set_aside"]
    assert [Path(n).name for n in gone["rlnMicrographName"]] == ["mic_02.mrc", "mic_07.mrc"]
    assert all("vanished" in reason for reason in gone["emflowReason"])


def test_what_was_read_before_it_vanished_stays_good(good: Path, tmp_path: Path) -> None:
    first = by_name(run(good, tmp_path / "p"), "rlnRandomSubset", "emflowDigest")
    os.remove(good / "mic_02.mrc")
    write_mrc(good / "a_20.mrc", blobs(20), PIXEL)
    tables = run(good, tmp_path / "p")
    second = by_name(tables, "rlnRandomSubset", "emflowDigest")
    assert {name: second[name] for name in first} == first
    assert not len(tables[0]["set_aside"])


def test_changed_file_is_set_aside_for_its_new_version(good: Path, tmp_path: Path) -> None:
    run(good, tmp_path / "p")
    write_mrc(good / "mic_04.mrc", blobs(77), PIXEL)
    (table,) = run(good, tmp_path / "p")
    assert len(table["micrographs"]) == 12
    assert "changed since it was listed" in table["set_aside"]["emflowReason"][0]
    assert Path(table["micrographs"]["rlnMicrographName"].iloc[-1]).name == "mic_04.mrc"


def test_shards_start_with_different_halves(good: Path, tmp_path: Path) -> None:
    tables = run(good, tmp_path / "p", FIND.model_copy(update={"shard_size": 3}))
    halves = [list(t["micrographs"]["rlnRandomSubset"]) for t in tables]
    assert halves == [["1", "2", "1"], ["2", "1", "2"], ["1", "2", "1"], ["2", "1", "2"]]


def test_imported_halves_win(good: Path, tmp_path: Path) -> None:
    names = sorted(str(p) for p in good.iterdir())
    imported = ["2", "2", "2", "1", "None", "2"]
    table = pd.DataFrame({"rlnMicrographName": names[:6], "rlnRandomSubset": imported}, dtype=object)
    write_star(tmp_path / "m.star", {"micrographs": table})
    (tables,) = run(tmp_path / "m.star", tmp_path / "p")
    assert list(tables["micrographs"]["rlnRandomSubset"]) == ["2", "2", "2", "1", "1", "2"]


def test_plain_folder_without_a_project(good: Path, tmp_path: Path) -> None:
    command.check(good, tmp_path / "out.star", cfg=SessionCheck(pixel_size_angstrom=PIXEL))
    tables = read_star(tmp_path / "out.star")
    assert len(tables["micrographs"]) == 12
    assert tables["optics"]["rlnMicrographPixelSize"][0] == "3.0"
    assert tables["micrographs"]["emflowHeaderPixelSize"][0] == "3"


def test_restored_pixels_do_not_enter(good: Path, tmp_path: Path) -> None:
    write_mrc(good / "mic_03.mrc", blobs(3), PIXEL, labels=(RESTORED_LABEL,))
    (tables,) = run(good, tmp_path / "p")
    assert "denoised or restored" in tables["set_aside"]["emflowReason"][0]
    assert len(tables["micrographs"]) == 11


def test_half_sums_are_checked_and_only_they_are_left_out(good: Path, tmp_path: Path) -> None:
    for name in ("even", "odd"):
        shutil.copytree(good, tmp_path / name)
    os.remove(tmp_path / "even" / "mic_01.mrc")
    write_mrc(tmp_path / "odd" / "mic_02.mrc", blobs(2, size=64), PIXEL)
    even, odd = f"{tmp_path}/even/{{name}}.mrc", f"{tmp_path}/odd/{{name}}.mrc"
    (shard,) = command.find_session(str(good), tmp_path / "s", FIND, even=even, odd=odd)
    command.check(shard.path, tmp_path / "out.star")
    table = read_star(tmp_path / "out.star")["micrographs"]
    assert len(table) == 12
    assert list(np.flatnonzero(table["emflowEvenName"] == "None")) == [1]
    assert list(np.flatnonzero(table["emflowOddName"] == "None")) == [2]


def test_file_that_could_not_be_read_is_tried_again(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = image_module.read_mrc

    def refuse(path: Path) -> np.ndarray:
        if path.name == "mic_05.mrc":
            raise command.EmflowError(f"{path}: may not be read (permission denied).")
        return original(path)

    with monkeypatch.context() as patch:
        patch.setattr(image_module, "read_mrc", refuse)
        (tables,) = run(good, tmp_path / "p")
    assert len(tables["micrographs"]) == 11
    before = by_name([tables], "rlnRandomSubset")
    (tables,) = run(good, tmp_path / "p")
    after = by_name([tables], "rlnRandomSubset")
    assert len(after) == 12
    assert {n: after[n] for n in before} == before


def test_settled_micrographs_outvote_newcomers() -> None:
    small, large = (4, 4), (8, 8)
    assert set(odd_shapes([small, large, large], ["1"] * 3, [False] * 3)) == {0}
    assert set(odd_shapes([small, large, large], ["1"] * 3, [True, False, False])) == {1, 2}
    assert odd_shapes([small, large, None], ["1", "2", "2"], [False] * 3) == {}
    assert duplicates(["d", "d", None, None], [5, 3, 0, 0], [False] * 4) == {0: 1}
    assert duplicates(["d", "d"], [5, 3], [True, False]) == {1: 0}


def test_header_pixel_sizes_need_a_majority() -> None:
    assert set(odd_headers([1.0, 1.0, 2.0], ["1"] * 3, CHECK)) == {2}
    assert odd_headers([1.0, 2.0], ["1"] * 2, CHECK) == {}
    assert odd_headers([1.0, 1.0, 2.0, 2.0], ["1"] * 4, CHECK) == {}
    assert odd_headers([1.0, 1.0, 1.001, None], ["1"] * 4, CHECK) == {}


def test_halves_alternate_by_rank_and_remember() -> None:
    none: list[int | None] = [None] * 4
    assert assign_halves([True] * 4, none, none, 1) == [1, 2, 1, 2]
    assert assign_halves([True] * 4, none, none, 2) == [2, 1, 2, 1]
    assert assign_halves([True, False, True, True], none, none, 1) == [1, None, 2, 1]
    assert assign_halves([False, True, True, True], [1, 2, None, None], none, 1) == [1, 2, 1, 2]
    assert assign_halves([True] * 4, none, [2, 2, None, None], 1) == [2, 2, 1, 2]
