"""Slices that are no whole number of pixels apart, of a band-limited field that is known everywhere."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
import zarr

from emflow.io.volume import open_volume
from emflow.step import EmflowError
from emflow.vem import command
from emflow.vem.blocks import blocks_of
from emflow.vem.config import VemRestore, VemScore, VemTrain
from emflow.vem.crops import crop_shape, crops
from emflow.vem.grid import Grid, between_steps, interpolate
from emflow.vem.model import Filler
from emflow.vem.restore import restore_block

RATIO, SIDE, COUNT = 3.5, 72, 17
VOXEL = (35.0, 10.0, 10.0)


def field(z: np.ndarray) -> np.ndarray:
    """Waves of 7 to 25 pixels in all directions, at any height."""
    rng = np.random.default_rng(4)
    direction = rng.standard_normal((80, 3))
    k = direction / np.linalg.norm(direction, axis=1, keepdims=True) * 2 * np.pi / rng.uniform(7, 25, (80, 1))
    y, x = np.mgrid[:SIDE, :SIDE]
    waves = [
        np.cos(kz * z[:, None, None] + ky * y + kx * x + phase)
        for (kz, ky, kx), phase in zip(k, rng.uniform(0, 2 * np.pi, 80), strict=True)
    ]
    return (128 + 4 * np.sum(waves, axis=0)).astype(np.float32)


@pytest.mark.parametrize(("ratio", "factor"), [(6.67, 7), (4.02, 4), (1.5, 2), (15.7, 16), (2.5, 3)])
def test_restored_slices_lie_a_pixel_apart_from_the_first_measured_one_on(ratio, factor):
    grid = Grid.of(ratio)
    assert grid.factor == factor
    assert grid.whole == (abs(ratio / factor - 1) <= 0.02)
    length = grid.slices(10)
    assert length == math.floor(9 * grid.ratio + 1e-6) + 1
    ramp = torch.arange(10.0)[:, None, None].expand(10, 16, 16) * grid.ratio
    plain = Filler.begin(factor, 0.0, 1.0, 0.4, None if grid.whole else ratio)
    _, (block,) = blocks_of((10, 16, 16), (100,) * 3, plain.network, plain.grid)
    found = restore_block(plain, ramp, block)
    inner = slice(factor, -factor)  # the kernel sees the ends of the ramp
    expected = torch.arange(float(length))[:, None, None].expand(length, 16, 16)
    torch.testing.assert_close(found.values[inner], expected[inner], rtol=0, atol=0.03)
    at_slices = (found.error[:, 0, 0] == 0).nonzero().flatten().tolist()
    assert at_slices == [i for i in range(length) if abs(i / grid.ratio - round(i / grid.ratio)) < 1e-6]


def test_the_kernel_keeps_samples_and_finds_band_limited_values():
    wave = torch.cos(2 * torch.pi * torch.arange(60, dtype=torch.float64) / 7 + 0.4)
    at = torch.arange(10, 50, dtype=torch.float64)
    assert torch.equal(interpolate(wave, at), wave[10:50])
    expected = torch.cos(2 * torch.pi * (at + 0.37) / 7 + 0.4)
    torch.testing.assert_close(interpolate(wave, at + 0.37), expected, rtol=0, atol=0.02)


def test_half_widths_beside_a_measured_slice_are_those_of_the_step_next_to_it():
    widths = torch.tensor([0.0, 3.0, 4.0, 0.0, 5.0])[:, None, None]
    found = between_steps(widths, torch.tensor([0.0, 0.4, 1.2, 2.9, 3.0, 4.0], dtype=torch.float64))
    assert found.flatten().tolist() == [0.0, 3.0, 4.0, 4.0, 0.0, 5.0]


def test_planes_to_learn_from_have_rows_as_far_apart_as_slices():
    ramp = torch.arange(80.0)[:, None].expand(80, 80) + 0 * torch.arange(80.0)
    shape = crop_shape(80, 7, 32, stretch=7 / 6.5)
    made = crops(ramp[None], 7, 20, shape, torch.Generator().manual_seed(1), stretch=7 / 6.5)
    down = (made[:, 7:-7:7] - made[:, :-14:7])[:, 1:]
    steps = down.abs().amax((1, 2))
    across = steps < 1  # planes that were turned vary along the other axis
    assert torch.allclose(steps[~across], torch.tensor(6.5), atol=0.05)
    assert 0 < across.sum() < 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Measured slices, their truth, and what was learned from them."""
    out = tmp_path_factory.mktemp("fraction")
    tifffile.imwrite(out / "measured.tif", field(RATIO * np.arange(COUNT)))
    tifffile.imwrite(out / "truth.tif", field(np.arange(math.floor((COUNT - 1) * RATIO) + 1.0)))
    command.train(out / "measured.tif", out / "model", cfg=VemTrain(voxel_nm=VOXEL, steps=120, batch=6))
    return out


def test_a_fractional_volume_is_restored_on_the_isotropic_grid(folder, tmp_path):
    out = tmp_path / "r.zarr", tmp_path / "e.zarr"
    command.restore(folder / "measured.tif", folder / "model", *out, cfg=VemRestore(voxel_nm=VOXEL))
    restored = open_volume(out[0])
    assert restored.voxel_nm == pytest.approx((10, 10, 10))
    notes = dict(zarr.open_group(out[0]).attrs)["emflow"]
    assert notes["distance_of_slices_voxels"] == pytest.approx(3.5)
    assert notes["measured_slices"] == "interpolated or normalised"
    command.score(out[0], folder / "truth.tif", tmp_path / "s.json", error=out[1], cfg=VemScore())
    score = json.loads((tmp_path / "s.json").read_text())
    slices, truth = field(RATIO * np.arange(COUNT)), field(np.arange(57.0))
    at = np.arange(57) / RATIO
    below = np.minimum(at.astype(int), COUNT - 2)
    part = (at - below)[:, None, None]
    linear = slices[below] * (1 - part) + slices[below + 1] * part
    by_lines = 10 * np.log10((truth.max() - truth.min()) ** 2 / np.square(linear - truth).mean())
    assert score["psnr_db"] > by_lines + 3.0
    assert (
        score["coverage"] > 0.85
    )  # and well above 0.9: the interval allows for noise, which the field has none of


def test_blocks_of_a_fractional_volume_have_no_seams(folder, tmp_path):
    found = []
    for name, slices, side in (("a", 100, 100), ("b", 2, 24), ("c", 6, 40)):
        out = tmp_path / f"{name}.zarr", tmp_path / f"{name}e.zarr"
        cfg = VemRestore(voxel_nm=VOXEL, block_slices=slices, block_px=side)
        command.restore(folder / "measured.tif", folder / "model", *out, cfg=cfg)
        found.append([open_volume(path).read() for path in out])
    for other in found[1:]:
        for values, expected in zip(other, found[0], strict=True):
            np.testing.assert_allclose(values, expected, rtol=0, atol=1e-4 * found[0][0].std())


def test_weights_of_another_distance_are_refused(folder, tmp_path):
    with pytest.raises(EmflowError, match=r"fills gaps of 3\.5"):
        command.restore(
            folder / "measured.tif", folder / "model", tmp_path / "r.zarr", tmp_path / "e.zarr",
            cfg=VemRestore(voxel_nm=(40, 10, 10)),
        )  # fmt: skip
