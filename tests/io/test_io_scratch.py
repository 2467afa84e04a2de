"""Disposable files on a node's own disk: where they lie, that they go, and what a kill leaves."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from emflow.io.scratch import scratch_file

_HOLD = """
import sys, time
from pathlib import Path
from emflow.io.scratch import scratch_file
with scratch_file(Path("results/particles.store"), sys.argv[1]) as path:
    path.write_bytes(bytes(1000))
    print("ready", flush=True)
    time.sleep(300)
"""


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A step that holds a scratch file; killed at the end."""
    command = [sys.executable, "-c", _HOLD, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        try:
            yield process
        finally:
            process.kill()


def test_a_file_goes_to_the_scratch_disk_and_is_removed_at_the_end(tmp_path, monkeypatch):
    monkeypatch.setenv("NODE_DISK", str(tmp_path / "disk"))
    (tmp_path / "disk").mkdir()
    beside = tmp_path / "results" / "particles.store"
    with scratch_file(beside, "$NODE_DISK") as path:
        path.write_bytes(b"images")
        assert path.is_relative_to(tmp_path / "disk")
        assert path.name == beside.name
    assert not [p for p in (tmp_path / "disk").rglob("*") if p.is_file()]


def test_without_a_scratch_disk_that_serves_it_lies_beside_the_results_and_says_so(tmp_path, caplog):
    beside = tmp_path / "particles.store"
    for scratch, needed, said in (
        (None, 0, ""),
        ("$NOT_SET_HERE", 0, "is not set here"),
        (str(tmp_path / "nowhere"), 0, "No such file"),
        (str(tmp_path), 1e18, "are needed"),
    ):
        caplog.clear()
        with scratch_file(beside, scratch, needed) as path:
            assert path == beside
        assert said in caplog.text
        assert bool(said) == bool(caplog.records)


def test_an_error_removes_it_too(tmp_path):
    def fail() -> None:
        with scratch_file(Path("a.store"), str(tmp_path)) as path:
            path.write_bytes(b"images")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_what_a_killed_step_left_is_removed_by_the_next_and_a_living_one_is_spared(tmp_path):
    with _held(tmp_path) as living:
        with _held(tmp_path):
            pass
        assert len(list(tmp_path.rglob("particles.store"))) == 2
        with scratch_file(Path("b.store"), str(tmp_path)):
            (left,) = tmp_path.rglob("particles.store")
            assert f"-{living.pid}-" in str(left)


def test_a_lock_of_a_living_process_without_a_folder_yet_is_spared(tmp_path):
    with _held(tmp_path):
        (folder,) = [p for p in tmp_path.glob("emflow-*/*") if p.is_dir()]
        name = folder.name.rsplit("-", 1)[0]
        fresh = folder.with_name(f"{name}-00000000.lock")
        fresh.touch()
        with scratch_file(Path("b.store"), str(tmp_path)):
            assert fresh.exists()
    with scratch_file(Path("b.store"), str(tmp_path)):
        assert not fresh.exists()
