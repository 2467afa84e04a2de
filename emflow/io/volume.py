"""Volumes of any size, read piece by piece: TIFF stacks and folders, MRC, HDF5, N5, Zarr and OME-Zarr 0.4 and 0.5."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import tifffile
import zarr

from emflow.io.listing import MRC_SUFFIXES, TIFF_SUFFIXES
from emflow.io.mrc import map_mrc, read_header
from emflow.io.n5 import is_n5, open_n5
from emflow.io.ome import NANOMETRES, Voxel, read_multiscale
from emflow.step import EmflowError

Region = tuple[slice, slice, slice]

_HDF5_SUFFIXES = (".h5", ".hdf5", ".hdf")
_VOLUME_SUFFIXES = (*MRC_SUFFIXES, ".rec", ".st")


@dataclass(frozen=True)
class Volume:
    """A volume with axes z, y, x that is read where it is asked for."""

    path: Path
    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    voxel_nm: Voxel | None
    """Distance of voxels along z, y, x in nanometre; None where the file does not say."""
    _read: Callable[[Region], np.ndarray]
    names: tuple[str, ...] = ()
    """Of the slices, where each is a file."""

    def read(self, region: Region | None = None) -> np.ndarray:
        """Return a region, or all of it, as it is stored.

        Raises
        ------
        EmflowError
            If the file is damaged there.
        """
        whole = slice(0, self.shape[0]), slice(0, self.shape[1]), slice(0, self.shape[2])
        try:
            return np.asarray(self._read(region or whole))
        except (OSError, ValueError, RuntimeError, tifffile.TiffFileError) as error:
            raise EmflowError(
                f"{self.path}: cannot be read ({error}). It may be truncated or damaged."
            ) from None


def open_volume(path: str | Path) -> Volume:
    """Open a volume; nothing of it is read yet.

    Parameters
    ----------
    path
        TIFF stack, folder of TIFF slices (sorted by their numbers), MRC, HDF5 (``file.h5:/dataset``, or the
        only volume in the file), N5 (``folder.n5:/dataset``; of a pyramid the finest level), Zarr array or
        OME-Zarr (its finest level; ``folder.zarr:0`` for an array of it).

    Raises
    ------
    EmflowError
        If it is none of these, or not three-dimensional.
    """
    name, inside = _split(str(path))
    if not name.exists():
        raise EmflowError(f"{name}: no such volume.")
    if name.is_dir():
        if is_n5(name) or name.suffix.lower() == ".n5":
            return _open_n5(name, inside)
        if inside or any((name / key).exists() for key in ("zarr.json", ".zarray", ".zgroup", ".zattrs")):
            return _open_zarr(name, inside)
        return _open_folder(name)
    if name.suffix.lower() in TIFF_SUFFIXES:
        return _open_tiff(name)
    if name.suffix.lower() in _VOLUME_SUFFIXES:
        return _open_mrc(name)
    if name.suffix.lower() in _HDF5_SUFFIXES:
        return _open_hdf5(name, inside)
    raise EmflowError(
        f"{name}: a volume is a TIFF stack (.tif), a folder of TIFF slices, MRC (.mrc, .rec), HDF5 (.h5) or a "
        "Zarr or N5 folder."
    )


def volume_identity(volume: Volume) -> str:
    """Return what tells one input from another without reading it.

    Size and time of a file, or of all files of a folder of slices; of a Zarr folder its description's. What an image of
    ours was made from stands in its description, so that is enough: made again, it is the same.
    """
    path = volume.path
    if (path / "zarr.json").is_file():
        text = (path / "zarr.json").read_text(encoding="utf-8")
        notes = json.loads(text).get("attributes", {}).get("emflow", {})
        if str(notes.get("made_by", "")).startswith("vem."):
            return f"{path.name} {hashlib.sha256(text.encode()).hexdigest()[:16]}"
    files = [path]
    if path.is_dir():
        described = [path / key for key in ("zarr.json", ".zarray", ".zattrs", ".zgroup")]
        files = [file for file in described if file.is_file()] or sorted(path.iterdir())
    digest = hashlib.sha256()
    for file in files:
        status = file.stat()
        digest.update(f"{file.name} {status.st_size} {status.st_mtime_ns}\n".encode())
    return f"{path.name} {'x'.join(map(str, volume.shape))} {digest.hexdigest()[:16]}"


def _split(path: str) -> tuple[Path, str]:
    """Divide ``file.h5:/volumes/raw`` into the file and the array inside it."""
    match = re.match(r"^(.+\.(?:h5|hdf5|hdf|n5|zarr)):(.+)$", path, flags=re.IGNORECASE)
    return (Path(match[1]), match[2].strip("/")) if match else (Path(path), "")


def _three(path: Path, shape: tuple[int, ...]) -> tuple[int, int, int]:
    while len(shape) > 3 and shape[0] == 1:
        shape = shape[1:]
    if len(shape) != 3 or min(shape) < 1:
        raise EmflowError(
            f"{path}: its shape is {shape}; expected a volume of one channel with axes z, y, x."
        )
    return shape[0], shape[1], shape[2]


def _open_tiff(path: Path) -> Volume:
    try:
        with tifffile.TiffFile(path) as tiff:
            series = tiff.series[0]
            shape, dtype = _three(path, tuple(series.shape)), series.dtype
            voxel = _tiff_voxel(tiff)
            pages = len(series.pages)
        if dtype is None:
            raise EmflowError(f"{path}: its pixels have no common type.")
        memory = _where_mapped(path)
    except (OSError, tifffile.TiffFileError) as error:
        raise EmflowError(f"{path}: not a readable TIFF file ({error}).") from None

    def read(region: Region) -> np.ndarray:
        if memory is not None:
            return np.array(_mapped_again(path, memory, shape)[region])
        if pages != shape[0]:
            return tifffile.imread(path).reshape(shape)[region]
        planes = range(*region[0].indices(shape[0]))
        return np.stack([tifffile.imread(path, key=z)[region[1], region[2]] for z in planes])

    return Volume(path, shape, dtype, voxel, read)


def _where_mapped(path: Path) -> tuple[np.dtype[Any], int] | None:
    """Type and offset of pixels that lie in one piece."""
    try:
        found = tifffile.memmap(path, mode="r")
    except ValueError:  # compressed, or its planes are scattered
        return None
    return found.dtype, found.offset


def _mapped_again(
    path: Path, memory: tuple[np.dtype[Any], int], shape: tuple[int, ...]
) -> np.memmap[Any, Any]:
    """Map pixels for one reading: a mapping that is kept holds in memory all that was ever read."""
    return np.memmap(path, memory[0], "r", memory[1], shape)


def _tiff_voxel(tiff: tifffile.TiffFile) -> Voxel | None:
    """ImageJ's spacing, or OME's; a plain resolution tag alone is not believed, since it is often the printer's."""
    found = tiff.imagej_metadata or {}
    unit = NANOMETRES.get(str(found.get("unit", "")))
    page = tiff.pages[0]
    resolution = getattr(page, "tags", {}).get("XResolution")
    if unit and found.get("spacing") and resolution:
        across = resolution.value[1] / resolution.value[0] * unit
        return float(found["spacing"]) * unit, across, across
    if tiff.ome_metadata:
        sizes = [re.search(rf'PhysicalSize{axis}="([\d.eE+-]+)"', tiff.ome_metadata) for axis in "ZYX"]
        units = [re.search(rf'PhysicalSize{axis}Unit="(.+?)"', tiff.ome_metadata) for axis in "ZYX"]
        factors = [NANOMETRES.get(match[1]) if match else 1e3 for match in units]
        if all(sizes) and all(factors):
            z, y, x = (float(s[1]) * f for s, f in zip(sizes, factors, strict=True) if s and f)
            return z, y, x
    return None


