"""What the user brings in: micrographs as files or as a RELION table, half sums, optics; by name and stat alone."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pandas as pd

from emflow.io.listing import list_images, stat_file
from emflow.io.micrographs import optics_facts, optics_table
from emflow.io.star import read_star
from emflow.step import EmflowError, OpticsFacts

log = logging.getLogger("emflow")

HALF_SUMS = {"emflowEvenName": "rlnMicrographNameEven", "emflowOddName": "rlnMicrographNameOdd"}
"""Our columns of even and odd half sums, and RELION's."""


class NothingFoundError(EmflowError):
    """A folder or pattern that shows no image (any more)."""


def list_micrographs(
    source: str, facts: OpticsFacts, even: str | None = None, odd: str | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """List micrographs with their ids, in the order in which they shall be taken.

    Parameters
    ----------
    source
        Folder, glob, text list, one image, or a micrographs STAR (its optics win over ``facts``; its other
        columns are carried along).
    even, odd
        Patterns of the half sums' paths, with ``{name}`` for the micrograph's base name without suffix.
        Half sums that lie among the micrographs are not taken for micrographs.

    Returns
    -------
    table (rlnMicrographName, rlnOpticsGroup, emflowMicrographId, emflowSize, emflowMtimeNs, half sums, further
    columns) and optics.

    Raises
    ------
    EmflowError
        If nothing is found, a pattern has no ``{name}``, or the pixel size is not known.
    """
    if source.endswith(".star"):
        table, optics = _from_star(Path(source), facts)
    else:
        images = list_images(source)
        if not images:
            raise NothingFoundError(
                f"input.micrographs: '{source}' holds no MRC or TIFF image. Give a folder, a glob, a text list "
                "with one path a line, or a RELION micrographs STAR."
            )
        optics = optics_table(facts)
        table = pd.DataFrame(
            {
                "rlnMicrographName": [image.name for image in images],
                "rlnOpticsGroup": "1",
                "emflowMicrographId": [image.identity for image in images],
                "emflowSize": [str(image.size) for image in images],
                "emflowMtimeNs": [str(image.mtime_ns) for image in images],
            },
            dtype=object,
        )
    patterns = {"emflowEvenName": even, "emflowOddName": odd}
    for column, pattern in patterns.items():
        if pattern:
            table[column] = _names(_expand(pattern, table["rlnMicrographName"], column), table)
    halves = {name for column in patterns if column in table for name in table[column]}
    return table[~table["rlnMicrographName"].isin(halves)].reset_index(drop=True), optics


def _names(values: list[str], table: pd.DataFrame) -> pd.Series:
    """Return a column of file names: as objects, since pandas' strings hold UTF-8 only."""
    return pd.Series(values, index=table.index, dtype=object)


def _expand(pattern: str, names: pd.Series, column: str) -> list[str]:
    if "{name}" not in pattern:
        key = "input.even" if column == "emflowEvenName" else "input.odd"
        raise EmflowError(
            f"{key}: the pattern '{pattern}' has no {{name}}; expected for example even/{{name}}.mrc."
        )
    return [pattern.replace("{name}", os.path.splitext(os.path.basename(name))[0]) for name in names.tolist()]


def _from_star(source: Path, facts: OpticsFacts) -> tuple[pd.DataFrame, pd.DataFrame]:
    tables = read_star(source)
    if "micrographs" not in tables and "movies" in tables:
        raise EmflowError(f"{source}: lists movies; emflow takes motion-corrected micrographs.")
    block = next((b for b in ("micrographs", "") if b in tables and "rlnMicrographName" in tables[b]), None)
    if block is None:
        raise EmflowError(f"{source}: has no block data_micrographs with the column _rlnMicrographName.")
    table = tables[block].drop_duplicates("rlnMicrographName").reset_index(drop=True)
    if not len(table):
        raise EmflowError(f"{source}: data_{block} has no rows; expected micrographs.")
    if "rlnOpticsGroup" not in table:
        table["rlnOpticsGroup"] = "1"
    for ours, theirs in HALF_SUMS.items():
        if theirs in table and ours not in table:
            table[ours] = table[theirs]
    names = ["rlnMicrographName", *(c for c in HALF_SUMS if c in table)]
    folder = _base_folder(source, table["rlnMicrographName"])
    for column in names:
        table[column] = _names([_place(folder, name) for name in table[column]], table)
    listed = [stat_file(name) for name in table["rlnMicrographName"]]
    folders = [name for name, item in zip(table["rlnMicrographName"], listed, strict=True) if item is None]
    if folders:
        raise EmflowError(f"{source}: '{folders[0]}' is a folder; expected a micrograph.")
    table["emflowMicrographId"] = [item.identity for item in listed if item]
    table["emflowSize"] = [str(item.size) for item in listed if item]
    table["emflowMtimeNs"] = [str(item.mtime_ns) for item in listed if item]
    first = ["rlnMicrographName", "rlnOpticsGroup", "emflowMicrographId", "emflowSize", "emflowMtimeNs"]
    first += [c for c in HALF_SUMS if c in table]
    further = [
        c for c in map(str, table) if not c.startswith("emflow") and c not in (*first, *HALF_SUMS.values())
    ]
    return table[[*first, *further]], _optics(tables.get("optics"), facts, source)


def _base_folder(source: Path, names: pd.Series) -> str:
    """Folder from which a table's names count: the working folder, or the table's or a parent of it.

    RELION's names are relative to its project, while its tables lie in ``<Job>/jobNNN/`` below it.
    """
    sample = [name for name in names[:20] if not os.path.isabs(name)]
    if not sample or any(os.path.exists(name) for name in sample):
        return ""
    for folder in source.absolute().parents:
        if any((folder / name).exists() for name in sample):
            return os.path.relpath(folder)
    return ""


def _place(folder: str, name: str) -> str:
    return name if name == "None" or not folder else os.path.normpath(os.path.join(folder, name))


def _optics(optics: pd.DataFrame | None, facts: OpticsFacts, source: Path) -> pd.DataFrame:
    """Return the table's optics groups, each complete; what they lack comes from ``facts``."""
    if optics is None:
        return optics_table(facts)
    pixels = ("rlnMicrographPixelSize", "rlnMicrographOriginalPixelSize", "rlnImagePixelSize")
    if not any(column in optics for column in pixels):
        optics = optics.assign(rlnMicrographPixelSize=optics_table(facts)["rlnMicrographPixelSize"].iloc[0])
    for column, value in (
        ("rlnVoltage", facts.voltage_kv),
        ("rlnSphericalAberration", facts.cs_mm),
        ("rlnAmplitudeContrast", facts.amplitude_contrast),
    ):
        if column not in optics:
            optics = optics.assign(**{column: str(value)})
    told = optics_facts(optics.iloc[:1]).pixel_size_angstrom
    if facts.pixel_size_angstrom and told and abs(told / facts.pixel_size_angstrom - 1) > 1e-3:
        log.warning(
            "%s says %g Å per pixel, sample.pixel_size_angstrom says %g: the table is believed.",
            source,
            told,
            facts.pixel_size_angstrom,
        )
    return optics
