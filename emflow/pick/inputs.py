"""Read positions and denoised micrographs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path, PurePath

import numpy as np

from emflow.io.atomic import StepError
from emflow.io.coordinates import FIGURE, NAME, X, Y, read_coordinates, stems_of
from emflow.io.freed import want_again
from emflow.io.image import image_shape, read_image
from emflow.io.micrographs import Micrographs, find_images
from emflow.io.star import floats, read_table
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
