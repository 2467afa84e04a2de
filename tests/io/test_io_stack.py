"""A stack written piece by piece: valid MRC, and the same bytes after a kill, growth or a change."""

import errno
import os
from pathlib import Path

import mrcfile
import numpy as np
import pytest

from emflow.io.atomic import WriteError
from emflow.io.mrc import read_header, read_mrc
from emflow.io.stack import GrowingStack

PIECES = {
    name: np.full((count, 8, 8), i + 1, np.float32)
    for i, (name, count) in enumerate(zip("abcd", (2, 0, 3, 1), strict=True))
}


def write(path: Path, names: str, until: int | None = None) -> tuple[int, bytes]:
    """Write pieces as a step does; ``until`` is where it is killed. Returns how many were taken over."""
    stack = GrowingStack(path, 8, 2.5)
    done = stack.resume(list(names))
    assert done == [{"was": name} for name in names[: len(done)]]
    for number, name in enumerate(names[len(done) :], start=len(done)):
        if number == until:
            return len(done), b""
        stack.append(name, PIECES[name], {"was": name})
    stack.finish()
    return len(done), path.read_bytes()


def test_is_a_valid_stack(tmp_path: Path) -> None:
    path = tmp_path / "s.mrcs"
    write(path, "abcd")
    assert mrcfile.validate(path)
    pixels = read_mrc(path)
    assert pixels.shape == (6, 8, 8)
    assert pixels[:, 0, 0].tolist() == [1, 1, 3, 3, 3, 4]
    header = read_header(path)
    assert header.voxel_size_angstrom == pytest.approx(2.5)
    with mrcfile.open(path) as mrc:
        assert mrc.is_image_stack()
    assert sorted(p.name for p in tmp_path.iterdir()) == [".s.journal", "s.mrcs"]


def test_one_image_and_none(tmp_path: Path) -> None:
    write(tmp_path / "one.mrcs", "d")
    assert read_mrc(tmp_path / "one.mrcs").size == 64
    write(tmp_path / "none.mrcs", "b")
    assert mrcfile.validate(tmp_path / "none.mrcs")
    assert not read_mrc(tmp_path / "none.mrcs").any()
    assert write(tmp_path / "none.mrcs", "ba")[0] == 1  # the image of zeros is nobody's
    assert read_mrc(tmp_path / "none.mrcs")[:, 0, 0].tolist() == [1, 1]


@pytest.mark.parametrize("until", [0, 1, 2, 3])
def test_killed_and_started_again(tmp_path: Path, until: int) -> None:
    _, expected = write(tmp_path / "whole.mrcs", "abcd")
    path = tmp_path / "killed.mrcs"
    write(path, "abcd", until)
    assert not path.exists()
    taken, found = write(path, "abcd")
    assert taken == until
    assert found == expected


def test_torn_write_is_not_believed(tmp_path: Path) -> None:
    _, expected = write(tmp_path / "whole.mrcs", "abcd")
    path = tmp_path / "torn.mrcs"
    write(path, "abcd", 3)
    growing = tmp_path / ".torn.growing.mrcs"
    growing.write_bytes(growing.read_bytes()[:-100])  # the last piece is not whole
    taken, found = write(path, "abcd")
    assert taken == 2
    assert found == expected
    write(path, "abca", 3)
    with open(tmp_path / ".torn.journal", "a") as journal:
        journal.write('{"chain": "half a li')
    assert write(path, "abcd")[1] == expected


def test_growth_reads_nothing_again(tmp_path: Path) -> None:
    _, expected = write(tmp_path / "whole.mrcs", "abcd")
    path = tmp_path / "grown.mrcs"
    write(path, "abc")
    assert write(path, "abcd") == (3, expected)
    assert write(path, "abcd") == (4, expected)  # and again: all is there


def test_change_in_the_middle_and_back(tmp_path: Path) -> None:
    """What follows a changed piece is written anew, even where keys and sizes are the same."""
    path = tmp_path / "s.mrcs"
    _, first = write(path, "acd")
    assert write(path, "bcd")[0] == 0
    assert read_mrc(path)[:, 0, 0].tolist() == [3, 3, 3, 4]
    write(path, "acd", 2)  # killed on the way back
    taken, again = write(path, "acd")
    assert taken == 2
    assert again == first


def test_images_are_taken_from_the_file_that_the_journal_names(tmp_path: Path) -> None:
    """The finished stack is no stand-in for a hidden one that somebody removed, though it is long enough."""
    path = tmp_path / "s.mrcs"
    _, first = write(path, "acd")
    write(path, "ccc", 2)
    (tmp_path / ".s.growing.mrcs").unlink()
    assert write(path, "ccc")[0] == 0
    assert read_mrc(path)[:, 0, 0].tolist() == [3] * 9
    write(path, "ccc")
    (tmp_path / ".s.growing.mrcs").write_bytes(b"killed while it was copied")
    assert write(path, "ccca")[0] == 3


def test_refused_pieces_are_made_again(tmp_path: Path) -> None:
    write(tmp_path / "s.mrcs", "acd")
    stack = GrowingStack(tmp_path / "s.mrcs", 8, 2.5)
    assert stack.resume(list("acd"), keep=lambda result: result["was"] != "c") == [{"was": "a"}]


def test_full_disk_is_told_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stack = GrowingStack(tmp_path / "s.mrcs", 8, 2.5)
    stack.resume(["a"])

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WriteError, match="s.mrcs: cannot be written .*Free space"):
        stack.append("a", PIECES["a"], {})


def test_other_size_or_pixel_starts_afresh(tmp_path: Path) -> None:
    path = tmp_path / "s.mrcs"
    write(path, "ab")
    assert GrowingStack(path, 8, 2.6).resume(["a", "b"]) == []
    with pytest.raises(ValueError, match="8 px"):
        GrowingStack(path, 8, 2.5).append("a", np.zeros((1, 6, 6), np.float32), {})
