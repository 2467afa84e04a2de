"""The verbs on files: a volume restored from its own slices, killed and gone on with, refused where unfit."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr

from emflow.io.volume import open_volume
from emflow.step import EmflowError, Run
from emflow.vem import command
from emflow.vem.command_restore import Task
from emflow.vem.config import VemRestore, VemScore, VemTrain

FACTOR = 4
VOXEL = (40.0, 10.0, 10.0)
BLOCKS = VemRestore(voxel_nm=VOXEL, block_slices=6, block_px=48)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, truth, measured) -> Path:
    """A trained model and a restored volume."""
    out = tmp_path_factory.mktemp("vem")
    tifffile.imwrite(out / "truth.tif", truth)
    tifffile.imwrite(out / "measured.tif", measured)
    command.train(out / "measured.tif", out / "model", cfg=VemTrain(voxel_nm=VOXEL, steps=120, batch=6))
    command.restore(
        out / "measured.tif", out / "model", out / "restored.zarr", out / "error.zarr", cfg=BLOCKS,
        run=Run(record=out / "record.json"),
    )  # fmt: skip
    return out


def _digests(path: Path) -> dict[str, str]:
    files = (file for file in sorted(path.rglob("*")) if file.is_file() and not file.name.startswith("."))
    return {str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def test_it_beats_linear_interpolation_and_its_interval_holds(folder, truth, measured):
    command.score(
        folder / "restored.zarr", folder / "truth.tif", folder / "score.json",
        error=folder / "error.zarr", cfg=VemScore(factor=FACTOR),
    )  # fmt: skip
    found = json.loads((folder / "score.json").read_text())
    linear = np.stack([measured[:-1] * (1 - t) + measured[1:] * t for t in np.arange(FACTOR) / FACTOR], 1)
    linear = np.concatenate([linear.reshape(-1, *measured.shape[1:]), measured[-1:]])
    tifffile.imwrite(folder / "linear.tif", np.rint(linear).astype(np.uint8))
    command.score(
        folder / "linear.tif", folder / "truth.tif", folder / "linear.json", cfg=VemScore(factor=FACTOR)
    )
    by_lines = json.loads((folder / "linear.json").read_text())
    assert found["psnr_db"] > by_lines["psnr_db"] + 1.0
    assert found["ssim_xz"] > by_lines["ssim_xz"]
    assert found["axial_resolution_voxels"] < by_lines["axial_resolution_voxels"]
    assert 0.85 < found["coverage"] < 0.97


def test_the_held_out_slices_say_so_without_any_truth(folder):
    metrics = json.loads((folder / "model" / "metrics.json").read_text())
    assert metrics["held_out_psnr_db"] > metrics["held_out_psnr_linear_db"]
    assert 0.5 < metrics["interval_widening"] < 2
    verdicts = json.loads((folder / "model" / "verdicts.json").read_text())
    assert verdicts[0]["verdict"] in ("pass", "warn")


def test_measured_slices_stay_and_the_voxel_is_isotropic(folder, measured):
    restored = open_volume(folder / "restored.zarr")
    assert restored.shape == ((len(measured) - 1) * FACTOR + 1, *measured.shape[1:])
    assert restored.voxel_nm == pytest.approx((10.0, 10.0, 10.0))
    assert restored.dtype == measured.dtype
    np.testing.assert_array_equal(restored.read()[::FACTOR], measured)
    assert not open_volume(folder / "error.zarr").read()[::FACTOR].any()
    notes = dict(zarr.open_group(folder / "restored.zarr").attrs)["emflow"]
    assert notes["weights"] == json.loads((folder / "record.json").read_text())["weights"]


def test_a_killed_run_goes_on_with_what_it_lacks(folder, tmp_path, monkeypatch):
    done = []
    whole = Task.restore

    def killed(task, block):
        if len(done) == 5:
            raise KeyboardInterrupt
        done.append(block.number)
        return whole(task, block)

    paths = folder / "measured.tif", folder / "model", tmp_path / "restored.zarr", tmp_path / "error.zarr"
    monkeypatch.setattr(Task, "restore", killed)
    with pytest.raises(KeyboardInterrupt):
        command.restore(*paths, cfg=BLOCKS)
    again = []
    monkeypatch.setattr(Task, "restore", lambda task, block: again.append(block.number) or whole(task, block))
    command.restore(*paths, cfg=BLOCKS)
    assert again
    assert not set(again) & set(done)
    assert _digests(tmp_path / "restored.zarr") == _digests(folder / "restored.zarr")
    assert _digests(tmp_path / "error.zarr") == _digests(folder / "error.zarr")


def test_an_image_that_was_removed_is_made_again(folder, tmp_path):
    import shutil

    for name in ("restored.zarr", "error.zarr"):
        shutil.copytree(folder / name, tmp_path / name)
    shutil.rmtree(tmp_path / "restored.zarr")
    command.restore(
        folder / "measured.tif",
        folder / "model",
        tmp_path / "restored.zarr",
        tmp_path / "error.zarr",
        cfg=BLOCKS,
    )
    assert _digests(tmp_path / "restored.zarr") == _digests(folder / "restored.zarr")


def test_noise_gains_nothing_and_is_said_so(tmp_path):
    noise = np.random.default_rng(0).normal(120, 25, (17, 64, 64)).clip(0, 255).astype(np.uint8)
    tifffile.imwrite(tmp_path / "noise.tif", noise)
    command.train(tmp_path / "noise.tif", tmp_path / "model", cfg=VemTrain(voxel_nm=VOXEL, steps=80, batch=6))
    command.restore(
        tmp_path / "noise.tif", tmp_path / "model", tmp_path / "r.zarr", tmp_path / "e.zarr",
        cfg=VemRestore(voxel_nm=VOXEL),
    )  # fmt: skip
    between = np.delete(open_volume(tmp_path / "r.zarr").read(), np.s_[::FACTOR], axis=0).astype(float)
    assert between.std() < 0.5 * noise.std(), "noise between slices cannot be known: it comes back flat"
    error = np.delete(open_volume(tmp_path / "e.zarr").read(), np.s_[::FACTOR], axis=0)
    assert np.median(error) > 1.2 * noise.std(), "and the interval holds nine tenths of it"


def test_what_does_not_fit_is_refused(folder, tmp_path, measured):
    out = tmp_path / "r.zarr", tmp_path / "e.zarr"
    with pytest.raises(EmflowError, match="voxel_nm"):
        command.train(folder / "measured.tif", tmp_path / "m")
    with pytest.raises(EmflowError, match="1.10 pixels apart"):
        command.train(folder / "measured.tif", tmp_path / "m", cfg=VemTrain(voxel_nm=(11, 10, 10)))
    with pytest.raises(EmflowError, match="fills gaps of 4"):
        command.restore(
            folder / "measured.tif", folder / "model", *out, cfg=VemRestore(voxel_nm=(50, 10, 10))
        )
    tifffile.imwrite(tmp_path / "flat.tif", np.full_like(measured, 7))
    with pytest.raises(EmflowError, match="constant"):
        command.train(tmp_path / "flat.tif", tmp_path / "m", cfg=VemTrain(voxel_nm=VOXEL))
    broken = measured.astype(np.float32)
    broken[3, 2, 1] = np.nan
    tifffile.imwrite(tmp_path / "nan.tif", broken)
    with pytest.raises(EmflowError, match="not finite"):
        command.restore(tmp_path / "nan.tif", folder / "model", *out, cfg=BLOCKS)
