"""Volumes in every format come back as they went in; damaged and unfit ones are named."""

from __future__ import annotations

from pathlib import Path

import h5py
import mrcfile
import numpy as np
import pytest
import tifffile
import zarr
from ome_zarr_models.v05.image import Image

from emflow.io.ome import create_image, write_pyramid
from emflow.io.volume import open_volume
from emflow.step import EmflowError

VOXEL = (40.0, 8.0, 8.0)


@pytest.fixture
def data() -> np.ndarray:
    """A volume whose axes cannot be mistaken for each other."""
    return np.random.default_rng(1).integers(0, 255, (5, 33, 18), dtype=np.uint8)


def _written(kind: str, folder: Path, data: np.ndarray) -> str:
    """Write the data in a format; return what to open."""
    path = folder / kind
    if kind == "stack.tif":
        tifffile.imwrite(
            path,
            data,
            imagej=True,
            resolution=(1 / 0.008, 1 / 0.008),
            metadata={"spacing": 0.04, "unit": "um"},
        )
    elif kind == "packed.tif":
        tifffile.imwrite(path, data, compression="zlib", ome=True, metadata={
            "axes": "ZYX", "PhysicalSizeZ": 40, "PhysicalSizeZUnit": "nm", "PhysicalSizeY": 8,
            "PhysicalSizeYUnit": "nm", "PhysicalSizeX": 8, "PhysicalSizeXUnit": "nm"})  # fmt: skip
    elif kind == "slices":
        path.mkdir()
        for z, plane in enumerate(data):  # 8 … 12: sorted by number, not by letter
            tifffile.imwrite(path / f"slice_{z + 8}.tif", plane)
    elif kind == "volume.mrc":
        with mrcfile.new(path) as mrc:
            mrc.set_data(data.astype(np.int16))
            mrc.set_volume()
            mrc.voxel_size = (80.0, 80.0, 400.0)
    elif kind == "volume.h5":
        with h5py.File(path, "w") as file:
            file.create_dataset("volumes/raw", data=data).attrs["resolution"] = VOXEL
    elif kind == "v04.zarr":
        group = zarr.open_group(path, mode="w", zarr_format=2)
        group.create_array("s0", data=data[None], chunks=(1, 2, 16, 16))
        axes = [
            {"name": "c", "type": "channel"},
            *({"name": a, "type": "space", "unit": "micrometer"} for a in "zyx"),
        ]
        scale = [{"type": "scale", "scale": [1.0, 0.04, 0.008, 0.008]}]
        group.attrs["multiscales"] = [
            {"version": "0.4", "axes": axes, "datasets": [{"path": "s0", "coordinateTransformations": scale}]}
        ]
    elif kind == "v05.zarr":
        create_image(path, data.shape, data.dtype, VOXEL, (2, 16, 16), {})[:] = data
    elif kind == "plain.zarr":
        zarr.open_group(path, mode="w").create_array("inside/raw", data=data, chunks=(2, 16, 16))
        return f"{path}:inside/raw"
    return str(path)


KINDS = ("stack.tif", "packed.tif", "slices", "volume.mrc", "volume.h5", "v04.zarr", "v05.zarr", "plain.zarr")


@pytest.mark.parametrize("kind", KINDS)
def test_a_volume_is_read_whole_and_in_part_with_its_voxel(kind, tmp_path, data):
    volume = open_volume(_written(kind, tmp_path, data))
    assert volume.shape == data.shape
    np.testing.assert_array_equal(volume.read(), data)
    part = slice(1, 4), slice(7, 30), slice(0, 11)
    np.testing.assert_array_equal(volume.read(part), data[part])
    if kind in ("slices", "plain.zarr"):
        assert volume.voxel_nm is None
    else:
        assert volume.voxel_nm == pytest.approx(VOXEL)


@pytest.mark.parametrize("kind", ["stack.tif", "packed.tif", "volume.mrc", "volume.h5"])
def test_a_truncated_file_is_named(kind, tmp_path, data):
    path = Path(_written(kind, tmp_path, np.tile(data, (4, 4, 4))))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(EmflowError, match=kind):
        open_volume(path).read()


def test_what_is_no_volume_is_refused(tmp_path, data):
    tifffile.imwrite(tmp_path / "plane.tif", data[0])
    with pytest.raises(EmflowError, match="axes z, y, x"):
        open_volume(tmp_path / "plane.tif")
    with pytest.raises(EmflowError, match="no such volume"):
        open_volume(tmp_path / "nothing.tif")
    (tmp_path / "empty").mkdir()
    with pytest.raises(EmflowError, match="TIFF slices"):
        open_volume(tmp_path / "empty")
    (tmp_path / "notes.txt").write_text("no volume")
    with pytest.raises(EmflowError, match="TIFF stack"):
        open_volume(tmp_path / "notes.txt")
    with h5py.File(tmp_path / "two.h5", "w") as file:
        file["a"], file["b"] = data, data
    with pytest.raises(EmflowError, match=r"two\.h5:/a, .*two\.h5:/b"):
        open_volume(tmp_path / "two.h5")
    zarr.open_group(tmp_path / "group.zarr", mode="w").create_array("raw", data=data)
    with pytest.raises(EmflowError, match="name the array"):
        open_volume(tmp_path / "group.zarr")


def test_slices_of_different_sizes_are_named(tmp_path, data):
    path = Path(_written("slices", tmp_path, data))
    tifffile.imwrite(path / "slice_9.tif", data[0, :-1])
    with pytest.raises(EmflowError, match=r"slice_9\.tif: 32 × 18"):
        open_volume(path).read()


def test_an_image_is_a_valid_ome_zarr_whose_levels_lie_on_each_other(tmp_path):
    z, y, x = np.mgrid[:20, :70, :150].astype(np.float32)
    path = tmp_path / "ramp.zarr"
    create_image(path, z.shape, np.dtype(np.float32), VOXEL, (8, 32, 32), {"from": "a test"})[:] = (
        40 * z + 8 * y + 8 * x
    )
    write_pyramid(path, side=8)
    group = zarr.open_group(path, mode="r")
    image = Image.from_zarr(group)
    levels = image.ome_attributes.multiscales[0].datasets
    assert len(levels) > 2
    for level in levels:
        scale = level.coordinateTransformations[0].scale
        shift = (
            level.coordinateTransformations[1].translation
            if len(level.coordinateTransformations) > 1
            else [0] * 3
        )
        array = group[level.path]
        at = [
            s * 2 + t for s, t in zip(scale, shift, strict=True)
        ]  # the ramp's value is its place in nanometre
        assert array[2, 2, 2] == pytest.approx(sum(at), abs=1e-3)
        assert max(scale) / min(scale) <= max(VOXEL) / min(VOXEL)
    assert dict(group.attrs)["emflow"]["from"] == "a test"


def test_an_image_goes_on_unless_something_changed(tmp_path, data):
    arguments = data.shape, data.dtype, VOXEL, (2, 16, 16)
    create_image(tmp_path / "a.zarr", *arguments, {"weights": "one"})[:2] = data[:2]
    again = create_image(tmp_path / "a.zarr", *arguments, {"weights": "one"})
    np.testing.assert_array_equal(again[:2], data[:2])
    other = create_image(tmp_path / "a.zarr", *arguments, {"weights": "two"})
    assert not np.asarray(other[:]).any()
