"""OME-Zarr (NGFF) images: the finest level of 0.4 and 0.5 read, 0.5 written with a pyramid.

The format: J. Moore et al., Nat. Methods 18, 1496 (2021); https://ngff.openmicroscopy.org/0.5.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from emflow.step import EmflowError

Voxel = tuple[float, float, float]

NANOMETRES = {
    "angstrom": 0.1,
    "nanometer": 1.0,
    "nm": 1.0,
    "micrometer": 1e3,
    "micron": 1e3,
    "um": 1e3,
    "µm": 1e3,
    "\\u00B5m": 1e3,
    "millimeter": 1e6,
    "mm": 1e6,
}
"""Units of length as files name them."""
_AXES = ("z", "y", "x")
_SMALLEST = 64
"""A pyramid ends where no side is longer."""


@dataclass(frozen=True)
class Level:
    """An image's finest level."""

    name: str
    voxel_nm: Voxel | None


def read_multiscale(path: Path, attributes: dict[str, Any]) -> Level:
    """Find the finest level of an OME-Zarr group, and its voxel.

    Raises
    ------
    EmflowError
        If the group is no OME-Zarr image.
    """
    images = attributes.get("ome", attributes).get("multiscales")
    if not images or not images[0].get("datasets"):
        raise EmflowError(
            f"{path}: a Zarr group that is no OME-Zarr image; name the array in it, as {path}:NAME."
        )
    image = images[0]
    finest = image["datasets"][0]
    return Level(str(finest["path"]), _voxel(image, finest))


def _voxel(image: dict[str, Any], dataset: dict[str, Any]) -> Voxel | None:
    axes = image.get("axes") or []
    if any(isinstance(axis, str) for axis in axes):  # 0.3: names without units
        return None
    scale = [1.0] * len(axes)
    for holder in (dataset, image):
        for transformation in holder.get("coordinateTransformations") or []:
            if transformation.get("type") == "scale":
                scale = [a * float(b) for a, b in zip(scale, transformation["scale"], strict=True)]
    found = {}
    for axis, step in zip(axes, scale, strict=True):
        unit = NANOMETRES.get(str(axis.get("unit", "")))
        if axis.get("type") == "space" and unit:
            found[str(axis["name"]).lower()] = step * unit
    return (found["z"], found["y"], found["x"]) if found.keys() >= {"z", "y", "x"} else None


def create_image(
    path: Path,
    shape: tuple[int, int, int],
    dtype: np.dtype[Any],
    voxel_nm: Voxel,
    chunk: tuple[int, int, int],
    notes: dict[str, Any],
) -> zarr.Array[Any]:
    """Create an OME-Zarr 0.5 image, or open it if it is there with the same shape, type, chunks and notes.

    Parameters
    ----------
    shape, voxel_nm, chunk
        Along z, y, x.
    notes
        Where the image comes from; stored beside the standard's metadata under ``emflow``.

    Returns
    -------
    Its finest level, to be written chunk by chunk.
    """
    level = open_image(path, shape, dtype, voxel_nm, chunk, notes)
    if level is not None:
        return level
    group = zarr.open_group(path, mode="w", zarr_format=3)
    level = group.create_array(
        "0", shape=shape, dtype=dtype, chunks=chunk, fill_value=0, dimension_names=_AXES
    )
    told = _told(shape, dtype, voxel_nm, chunk, notes)
    group.attrs.update({"ome": _metadata(path.stem, [voxel_nm]), "emflow": told})
    return level


def open_image(
    path: Path,
    shape: tuple[int, int, int],
    dtype: np.dtype[Any],
    voxel_nm: Voxel,
    chunk: tuple[int, int, int],
    notes: dict[str, Any],
) -> zarr.Array[Any] | None:
    """Open an image that :func:`create_image` made with the same arguments; None if there is none."""
    if not (path / "zarr.json").exists():
        return None
    group = zarr.open_group(path, mode="r+")
    if group.attrs.get("emflow") != _told(shape, dtype, voxel_nm, chunk, notes):
        return None
    level = group["0"]
    assert isinstance(level, zarr.Array)
    return level


