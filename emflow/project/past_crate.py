"""A run's record as it is given to be repeated: a project, its RO-Crate, or the zip without data."""

from __future__ import annotations

import json
import os
import tempfile
import zipfile
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

from emflow.project.crate import METADATA, build_crate
from emflow.project.past_run import PastRun, read_past_run, sha256_of
from emflow.step import EmflowError


@dataclass(frozen=True)
class PastCrate:
    """A past run with what its crate says of each file."""

    past: PastRun
    files: dict[str, dict[str, Any]]
    """Path of each file → its entity: relative to the project for results, else absolute."""
    made_now: bool
    """The project had no crate: the files are described as they are now."""

    def digest(self, name: str) -> str | None:
        """Digest of a result when the record was made."""
        return self.files.get(name, {}).get("sha256")

    def gone_or_changed(self) -> list[str]:
        """Inputs that are no longer what they were, each with what is wrong."""
        found = []
        own = (self.past.folder.resolve(), self.past.work / "results" / self.past.name)
        for name, entity in sorted(self.files.items()):
            if not os.path.isabs(name) or any(Path(name).is_relative_to(root) for root in own):
                continue
            wrong = _changed(Path(name), entity)
            if wrong:
                found.append(f"{name}: {wrong}")
        return found

    def tampered(self) -> list[str]:
        """Results that changed since the record was made."""
        return [
            name
            for name in self.past.results()
            if self.digest(name) is not None and sha256_of(self.past.folder / name) != self.digest(name)
        ]


def _changed(path: Path, entity: dict[str, Any]) -> str:
    try:
        stat = path.stat()
    except OSError:
        return "is not there"
    if "contentSize" in entity and stat.st_size != int(entity["contentSize"]):
        return f"has {stat.st_size} bytes, {entity['contentSize']} then"
    if "sha256" in entity:
        return "" if sha256_of(path) == entity["sha256"] else "has other content"
    if "dateModified" in entity and int(stat.st_mtime) != int(
        datetime.fromisoformat(entity["dateModified"]).timestamp()
    ):
        return f"was modified since ({entity['dateModified']} then)"
    return ""


def open_record(record: Path) -> PastCrate:
    """Open a project's folder, its ro-crate-metadata.json, or a zip that ``emflow record --zip`` wrote.

    Raises
    ------
    EmflowError
        If it is none of these, or cannot be read.
    """
    if record.suffix == ".zip":
        return _open_zip(record)
    folder = record.parent if record.name == METADATA else record
    past = read_past_run(folder)
    if (folder / METADATA).is_file():
        return PastCrate(past, _files(_read(folder / METADATA)), made_now=False)
    content = build_crate(past)
    return PastCrate(past, _files(content), made_now=True)


def _open_zip(record: Path) -> PastCrate:
    """Unpack a zip into a temporary folder, which is left to the end of the process."""
    folder = tempfile.TemporaryDirectory(prefix="emflow-record-")
    _UNPACKED.append(folder)
    try:
        with zipfile.ZipFile(record) as archive:
            archive.extractall(folder.name)  # leaves no name outside the folder
    except (OSError, zipfile.BadZipFile) as error:
        raise EmflowError(f"{record}: not a zip of a record ({error}).") from None
    past = read_past_run(Path(folder.name))
    content = _read(Path(folder.name) / METADATA)
    results = past.work / "results" / past.name
    files = {
        str(Path(name).relative_to(results)) if Path(name).is_relative_to(results) else name: entity
        for name, entity in _files(content).items()
    }
    return PastCrate(past, files, made_now=False)


_UNPACKED: list[tempfile.TemporaryDirectory[str]] = []


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        content["@graph"][0]["@id"]
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise EmflowError(f"{path}: not an RO-Crate of emflow ({type(error).__name__}: {error}).") from None
    return content


def _files(content: dict[str, Any]) -> dict[str, dict[str, Any]]:
    found = {}
    for entity in content["@graph"]:
        kind, identity = entity.get("@type", ""), str(entity.get("@id", ""))
        if "File" in (kind if isinstance(kind, list) else [kind]):
            found[os.fsdecode(unquote_to_bytes(identity.removeprefix("file://")))] = entity
    return found
