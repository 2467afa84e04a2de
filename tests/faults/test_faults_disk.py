"""Real file systems: one that fills up, one that cannot be written; and memory that does not suffice."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import emflow.session.command
from emflow.cli import main
from emflow.io.atomic import WriteError
from emflow.io.mrc import write_mrc
from emflow.io.stack import GrowingStack


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file system of 200 kB with room for 4 kB, and micrographs beside it."""
    monkeypatch.chdir(tmp_path)
    folder = Path("disk")
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(folder)]
    if subprocess.run(words, capture_output=True).returncode:
        pytest.skip("no right to mount a file system here: needs root")
    try:
        (folder / "filler").write_bytes(bytes(49 * 4096))
        draw = np.random.default_rng(0)
        for number in range(3):
            write_mrc(Path("raw") / f"m{number}.mrc", draw.normal(size=(96, 96)), 4.0)
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)  # mrcfile may keep a file open


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # mrcfile keeps its handle
@pytest.mark.parametrize("step", ["session check", "denoise apply"])
def test_a_full_disk_stops_a_step_that_goes_on_when_there_is_room(disk, step, capsys):
    def run(out: Path) -> None:
        main([*step.split(), "raw", str(out / "shard_00001.star"), "--pixel-size-angstrom", "4"])

    with pytest.raises(SystemExit) as stopped:
        run(disk / "out")
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert "No space left on device" in said
    assert "Free space" in said
    assert not [name for name in names(disk) if ".partial" in name or ".working" in name]
    (disk / "filler").unlink()
    run(disk / "out")
    run(Path("elsewhere"))
    assert names(disk / "out") == names(Path("elsewhere"))
    if step == "session check":
        table = (disk / "out" / "shard_00001.star").read_bytes()
        assert table == Path("elsewhere/shard_00001.star").read_bytes()
    for image in Path("elsewhere").rglob("*.mrc"):
        assert (disk / "out" / image.relative_to("elsewhere")).read_bytes() == image.read_bytes()


def test_a_stack_that_fills_the_disk_goes_on_with_the_same_bytes(disk):
    pieces = [np.full((4, 16, 16), number, dtype=np.float32) for number in range(8)]

    def write(path: Path) -> None:
        stack = GrowingStack(path, 16, 1.0)
        keys = [str(number) for number in range(len(pieces))]
        for number in range(len(stack.resume(keys)), len(pieces)):
            stack.append(keys[number], pieces[number], number)
        stack.finish()

    with pytest.raises(WriteError, match="No space left"):
        write(disk / "a.mrcs")
    assert not (disk / "a.mrcs").exists()
    (disk / "filler").unlink()
    write(disk / "a.mrcs")
    write(Path("b.mrcs"))
    assert (disk / "a.mrcs").read_bytes() == Path("b.mrcs").read_bytes()
    assert names(disk) == [".a.journal", "a.mrcs"]


def test_results_on_a_disk_that_cannot_be_written_are_refused_with_a_word(disk, capsys):
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    with pytest.raises(SystemExit) as stopped:
        main(["session", "check", "raw", str(disk / "out.star"), "--pixel-size-angstrom", "4"])
    assert stopped.value.code == 2
    assert "Read-only file system" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "more memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate"), "more memory"),
        (OSError(116, os.strerror(116)), "when it is back"),
        (OSError(122, os.strerror(122)), "larger quota"),
    ],
)
def test_what_the_machine_lacks_is_no_fault_of_ours(tmp_path, monkeypatch, capsys, error, words):
    def fails(*_: object) -> None:
        raise error

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(emflow.session.command, "load_micrographs", fails)
    with pytest.raises(SystemExit) as stopped:
        main(["session", "check", "raw", "out.star"])
    assert stopped.value.code == 2
    assert words in capsys.readouterr().err
