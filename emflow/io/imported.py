"""Somebody's CTF or picks: match their micrographs to ours by name, and bring columns into our form."""

from __future__ import annotations

import logging
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path, PurePath

import numpy as np
import pandas as pd

from emflow.io.coordinates import read_coordinates
from emflow.io.micrographs import SET_ASIDE_COLUMNS, Micrographs
from emflow.io.particles import PARTICLE_BLOCKS
from emflow.io.star import Tables, floats, read_star
from emflow.step import EmflowError

log = logging.getLogger("emflow")

CTF_COLUMNS = ("rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle", "rlnPhaseShift",
               "rlnCtfMaxResolution", "rlnCtfFigureOfMerit", "rlnCtfAstigmatism")  # fmt: skip
"""Columns that an imported CTF table may have; the first three it must have."""


HELICAL = (
    "rlnHelicalTubeID",
    "rlnAngleTiltPrior",
    "rlnAnglePsiPrior",
    "rlnHelicalTrackLengthAngst",
    "rlnAnglePsiFlipRatio",
)
"""What segments of filaments keep."""


@dataclass(frozen=True)
class Match:
    """Rows of a foreign table that belong to our micrographs."""

    table: pd.DataFrame
    """The matched rows, with our rlnMicrographName and emflowMicrographId."""
    row: np.ndarray
    """Row of our micrograph for each of them."""
    unmatched: list[str]
    """Their micrographs that are none of ours."""
    missing: list[int]
    """Our rows of which their table says nothing."""


def match_by_name(table: pd.DataFrame, micrographs: Micrographs) -> Match:
    """Match rows of a foreign table to our micrographs by base name, without folder and suffix.

    Where several of ours share a base name, the one that agrees in most folders from the right is taken; likewise
    where several of theirs do.

    Raises
    ------
    EmflowError
        If the table has no rlnMicrographName, or a name fits several of ours equally well.
    """
    if "rlnMicrographName" not in table:
        raise EmflowError(
            f"The table lacks the column _rlnMicrographName; it has {', '.join(map(str, table))}."
        )
    ours: dict[str, list[int]] = defaultdict(list)
    for row in range(len(micrographs)):
        ours[PurePath(micrographs.name(row)).stem].append(row)
    place: dict[str, int | None] = {}
    for name in table["rlnMicrographName"].unique():
        candidates = ours.get(PurePath(name).stem, [])
        place[name] = _closest(str(name), candidates, micrographs) if candidates else None
    best: dict[int, int] = defaultdict(int)
    for name, own in place.items():
        if own is not None:
            best[own] = max(best[own], _folders_in_common(str(name), micrographs.name(own)))
    for name, own in place.items():  # of another session
        if own is not None and _folders_in_common(str(name), micrographs.name(own)) < best[own]:
            place[name] = None
    found = [place[name] for name in table["rlnMicrographName"]]
    kept = [i for i, row in enumerate(found) if row is not None]
    rows = np.array([found[i] for i in kept], dtype=np.int64)
    part = table.iloc[kept].reset_index(drop=True).copy()
    part["rlnMicrographName"] = [micrographs.name(row) for row in rows.tolist()]
    part["emflowMicrographId"] = [micrographs.identity(row) for row in rows.tolist()]
    seen = set(rows.tolist())
    return Match(
        table=part,
        row=rows,
        unmatched=[name for name, row in place.items() if row is None],
        missing=[row for row in range(len(micrographs)) if row not in seen],
    )


def _closest(name: str, candidates: list[int], micrographs: Micrographs) -> int:
    if len(candidates) == 1:
        return candidates[0]
    agreement = [_folders_in_common(name, micrographs.name(row)) for row in candidates]
    best = max(agreement)
    if agreement.count(best) > 1:
        names = ", ".join(micrographs.name(row) for row in candidates[:3])
        raise EmflowError(f"'{name}' fits several micrographs ({names}); give names with their folders.")
    return candidates[agreement.index(best)]


def _folders_in_common(one: str, other: str) -> int:
    """How many folders two paths have in common, counted from the file."""
    folders, own = (PurePath(path).parts[-2::-1] for path in (one, other))
    same = [a == b for a, b in zip(folders, own, strict=False)]
    return same.index(False) if False in same else len(same)


