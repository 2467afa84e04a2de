"""Coordinates of particles in the files of other programs: STAR, EMAN box, CSV, Topaz text; one file or a folder.

All are pixels of the micrograph, the centre of the first being 0, as in RELION. EMAN's box files give the corner of a
box: its centre is the corner plus half the size.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePath

import numpy as np
import pandas as pd

from emflow.io.listing import MRC_SUFFIXES, TIFF_SUFFIXES
from emflow.io.particles import PARTICLE_BLOCKS
from emflow.io.star import Tables, concat, read_star
from emflow.step import EmflowError

X, Y, NAME, FIGURE = "rlnCoordinateX", "rlnCoordinateY", "rlnMicrographName", "rlnAutopickFigureOfMerit"

COLUMN_NAMES = {
    X: ("x_px", "x", "rlncoordinatex", "x_coord"),
    Y: ("y_px", "y", "rlncoordinatey", "y_coord"),
    NAME: ("micrograph", "micrograph_name", "image_name", "rlnmicrographname"),
    FIGURE: ("probability", "score", "rlnautopickfigureofmerit"),
}
"""Our column → names that a CSV or Topaz's text may give it, in lower case; the first that is there counts."""
SUFFIXES = (".star", ".csv", ".box", ".txt", ".tsv")
LISTS = ("autopick.star", "manualpick.star")
"""RELION's lists of coordinate files: a folder's files are read without them."""
ENDING = re.compile(r"_(autopick|manualpick|boxes)$")
"""What programs put behind the micrograph's name in the names of their files."""


@dataclass(frozen=True)
class Coordinates:
    """Somebody's coordinates, as text."""

    table: pd.DataFrame
    """Columns rlnMicrographName, rlnCoordinateX, rlnCoordinateY at least."""
    listed: frozenset[str]
    """All micrographs that the files speak of, as they name them, also those without a particle."""
    optics: pd.DataFrame | None = None
    """Of a STAR table that has it."""


def read_coordinates(source: Path) -> Coordinates:
    """Read coordinates of any supported kind.

    Parameters
    ----------
    source
        STAR with particles, or RELION's list of coordinate files (``autopick.star``, ``manualpick.star``); CSV or
        Topaz's text (tabs) with a header; EMAN's ``.box``; or a folder of such files. A file whose rows name no
        micrograph belongs to the micrograph of its own name (``a.csv``, ``a_autopick.star`` to ``a.mrc``).

    Raises
    ------
    EmflowError
        If nothing is found, a file is of another kind, or coordinates are missing.
    """
    if not source.is_dir():
        return _read_file(source)
    files = _in_folder(source)
    parts = [_read_file(file) for file in files]
    return Coordinates(concat(p.table for p in parts), frozenset[str]().union(*(p.listed for p in parts)))


def _in_folder(folder: Path) -> list[Path]:
    def usable(files: Iterable[Path]) -> list[Path]:
        return sorted(
            p
            for p in files
            if p.suffix.lower() in SUFFIXES and p.name[0] != "." and p.is_file() and p.name not in LISTS
        )

    files = usable(folder.iterdir()) or usable(folder.rglob("*"))
    if not files:
        raise EmflowError(
            f"{folder}: holds no file with coordinates: no CSV or STAR, nor {', '.join(SUFFIXES[2:])}."
        )
    return files


def _read_file(file: Path) -> Coordinates:
    suffix = file.suffix.lower()
    if suffix == ".star":
        return _read_star(file)
    if suffix == ".box":
        table = _read_box(file)
    elif suffix in SUFFIXES:
        table = _read_columns(file, "," if suffix == ".csv" else "\t")
    else:
        raise EmflowError(f"{file}: coordinates are read from {', '.join(SUFFIXES)}, or a folder of these.")
    return _named(table, file)


def _named(table: pd.DataFrame, file: Path) -> Coordinates:
    """Give the rows their micrograph's name, from the file's where they have none."""
    if NAME in table:
        return Coordinates(table, frozenset(table[NAME]))
    name = f"{ENDING.sub('', file.stem)}.mrc"  # so that a dot in the name begins no suffix
    return Coordinates(table.assign(**{NAME: name}), frozenset([name]))


