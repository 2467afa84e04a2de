"""Write a stack of particle images piece by piece, and resume where a killed or shorter run ended."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np

from emflow.io.atomic import note_written, write_errors, write_text

HEADER_BYTES = 1024


def stack_header(count: int, side: int, pixel_size_angstrom: float, labels: Sequence[str] = ()) -> bytes:
    """Header of an MRC stack (MRC2014, mode 2) of square images, without a time; its statistics are unset."""
    header = np.zeros((), dtype=mrcfile.dtypes.HEADER_DTYPE.newbyteorder("<"))
    values: dict[str, Any] = {
        "nx": side, "ny": side, "nz": count, "mode": 2, "mx": side, "my": side, "mz": 1,
        "mapc": 1, "mapr": 2, "maps": 3, "dmin": 0, "dmax": -1, "dmean": -2, "rms": -1,
        "map": b"MAP ", "machst": (0x44, 0x44, 0, 0), "nversion": 20141, "ispg": 0,
    }  # fmt: skip
    for name, value in values.items():
        header[name] = value
    header["cella"] = (side * pixel_size_angstrom, side * pixel_size_angstrom, pixel_size_angstrom)
    header["cellb"] = (90, 90, 90)
    header["nlabl"] = len(labels)
    for place, label in enumerate(labels):
        header["label"][place] = label.encode("latin-1")
    return header.tobytes()


class GrowingStack:
    """A particle stack to which one micrograph's images are appended after another.

    Memory holds one piece. Pieces go to a hidden file beside ``path``, each with a line in a hidden journal;
    :meth:`finish` gives the file its header and its name. A later run with the same first pieces takes them
    from the hidden or the finished file: each piece's key covers all before it, so equal keys mean equal
    bytes at equal places, and a resumed run ends with the same file as an uninterrupted one.

    Parameters
    ----------
    path
        The stack, ``.mrcs``.
    side
        Side of the images, pixels.
    pixel_size_angstrom
        Their pixel size.
    labels
        Marks for the header.
    """

    def __init__(self, path: Path, side: int, pixel_size_angstrom: float, labels: Sequence[str] = ()) -> None:
        self._labels = labels
        self.path, self._side, self._pixel = path, side, pixel_size_angstrom
        self._growing = path.with_name(f".{path.stem}.growing{path.suffix}")
        self._journal = path.with_name(f".{path.stem}.journal")
        self._chain = hashlib.sha256(f"{side} {pixel_size_angstrom!r}".encode()).hexdigest()
        self._lines: list[str] = []
        self._complete = False
        self._spare: dict[str, tuple[int, int, Any]] = {}
        self.count = 0

    def resume(self, keys: Sequence[str], keep: Callable[[Any], bool] = lambda result: True) -> list[Any]:
        """Take over the first pieces that were written under the same keys; return their results.

        The caller appends the rest, in order, with the remaining keys. A piece whose result ``keep`` refuses
        is to be made again, and with it what follows.

        Raises
        ------
        WriteError
            If the disk is full or the folder cannot be written (as the other methods).
        """
        source, entries = self._read_journal()
        room = (source.stat().st_size - HEADER_BYTES) // self._image_bytes if source else 0
        results: list[Any] = []
        for key, entry in zip(keys, entries, strict=False):
            chain, count = self._link(key), self.count + entry["count"]
            if entry["chain"] != chain or count > room or not keep(entry["result"]):
                break
            self._chain, self.count = chain, count
            results.append(entry["result"])
            self._lines.append(json.dumps(entry))
        self._complete = source == self.path and len(results) == len(keys) and self.count == room
        if source == self.path:
            self._keep_spare(entries[len(results) :], room)
        if self._complete:
            return results
        with write_errors(self.path, self._growing, self._journal):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if source is None or not self.count:
                self._growing.write_bytes(bytes(HEADER_BYTES))
            elif source == self.path:
                shutil.copyfile(self.path, self._growing)
            os.truncate(self._growing, HEADER_BYTES + self.count * self._image_bytes)
        self._write_journal(self._growing)
        return results

    def _keep_spare(self, entries: Sequence[dict[str, Any]], room: int) -> None:
        """Remember where the finished file holds the pieces behind those that were taken over."""
        place = self.count
        for entry in entries:
            if entry["key"] is not None and place + entry["count"] <= room:
                self._spare[entry["key"]] = (place, entry["count"], entry["result"])
            place += entry["count"]

    def spare(self, key: str) -> tuple[np.ndarray, Any] | None:
        """Return a piece that the finished file holds at another place, with its result; None if it holds none.

        A micrograph that was taken out changes the place of all behind it; their pixels may be gone.
        """
        if key not in self._spare:
            return None
        place, count, result = self._spare[key]
        with open(self.path, "rb") as handle:
            handle.seek(HEADER_BYTES + place * self._image_bytes)
            pixels = np.frombuffer(handle.read(count * self._image_bytes), dtype="<f4")
        return pixels.reshape(count, self._side, self._side), result

    def append(self, key: str, images: np.ndarray, result: Any) -> None:
        """Append one piece: images (k, side, side), k may be 0, and its JSON-able result."""
        if images.shape[1:] != (self._side, self._side):
            raise ValueError(f"expected images of {self._side} px, got an array of shape {images.shape}")
        self._chain = self._link(key)
        self._lines.append(
            json.dumps({"chain": self._chain, "key": key, "count": len(images), "result": result})
        )
        with write_errors(self.path, self._growing, self._journal):
            with open(self._growing, "r+b") as handle:
                handle.seek(HEADER_BYTES + self.count * self._image_bytes)
                handle.write(np.ascontiguousarray(images, dtype="<f4").data)
                handle.flush()
                os.fsync(handle.fileno())
            with open(self._journal, "a", encoding="utf-8") as journal:
                journal.write(self._lines[-1] + "\n")
                journal.flush()
                os.fsync(journal.fileno())
        self.count += len(images)

    def finish(self) -> None:
        """Write the header and rename. MRC knows no stack of 0 images: an empty one holds a single image of zeros."""
        if self._complete:
            note_written(self.path)
            return
        with write_errors(self.path, self._growing):
            with open(self._growing, "r+b") as handle:
                handle.write(stack_header(max(1, self.count), self._side, self._pixel, self._labels))
                handle.truncate(HEADER_BYTES + max(1, self.count) * self._image_bytes)
                handle.flush()
                os.fsync(handle.fileno())
            os.replace(self._growing, self.path)
            note_written(self.path)
        self._write_journal(self.path)

    @property
    def _image_bytes(self) -> int:
        return 4 * self._side**2

    def _link(self, key: str) -> str:
        return hashlib.sha256(f"{self._chain}\0{key}".encode()).hexdigest()[:24]

    def _write_journal(self, described: Path) -> None:
        """Its first line names the file that it describes: no other is ever believed to hold these images."""
        write_text(self._journal, "".join(line + "\n" for line in [json.dumps(described.name), *self._lines]))

    def _read_journal(self) -> tuple[Path | None, list[dict[str, Any]]]:
        if not self._journal.is_file():
            return None, []
        first, *lines = self._journal.read_text(encoding="utf-8", errors="replace").split("\n")
        described = {json.dumps(path.name): path for path in (self._growing, self.path)}.get(first)
        if described is None or not described.is_file() or described.stat().st_size < HEADER_BYTES:
            return None, []
        entries = []
        for line in lines:
            try:
                entry = json.loads(line)
                taken = {name: entry[name] for name in ("chain", "count", "result")}
                entries.append({**taken, "key": entry.get("key")})
            except (json.JSONDecodeError, KeyError, TypeError):
                break  # cut short by a kill; what follows cannot be trusted
        return described, entries
