"""The list of files that are ready: written by the watcher, believed by every run while the watcher lives."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from emflow.io.listing import Listed
from emflow.project.lock import is_held

FOLDER = "watch"
"""Folder of the watcher, in the project's."""
WATCHED = "EMFLOW_WATCHED"
"""Set for the runs that a watcher starts: believed also where the file system cannot lock."""


class ReadyList:
    """Append-only text: size, time (ns) and name of each file that was found ready, tab-separated.

    A line cut short by a kill names no file and is ignored.
    """

    def __init__(self, project: Path) -> None:
        """Name the file of a project (its results folder); nothing is read yet."""
        self.path = project / FOLDER / "ready.txt"

    def read(self) -> list[Listed]:
        """All entries, in the order in which they became ready; none if there is no list."""
        try:
            text = self.path.read_text(encoding="utf-8", errors="surrogateescape")
        except FileNotFoundError:
            return []
        entries = []
        for line in text.split("\n")[:-1]:
            size, _, rest = line.partition("\t")
            mtime_ns, _, name = rest.partition("\t")
            if name and size.removeprefix("-").isdecimal() and mtime_ns.isdecimal():
                entries.append(Listed(name, int(size), int(mtime_ns)))
        return entries

    def append(self, entries: Iterable[Listed]) -> None:
        """Append entries and flush them to the disk."""
        text = "".join(f"{item.size}\t{item.mtime_ns}\t{item.name}\n" for item in entries)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "ab+") as handle:
            if handle.tell():
                handle.seek(-1, os.SEEK_END)
                text = text if handle.read(1) == b"\n" else f"\n{text}"
            handle.write(text.encode("utf-8", "surrogateescape"))
            handle.flush()
            os.fsync(handle.fileno())


def ready_files(project: Path) -> set[tuple[str, int, int]] | None:
    """Return name, size and time of the files that a living watcher holds ready; None if nobody watches.

    A run takes no other new file then, so that it leaves alone what is still being written.
    """
    if WATCHED not in os.environ and not is_held(project / FOLDER):
        return None
    return {(item.name, item.size, item.mtime_ns) for item in ReadyList(project).read()}


def is_followed(source: object) -> bool:
    """Whether files of a source are judged one by one.

    Another program's STAR table is believed as it is, and so are several sessions, which nobody watches.
    """
    return isinstance(source, str) and not source.endswith(".star")
