"""STAR tables as RELION writes them, every value kept as text.

Values are strings from reading to writing, so a column that a step does not touch comes out unchanged
to the last digit (``1e-9`` and ``0012`` included). Own code because starfile parses numbers, and turns
an apostrophe in a file name into a quotation mark, and gemmi refuses names that are not ASCII.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from emflow.io.atomic import atomic_path
from emflow.step import EmflowError

Tables = dict[str, pd.DataFrame]
"""Block name without ``data_`` → table with RELION's column names without the underscore, all text."""


_FIRST = "# emflow: the table is whole if its last line says so"
_LAST = "# emflow: end of the table"

_TOKEN = re.compile(r"""
    "(?P<double>.*?)"(?=[ \t\r\f\v]|$)    # a quotation mark opens at the start of a value only,
  | '(?P<single>.*?)'(?=[ \t\r\f\v]|$)    # and closes before white space only: it's.mrc is one plain value
  | (?P<plain>[^ \t\r\f\v]+)
""", re.VERBOSE)  # fmt: skip
_CHUNK = 20_000
"""Rows that are read or written at once."""
_UNUSUAL = re.compile(r"[^\t\r\x20\x21\x23-\x26\x28-\x7e]")
"""Anything but plain ASCII without quotation marks: str.split would also split at a no-break space."""


def _split(line: str) -> list[str]:
    """Split a row at ASCII white space; quoted values (rare) may contain blanks."""
    if _UNUSUAL.search(line) is None:
        return line.split()
    return [match[match.lastgroup or 0] for match in _TOKEN.finditer(line)]


def read_star(path: str | os.PathLike[str]) -> Tables:
    """Read all blocks of a STAR file; every value is text.

    A block of single pairs (no ``loop_``) becomes a table of one row.

    Raises
    ------
    EmflowError
        If the file is missing, is not text, or a row has the wrong number of values (the line is named).
    """
    source = Path(path)
    blocks: dict[str, _Block] = {}
    block: _Block | None = None
    ours, last = False, ""
    try:
        # names of files need not be UTF-8: bytes that are not come out as they went in
        with open(source, encoding="utf-8", errors="surrogateescape") as handle:
            for number, raw in enumerate(handle, start=1):
                if "\0" in raw:
                    raise EmflowError(f"{source}: not a text file; expected a STAR table.")
                line = (raw.removeprefix("\ufeff") if number == 1 else raw).strip(" \t\r\n\f\v")
                ours |= number == 1 and line == _FIRST
                last = line or last
                if not line or line[0] == "#":
                    continue
                values = _split(line)
                if line.startswith("data_") and len(values) == 1:
                    block = _Block()
                    if line[5:] in blocks:
                        raise EmflowError(f"{source}: the block data_{line[5:]} stands twice.")
                    blocks[line[5:]] = block
                elif block is None:
                    raise EmflowError(
                        f"{source}, line {number}: expected data_…, found '{line[:60]}'. Not a STAR file?"
                    )
                elif line == "loop_" and not block.columns:
                    block.loop = True
                else:
                    try:
                        block.add(line, values)
                    except ValueError as error:
                        if ours and not raw.endswith("\n"):
                            break  # its last line: cut short
                        raise EmflowError(f"{source}, line {number}: {error}") from None
    except FileNotFoundError:
        raise EmflowError(f"{source}: no such STAR file.") from None
    except OSError as error:
        raise EmflowError(f"{source}: cannot be read ({error.strerror}); expected a STAR table.") from None
    if ours and last != _LAST:
        raise _cut_short(source)
    if not blocks:
        raise EmflowError(f"{source}: holds no data_ block. The file is empty or not a STAR file.")
    return {name: found.table() for name, found in blocks.items()}