def _open_folder(path: Path) -> Volume:
    files = sorted(
        (
            file
            for file in path.iterdir()
            if file.suffix.lower() in TIFF_SUFFIXES and not file.name.startswith(".")
        ),
        key=lambda file: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", file.name)],
    )
    if not files:
        raise EmflowError(f"{path}: neither a Zarr folder nor one with TIFF slices.")
    first = _open_slice(files[0])
    shape = (len(files), *first.shape)

    def read(region: Region) -> np.ndarray:
        planes = []
        for z in range(*region[0].indices(len(files))):
            plane = _open_slice(files[z])
            if plane.shape != first.shape:
                raise EmflowError(
                    f"{files[z]}: {plane.shape[0]} × {plane.shape[1]} pixels, the first slice has "
                    f"{first.shape[0]} × {first.shape[1]}. All slices must be alike; take it out, or align them."
                )
            planes.append(plane[region[1], region[2]])
        return np.stack(planes)

    return Volume(path, _three(path, shape), first.dtype, None, read, tuple(file.name for file in files))


def _open_slice(path: Path) -> np.ndarray:
    try:
        image = tifffile.imread(path)
    except (OSError, ValueError, tifffile.TiffFileError) as error:
        raise EmflowError(f"{path}: cannot be read ({error}). It may be truncated or damaged.") from None
    if image.ndim != 2:
        raise EmflowError(f"{path}: its shape is {image.shape}; expected one slice of one channel.")
    return image


