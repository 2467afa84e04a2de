"""The images that ``vem restore`` writes, block by block: OME-Zarr, or in the end one TIFF or MRC file."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from emflow.io.journal import Journal
from emflow.io.listing import TIFF_SUFFIXES
from emflow.io.ome import Voxel, create_image, open_image, write_pyramid
from emflow.io.volume_file import MRC_VOLUMES, write_mrc_volume, write_tiff_volume
from emflow.step import EmflowError

_LONGEST_CHUNK = 96


def chunks_of(sides: tuple[int, int, int]) -> tuple[int, int, int]:
    """Sides of stored chunks: the largest divisors of a block's that are handy to view; no two blocks share one."""
    z, y, x = (max(n for n in range(1, min(side, _LONGEST_CHUNK) + 1) if side % n == 0) for side in sides)
    return z, y, x


@dataclass(frozen=True)
class Image:
    """An image that is being written."""

    path: Path
    level: zarr.Array[Any]
    """Where blocks are written to."""
    folder: Path
    """The Zarr folder; hidden beside the path where that is to be one file."""
    voxel_nm: Voxel

    def journal(self, part: str = "") -> Journal:
        """Which blocks are done, of a part that one job does."""
        return Journal(self.folder / f".blocks{part}.journal")

    def finish(self) -> None:
        """Write the coarser levels, or the one file."""
        if self.folder == self.path:
            write_pyramid(self.folder)
            return
        write = write_tiff_volume if self.path.suffix.lower() in TIFF_SUFFIXES else write_mrc_volume
        write(self.path, self.level, self.voxel_nm)

    def tidy(self) -> None:
        """Remove the blocks of which one file was made; called when all images of a run are whole."""
        if self.folder != self.path:
            shutil.rmtree(self.folder)


@dataclass(frozen=True)
class Images:
    """What all images of a run have in common."""

    shape: tuple[int, int, int]
    voxel_nm: Voxel
    chunk: tuple[int, int, int]
    notes: dict[str, Any]

    def create(self, path: Path, dtype: np.dtype[Any], content: str, begun: bool = False) -> Image:
        """Create an image, or open the one that a killed run began.

        Parameters
        ----------
        begun
            It must be there: of several jobs that write to one image none may create it.

        Raises
        ------
        EmflowError
            If it is not, or was begun under other settings.
        """
        one_file = path.suffix.lower() in (*TIFF_SUFFIXES, *MRC_VOLUMES)
        folder = path.with_name(f".{path.name}.zarr") if one_file else path
        notes = {**self.notes, "content": content}
        level = (open_image if begun else create_image)(
            folder, self.shape, dtype, self.voxel_nm, self.chunk, notes
        )
        if level is None:
            raise EmflowError(
                f"{path}: was not begun for this volume, model and settings. Run `emflow vem begin` first."
            )
        return Image(path, level, folder, self.voxel_nm)
