"""Micrographs in whatever format: MRC or TIFF, one image a file."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from emflow.io.listing import MRC_SUFFIXES, TIFF_SUFFIXES
from emflow.io.mrc import NOT_THE_FILES_FAULT, read_header, read_mrc
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
    return image.reshape(_one_image(source, image.shape))


@contextlib.contextmanager
def _open_tiff(path: Path) -> Iterator[tifffile.TiffPageSeries]:
    """Open a TIFF file's image, whole and single; turn whatever goes wrong into a readable error."""
    if path.is_dir():
        raise EmflowError(f"{path}: a folder; expected a TIFF file.")
    try:
        size = path.stat().st_size
        if size == 0:
            raise EmflowError(f"{path}: an empty file; it was cut short.")
        with tifffile.TiffFile(path) as tiff:
            series = tiff.series[0]
            pages: list[Any] = [page for page in series.pages if page is not None]
            for page in pages:
                ends = [o + n for o, n in zip(page.dataoffsets, page.databytecounts, strict=True)]
                if max(ends, default=0) > size:
                    raise EmflowError(f"{path}: truncated: {size} bytes where its pixels need {max(ends)}.")
            yield series
    except EmflowError:
        raise
    except FileNotFoundError:
        raise EmflowError(f"{path}: no such file.") from None
    except PermissionError:
        raise EmflowError(f"{path}: may not be read (permission denied).") from None
    except MemoryError:
        raise
    except Exception as error:  # tifffile and each decoder have errors of their own
        if isinstance(error, OSError) and error.errno in NOT_THE_FILES_FAULT:
            raise
        raise EmflowError(
            f"{path}: not a readable TIFF file ({type(error).__name__}: {error}). It may be truncated."
        ) from None


def _read_tiff(path: Path) -> np.ndarray:
    with _open_tiff(path) as series:
        _one_image(path, series.shape)
        if np.dtype(series.dtype).kind not in "uif":
            raise EmflowError(f"{path}: pixels of type {series.dtype}; expected whole or real numbers.")
        return np.asarray(series.asarray(), dtype=np.float32)


def _one_image(path: Path, shape: tuple[int, ...]) -> tuple[int, int]:
    """Return the shape (y, x) of a single image, which may be stored as a stack of one."""
    plain = shape[1:] if len(shape) == 3 and shape[0] == 1 else shape
    if len(plain) != 2 or not all(plain):
        raise EmflowError(
            f"{path}: has shape {shape}; expected one image (y, x). Movies need motion correction."
        )
    return plain[0], plain[1]


def image_shape(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Read the shape (y, x) from the header alone.

    Raises
    ------
    EmflowError
        As :func:`read_image` does; pixels are not looked at.
    """
    source = Path(path)
    if source.suffix.lower() in TIFF_SUFFIXES:
        with _open_tiff(source) as series:
            return _one_image(source, series.shape)
    return _one_image(source, read_header(source).shape)


def check_whole(path: str | os.PathLike[str]) -> None:
    """Make sure that a file is as long as its header says; no pixel is read.

    Raises
    ------
    EmflowError
        Missing, cut short, or of an unknown format.
    """
    source = Path(path)
    if source.suffix.lower() in TIFF_SUFFIXES:
        with _open_tiff(source):
            return
    read_header(source)


def header_pixel_size(path: str | os.PathLike[str]) -> float | None:
    """Pixel size that the header tells, in ångström; None where it tells nothing (TIFF, 0, or mrcfile's 1)."""
    if Path(path).suffix.lower() in TIFF_SUFFIXES:
        return None
    told = read_header(path).voxel_size_angstrom
    return None if not 0 < told < 1e4 or told == 1.0 else round(told, 6)


def is_restored(path: str | os.PathLike[str]) -> bool:
    """Whether the header marks the pixels as denoised or otherwise restored."""
    return Path(path).suffix.lower() in MRC_SUFFIXES and read_header(path).restored
