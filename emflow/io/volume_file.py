"""Volumes as one TIFF or MRC file, written some slices at a time, atomically and without timestamps."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import tifffile
import zarr

from emflow.io.atomic import atomic_path
from emflow.io.mrc import RESTORED_LABEL
from emflow.io.ome import Voxel
from emflow.step import EmflowError

MRC_VOLUMES = (".mrc", ".rec", ".map")


_AT_ONCE = 2**27
"""Bytes that are held at once, or one slice."""


def _parts(level: zarr.Array[Any]) -> Iterator[tuple[int, np.ndarray]]:
    """Some slices at a time, at most one chunk's depth."""
    plane = level.dtype.itemsize * level.shape[1] * level.shape[2]
    depth = max(1, min(level.chunks[0], _AT_ONCE // plane))
    for first in range(0, level.shape[0], depth):
        yield first, np.asarray(level[first : first + depth])


def write_tiff_volume(path: Path, level: zarr.Array[Any], voxel_nm: Voxel) -> None:
    """Write an OME-TIFF stack (BigTIFF where it is large) in the array's type.

    Raises
    ------
    WriteError
        If the disk is full or the folder cannot be written.
    """
    z, y, x = voxel_nm
    metadata = {
        "axes": "ZYX",
        "Name": RESTORED_LABEL,
        # otherwise a random one is made
        "UUID": str(uuid.uuid5(uuid.NAMESPACE_OID, f"{level.shape} {level.dtype} {voxel_nm}")),
        **{f"PhysicalSize{axis}": size for axis, size in zip("ZYX", (z, y, x), strict=True)},
        **{f"PhysicalSize{axis}Unit": "nm" for axis in "ZYX"},
    }
    large = level.nbytes > 2**32 - 2**25
    with atomic_path(path) as temporary, tifffile.TiffWriter(temporary, bigtiff=large, ome=True) as tiff:
        pages = (page for _, part in _parts(level) for page in part)
        tiff.write(
            pages,
            shape=level.shape,
            dtype=level.dtype,
            photometric="minisblack",
            metadata=metadata,
            software="emflow",
        )


def write_mrc_volume(path: Path, level: zarr.Array[Any], voxel_nm: Voxel) -> None:
    """Write an MRC map marked as restored; bytes as mode 6, since mode 0 is signed.

    Raises
    ------
    EmflowError
        If MRC knows no such type.
    WriteError
        If the disk is full or the folder cannot be written.
    """
    modes = {"uint8": 6, "uint16": 6, "int8": 0, "int16": 1, "float16": 12, "float32": 2}
    mode = modes.get(str(level.dtype))
    if mode is None:
        raise EmflowError(f"{path}: MRC holds no {level.dtype}. Write OME-Zarr or TIFF.")
    with (
        atomic_path(path) as temporary,
        mrcfile.new_mmap(temporary, shape=level.shape, mrc_mode=mode, overwrite=True) as mrc,
    ):
        for first, part in _parts(level):
            mrc.data[first : first + len(part)] = part
        mrc.voxel_size = tuple(10 * size for size in reversed(voxel_nm))
        mrc.header.label = b""  # mrcfile writes the time here
        mrc.header.nlabl = 1
        mrc.header.label[0] = RESTORED_LABEL.encode()
