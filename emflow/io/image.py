"""Micrographs in whatever format: MRC or TIFF, one image a file."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import tifffile

from emflow.io.listing import MRC_SUFFIXES, TIFF_SUFFIXES
from emflow.io.mrc import read_header, read_mrc
from emflow.step import EmflowError


def read_image(path: str | os.PathLike[str]) -> np.ndarray:
    """Read one micrograph as float32 (y, x).

    Raises
    ------
    EmflowError
        Missing, truncated, of an unknown format, or more than one image.
    """
    source = Path(path)
    suffix = source.suffix.lower()
    if suffix in MRC_SUFFIXES:
        image = read_mrc(source)
    elif suffix in TIFF_SUFFIXES:
        image = _read_tiff(source)
    else:
        raise EmflowError(f"{source}: unknown image format '{suffix}'; expected .mrc, .tif or .tiff.")
    image = image[0] if image.ndim == 3 and image.shape[0] == 1 else image
    if image.ndim != 2:
        raise EmflowError(
            f"{source}: has shape {image.shape}; expected one image (y, x). Movies need motion correction."
        )
    return image


def _read_tiff(path: Path) -> np.ndarray:
    if not path.exists():
        raise EmflowError(f"{path}: no such file.")
    try:
        return np.asarray(tifffile.imread(path), dtype=np.float32)
    except (tifffile.TiffFileError, ValueError, OSError, IndexError, TypeError) as error:
        raise EmflowError(f"{path}: not a readable TIFF file ({error}). It may be truncated.") from None


def image_shape(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Read the shape (y, x) from the header alone."""
    source = Path(path)
    if source.suffix.lower() in TIFF_SUFFIXES:
        try:
            with tifffile.TiffFile(source) as tiff:
                shape = tuple(tiff.series[0].shape)
        except (tifffile.TiffFileError, ValueError, OSError, IndexError) as error:
            raise EmflowError(f"{source}: not a readable TIFF file ({error}).") from None
    else:
        shape = read_header(source).shape
    shape = shape[1:] if len(shape) == 3 and shape[0] == 1 else shape
    if len(shape) != 2:
        raise EmflowError(f"{source}: has shape {shape}; expected one image (y, x).")
    return shape[0], shape[1]


def header_pixel_size(path: str | os.PathLike[str]) -> float | None:
    """Pixel size that the header tells, in ångström; None where it tells nothing (TIFF, 0, or mrcfile's 1)."""
    if Path(path).suffix.lower() in TIFF_SUFFIXES:
        return None
    told = read_header(path).voxel_size_angstrom
    return None if not 0 < told < 1e4 or told == 1.0 else round(told, 6)


def is_restored(path: str | os.PathLike[str]) -> bool:
    """Whether the header marks the pixels as denoised or otherwise restored."""
    return Path(path).suffix.lower() in MRC_SUFFIXES and read_header(path).restored