def _told(
    shape: tuple[int, int, int],
    dtype: np.dtype[Any],
    voxel_nm: Voxel,
    chunk: tuple[int, int, int],
    notes: dict[str, Any],
) -> dict[str, Any]:
    """What is stored beside the standard's metadata."""
    sides = {"shape": list(shape), "voxel_nm": list(voxel_nm), "chunk": list(chunk)}
    return {**sides, "dtype": str(dtype), **notes}


def write_pyramid(path: Path, side: int = 192, labels: bool = False) -> None:
    """Write the coarser levels of an image, each the mean of two voxels a side, and name them in its metadata.

    An axis is halved where it is the finest or as fine, so that an anisotropic image becomes isotropic first.

    Parameters
    ----------
    side
        Voxels of the coarser level, along each axis, that are made at once, raised to whole chunks; bounds the memory.
    labels
        Take every second voxel instead: the mean of two labels is none.
    """
    group = zarr.open_group(path, mode="r+")
    notes: dict[str, Any] = dict(group.attrs)["emflow"]  # type: ignore[assignment]
    voxels: list[Voxel] = [tuple(notes["voxel_nm"])]
    level = group["0"]
    assert isinstance(level, zarr.Array)
    while max(level.shape) > _SMALLEST:
        finest = min(v for v, n in zip(voxels[-1], level.shape, strict=True) if n > 1)
        steps = [2 if v < 1.5 * finest and n > 1 else 1 for v, n in zip(voxels[-1], level.shape, strict=True)]
        shape = tuple(-(-n // s) for n, s in zip(level.shape, steps, strict=True))
        coarse = group.create_array(
            str(len(voxels)),
            shape=shape,
            dtype=level.dtype,
            chunks=level.chunks,
            fill_value=0,
            dimension_names=_AXES,
            overwrite=True,
        )
        sides = [-(-side // chunk) * chunk for chunk in level.chunks]
        starts = [range(0, length, step) for length, step in zip(shape, sides, strict=True)]
        for place in itertools.product(*starts):
            at = tuple(slice(a, a + n) for a, n in zip(place, sides, strict=True))
            of = tuple(slice(a.start * n, a.stop * n) for a, n in zip(at, steps, strict=True))
            part = np.asarray(level[of])
            coarse[at] = part[:: steps[0], :: steps[1], :: steps[2]] if labels else _halved(part, steps)
        z, y, x = (v * s for v, s in zip(voxels[-1], steps, strict=True))
        voxels.append((z, y, x))
        level = coarse
    described: dict[str, Any] = dict(group.attrs)["ome"]  # type: ignore[assignment]
    group.attrs.update({"ome": {**described, **_metadata(path.stem, voxels)}})


def _halved(block: np.ndarray, steps: list[int]) -> np.ndarray:
    """Mean over two voxels along the axes that are halved; the last one alone where they are odd."""
    values: np.ndarray = block.astype(np.float32)
    for axis, step in enumerate(steps):
        if step == 2:
            size = values.shape[axis]
            even = np.take(values, range(0, size, 2), axis)
            odd = np.take(values, [min(i, size - 1) for i in range(1, size + size % 2, 2)], axis)
            values = (even + odd) / 2
    return (
        np.rint(values).astype(block.dtype)
        if np.issubdtype(block.dtype, np.integer)
        else values.astype(block.dtype)
    )


def _metadata(name: str, voxels: list[Voxel]) -> dict[str, Any]:
    """What the standard asks for; voxels of the levels along z, y, x."""
    datasets = []
    for number, voxel in enumerate(voxels):
        # the centre of a coarser level's first voxel lies further in
        shift = [(coarse - fine) / 2 for coarse, fine in zip(voxel, voxels[0], strict=True)]
        transformations: list[dict[str, Any]] = [{"type": "scale", "scale": list(voxel)}]
        if number:
            transformations.append({"type": "translation", "translation": shift})
        datasets.append({"path": str(number), "coordinateTransformations": transformations})
    axes = [{"name": axis, "type": "space", "unit": "nanometer"} for axis in _AXES]
    return {"version": "0.5", "multiscales": [{"name": name, "axes": axes, "datasets": datasets}]}
