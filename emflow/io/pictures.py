"""Images of a microscope that are looked at one by one: TIFF, PNG, MRC, folders of them, and the slices of volumes."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tifffile

from emflow.io.atomic import write_bytes
from emflow.io.listing import MRC_SUFFIXES, TIFF_SUFFIXES
from emflow.io.mrc import map_mrc
from emflow.io.volume import open_volume
from emflow.step import EmflowError

_PNG = ".png"
_ONE_BY_ONE = (*TIFF_SUFFIXES, *MRC_SUFFIXES, _PNG)


@dataclass(frozen=True)
class Picture:
    """One image that is read when it is asked for."""

    path: Path
    """The file that it is in."""
    name: str
    """Its own: the file's, with the slice's number where the file holds several."""
    read: Callable[[], np.ndarray]
    """Returns (H, W) in the type that it is stored in."""


def list_pictures(path: Path) -> list[Picture]:
    """List the images of a file or folder, in the order of their numbers; none is read yet.

    Parameters
    ----------
    path
        An image (TIFF, PNG, MRC), a stack or volume whose slices are meant, or a folder of images.

    Raises
    ------
    EmflowError
        If there are none.
    """
    if path.is_dir() and not any(
        (path / key).exists() for key in ("zarr.json", ".zarray", ".zgroup", ".zattrs")
    ):
        files = [f for f in path.iterdir() if f.suffix.lower() in _ONE_BY_ONE and not f.name.startswith(".")]
        if not files:
            raise EmflowError(f"{path}: no images there; expected TIFF, PNG or MRC files.")
        return [picture for file in sorted(files, key=_by_number) for picture in _in_file(file)]
    return _in_file(path)


def _by_number(file: Path) -> list[Any]:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", file.name)]


def _in_file(path: Path) -> list[Picture]:
    suffix = path.suffix.lower()
    if suffix == _PNG:
        return [Picture(path, path.stem, lambda: _checked(path, _read_png(path)))]
    if suffix in TIFF_SUFFIXES and path.exists() and _is_one_tiff(path):
        return [Picture(path, path.stem, lambda: _checked(path, _read_tiff(path)))]
    if suffix in MRC_SUFFIXES and path.exists() and map_mrc(path).ndim == 2:
        return [Picture(path, path.stem, lambda: _checked(path, np.array(map_mrc(path))))]
    volume = open_volume(path)
    width = max(4, len(str(volume.shape[0])))

    def slice_of(z: int) -> Picture:
        def read() -> np.ndarray:
            return _checked(path, volume.read((slice(z, z + 1), slice(None), slice(None)))[0])

        return Picture(path, f"{path.stem}_{z + 1:0{width}d}", read)

    return [slice_of(z) for z in range(volume.shape[0])]


def _is_one_tiff(path: Path) -> bool:
    """Whether a TIFF file holds one image, of grey values or colours, and no stack."""
    try:
        with tifffile.TiffFile(path) as tiff:
            series = tiff.series[0]
            sides = [n for n, axis in zip(series.shape, series.axes, strict=True) if axis != "S"]
            return series.axes.endswith("S") or len([n for n in sides[:-2] if n > 1]) == 0
    except (OSError, IndexError, ValueError, tifffile.TiffFileError) as error:
        raise EmflowError(f"{path}: not a readable TIFF file ({error}). It may be truncated.") from None


def _read_tiff(path: Path) -> np.ndarray:
    try:
        image = tifffile.imread(path)
    except Exception as error:  # tifffile and each decoder have errors of their own
        raise EmflowError(f"{path}: cannot be read ({error}). It may be truncated or damaged.") from None
    if image.ndim == 3 and image.shape[-1] in (3, 4) and image.shape[0] > 1:
        return _grey(path, image)
    return np.asarray(image.reshape(image.shape[-2:]))


def _read_png(path: Path) -> np.ndarray:
    try:
        image = np.asarray(imagecodecs.png_decode(path.read_bytes()))
    except OSError as error:
        raise EmflowError(f"{path}: cannot be read ({error.strerror}).") from None
    except (ValueError, RuntimeError) as error:
        raise EmflowError(f"{path}: not a readable PNG file ({error}).") from None
    return _grey(path, image) if image.ndim == 3 else image


def _grey(path: Path, image: np.ndarray) -> np.ndarray:
    """Grey values of an image (H, W, channels) whose colours are equal; the last of two or four is opacity."""
    colours = image[..., : 3 if image.shape[2] > 2 else 1]
    if (colours != colours[..., :1]).any():
        raise EmflowError(f"{path}: a picture in colour; expected grey values.")
    return colours[..., 0]


def _checked(path: Path, image: np.ndarray) -> np.ndarray:
    if image.ndim != 2 or image.dtype.kind not in "uif":
        raise EmflowError(f"{path}: shape {image.shape} of {image.dtype}; expected one image of intensities.")
    if not np.isfinite(image).all():
        raise EmflowError(f"{path}: holds values that are not finite. Replace them before.")
    return image


def write_picture(path: Path, image: np.ndarray, notes: dict[str, Any]) -> None:
    """Write an image (H, W) as TIFF, with notes on where it comes from as JSON in its description."""
    content = io.BytesIO()
    tifffile.imwrite(content, image, description=json.dumps({"emflow": notes}), metadata=None)
    write_bytes(path, content.getvalue())