def read_imported_ctf(star: Path, micrographs: Micrographs) -> Tables:
    """Read somebody's CTF as our CTF table: blocks optics, micrographs and set_aside.

    Takes a table of micrographs, or of particles: then each micrograph gets its particles' median defocus
    (their differences are local). Our optics stay; a micrograph without CTF is set aside.

    Raises
    ------
    EmflowError
        If the table has no defocus.
    """
    tables = read_star(star)
    names = ("micrographs", *PARTICLE_BLOCKS)
    block = next((b for b in names if b in tables and "rlnDefocusU" in tables[b]), None)
    if block is None:
        raise EmflowError(f"{star}: has no block with the column _rlnDefocusU (micrographs or particles).")
    match = match_by_name(tables[block], micrographs)
    _warn_without_match(match, star, micrographs)
    table = match.table
    u, v = floats(table, "rlnDefocusU"), floats(table, "rlnDefocusV")
    order = np.lexsort((u + v, match.row))
    groups = np.split(order, np.flatnonzero(np.diff(match.row[order])) + 1) if len(order) else []
    middle = [int(group[(len(group) - 1) // 2]) for group in groups]  # the particle of median defocus
    rows = match.row[middle]
    ctf = micrographs.table.iloc[rows].reset_index(drop=True).copy()
    columns = [c for c in CTF_COLUMNS if c in table]
    for column in dict.fromkeys(["rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle", *columns]):
        floats(table, column)  # a readable error where a value is none
        ctf[column] = table[column].iloc[middle].to_numpy(dtype=object)
    return {
        "optics": micrographs.optics,
        "micrographs": ctf,
        "set_aside": _without(
            micrographs,
            match.missing,
            f"{star} holds no CTF for it",
            "a row with its name, but for folder and suffix",
        ),
    }


def read_imported_picks(star: Path, micrographs: Micrographs) -> Tables:
    """Read somebody's picks as our pick table: blocks particles, micrographs and set_aside.

    Takes what :func:`emflow.io.coordinates.read_coordinates` reads: STAR, box, CSV, text, or a folder. Coordinates
    are brought to our pixel size where their table tells another one. A micrograph that their table does not name
    has no picks.

    Raises
    ------
    EmflowError
        If there are no coordinates.
    """
    found = read_coordinates(star)
    theirs, optics = found.table, found.optics
    scale = _pixel_sizes(theirs, optics)
    match = match_by_name(theirs.assign(emflowPixel=scale), micrographs)
    if len(theirs):
        _warn_without_match(match, star, micrographs)
    table = match.table
    ours = {row: micrographs.facts(row).pixel_size_angstrom or 0.0 for row in set(match.row.tolist())}
    factor = np.ones(len(table))
    for i, (row, pixel) in enumerate(zip(match.row.tolist(), floats(table, "emflowPixel"), strict=True)):
        if np.isfinite(pixel) and abs(pixel / ours[row] - 1) > 1e-4:
            factor[i] = pixel / ours[row]
    x, y = floats(table, "rlnCoordinateX") * factor, floats(table, "rlnCoordinateY") * factor
    ids = table["emflowMicrographId"].tolist()
    particles = pd.DataFrame(
        {
            "rlnMicrographName": table["rlnMicrographName"],
            "rlnCoordinateX": _text(table, "rlnCoordinateX", x, factor),
            "rlnCoordinateY": _text(table, "rlnCoordinateY", y, factor),
            "rlnAutopickFigureOfMerit": table.get("rlnAutopickFigureOfMerit", pd.Series("1", table.index)),
            "emflowMicrographId": ids,
            "emflowParticleId": [f"{m}-{round(a)}-{round(b)}" for m, a, b in zip(ids, x, y, strict=True)],
            **{name: table[name] for name in HELICAL if name in table},
        },
        dtype=object,
    ).drop_duplicates("emflowParticleId")
    counts = particles["emflowMicrographId"].value_counts()
    listed = micrographs.table[["rlnMicrographName", "emflowMicrographId"]].reset_index(drop=True)
    listed["emflowPickCount"] = [str(int(counts.get(i, 0))) for i in listed["emflowMicrographId"]]
    return {
        "particles": particles.reset_index(drop=True),
        "micrographs": listed.astype(object),
        "set_aside": _without(micrographs, [], "", ""),
    }


def _warn_without_match(match: Match, star: Path, micrographs: Micrographs) -> None:
    """No error: the list may be a shard of which their table holds nothing."""
    if not len(match.table) and len(micrographs):
        log.warning(
            "%s: none of its micrographs is in this list; there '%s', here '%s'. Names must agree but for folder "
            "and suffix.",
            star,
            match.unmatched[0] if match.unmatched else "(no row)",
            micrographs.name(0),
        )


def _text(table: pd.DataFrame, column: str, values: np.ndarray, factor: np.ndarray) -> list[str]:
    """Text of coordinates: as it was where nothing was scaled."""
    return [
        str(old) if f == 1 else f"{new:.6f}"
        for old, new, f in zip(table[column], values, factor, strict=True)
    ]


def _pixel_sizes(table: pd.DataFrame, optics: pd.DataFrame | None) -> list[str]:
    """Pixel size to which each row's coordinates refer, or nan where the table does not say.

    Only rlnMicrographPixelSize tells: rlnMicrographOriginalPixelSize is that of the movie, which may have
    been binned by motion correction.
    """
    if optics is None or "rlnMicrographPixelSize" not in optics or "rlnOpticsGroup" not in table:
        return ["nan"] * len(table)
    pixel = dict(zip(optics["rlnOpticsGroup"], optics["rlnMicrographPixelSize"], strict=True))
    return [pixel.get(group, "nan") for group in table["rlnOpticsGroup"]]


def _without(micrographs: Micrographs, rows: list[int], reason: str, expected: str) -> pd.DataFrame:
    content = [[micrographs.name(row), micrographs.identity(row), reason, expected] for row in rows]
    return pd.DataFrame(content, columns=pd.Index(SET_ASIDE_COLUMNS), dtype=object)