def _open_mrc(path: Path) -> Volume:
    z, y, x = (size / 10 for size in read_header(path).voxel_angstrom)
    data = map_mrc(path)
    shape = _three(path, data.shape)
    voxel = (z, y, x) if min(z, y, x) > 0 else None
    # mapped for each reading: a mapping that is kept holds in memory all that was ever read
    return Volume(
        path, shape, data.dtype, voxel, lambda region: np.array(map_mrc(path).reshape(shape)[region])
    )


def _open_hdf5(path: Path, inside: str) -> Volume:
    try:
        with h5py.File(path, "r") as file:
            names = [inside] if inside else _datasets(file)
            if len(names) != 1 or names[0] not in file or not isinstance(file[names[0]], h5py.Dataset):
                listed = ", ".join(f"{path}:/{name}" for name in _datasets(file)[:8]) or "none"
                raise EmflowError(f"{path}: name the volume in it, as {path}:/NAME. Volumes there: {listed}.")
            dataset = file[names[0]]
            shape, dtype = _three(path, dataset.shape), dataset.dtype
            told = dataset.attrs.get("resolution")  # nanometre, z y x, by custom of the CREMI challenge
            voxel = (
                (float(told[0]), float(told[1]), float(told[2]))
                if told is not None and len(told) == 3
                else None
            )
    except OSError as error:
        raise EmflowError(f"{path}: not a readable HDF5 file ({error}).") from None

    def read(region: Region) -> np.ndarray:
        with h5py.File(path, "r") as file:
            data = file[names[0]]
            return data[(0,) * (data.ndim - 3) + region]

    return Volume(path, shape, dtype, voxel, read)


def _datasets(file: h5py.File) -> list[str]:
    found: list[str] = []

    def see(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.ndim >= 3:
            found.append(name)

    file.visititems(see)
    return found


def _open_zarr(path: Path, inside: str) -> Volume:
    try:
        node = zarr.open(path, mode="r", path=inside or None)
    except (OSError, ValueError, KeyError) as error:
        raise EmflowError(f"{path}: not a readable Zarr folder ({error}).") from None
    voxel = None
    if isinstance(node, zarr.Group):
        level = read_multiscale(path, dict(node.attrs))
        node, voxel = node[level.name], level.voxel_nm
    if not isinstance(node, zarr.Array):
        raise EmflowError(f"{path}: no array there; expected a Zarr array or an OME-Zarr image.")
    array = node
    shape = _three(path, array.shape)
    leading = (0,) * (array.ndim - 3)
    return Volume(
        path, shape, np.dtype(array.dtype), voxel, lambda region: np.asarray(array[leading + region])
    )


def _open_n5(path: Path, inside: str) -> Volume:
    array = open_n5(path, inside)
    shape = _three(path, array.shape)
    leading = (slice(0, 1),) * (len(array.shape) - 3)

    def read(region: Region) -> np.ndarray:
        return array.read(leading + region).reshape(
            [len(range(*p.indices(n))) for p, n in zip(region, shape, strict=True)]
        )

    return Volume(array.folder, shape, array.dtype, array.voxel_nm, read)
