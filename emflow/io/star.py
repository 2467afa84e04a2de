"""STAR tables as RELION writes them, every value kept as text.

Values are strings from reading to writing, so a column that a step does not touch comes out unchanged
to the last digit (``1e-9`` and ``0012`` included). Own code because starfile parses numbers, and turns
an apostrophe in a file name into a quotation mark, and gemmi refuses names that are not ASCII.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from emflow.io.atomic import write_text
from emflow.step import EmflowError

Tables = dict[str, pd.DataFrame]
"""Block name without ``data_`` → table with RELION's column names without the underscore, all text."""


def _split(line: str) -> list[str]:
    """Split a row at white space; quoted values (rare) may contain blanks."""
    if '"' not in line and "'" not in line:
        return line.split()
    lexer = shlex.shlex(line, posix=True)
    lexer.whitespace_split = True
    lexer.commenters = ""
    lexer.escape = ""
    try:
        return list(lexer)
    except ValueError:  # an apostrophe inside a name is no quotation mark
        return line.split()


def read_star(path: str | os.PathLike[str]) -> Tables:
    """Read all blocks of a STAR file; every value is text.

    A block of single pairs (no ``loop_``) becomes a table of one row.

    Raises
    ------
    EmflowError
        If the file is missing, is not text, or a row has the wrong number of values (the line is named).
    """
    source = Path(path)
    try:
        text = source.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise EmflowError(f"{source}: no such STAR file.") from None
    except UnicodeDecodeError:
        raise EmflowError(f"{source}: not a text file; expected a STAR table.") from None
    tables: Tables = {}
    block: str | None = None
    columns: list[str] = []
    rows: list[list[str]] = []
    in_loop = False

    def finish() -> None:
        if block is None:
            return
        if block in tables:
            raise EmflowError(f"{source}: the block data_{block} stands twice.")
        tables[block] = pd.DataFrame(rows, columns=pd.Index(columns), dtype=object)

    for number, raw in enumerate(text.splitlines(), start=1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        if line.startswith("data_"):
            finish()
            block, columns, rows, in_loop = line[5:].split()[0] if line[5:].strip() else "", [], [], False
        elif block is None:
            raise EmflowError(
                f"{source}, line {number}: expected data_…, found '{line[:60]}'. Not a STAR file?"
            )
        elif line == "loop_":
            in_loop = True
        elif line.startswith("_") and not (in_loop and rows):
            values = _split(line)
            columns.append(values[0][1:])
            if not in_loop:
                if len(values) < 2:
                    raise EmflowError(f"{source}, line {number}: {values[0]} has no value.")
                rows = [[*(rows[0] if rows else []), values[1]]]
        else:
            values = _split(line)
            if len(values) != len(columns):
                raise EmflowError(
                    f"{source}, line {number}: {len(values)} values where data_{block} has {len(columns)} columns. "
                    "The file may be truncated."
                )
            rows.append(values)
    finish()
    if not tables:
        raise EmflowError(f"{source}: holds no data_ block. The file is empty or not a STAR file.")
    return tables


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


def format_value(value: Any) -> str:
    """Text of one value: the shortest text that gives the same number back; never a lossy ``%.6f``."""
    if isinstance(value, str):
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
        text = str(value)
    if text == "":
        return '""'
    if any(c.isspace() for c in text) or text[0] in "_#\"'" or text in ("loop_",) or text.startswith("data_"):
        text = text.replace("\n", " ")
        return f"'{text}'" if '"' in text else f'"{text}"'
    return text


def format_star(tables: Mapping[str, pd.DataFrame]) -> str:
    """Text of a STAR file, without a time or version that would make equal results differ."""
    out: list[str] = []
    for block, table in tables.items():
        out += ["", f"data_{block}", "", "loop_"]
        out += [f"_{name} #{i}" for i, name in enumerate(table.columns, start=1)]
        columns = [[format_value(v) for v in table[name].tolist()] if table[name].dtype != np.float32
                   else [format_value(v) for v in table[name].to_numpy()] for name in table.columns]  # fmt: skip
        out += [" ".join(row) for row in zip(*columns, strict=True)]
        out.append("")
    return "\n".join(out) + "\n"


def write_star(path: str | os.PathLike[str], tables: Mapping[str, pd.DataFrame]) -> None:
    """Write blocks atomically; strings go out as they are, numbers with all their digits."""
    write_text(path, format_star(tables))


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
    except ValueError as error:
        raise EmflowError(f"The column _{column} holds something that is no number: {error}.") from None


def integers(table: pd.DataFrame, column: str, default: int | None = None) -> np.ndarray:
    """Return a column as int64; see :func:`floats`."""
    return floats(table, column, None if default is None else float(default)).astype(np.int64)


def concat(tables: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """Stack tables of text; a column missing in some is filled with ``None`` there, as RELION does."""
    stacked = pd.concat(list(tables), ignore_index=True)
    return stacked.astype(object).where(stacked.notna(), "None")
