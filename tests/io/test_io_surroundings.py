"""What a record says of the code and of what a step wrote."""

from __future__ import annotations

import json
import subprocess

import numpy as np
import pytest

from emflow.io.atomic import write_text
from emflow.io.record import Record
from emflow.io.stack import GrowingStack
from emflow.io.surroundings import code_state, container
from emflow.step import Run, StepConfig


@pytest.fixture
def checkout(tmp_path):
    """A checkout with one file of code, committed."""

    def git(*words: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        done = subprocess.run(
            ["git", "-C", str(tmp_path), *identity, *words], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    (tmp_path / "emflow").mkdir()
    (tmp_path / "emflow" / "a.py").write_text("a = 1\n")
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "first")
    return tmp_path, git("rev-parse", "HEAD")


def test_edited_and_new_code_is_dirty_and_other_files_are_not(checkout):
    root, commit = checkout
    assert code_state(root) == {"commit": commit, "dirty": False}
    (root / "notes.txt").write_text("x")
    assert code_state(root)["dirty"] is False
    (root / "emflow" / "b.py").write_text("b = 1\n")
    assert code_state(root)["dirty"] is True
    (root / "emflow" / "b.py").unlink()
    (root / "emflow" / "a.py").write_text("a = 2\n")
    assert code_state(root) == {"commit": commit, "dirty": True}


def test_without_git_the_commit_is_read_and_nothing_is_claimed(checkout, monkeypatch):
    root, commit = checkout
    monkeypatch.setenv("PATH", "")
    assert code_state(root) == {"commit": commit, "dirty": None}
    assert code_state(root / "emflow") == {"commit": None, "dirty": None}


def test_the_image_of_a_container_is_told(monkeypatch):
    monkeypatch.setenv("APPTAINER_CONTAINER", "/images/emflow.sif")
    assert container() == "/images/emflow.sif"


def test_a_record_lists_what_its_step_wrote_and_nothing_else(tmp_path):
    write_text(tmp_path / "before.txt", "x")
    with Record("a.b", StepConfig(), Run(record=tmp_path / "record.json"), inputs=[tmp_path / "before.txt"]):
        write_text(tmp_path / "table.txt", "x")
        write_text(tmp_path / "table.txt", "xy")
        write_text(tmp_path / ".cache" / "state", "x")
        stack = GrowingStack(tmp_path / "images.mrcs", 4, 1.0)
        stack.resume([])
        stack.append("key", np.zeros((2, 4, 4), np.float32), {})
        stack.finish()
    write_text(tmp_path / "after.txt", "x")
    content = json.loads((tmp_path / "record.json").read_text())
    sizes = {item["path"].rsplit("/", 1)[1]: item["size"] for item in content["outputs"]}
    assert sizes == {"table.txt": 2, "images.mrcs": 1024 + 2 * 64}
    assert content["folder"]
    assert content["processor"]


def test_a_step_that_fails_leaves_no_record_and_is_forgotten(tmp_path):
    def fail() -> None:
        write_text(tmp_path / "half.txt", "x")
        raise ValueError("broken")

    first = Record("a.b", StepConfig(), Run(record=tmp_path / "first.json"), inputs=[])
    with pytest.raises(ValueError, match="broken"), first:
        fail()
    assert not (tmp_path / "first.json").exists()
    with Record("a.b", StepConfig(), Run(record=tmp_path / "second.json"), inputs=[]):
        pass
    assert json.loads((tmp_path / "second.json").read_text())["outputs"] == []