def require_whole(path: str | os.PathLike[str]) -> None:
    """Refuse a table of ours that was cut short, by its first and last line alone.

    Raises
    ------
    EmflowError
        As :func:`read_star` does.
    """
    with open(path, "rb") as handle:
        ours = handle.read(len(_FIRST)) == _FIRST.encode()
        handle.seek(-min(200, handle.seek(0, os.SEEK_END)), os.SEEK_END)
        if ours and not handle.read().rstrip().endswith(_LAST.encode()):
            raise _cut_short(Path(path))


def _cut_short(source: Path) -> EmflowError:
    return EmflowError(
        f"{source}: cut short: its last line should be '{_LAST}'. Remove it, and run the same command again to have "
        "it made anew. If you shortened it on purpose, remove its first line."
    )


class _Block:
    """One block while it is read: chunk by chunk and column by column, equal values held once.

    Most of a particle's values are its micrograph's, so that a table of millions needs a quarter of the memory.
    """

    def __init__(self) -> None:
        self.columns: list[str] = []
        self.values: list[str] = []
        """Of the rows read last, one after the other: a list for each row would cost memory and time."""
        self.packed: list[np.ndarray] = []
        self.loop = False

    def add(self, line: str, values: list[str]) -> None:
        """Take a line: the name of a column, a pair, or a row."""
        named = line[0] == "_" and (len(values) == 1 or values[1].startswith("#"))
        if self.loop and named and not self.values and not self.packed:
            self._name(values[0])
        elif not self.loop:
            if line[0] != "_" or len(values) != 2:
                raise ValueError(f"expected a column's name and its value, found '{line[:60]}'.")
            self._name(values[0])
            self.values.append(values[1])
        elif len(values) != len(self.columns):
            raise ValueError(
                f"{len(values)} values where the table has {len(self.columns)} columns. The file may be truncated."
            )
        else:
            self.values.extend(values)
            if len(self.values) == _CHUNK * len(values):
                self._pack()

    def _name(self, word: str) -> None:
        if word[1:] in self.columns:
            raise ValueError(f"the column {word} stands twice.")
        self.columns.append(word[1:])

    def _pack(self) -> None:
        width = len(self.columns)
        packed = np.empty((width, len(self.values) // max(width, 1)), dtype=object)
        for place in range(width):
            column = self.values[place::width]
            once: dict[str, str] = {}
            packed[place] = list(map(once.setdefault, column, column))
        self.packed.append(packed)
        self.values = []

    def table(self) -> pd.DataFrame:
        self._pack()
        values = self.packed[0] if len(self.packed) == 1 else np.concatenate(self.packed, axis=1)
        return pd.DataFrame(values.T, columns=pd.Index(self.columns), dtype=object, copy=False)


def read_table(path: str | os.PathLike[str], block: str, *required: str) -> pd.DataFrame:
    """Read one block; raise a readable error if it or a required column is missing."""
    tables = read_star(path)
    if block not in tables:
        raise EmflowError(
            f"{path}: has no block data_{block}; it has {', '.join('data_' + b for b in tables)}."
        )
    table = tables[block]
    missing = [name for name in required if name not in table]
    if missing:
        raise EmflowError(
            f"{path}: data_{block} lacks the column _{missing[0]}; it has {', '.join(table.columns)}."
        )
    return table


_BREAKS = re.compile(r"[\n\r\f\v]+")
_RESERVED = ("_", "#", '"', "'", "data_", "loop_", "save_", "stop_", "global_")
_PLAIN = re.compile(r"(?![_#\"'DdLlGgSs])[!-~]+")
"""Most values: ASCII without white space that begins with no reserved mark, nor as a reserved word does."""


def format_value(value: Any) -> str:
    """Text of one value: the shortest text that gives the same number back; never a lossy ``%.6f``."""
    if isinstance(value, str):
        if _PLAIN.fullmatch(value):
            return value
        text = value
    elif isinstance(value, bool | np.bool_):
        text = "1" if value else "0"
    elif isinstance(value, int | np.integer):
        text = str(int(value))
    elif isinstance(value, np.float32):
        text = f"{float(value):.9g}"
    elif isinstance(value, float | np.floating):
        text = repr(float(value))
    else:
        text = "None" if value is None or value is pd.NA else str(value)
    if text and not text.lower().startswith(_RESERVED) and len(text.split()) == 1 and text == text.strip():
        return text
    return _quoted(_BREAKS.sub(" ", text))


def _quoted(text: str) -> str:
    """Put a value in quotation marks; inside, such a mark must not be followed by white space."""
    for mark in ('"', "'"):
        if re.search(rf"{mark}(?=[ \t]|$)", text) is None:
            return f"{mark}{text}{mark}"
    return '"' + re.sub(r'"(?=[ \t]|$)', "\u201d", text) + '"'  # STAR cannot hold both: a typographic mark


def _parts(tables: Mapping[str, pd.DataFrame]) -> Iterator[str]:
    """Text of a STAR file, without a time or version that would make equal results differ."""
    yield f"{_FIRST}\n"
    for block, table in tables.items():
        names = [f"_{name} #{i}\n" for i, name in enumerate(table.columns, start=1)]
        yield f"\ndata_{block}\n\nloop_\n{''.join(names)}"
        for first in range(0, len(table), _CHUNK):
            part = table.iloc[first : first + _CHUNK]
            columns = [
                # tolist would turn float32 into float64, with digits that nobody measured
                [
                    format_value(v)
                    for v in (values.to_numpy() if values.dtype == np.float32 else values.tolist())
                ]
                for _, values in part.items()
            ]
            yield "".join(f"{' '.join(row)}\n" for row in zip(*columns, strict=True))
        yield "\n"
    yield f"{_LAST}\n"


def write_star(path: str | os.PathLike[str], tables: Mapping[str, pd.DataFrame]) -> None:
    """Write blocks atomically; strings go out as they are, numbers with all their digits.

    The first and the last line are comments, so that a table that was cut short later is known as such.
    """
    with (
        atomic_path(path) as temporary,
        open(temporary, "w", encoding="utf-8", errors="surrogateescape") as handle,
    ):
        handle.writelines(_parts(tables))


def floats(table: pd.DataFrame, column: str, default: float | None = None) -> np.ndarray:
    """Return a column as float64; ``default`` fills a missing column.

    Raises
    ------
    EmflowError
        If the column is missing without a default, or holds something that is no number.
    """
    if column not in table:
        if default is None:
            raise EmflowError(
                f"The table lacks the column _{column}; it has {', '.join(map(str, table.columns))}."
            )
        return np.full(len(table), default)
    try:
        return table[column].to_numpy(dtype=object).astype(np.float64)
    except (ValueError, TypeError) as error:
        raise EmflowError(f"The column _{column} holds something that is no number: {error}.") from None


def integers(table: pd.DataFrame, column: str, default: int | None = None) -> np.ndarray:
    """Return a column as int64, exact for times in nanoseconds too; see :func:`floats`."""
    if column in table:
        try:
            return table[column].to_numpy(dtype=object).astype(np.int64)
        except (ValueError, TypeError):  # written as 3.000000
            pass
    return floats(table, column, None if default is None else float(default)).astype(np.int64)


def concat(tables: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """Stack tables of text; a column missing in some is filled with ``None`` there, as RELION does."""
    parts = list(tables)
    if not parts:
        return pd.DataFrame()
    stacked = pd.concat([part.astype(object) for part in parts], ignore_index=True)
    return stacked.where(stacked.notna(), "None")


def numbers_of(table: pd.DataFrame, column: str) -> np.ndarray:
    """Return a column as float64; what is no number (``None`` where a step failed) is NaN."""
    if column not in table:
        return np.full(len(table), np.nan)
    return pd.to_numeric(table[column], errors="coerce").to_numpy(dtype=np.float64)
