"""A micrograph that kills its process is set aside in the end; an innocent one that was being worked on is not."""

from __future__ import annotations

import ctypes
import faulthandler
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emflow import leave
from emflow.io.journal import Journal
from emflow.io.micrographs import Micrographs, for_each, load_micrographs
from emflow.io.mrc import write_mrc
from emflow.io.star import read_star
from emflow.step import EmflowError, OpticsFacts

DEATHS = ".shard_00001.deaths"


@pytest.fixture
def images(tmp_path: Path) -> Micrographs:
    (tmp_path / "raw").mkdir()
    for name in "abcd":
        write_mrc(tmp_path / "raw" / f"{name}.mrc", [[1.0, 2.0], [3.0, 4.0]], 1.0)
    return load_micrographs(tmp_path / "raw", OpticsFacts(pixel_size_angstrom=1.0))


def go(folder: Path, images: Micrographs, work: Callable[[int], dict[str, Any]], key: str = "k", minutes=1.0):
    """One run of a step over a shard, in this process."""
    return for_each(images, work, Journal(folder / ".shard_00001.journal"), lambda row: key, minutes)


def go_apart(*arguments: Any) -> int:
    """One run in a process of its own; its exit code, negative for a signal."""
    child = os.fork()
    if child == 0:
        try:
            faulthandler.disable()
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            go(*arguments)
            os._exit(0)
        except BaseException:
            os._exit(3)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def fine(row: int) -> dict[str, Any]:
    return {"row": row}


def poison(row: int) -> dict[str, Any]:
    if row == 1:
        ctypes.string_at(0)  # what a decoder does that runs over the end of its buffer
    return fine(row)


def test_an_image_that_crashes_the_process_is_tried_twice_and_then_set_aside(tmp_path, images):
    assert go_apart(tmp_path, images, poison) == -signal.SIGSEGV
    assert go_apart(tmp_path, images, poison) == -signal.SIGSEGV
    results, aside = go(tmp_path, images, poison)
    assert list(results) == [0, 2, 3]
    assert aside["rlnMicrographName"].tolist() == [images.name(1)]
    assert aside["emflowReason"].tolist() == ["the process died twice while working on it"]
    assert list(go(tmp_path, images, poison)[0]) == [0, 2, 3], "it stays so"
    assert list(go(tmp_path, images, fine, "other settings")[0]) == [0, 1, 2, 3], "another key is another try"
    (tmp_path / DEATHS).unlink()
    assert list(go(tmp_path, images, fine)[0]) == [0, 1, 2, 3], "without the list it is tried again"
    assert sorted(p.name for p in tmp_path.iterdir()) == [".shard_00001.journal", "raw"]


def test_a_kill_sets_no_innocent_image_aside(tmp_path, images):
    def killed(row: int) -> dict[str, Any]:
        if row == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return fine(row)

    assert go_apart(tmp_path, images, killed) == -signal.SIGKILL
    results, aside = go(tmp_path, images, fine)
    assert list(results) == [0, 1, 2, 3]
    assert not len(aside)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".shard_00001.journal", "raw"], (
        "and it is forgotten"
    )


def test_an_image_on_which_the_process_hangs_counts_as_one_on_which_it_died(tmp_path, images):
    def hang(row: int) -> dict[str, Any]:
        if row == 0:
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
            ctypes.CDLL(None).pause()
        return fine(row)

    assert go_apart(tmp_path, images, hang, "k", 0.005) == 1
    assert go_apart(tmp_path, images, hang, "k", 0.005) == 1
    assert list(go(tmp_path, images, hang)[0]) == [1, 2, 3]


def test_being_told_to_stop_is_no_death(tmp_path, images):
    def stopped(row: int) -> dict[str, Any]:
        raise leave.LeaveError

    for _ in range(3):
        with pytest.raises(leave.LeaveError):
            go(tmp_path, images, stopped)
    assert len(go(tmp_path, images, fine)[0]) == 4
    assert not (tmp_path / DEATHS).exists()


