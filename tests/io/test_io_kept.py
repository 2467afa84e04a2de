"""What a pooling step keeps for its next run."""

import os
from pathlib import Path

import pytest

from emflow.io.kept import Kept, Made, why_anew
from emflow.io.record import same_settings


def keep(folder: Path, key: str, text: str) -> str | None:
    """One run of a step: return what it began with, then keep its result."""
    kept = Kept(folder / ".previous", key)
    before = kept.previous()
    found = None if before is None else (before[0] / "a.txt").read_text()
    file = folder / "a.txt"
    file.unlink(missing_ok=True)  # as Snakemake does
    file.write_text(text)
    kept.keep({"a.txt": file}, Made(key, "x:", 10, 10))
    return found


def test_a_run_begins_with_the_result_before_its_own_however_often_it_is_repeated(tmp_path: Path) -> None:
    assert [keep(tmp_path, key, key) for key in "abbbc"] == [None, "a", "a", "a", "b"]
    assert [keep(tmp_path, key, key * 2) for key in "bd"] == ["c", "bb"], (
        "back to an earlier state is a new result"
    )
    assert len(list((tmp_path / ".previous").iterdir())) == 2


def test_what_a_kill_left_is_not_taken(tmp_path: Path) -> None:
    keep(tmp_path, "a", "a")
    left = tmp_path / ".previous" / "00002-b"
    left.mkdir()
    (left / "a.txt").write_text("half")
    assert keep(tmp_path, "b", "whole") == "a"
    assert keep(tmp_path, "c", "c") == "whole"


def test_without_hard_links_it_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*paths: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    keep(tmp_path, "a", "a")
    assert keep(tmp_path, "b", "b") == "a"


def test_when_to_begin_anew() -> None:
    made = Made("k", "abc:1,2", 80, 50)
    assert why_anew(made, "abc:1,2", 100) == ""
    assert why_anew(made, "abc:1,2,3", 100) == "", "a session more changes no setting"
    assert "more than half are new" in why_anew(made, "abc:1,2", 101)
    for other in ("abd:1,2", "abc:1", "abc:1,4", "abc:2,1", ""):
        assert "a setting has changed" in why_anew(made, other, 100), other
    assert not same_settings("abc:1", None)
