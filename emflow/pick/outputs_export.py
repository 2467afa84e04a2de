"""Write coordinates for other programs: RELION, EMAN, Topaz, or a spreadsheet."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePath

import numpy as np
import pandas as pd

from emflow.io.atomic import write_text
from emflow.io.coordinates import FIGURE, NAME, Coordinates, X, Y
from emflow.io.star import floats, write_star
from emflow.pick.config_tools import PickExport
from emflow.step import EmflowError

RELION_COLUMNS = (X, Y, FIGURE, "rlnClassNumber", "rlnAnglePsi", "rlnHelicalTubeID", "rlnAngleTiltPrior",
    "rlnAnglePsiPrior", "rlnHelicalTrackLengthAngst", "rlnAnglePsiFlipRatio")  # fmt: skip
"""What RELION reads in the coordinates of one micrograph."""
JOB = re.compile(r"^[A-Za-z]+/job\d+/")
"""Folder of a RELION job before a micrograph's path, which RELION leaves out."""


def export(found: Coordinates, out: Path, cfg: PickExport) -> int:
    """Write coordinates; return how many.

    Parameters
    ----------
    found
        Coordinates as they were read.
    out
        A file, or for relion, relion-manual and box a folder.

    Raises
    ------
    EmflowError
        If a lowest figure is set and there are none, or two micrographs would have one file.
    """
    table = found.table
    if cfg.min_figure is not None:
        if FIGURE not in table:
            raise EmflowError(
                f"The table has no _{FIGURE}: no lowest one can be chosen; leave min_figure out."
            )
        table = table[floats(table, FIGURE) >= cfg.min_figure]
    table = table.reset_index(drop=True)
    if cfg.format == "star":
        _write_star(out, table, found.optics)
    elif cfg.format == "csv":
        named = {NAME: "micrograph", X: "x_px", Y: "y_px", FIGURE: "probability"}
        write_text(out, table[[c for c in named if c in table]].rename(columns=named).to_csv(index=False))
    elif cfg.format == "topaz":
        _write_topaz(out, table)
    elif cfg.format == "box":
        for path, _, part in _by_micrograph(table, found.listed, out, ".box"):
            _write_boxes(path, part, cfg.box_px)
    else:
        _write_relion(out, table, found.listed, "manual" if cfg.format == "relion-manual" else "auto")
    return len(table)


def _write_star(out: Path, table: pd.DataFrame, optics: pd.DataFrame | None) -> None:
    """One table with RELION's own columns only; its optics groups where it has them."""
    blocks = {"particles": table[[c for c in table if str(c).startswith("rln")]]}
    if optics is not None:
        blocks = {"optics": optics[[c for c in optics if str(c).startswith("rln")]], **blocks}
    write_star(out, blocks)


def _write_topaz(out: Path, table: pd.DataFrame) -> None:
    """Topaz's tab-separated text: image_name (without suffix), x_coord, y_coord, score where there is one."""
    columns = {
        "image_name": [PurePath(name).stem for name in table[NAME]],
        "x_coord": _whole(table, X),
        "y_coord": _whole(table, Y),
    }
    if FIGURE in table:
        columns["score"] = list(table[FIGURE])
    write_text(out, pd.DataFrame(columns).to_csv(index=False, sep="\t"))


def _whole(table: pd.DataFrame, column: str) -> np.ndarray:
    """Whole pixels: Topaz and EMAN read no others."""
    return np.floor(floats(table, column) + 0.5).astype(np.int64)


def _write_boxes(path: Path, table: pd.DataFrame, box: int) -> None:
    if box % 2:
        raise EmflowError(
            f"box_px is {box}: the middle of an odd box is no corner of a pixel; give an even one."
        )
    corner = [_whole(table, column) - box // 2 for column in (X, Y)]
    write_text(path, "".join(f"{x}\t{y}\t{box}\t{box}\n" for x, y in zip(*corner, strict=True)))


def _write_relion(out: Path, table: pd.DataFrame, listed: frozenset[str], how: str) -> None:
    """A file for each micrograph that has particles, where RELION 3.1 looks for it, and the list for RELION 4 and 5.

    RELION 3.1 takes every file that it finds: one of an earlier export, of a micrograph that has none now, is removed.
    """
    columns = [c for c in RELION_COLUMNS if c in table]
    rows = []
    for path, name, part in _by_micrograph(table, listed, out, f"_{how}pick.star", in_folders=True):
        if len(part):
            write_star(path, {"": part[columns]})
            rows.append([name, str(path)])
        else:
            path.unlink(missing_ok=True)
    files = pd.DataFrame(rows, columns=pd.Index([NAME, "rlnMicrographCoordinates"]), dtype=object)
    write_star(out / f"{how}pick.star", {"coordinate_files": files})


def _by_micrograph(
    table: pd.DataFrame, listed: frozenset[str], out: Path, ending: str, in_folders: bool = False
) -> Iterator[tuple[Path, str, pd.DataFrame]]:
    """Path, name and rows of each micrograph.

    Below its own folders (without those of RELION's job) if asked to, or where base names alone are not different.
    """
    names = sorted(listed | set(table[NAME]))
    paths = [f"{PurePath(name).stem}{ending}" for name in names]
    if in_folders or len(set(paths)) < len(paths):
        folders = [PurePath(JOB.sub("", name)).parent.parts for name in names]
        below = ["/".join(part for part in parts if part not in ("/", "..")) for parts in folders]
        paths = [f"{folder}/{file}" if folder else file for folder, file in zip(below, paths, strict=True)]
    seen: dict[str, str] = {}
    for name, path in zip(names, paths, strict=True):
        if path in seen:
            raise EmflowError(
                f"{seen[path]} and {name} would both go to {out / path}. Export them one after the other."
            )
        seen[path] = name
    rows = table.groupby(NAME, sort=False).indices
    for name, path in zip(names, paths, strict=True):
        yield out / path, name, table.iloc[rows.get(name, [])]