@pytest.mark.parametrize(
    ("error", "blamed"),
    [
        (MemoryError(), True),
        (RuntimeError("linalg.svd: did not converge"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (OSError(116, "Stale file handle"), False),
    ],
)
def test_which_errors_are_blamed_on_the_image(tmp_path, images, error, blamed):
    def fails(row: int) -> dict[str, Any]:
        if row == 3:
            raise error
        return fine(row)

    for _ in range(2):
        with pytest.raises(type(error)):
            go(tmp_path, images, fails)
    if not blamed:
        with pytest.raises(type(error)):
            go(tmp_path, images, fails)
        return
    results, aside = go(tmp_path, images, fails)
    assert list(results) == [0, 1, 2]
    assert type(error).__name__ in aside["emflowReason"].iloc[0]


def test_where_the_step_fails_on_all_images_none_is_set_aside(tmp_path, images):
    """Too little memory, a broken library: as long as no other image gets through, the images are not to blame."""
    tried = []

    def fails(row: int) -> dict[str, Any]:
        tried.append(row)
        raise MemoryError

    for _ in range(4):
        with pytest.raises(MemoryError):
            go(tmp_path, images, fails)
    assert tried == [0, 1, 2, 3]
    assert len(go(tmp_path, images, fine)[0]) == 4
    assert not (tmp_path / DEATHS).exists()


def test_a_torn_note_of_a_killed_process_is_no_death(tmp_path, images):
    (tmp_path / ".shard_00001.working").write_text('{"id": "')
    (tmp_path / DEATHS).write_text('{"id": 1}\n[]\nnot json\n')
    assert len(go(tmp_path, images, fine)[0]) == 4
    assert not (tmp_path / ".shard_00001.working").exists()


def seen(images: Micrographs) -> Micrographs:
    """As the session lists them: with the size that was seen."""
    return Micrographs(images.table.assign(emflowSize="1056"), images.optics)


@pytest.mark.parametrize("how", ["gone", "empty"])
def test_a_folder_that_is_away_sets_none_aside(tmp_path, images, how):
    def unreadable(row: int) -> dict[str, Any]:
        raise EmflowError(f"{images.name(row)}: no such file.")

    (tmp_path / "raw").rename(tmp_path / "away")
    if how == "empty":
        (tmp_path / "raw").mkdir()
    with pytest.raises(EmflowError, match="mount it again"):
        go(tmp_path, seen(images), unreadable)
    if how == "empty":
        (tmp_path / "raw").rmdir()
    (tmp_path / "away").rename(tmp_path / "raw")
    (tmp_path / "raw" / "a.mrc").unlink()
    assert len(go(tmp_path, seen(images), unreadable)[1]) == 4, "a file that cannot be read is another matter"


def test_a_name_that_nobody_ever_saw_is_set_aside_also_without_its_folder(tmp_path, images):
    def unreadable(row: int) -> dict[str, Any]:
        raise EmflowError("no such file.")

    (tmp_path / "raw").rename(tmp_path / "away")
    assert len(go(tmp_path, images, unreadable)[1]) == 4


CHECK = """
import ctypes, sys
import emflow.session.command as command
from emflow.cli import main
read = command.read_image
command.read_image = lambda name: ctypes.string_at(0) if "poison" in name else read(name)
main(["session", "check", "raw", "check/shard_00001.star", "--pixel-size-angstrom", "1"])
"""


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_poison_micrograph_does_not_take_its_shard_along(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("raw").mkdir()
    draw = np.random.default_rng(0)
    for name in ("good_1", "good_2", "poison", "zz_good"):
        write_mrc(Path("raw") / f"{name}.mrc", draw.normal(size=(64, 64)), 1.0)

    codes = [
        subprocess.run([sys.executable, "-c", CHECK], capture_output=True, check=False).returncode
        for _ in range(3)
    ]
    assert codes == [-signal.SIGSEGV, -signal.SIGSEGV, 0]
    tables = read_star("check/shard_00001.star")
    assert len(tables["micrographs"]) == 3
    assert tables["set_aside"]["rlnMicrographName"].tolist() == ["raw/poison.mrc"]
    assert "died twice" in tables["set_aside"]["emflowReason"].iloc[0]
