"""List image files by name, size and time, without reading a pixel: fast for 50 000 files."""

from __future__ import annotations

import glob
import hashlib
import os
import stat
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from emflow.step import EmflowError

TIFF_SUFFIXES = (".tif", ".tiff")
MRC_SUFFIXES = (".mrc", ".mrcs", ".map")
IMAGE_SUFFIXES = MRC_SUFFIXES + TIFF_SUFFIXES
LIST_SUFFIXES = (".txt", ".lst")


@dataclass(frozen=True)
class Listed:
    """A file as it was seen; size −1 and time 0 if it does not exist."""

    name: str
    size: int
    mtime_ns: int

    @property
    def identity(self) -> str:
        """The micrograph's id: short hash of base name, size and modification time."""
        content = f"{os.path.basename(self.name)}\0{self.size}\0{self.mtime_ns}"
        return hashlib.sha256(content.encode("utf-8", "surrogateescape")).hexdigest()[:12]


def list_images(source: str | os.PathLike[str]) -> list[Listed]:
    """List the images of a folder, a glob, a text list (one path a line) or a single file.

    Sorted by name, but a text list keeps its order. Hidden files and folders are left out. Paths of a text
    list are relative to the working folder, or else to the list's own; one that does not exist is kept,
    so that it can be reported.

    Raises
    ------
    EmflowError
        If a text list or a folder cannot be read.
    """
    text = str(source)
    path = Path(text)
    try:
        if path.is_file() and path.suffix.lower() in LIST_SUFFIXES:
            return _stat_all(_read_list(path))
        if path.is_dir():
            with os.scandir(path) as entries:
                within = str(path / "_")[:-1]
                names = sorted(within + entry.name for entry in entries if _is_image(entry.name))
        elif os.path.lexists(path):
            names = [text]
        else:
            names = sorted(name for name in glob.glob(text, recursive=True) if _is_image(name))
    except (PermissionError, UnicodeDecodeError) as error:
        raise EmflowError(f"{source}: cannot be listed ({error}).") from None
    return _stat_all(names)


def stat_file(name: str) -> Listed | None:
    """Stat one file; None for a folder."""
    try:
        status = os.stat(name)
    except OSError:
        return Listed(name, -1, 0)
    return None if stat.S_ISDIR(status.st_mode) else Listed(name, status.st_size, status.st_mtime_ns)


def _stat_all(names: Sequence[str]) -> list[Listed]:
    """Stat files, several at once: on a network file system the time is that of waiting for each answer."""
    parts = [names[first : first + 200] for first in range(0, len(names), 200)]
    with ThreadPoolExecutor(16) as pool:
        found = pool.map(lambda part: [stat_file(name) for name in part], parts)
        return [listed for part in found for listed in part if listed is not None]


def _is_image(name: str) -> bool:
    return name.lower().endswith(IMAGE_SUFFIXES) and not os.path.basename(name).startswith(".")


def _read_list(path: Path) -> list[str]:
    lines = (line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines())
    names = dict.fromkeys(line for line in lines if line and not line.startswith("#"))
    beside = {name: str(path.parent / name) for name in names}
    return [n if os.path.exists(n) or not os.path.exists(beside[n]) else beside[n] for n in names]
