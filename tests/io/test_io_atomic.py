"""Atomic writes: the whole new file or the old one, and nothing beside it."""

import errno
import os
import resource
import signal
from pathlib import Path

import numpy as np
import pytest

from emflow.io.atomic import WriteError, atomic_path, remove_partial, write_text
from emflow.io.mrc import write_mrc


def test_failed_writer_leaves_the_old_file_alone(tmp_path: Path) -> None:
    target = tmp_path / "a.star"
    write_text(target, "old")

    def fail() -> None:
        with atomic_path(target) as temporary:
            temporary.write_text("half")
            assert target.read_text() == "old"
            raise KeyError("x")

    with pytest.raises(KeyError):
        fail()
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.star"]


def test_new_file_appears_whole_in_a_new_folder(tmp_path: Path) -> None:
    write_text(tmp_path / "x" / "y" / "a.txt", "new")
    assert (tmp_path / "x" / "y" / "a.txt").read_text() == "new"
    assert os.listdir(tmp_path / "x" / "y") == ["a.txt"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_full_disk_is_said_plainly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    write_text(tmp_path / "a.txt", "old")

    def full(_: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WriteError, match=r"a\.txt: cannot be written"):
        write_text(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # mrcfile keeps its handle
def test_disk_that_fills_while_writing_a_map(tmp_path: Path) -> None:
    """A real limit of the file size: the kernel refuses in the middle of the pixels."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
        with pytest.raises(WriteError, match=r"map\.mrc: cannot be written"):
            write_mrc(tmp_path / "map.mrc", np.zeros((64, 64, 64)), 1.0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert os.listdir(tmp_path) == []


def test_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises((WriteError, FileExistsError, NotADirectoryError)):
        write_text(tmp_path / "file" / "a.txt", "x")
    (tmp_path / "b.txt").mkdir()
    with pytest.raises(WriteError, match="folder of that name"):
        write_text(tmp_path / "b.txt", "x")


def test_errors_of_other_files_are_not_blamed_on_the_output(tmp_path: Path) -> None:
    def read_elsewhere() -> None:
        with atomic_path(tmp_path / "a.txt"):
            (tmp_path / "dir").mkdir()
            (tmp_path / "dir").read_text()

    with pytest.raises(IsADirectoryError):
        read_elsewhere()


def test_leftovers_of_killed_writers_can_be_removed(tmp_path: Path) -> None:
    class KilledError(BaseException):
        pass

    (tmp_path / "sub").mkdir()
    with atomic_path(tmp_path / "sub" / "a.mrc") as temporary:
        left = temporary.with_name(temporary.name)
        temporary.write_text("x")
    left.write_text("what a killed writer leaves")
    assert remove_partial(tmp_path) == [left]
    assert os.listdir(tmp_path / "sub") == ["a.mrc"]


def test_what_a_killed_writer_left_goes_with_the_next_write_of_the_same_file(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        with atomic_path(tmp_path / "a.star") as temporary:
            temporary.write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    living = tmp_path / f".b.{os.getppid()}.partial.star"  # of a writer that is at work
    living.write_text("half")
    assert len(os.listdir(tmp_path)) == 2
    write_text(tmp_path / "b.star", "new")
    assert len(os.listdir(tmp_path)) == 3
    write_text(tmp_path / "a.star", "new")
    assert sorted(os.listdir(tmp_path)) == [living.name, "a.star", "b.star"]
