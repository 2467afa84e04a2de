"""The mask of what is not to be relied upon; noise, of which nothing is known, comes back flat."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from scipy.ndimage import gaussian_filter

from emflow.io.volume import open_volume
from emflow.vem import command
from emflow.vem.axial import what_neighbours_tell
from emflow.vem.config import VemRestore, VemTrain

FACTOR = 4
VOXEL = (40.0, 10.0, 10.0)


@pytest.fixture(scope="module")
def model(tmp_path_factory, measured) -> Path:
    """Learned from structure."""
    out = tmp_path_factory.mktemp("abstain")
    tifffile.imwrite(out / "measured.tif", measured)
    cfg = VemTrain(voxel_nm=VOXEL, steps=60, batch=6, held_out=False)
    command.train(out / "measured.tif", out / "model", cfg=cfg)
    return out / "model"


def _restored(
    pixels: np.ndarray, model: Path, folder: Path, **settings: float
) -> tuple[np.ndarray, np.ndarray, Path]:
    tifffile.imwrite(folder / "in.tif", pixels)
    command.restore(
        folder / "in.tif", model, folder / "r.zarr", folder / "e.zarr", mask=folder / "m.zarr",
        report=folder / "report", cfg=VemRestore(voxel_nm=VOXEL, **settings),
    )  # fmt: skip
    return open_volume(folder / "r.zarr").read(), open_volume(folder / "m.zarr").read(), folder / "report"


def _noise(kind: str) -> np.ndarray:
    noise = np.random.default_rng(5).standard_normal((17, 80, 80))
    if kind == "correlated":  # as detectors and compression make it: within a slice, not between
        noise = gaussian_filter(noise, (0, 1.5, 1.5), mode="wrap")
    if kind == "shaded":  # what all slices have in common is no structure
        noise = noise + np.linspace(-1, 1, 80)
    return (120 + 25 * noise / noise.std()).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("kind", ["white", "correlated", "shaded"])
def test_noise_comes_back_flat_with_the_mask_set_though_the_network_knows_structure(kind, model, tmp_path):
    noise = _noise(kind)
    restored, mask, report = _restored(noise, model, tmp_path)
    between = np.delete(restored, np.s_[::FACTOR], axis=0).astype(float)
    assert between.std() < 0.02 * noise.std()
    np.testing.assert_array_equal(restored[::FACTOR], noise)
    assert np.delete(mask, np.s_[::FACTOR], axis=0).mean() > 0.99
    assert not mask[::FACTOR].any()
    metrics = json.loads((report / "metrics.json").read_text())
    assert metrics["flat"] == 1
    assert metrics["share_abstained"] > 0.99
    verdicts = json.loads((report / "verdicts.json").read_text())
    assert [row["verdict"] for row in verdicts if "tell of one another" in row["question"]] == ["fail"]


def test_structure_is_mostly_relied_upon_and_less_so_where_less_is_allowed(model, tmp_path, measured):
    _, mask, report = _restored(measured, model, tmp_path)
    share = json.loads((report / "metrics.json").read_text())["share_abstained"]
    assert share == pytest.approx(np.delete(mask, np.s_[::FACTOR], axis=0).mean(), abs=0.01)
    assert share < 0.3, "after a training as short as this"
    (tmp_path / "strict").mkdir()
    _, strict, _ = _restored(measured, model, tmp_path / "strict", max_error=0.4)
    assert np.all(strict >= mask)
    assert strict.mean() > mask.mean() + 0.1


def test_structure_in_as_much_noise_is_still_told_from_noise_alone(truth):
    rng = np.random.default_rng(1)
    slices = truth[::FACTOR] + truth.std() * rng.standard_normal((18, 80, 88))
    pixels = torch.from_numpy(slices.astype(np.float32))
    told = what_neighbours_tell(lambda z: pixels[z], range(17), 0.9)
    assert told.anything
    assert told.deviation == pytest.approx(float(pixels.std()), rel=0.05)
    mixed = pixels[torch.randperm(18, generator=torch.Generator().manual_seed(2))]
    assert not what_neighbours_tell(lambda z: mixed[z], range(17), 0.9).anything
