"""Per-image results of a shard, so that nothing is computed twice after a kill or when a shard grows."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from emflow.io.atomic import write_errors
from emflow.step import StepConfig


def result_key(cfg: StepConfig, *parts: object) -> str:
    """Digest of everything a result depends on: settings, step version, input identity, weights."""
    content = [cfg.model_dump(mode="json"), type(cfg).__name__, cfg.version, [str(p) for p in parts]]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:20]


class Journal:
    """Append-only file of JSON lines ``{id, key, result}``; undeclared to Snakemake, so it survives reruns.

    A line cut short by a kill is ignored. An image is skipped only if its key matches.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._results: dict[str, tuple[str, Any]] = {}
        if self.path.exists():
            for line in self.path.read_text(encoding="utf-8", errors="replace").split("\n"):
                try:
                    entry = json.loads(line)
                    self._results[entry["id"]] = (entry["key"], entry["result"])
                except (json.JSONDecodeError, KeyError, TypeError):
                    continue

    def get(self, identity: str, key: str) -> Any | None:
        """Return the stored result of an image if it was made under the same key."""
        stored = self._results.get(identity)
        return stored[1] if stored is not None and stored[0] == key else None

    def put(self, identity: str, key: str, result: Any) -> None:
        """Append one result and flush it to the disk.

        Raises
        ------
        WriteError
            If the disk is full or the folder cannot be written.
        """
        self._results[identity] = (key, result)
        line = json.dumps({"id": identity, "key": key, "result": result})
        with write_errors(self.path):
            self._append(line)

    def _append(self, line: str) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a", encoding="utf-8") as handle:
            if handle.tell() and not self._ends_with_newline():
                handle.write("\n")
            handle.write(line + "\n")
            handle.flush()
            os.fsync(handle.fileno())

    def _ends_with_newline(self) -> bool:
        with open(self.path, "rb") as handle:
            handle.seek(-1, os.SEEK_END)
            return handle.read(1) == b"\n"
