"""Atomic writes: a temporary name in the same folder, fsync, rename."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import re
from collections.abc import Iterator
from pathlib import Path

import psutil

from emflow import leave
from emflow.step import EmflowError

_MARK = ".partial"
_watchers: list[list[Path]] = []
_LEFT = re.compile(rf"\.(.+)\.(\d+){re.escape(_MARK)}(.*)")


class StepError(EmflowError):
    """Something that concerns the whole step. Never a reason to set a micrograph aside."""


class WriteError(StepError):
    """A result that cannot be stored."""


_USERS_TO_MEND = {
    errno.ENOSPC: "Free space there",
    errno.EDQUOT: "Free space there, or ask for a larger quota",
    errno.EFBIG: "Raise the limit of the file size, or free space",
    errno.EROFS: "Choose a folder that can be written",
    errno.EACCES: "Choose a folder that you may write",
    errno.EPERM: "Choose a folder that you may write",
    errno.ENOTDIR: "Choose another name: a part of the path is a file",
    errno.EISDIR: "Choose another name: there is a folder of that name",
}


@contextlib.contextmanager
def write_errors(target: Path, *others: Path) -> Iterator[None]:
    """Say in words what the user can mend when ``target`` (or a file written on its behalf) cannot be written.

    Raises
    ------
    WriteError
        If the disk is full or the folder cannot be written.
    """
    try:
        yield
    except OSError as error:
        files = (None, str(target), *map(str, others))
        if error.errno not in _USERS_TO_MEND or error.filename not in files:
            raise
        advice = _USERS_TO_MEND[error.errno]
        raise WriteError(f"{target}: cannot be written ({error.strerror}). {advice}.") from error


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it is fsynced and renamed, on error removed.

    A reader never sees a half-written file, and a failed writer leaves the old one as it was.

    Raises
    ------
    WriteError
        If the disk is full or the folder cannot be written.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.stem}.{os.getpid()}{_MARK}{target.suffix}")
    try:
        with write_errors(target, temporary):
            leave.half_written.add(temporary)
            target.parent.mkdir(parents=True, exist_ok=True)
            _remove_left(target)
            yield temporary
            with open(temporary, "rb") as handle:
                os.fsync(handle.fileno())
            os.replace(temporary, target)
        note_written(target)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        leave.half_written.discard(temporary)


def _remove_left(target: Path) -> None:
    """Remove what a killed writer of the same file left. A folder is listed once: it may hold 50 000 files."""
    for path in _left_in(target.parent.absolute()).pop(target.name, []):
        # a project's lock rules out writers on other machines
        if not psutil.pid_exists(int(_LEFT.fullmatch(path.name)[2])):  # type: ignore[index]
            path.unlink(missing_ok=True)


@functools.lru_cache(maxsize=64)
def _left_in(folder: Path) -> dict[str, list[Path]]:
    """Temporary files in a folder when this process first wrote there, by the file that they would have become."""
    found: dict[str, list[Path]] = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            match = _LEFT.fullmatch(entry.name)
            if match:
                found.setdefault(match[1] + match[3], []).append(folder / entry.name)
    return found


def note_written(path: Path) -> None:
    """Tell who watches that a file has been written."""
    for written in _watchers:
        written.append(path)


@contextlib.contextmanager
def watch_writes() -> Iterator[list[Path]]:
    """Yield a list that takes the path of every file written here until the context ends."""
    written: list[Path] = []
    _watchers.append(written)
    try:
        yield written
    finally:
        _watchers[:] = [other for other in _watchers if other is not written]


def remove_partial(folder: str | os.PathLike[str]) -> list[Path]:
    """Remove what killed writers left in a folder and below it; only for a project where nothing runs."""
    left = [path for path in Path(folder).rglob(f".*{_MARK}*") if path.is_file()]
    for path in left:
        path.unlink(missing_ok=True)
    return left


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="surrogateescape")


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a binary file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)
