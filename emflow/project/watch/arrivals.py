"""Which files of a growing folder are ready, judged by stat and header alone; none is touched."""

from __future__ import annotations

import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path

from emflow.config import Input
from emflow.io.image import check_whole
from emflow.io.listing import Listed, list_images, stat_file
from emflow.project.watch.config import Watch
from emflow.project.watch.ready import ReadyList, is_followed
from emflow.step import EmflowError

log = logging.getLogger("emflow")

_TEMPORARY = re.compile(r"^~|[.~](part|partial|tmp|temp|filepart|crdownload|download)$|~$", re.IGNORECASE)
"""Base names, without an image's suffix, under which programs write what they rename later."""

Stat = tuple[int, int]
"""Size, and time in nanoseconds, as the file server says them."""


@dataclass(slots=True)
class _File:
    """What is known of a file."""

    stat: Stat
    ready: bool = False
    beside: tuple[Stat, ...] = ()
    since: float = 0.0
    """When it was first seen as it is now, by the watcher's own clock."""
    fault: str | None = None
    """What is wrong with it; None while it is not known."""
    why: str = ""
    """Why it waits."""


class Arrivals:
    """The files of a source, looked at again and again.

    A file is ready when two looks, ``settle_s`` or more apart, and all between them found the same size and
    time of it and of what belongs to it (sidecar, half sums), and its header agrees with its size. Times of
    the file server are only compared with each other, lengths of time are those of this machine, so that
    neither clock need be right.
    """

    def __init__(self, given: Input, cfg: Watch, ready: ReadyList) -> None:
        """Take up a source where an earlier watcher left it: what it found ready is not judged again."""
        assert isinstance(given.micrographs, str)
        self.source, self._cfg, self._ready = given.micrographs, cfg, ready
        self.followed = is_followed(self.source)
        """Whether each file is judged; a STAR table of another program's names what is finished."""
        self._patterns = [pattern for pattern in (given.even, given.odd) if pattern]
        self._files = {
            item.name: _File((item.size, item.mtime_ns), ready=True) for item in self._ready.read()
        }
        self._first = True
        self.problem = ""
        """Why the source cannot be looked at; what was known of it is kept meanwhile."""
        self.arrived = 0
        """New files since the start; those that lay there already are none."""
        self.last_change: float | None = None
        """When a file last came or changed, by the watcher's clock."""
        self.passed_on = 0
        """Files that settled without becoming sound."""

    @property
    def seen(self) -> int:
        """Files that are there."""
        return len(self._files)

    @property
    def ready(self) -> int:
        """Files that may be processed."""
        return sum(file.ready for file in self._files.values())

    def waiting(self, most: int) -> list[tuple[str, str]]:
        """Files that wait, with the reason; no more than ``most``."""
        found = []
        for name, file in self._files.items():
            if not file.ready:
                found.append((name, file.why))
                if len(found) == most:
                    break
        return found

    def look(self, now: float) -> int:
        """Look at the source; store and count the files that became ready.

        Parameters
        ----------
        now
            Time in seconds by a clock that never jumps.
        """
        try:
            listed = self._list()
        except (EmflowError, OSError) as error:
            self.problem = str(error)
            return 0
        if not listed and self._files:
            self.problem = f"'{self.source}' shows no micrograph now"
            return 0
        self.problem = ""
        fresh = []
        for item in listed:
            file = self._files.get(item.name)
            stat = (item.size, item.mtime_ns)
            if file is not None and file.ready and file.stat == stat:
                continue
            if self._judge(item, stat, file, now):
                fresh.append(item)
        if len(listed) != len(self._files):
            names = {item.name for item in listed}
            for name in [name for name in self._files if name not in names]:
                del self._files[name]
        if fresh:
            self._ready.append(fresh)  # stored first: after a failure it is tried again
            for item in fresh:
                self._files[item.name] = _File((item.size, item.mtime_ns), ready=True)
        self._first = False
        return len(fresh)

    def _list(self) -> list[Listed]:
        if not self.followed:
            table = stat_file(self.source)
            return [table] if table is not None and table.size >= 0 else []
        listed = list_images(self.source)
        halves = {
            pattern.replace("{name}", Path(item.name).stem) for pattern in self._patterns for item in listed
        }
        return [item for item in listed if item.name not in halves] if halves else listed

    def _judge(self, item: Listed, stat: Stat, file: _File | None, now: float) -> bool:
        """Whether a file has become ready; keeps what was seen."""
        beside = tuple((found.size, found.mtime_ns) for found in self._beside(item.name).values())
        if file is None or file.stat != stat or file.beside != beside:
            if not self._first:
                self.arrived += file is None
                self.last_change = now
            why = "new" if file is None else "still changing"
            self._files[item.name] = _File(stat, beside=beside, since=now, why=why)
            return False
        settled = now - file.since
        if settled < self._cfg.settle_s or now == file.since:
            return False
        if file.fault is None:
            file.fault = self._fault(item.name)
        if not file.fault:
            return True
        file.why = file.fault
        if settled < self._cfg.give_up_s or _TEMPORARY.search(Path(item.name).stem) or "\n" in item.name:
            return False
        log.warning("%s: passed on as it is after %.0f s: %s", item.name, settled, file.fault)
        self.passed_on += 1
        return True

    def _beside(self, name: str) -> dict[str, Listed]:
        """Files that belong to a micrograph, as they are now; size −1 where one is missing."""
        stem = Path(name).stem
        paths = {pattern.replace("{name}", stem): "half sum" for pattern in self._patterns}
        if self._cfg.sidecar:
            short = stem.removesuffix(self._cfg.sidecar_without)
            path = self._cfg.sidecar.replace("{name}", short).replace("{file}", Path(name).name)
            paths[path.replace("{folder}", str(Path(name).parent))] = "sidecar"
        found = {path: stat_file(path) for path in paths}
        return {f"{paths[path]} {path}": item or Listed(path, -1, 0) for path, item in found.items()}

    def _fault(self, name: str) -> str:
        """What is wrong with a file that has settled; empty where nothing is."""
        if not self.followed:
            return ""
        if _TEMPORARY.search(Path(name).stem):
            return "a temporary name; waiting until it is renamed"
        if "\n" in name:
            return "a line break in its name; rename it"
        for what, item in self._beside(name).items():
            if item.size < 0:
                return f"its {what} is missing"
            if item.size == 0:
                return f"its {what} is empty"
        wholes = [name, *(item.name for what, item in self._beside(name).items() if what.startswith("half"))]
        for path in wholes:
            try:
                check_whole(os.fspath(path))
            except EmflowError as error:
                return str(error)
        return ""
