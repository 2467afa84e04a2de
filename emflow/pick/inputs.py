"""Read positions and denoised micrographs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

import numpy as np
import pandas as pd

from emflow.io.atomic import StepError
from emflow.io.coordinates import FIGURE, NAME, X, Y, read_coordinates, stems_of
from emflow.io.freed import want_again
from emflow.io.image import image_shape, read_image
from emflow.io.micrographs import Micrographs, find_images
from emflow.io.star import floats, read_star, read_table
from emflow.pick.score import Positions
from emflow.step import EmflowError


def read_intermediate(path: str) -> np.ndarray:
    """Read a denoised micrograph: one that is damaged is no fault of the micrograph.

    Raises
    ------
    StepError
        If it cannot be read.
    """
    try:
        return read_image(path)
    except EmflowError as error:
        raise StepError(
            f"{error} It is a denoised micrograph of an earlier step: run `emflow denoise apply` again (for a "
            f"project: remove {Path(path).parent.parent}/shard_*.star), which makes anew what is damaged."
        ) from None


def read_positions(source: Path, sizes: bool = False) -> Positions:
    """Read positions of any kind that :func:`emflow.io.coordinates.read_coordinates` knows.

    Parameters
    ----------
    sizes
        Find the sizes of the micrographs too, where their images are there.

    Raises
    ------
    EmflowError
        If nothing is found, or coordinates are missing.
    """
    found = read_coordinates(source)
    table = found.table
    xy = np.column_stack([floats(table, X), floats(table, Y)])
    # the score has no ties where probabilities round to one
    merit = "emflowPickScore" if "emflowPickScore" in table else FIGURE
    return Positions(
        stems_of(table[NAME]),
        xy.reshape(-1, 2),
        floats(table, merit, 0.0),
        frozenset(stems_of(found.listed)),
        floats(table, FIGURE) if FIGURE in table else None,
        sizes_of(found.listed) if sizes else {},
    )


@dataclass(frozen=True)
class PickTables:
    """Pick tables of several pickers, of the same micrographs."""

    micrographs: pd.DataFrame
    """rlnMicrographName, emflowMicrographId and, where there is one, rlnOpticsGroup of all, ordered by name."""
    optics: pd.DataFrame | None
    xy_px: list[np.ndarray]
    """Of each picker: (n, 2)."""
    micrograph: list[np.ndarray]
    """Of each picker: row of each pick's micrograph."""
    merit: list[np.ndarray]


def read_tables(sources: Sequence[Path]) -> PickTables:
    """Read our pick tables (of pick apply, import or classical).

    Raises
    ------
    EmflowError
        If one lacks a column that ours have: bring other programs' by `emflow pick import`.
    """
    tables = [read_star(source) for source in sources]
    columns = ["rlnMicrographName", "emflowMicrographId", "rlnOpticsGroup"]
    for source, blocks in zip(sources, tables, strict=True):
        if not {"particles", "micrographs"} <= set(blocks) or columns[1] not in blocks["particles"]:
            raise EmflowError(
                f"{source}: not a pick table of ours. Bring it into form by `emflow pick import`."
            )
    parts = [blocks[b].reindex(columns=columns) for blocks in tables for b in ("particles", "micrographs")]
    known = pd.concat(parts, ignore_index=True).dropna(subset=columns[:2])
    known = known.sort_values(columns).drop_duplicates(columns[1]).reset_index(drop=True)
    row = {identity: i for i, identity in enumerate(known[columns[1]])}
    picks = [blocks["particles"] for blocks in tables]
    return PickTables(
        known.dropna(axis=1),
        tables[0].get("optics"),
        [np.column_stack([floats(t, X), floats(t, Y)]).reshape(-1, 2) for t in picks],
        [np.array([row[i] for i in t[columns[1]]], dtype=np.int64) for t in picks],
        [floats(t, "emflowPickScore" if "emflowPickScore" in t else FIGURE, 0.0) for t in picks],
    )


def sizes_of(names: Iterable[str]) -> dict[str, tuple[int, int]]:
    """Height and width of those images that are there, by base name."""
    found = {}
    for name in sorted(names):
        if Path(name).is_file():
            found[PurePath(name).stem] = image_shape(name)
    return found


def is_dark(images: Micrographs, row: int, contrast: str) -> bool:
    """Whether protein is dark: as set, or as the session found out."""
    if contrast != "auto":
        return contrast == "dark"
    found = str(images.table["emflowContrast"].iloc[row]) if "emflowContrast" in images.table else "dark"
    return found != "bright"


def read_sizes(micrographs: Path) -> dict[str, tuple[int, int]]:
    """Height and width of the micrographs of a table, folder or glob, by base name."""
    if micrographs.suffix == ".star":
        return sizes_of(read_table(micrographs, "micrographs", NAME)[NAME])
    return sizes_of(str(path) for path in find_images(micrographs))


def require_denoised(table: Path, images: Micrographs, known: Sequence[object]) -> None:
    """Refuse to pick where denoised images were removed that are needed: none is set aside for that.

    Parameters
    ----------
    known
        For each micrograph, its picks if they are known already; None where its image will be read.

    Raises
    ------
    EmflowError
        Some are gone. They will then be made again.
    """
    names = images.table["emflowDenoisedName"]
    gone = [
        name for name, picks in zip(names, known, strict=True) if picks is None and not Path(name).exists()
    ]
    if gone:
        want_again(table)
        raise EmflowError(
            f"{table}: {len(gone)} of its denoised images are gone, such as {gone[0]}. Make them again: `emflow denoise "
            "apply`, or in a project the same snakemake command with --forcerun denoise_apply."
        )
