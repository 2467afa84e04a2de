"""Write a stack of particle images piece by piece, and resume where a killed or shorter run ended."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np

from emflow.io.atomic import write_text

HEADER_BYTES = 1024


def stack_header(count: int, side: int, pixel_size_angstrom: float) -> bytes:
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
    """

    def __init__(self, path: Path, side: int, pixel_size_angstrom: float) -> None:
        self.path, self._side, self._pixel = path, side, pixel_size_angstrom
        self._partial = path.with_name(f".{path.stem}.partial{path.suffix}")
        self._journal = path.with_name(f".{path.stem}.journal")
        self._chain = hashlib.sha256(f"{side} {pixel_size_angstrom!r}".encode()).hexdigest()
        self._complete = False
        self.count = 0

    def resume(self, keys: Sequence[str]) -> list[Any]:
        """Take over the first pieces that were written under the same keys; return their results.

        The caller appends the rest, in order, with the remaining keys.
        """
        entries = self._read_journal()
        results: list[Any] = []
        chain, lines, source = self._chain, [], self._source()
        room = 0 if source is None else (source.stat().st_size - HEADER_BYTES) // self._image_bytes
        for key, entry in zip(keys, entries, strict=False):
            following = self._link(chain, key)
            if entry["chain"] != following or self.count + entry["count"] > room:
                break
            chain, self.count = following, self.count + entry["count"]
            results.append(entry["result"])
            lines.append(json.dumps(entry))
        self._chain = chain
        self.path.parent.mkdir(parents=True, exist_ok=True)
        length = HEADER_BYTES + self.count * self._image_bytes
        self._complete = source == self.path and len(results) == len(keys) and self.count == room
        if self._complete:
            return results
        if source is None or not self.count:
            self._partial.write_bytes(bytes(HEADER_BYTES))
        elif source == self.path:
            copy = self._partial.with_suffix(".copy")
            shutil.copyfile(self.path, copy)
            os.truncate(copy, length)
            os.replace(copy, self._partial)
        else:
            os.truncate(self._partial, length)
        write_text(self._journal, "".join(line + "\n" for line in lines))
        return results

    def append(self, key: str, images: np.ndarray, result: Any) -> None:
        """Append one piece: images (k, side, side), k may be 0, and its JSON-able result."""
        if images.shape[1:] != (self._side, self._side):
            raise ValueError(f"expected images of {self._side} px, got an array of shape {images.shape}")
        with open(self._partial, "r+b") as handle:
            handle.seek(HEADER_BYTES + self.count * self._image_bytes)
            handle.write(np.ascontiguousarray(images, dtype="<f4").data)
            handle.flush()
            os.fsync(handle.fileno())
        self._chain = self._link(self._chain, key)
        self.count += len(images)
        line = json.dumps({"chain": self._chain, "count": len(images), "result": result})
        with open(self._journal, "a", encoding="utf-8") as journal:
            journal.write(line + "\n")
            journal.flush()
            os.fsync(journal.fileno())

    def finish(self) -> None:
        """Write the header and rename. MRC knows no stack of 0 images: an empty one holds a single image of zeros."""
        if self._complete:
            return
        with open(self._partial, "r+b") as handle:
            handle.write(stack_header(max(1, self.count), self._side, self._pixel))
            handle.truncate(HEADER_BYTES + max(1, self.count) * self._image_bytes)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(self._partial, self.path)

    @property
    def _image_bytes(self) -> int:
        return 4 * self._side**2

    @staticmethod
    def _link(chain: str, key: str) -> str:
        return hashlib.sha256(f"{chain}\0{key}".encode()).hexdigest()[:24]

    def _source(self) -> Path | None:
        """The file that the journal describes: the hidden one while it exists, else the finished one."""
        for path in (self._partial, self.path):
            if path.is_file() and path.stat().st_size >= HEADER_BYTES:
                return path
        return None

    def _read_journal(self) -> list[dict[str, Any]]:
        entries = []
        if self._journal.is_file():
            for line in self._journal.read_text(encoding="utf-8").splitlines():
                try:
                    entry = json.loads(line)
                    entries.append({name: entry[name] for name in ("chain", "count", "result")})
                except (json.JSONDecodeError, KeyError, TypeError):
                    break  # cut short by a kill; what follows cannot be trusted
        return entries
