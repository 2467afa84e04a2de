"""A real volume whose slices are two and a half pixels apart, read from N5, against its truth."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from ome_zarr_models.v05.image import Image

from emflow.io.volume import open_volume
from emflow.vem import command
from emflow.vem.config import VemRestore, VemScore, VemTrain

STEP, BIN = 5, 2
RATIO = STEP / BIN


@pytest.fixture(scope="module")
def volumes(real_data, tmp_path_factory) -> tuple[str, Path, np.ndarray, np.ndarray]:
    """Measured slices as N5, the truth as TIFF, and both as arrays.

    The FIB-SEM crop of 10 nm: pixels binned to 20 nm, every fifth slice kept. So every second slice is the truth at
    isotropic voxels of 20 nm, and nothing is interpolated to have it.
    """
    pixels = tifffile.imread(real_data / "fibsem_medulla" / "raw.tif").astype(np.float32)
    depth, height, width = pixels.shape
    binned = pixels.reshape(depth, height // BIN, BIN, width // BIN, BIN).mean((2, 4))
    measured = binned[::STEP].round().astype(np.uint8)
    truth = binned[: (len(measured) - 1) * STEP + 1 : BIN]
    out = tmp_path_factory.mktemp("real")
    folder = out / "v.n5" / "raw"
    (folder / "0" / "0").mkdir(parents=True)
    about = {"dimensions": measured.shape[::-1], "blockSize": measured.shape[::-1], "dataType": "uint8"}
    about |= {"compression": {"type": "raw"}, "resolution": [20, 20, 50]}
    (folder / "attributes.json").write_text(json.dumps(about))
    header = struct.pack(">HHIII", 0, 3, *measured.shape[::-1])
    (folder / "0" / "0" / "0").write_bytes(header + measured.tobytes())
    tifffile.imwrite(out / "truth.tif", truth)
    return f"{out / 'v.n5'}:/raw", out / "truth.tif", measured, truth


def test_slices_two_and_a_half_pixels_apart_are_restored_from_n5(volumes, tmp_path):
    source, truth_file, measured, truth = volumes
    command.train(source, tmp_path / "model", cfg=VemTrain(steps=0))
    images = [tmp_path / f"{name}.zarr" for name in ("restored", "error", "mask")]
    command.restore(source, tmp_path / "model", *images[:2], mask=images[2], cfg=VemRestore())
    assert open_volume(images[0]).shape == truth.shape
    assert open_volume(images[0]).voxel_nm == pytest.approx((20, 20, 20))
    command.score(images[0], truth_file, tmp_path / "s.json", error=images[1], cfg=VemScore())
    score = json.loads((tmp_path / "s.json").read_text())
    at = np.arange(len(truth)) / RATIO
    below = np.minimum(at.astype(int), len(measured) - 2)
    part = (at - below)[:, None, None]
    linear = measured[below] * (1 - part) + measured[below + 1] * part
    by_lines = 10 * np.log10((truth.max() - truth.min()) ** 2 / np.square(linear - truth).mean())
    assert score["psnr_db"] > by_lines + 0.5
    restored, error = (open_volume(image).read() for image in images[:2])
    filled = error > 0  # every second measured slice falls on a voxel
    assert filled.any((1, 2)).sum() == len(truth) - len(measured[::2])
    inside = np.abs(restored - truth)[filled] <= error[filled] + 0.5  # grey values are whole
    print(inside.mean(), score["psnr_db"] - by_lines)
    assert 0.8 < inside.mean() < 0.98
    for image in images:  # as viewers read them
        assert Image.from_zarr(zarr.open_group(image, mode="r")).ome_attributes.multiscales
