"""Files as entities of an RO-Crate: their ids, sizes, times and digests."""

from __future__ import annotations

import mimetypes
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from emflow.project.past_run import PastRun, absolute, holds_pixels, sha256_of

Entity = dict[str, Any]

_KINDS = {
    ".star": "text/x-star", ".mrc": "application/x-mrc", ".mrcs": "application/x-mrc", ".yaml": "application/yaml",
    ".smk": "text/x-snakemake", ".safetensors": "application/x-safetensors", "": "text/plain",
}  # fmt: skip
"""Media types of files that have no registered one."""


def ref(identity: str) -> dict[str, str]:
    """Reference to an entity."""
    return {"@id": identity}


@dataclass
class Graph:
    """The entities of a crate by their id; each id is described once."""

    entities: dict[str, Entity] = field(default_factory=dict)

    def add(self, identity: str, kind: str | list[str], **properties: Any) -> dict[str, str]:
        """Describe an entity unless it is already; empty properties are left out. Return a reference to it."""
        if identity not in self.entities:
            told = {name: value for name, value in properties.items() if value not in (None, "", [])}
            self.entities[identity] = {"@id": identity, "@type": kind, **told}
        return ref(identity)

    def as_list(self) -> list[Entity]:
        """Return the entities; a list of one stands as its one value, as RO-Crate has it."""
        return [
            {
                key: value[0] if isinstance(value, list) and len(value) == 1 else value
                for key, value in entity.items()
            }
            for entity in self.entities.values()
        ]


class Files:
    """Files of a past run as entities of a graph.

    Parameters
    ----------
    graph
        Takes the entities.
    past
        The run.
    pixels
        Digest micrographs, half sums and stacks too, which means to read all of them.
    carried
        Whether the crate holds a file of the project (its relative path); one that it does not hold is named
        by its absolute URI.
    """

    def __init__(self, graph: Graph, past: PastRun, *, pixels: bool, carried: Callable[[str], bool]) -> None:
        self._graph, self._past, self._pixels, self._carried = graph, past, pixels, carried
        self._recorded = absolute(past.work, f"results/{past.name}")
        self._here = past.folder.resolve()

    def inside(self, name: str | os.PathLike[str]) -> str | None:
        """Path relative to the project of a file that the run named; None for one outside."""
        path = absolute(self._past.work, name)
        for root in (self._recorded, self._here):
            if path.is_relative_to(root):
                return path.relative_to(root).as_posix()
        return None

    def place(self, name: str | os.PathLike[str]) -> Path:
        """Where a file that the run named is now."""
        inside = self.inside(name)
        return absolute(self._past.work, name) if inside is None else self._past.folder / inside

    def identity(self, name: str | os.PathLike[str]) -> str:
        """Id of a file: its percent-encoded path in the crate, or its URI."""
        inside = self.inside(name)
        if inside is not None and self._carried(inside) and (self._past.folder / inside).exists():
            return encoded(inside) if inside != "." else "./"
        place = absolute(self._past.work, name) if inside is None else self._recorded / inside
        return "file://" + encoded(str(place))

    @property
    def folder(self) -> Path:
        """The project's folder."""
        return self._past.folder

    def has(self, inside: str) -> bool:
        """Whether the project holds a file."""
        return (self.folder / inside).is_file()

    def result(self, inside: str, **properties: Any) -> dict[str, str]:
        """Describe a file of the project by its relative path."""
        return self.add(self._recorded / inside, **properties)

    def add(
        self,
        name: str | os.PathLike[str],
        *,
        pixels: bool = False,
        seen: Seen | None = None,
        **properties: Any,
    ) -> dict[str, str]:
        """Describe a file.

        Parameters
        ----------
        pixels
            It is one of many large ones, digested only when asked.
        seen
            Size and time as the run saw them; by default as they are now.
        properties
            Further properties; ``kinds`` replaces the type ``File``.
        """
        inside = self.inside(name)
        identity = self.identity(name)
        if identity == "./" or identity in self._graph.entities:
            return ref(identity)
        path, kinds = self.place(name), properties.pop("kinds", "File")
        there = path.exists()
        if there and path.is_dir():
            identity = identity.rstrip("/") + "/"
            return self._graph.add(identity, "Dataset", name=printable(path.name), **properties)
        if not there:
            properties["description"] = "Not there any more when the record was made."
        elif seen is None:
            seen = Seen.of(path)
        read = there and (self._pixels or not (pixels or (inside is not None and holds_pixels(inside))))
        return self._graph.add(
            identity,
            kinds,
            name=printable(path.name),
            contentSize=None if seen is None else str(seen.size),
            dateModified=None if seen is None else moment(seen.mtime_ns // 10**9),
            encodingFormat=_KINDS.get(path.suffix) or mimetypes.guess_type(path.name)[0],
            sha256=sha256_of(path) if read else None,
            **properties,
        )


class Seen(NamedTuple):
    """Size and time of a file."""

    size: int
    mtime_ns: int

    @staticmethod
    def of(path: Path) -> Seen:
        """As they are now."""
        stat = path.stat()
        return Seen(stat.st_size, stat.st_mtime_ns)


def encoded(path: str) -> str:
    """Percent-encode a path; names that are not UTF-8 too."""
    return quote(os.fsencode(path), safe="/")


def printable(name: str) -> str:
    """Return a file's name as text that any reader of JSON takes."""
    return os.fsencode(name).decode("utf-8", errors="replace")


def moment(seconds: float) -> str:
    """Time as ISO 8601, UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(seconds))