def _read_star(file: Path) -> Coordinates:
    tables = read_star(file)
    if "coordinate_files" in tables:
        return _read_list(file, tables["coordinate_files"])
    block = next((b for b in _blocks(tables) if X in tables[b] and Y in tables[b]), None)
    if block is None:
        raise EmflowError(f"{file}: has no block with the columns _{X} and _{Y}.")
    found = _named(tables[block], file)
    listed = found.listed
    if "micrographs" in tables and NAME in tables["micrographs"]:
        listed |= frozenset(tables["micrographs"][NAME])
    return Coordinates(found.table, listed, tables.get("optics"))


def _blocks(tables: Tables) -> list[str]:
    return [*(b for b in PARTICLE_BLOCKS if b in tables), *tables]


def _read_list(star: Path, files: pd.DataFrame) -> Coordinates:
    """Read RELION's list of micrographs with their coordinate files, which stand below some folder above the list."""
    parts = []
    for name, file in zip(files[NAME], files["rlnMicrographCoordinates"], strict=True):
        places = [Path(file), *(folder / file for folder in star.absolute().parents)]
        path = next((p for p in places if p.is_file()), None)
        if path is None:
            raise EmflowError(f"{star}: the coordinate file '{file}' does not exist.")
        parts.append(_read_file(path).table.assign(**{NAME: name}))
    table = concat(parts) if parts else pd.DataFrame(columns=pd.Index([NAME, X, Y]), dtype=object)
    return Coordinates(table, frozenset(files[NAME]))


def _read_box(file: Path) -> pd.DataFrame:
    """EMAN's boxes: corner x, corner y, width, height, and what may follow."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise EmflowError(f"{file}: cannot be read ({error}); expected EMAN's boxes.") from None
    rows = []
    for number, line in enumerate(lines, start=1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        try:
            x, y, width, height = (float(word) for word in words[:4])
        except ValueError:
            raise EmflowError(
                f"{file}, line {number}: '{line[:60]}' is no box; expected corner x, corner y, width, height."
            ) from None
        rows.append([repr(x + width / 2), repr(y + height / 2)])
    return pd.DataFrame(rows, columns=pd.Index([X, Y]), dtype=object)


def _read_columns(file: Path, separator: str) -> pd.DataFrame:
    kind = "CSV" if separator == "," else "text"
    try:
        text = file.read_text(encoding="utf-8")
        if separator == "\t" and "\t" not in text.split("\n", 1)[0]:
            separator = r"\s+"
        table = pd.read_csv(io.StringIO(text), dtype=str, skipinitialspace=True, sep=separator)
    except FileNotFoundError:
        raise EmflowError(f"{file}: no such file.") from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError, OSError) as error:
        raise EmflowError(f"{file}: not a readable {kind} file ({error}).") from None
    columns = {str(c).strip().lower(): c for c in table.columns}
    chosen = {
        next(columns[a] for a in aliases if a in columns): ours
        for ours, aliases in COLUMN_NAMES.items()
        if any(a in columns for a in aliases)
    }
    named = table.rename(columns=chosen)
    for column in (X, Y):
        if column not in named:
            raise EmflowError(
                f"{file}: has the columns {', '.join(map(str, table.columns))}; expected "
                f"{' or '.join(COLUMN_NAMES[column][:2])}, and a header in the first line."
            )
    if NAME in named:  # Topaz leaves the suffix out: so that a dot in the name begins none
        images = (*MRC_SUFFIXES, *TIFF_SUFFIXES)
        names = named[NAME].astype(str)
        named[NAME] = [n if n.lower().endswith(images) else f"{n}.mrc" for n in names]
    return named


def stems_of(names: Iterable[object]) -> np.ndarray:
    """Base names without suffix, shape (n,)."""
    return np.array([PurePath(str(name)).stem for name in names], dtype=object)
