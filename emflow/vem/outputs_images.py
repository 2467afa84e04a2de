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
from emflow.io.ome import Voxel, create_image, write_pyramid
from emflow.io.volume_file import MRC_VOLUMES, write_mrc_volume, write_tiff_volume

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

    @property
    def journal(self) -> Journal:
        """Which blocks are done."""
        return Journal(self.folder / ".blocks.journal")

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

    def create(self, path: Path, dtype: np.dtype[Any], content: str) -> Image:
        """Create an image, or open the one that a killed run began."""
        one_file = path.suffix.lower() in (*TIFF_SUFFIXES, *MRC_VOLUMES)
        folder = path.with_name(f".{path.name}.zarr") if one_file else path
        notes = {**self.notes, "content": content}
        level = create_image(folder, self.shape, dtype, self.voxel_nm, self.chunk, notes)
        return Image(path, level, folder, self.voxel_nm)
