"""N5 volumes, their bytes written by hand as the specification says."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import struct
import zlib
from pathlib import Path

import imagecodecs
import numpy as np
import pytest

from emflow.io.volume import open_volume
from emflow.step import EmflowError

BLOCK = (4, 5, 3)  # z, y, x
PACK = {
    "raw": bytes,
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": imagecodecs.zstd_encode,
    "blosc": lambda content: imagecodecs.blosc_encode(content, typesize=2),
}


def _write(
    folder: Path, data: np.ndarray, compression: dict, attributes: dict, skip: str = "", pack=None
) -> None:
    folder.mkdir(parents=True)
    about = {
        "dimensions": list(data.shape[::-1]),
        "blockSize": list(BLOCK[::-1]),
        "dataType": str(data.dtype),
        "compression": compression,
        **attributes,
    }
    (folder / "attributes.json").write_text(json.dumps(about))
    pack = pack or PACK[compression["type"]]
    for z in range(0, data.shape[0], BLOCK[0]):
        for y in range(0, data.shape[1], BLOCK[1]):
            for x in range(0, data.shape[2], BLOCK[2]):
                part = data[z : z + BLOCK[0], y : y + BLOCK[1], x : x + BLOCK[2]]
                path = folder / str(x // BLOCK[2]) / str(y // BLOCK[1]) / str(z // BLOCK[0])
                if str(path.relative_to(folder)) == skip:
                    continue
                path.parent.mkdir(parents=True, exist_ok=True)
                header = struct.pack(">HHIII", 0, 3, *part.shape[::-1])
                path.write_bytes(header + pack(part.astype(part.dtype.newbyteorder(">")).tobytes()))


@pytest.fixture
def data() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 60000, (9, 11, 7)).astype(np.uint16)


@pytest.mark.parametrize("kind", [*PACK, "zlib"])
def test_all_and_part_of_an_array_are_read(kind, tmp_path, data):
    told = {"type": kind} if kind != "zlib" else {"type": "gzip", "useZlib": True}
    pack = zlib.compress if kind == "zlib" else None
    _write(tmp_path / "v.n5" / "volumes" / "raw", data, told, {"resolution": [4, 4, 40]}, pack=pack)
    volume = open_volume(f"{tmp_path / 'v.n5'}:/volumes/raw")
    assert volume.shape == data.shape
    assert volume.dtype == np.uint16
    assert volume.voxel_nm == (40, 4, 4)
    np.testing.assert_array_equal(volume.read(), data)
    region = slice(3, 8), slice(4, 11), slice(2, 3)
    np.testing.assert_array_equal(volume.read(region), data[region])


def test_a_block_that_is_not_stored_is_zero_and_values_of_floating_point_are_read(tmp_path, data):
    values = (data / 7).astype(np.float32)
    _write(tmp_path / "v.n5", values, {"type": "gzip", "level": -1}, {}, skip="1/0/2")
    expected = values.copy()
    expected[8:12, 0:5, 3:6] = 0
    volume = open_volume(tmp_path / "v.n5")
    assert volume.voxel_nm is None
    np.testing.assert_array_equal(volume.read(), expected)


@pytest.mark.parametrize(
    ("attributes", "voxel"),
    [
        ({"pixelResolution": {"dimensions": [4.0, 5.0, 30.0], "unit": "nm"}}, (30, 5, 4)),
        ({"pixelResolution": {"dimensions": [0.004, 0.004, 0.04], "unit": "um"}}, (40, 4, 4)),
        ({"transform": {"axes": ["z", "y", "x"], "scale": [3.2, 4, 4], "units": ["nm"] * 3}}, (3.2, 4, 4)),
        ({"pixelResolution": {"dimensions": [1.0, 1.0, 1.0], "unit": "pixel"}}, None),
    ],
)
def test_voxels_are_told_in_several_ways(attributes, voxel, tmp_path, data):
    _write(tmp_path / "v.n5", data, {"type": "raw"}, attributes)
    assert open_volume(tmp_path / "v.n5").voxel_nm == (pytest.approx(voxel) if voxel else None)


def test_of_a_pyramid_the_finest_level_is_read_with_the_group_s_voxel(tmp_path, data):
    group = tmp_path / "v.n5" / "raw"
    _write(group / "s0", data, {"type": "raw"}, {})
    _write(group / "s1", data[::2, ::2, ::2], {"type": "raw"}, {"downsamplingFactors": [2, 2, 2]})
    (group / "attributes.json").write_text(json.dumps({"resolution": [8, 8, 8]}))
    np.testing.assert_array_equal(open_volume(f"{tmp_path / 'v.n5'}:raw").read(), data)
    assert open_volume(f"{tmp_path / 'v.n5'}:raw/s1").voxel_nm == (16, 16, 16)


def test_what_is_not_read_is_named(tmp_path, data):
    _write(tmp_path / "lz.n5" / "a", data, {"type": "lz4", "blockSize": 65536}, {}, pack=bytes)
    with pytest.raises(EmflowError, match="compressed by lz4 are not read"):
        open_volume(f"{tmp_path / 'lz.n5'}:a")
    with pytest.raises(EmflowError, match=r"name the array in it.*lz\.n5:/a"):
        open_volume(tmp_path / "lz.n5")
    _write(tmp_path / "cut.n5", data, {"type": "gzip"}, {})
    block = tmp_path / "cut.n5" / "0" / "1" / "0"
    block.write_bytes(block.read_bytes()[:-9])
    with pytest.raises(EmflowError, match=r"0/1/0: not a readable N5 block"):
        open_volume(tmp_path / "cut.n5").read()
