"""The segmentation's verbs on files: cells learned and found again, killed runs, noise, refusals."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from ome_zarr_models.v05.image import Image
from scipy.ndimage import gaussian_filter

from emflow.io.volume import open_volume
from emflow.step import EmflowError, Run
from emflow.vem import command, command_segment
from emflow.vem.config import VemScoreSegments, VemSegment, VemTrainMembranes
from emflow.vem.membrane import targets
from emflow.vem.watershed import components

VOXEL = (8.0, 8.0, 8.0)
LEARN = VemTrainMembranes(steps=140, crop_px=64, turns=False)
BLOCKS = VemSegment(voxel_nm=VOXEL, mode="linked", block_slices=8, block_px=64, halo_px=24)


def cells(shape: tuple[int, int, int], number: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Voronoi cells in dark membranes with grain in them, as uint8, and the cells."""
    rng = np.random.default_rng(seed)
    centres = rng.random((number, 3)) * shape
    at = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), -1).astype(np.float32)
    far = np.linalg.norm(at[..., None, :] - centres.astype(np.float32), axis=-1)
    nearest = np.partition(far, 1, axis=-1)[..., :2]
    membrane = np.exp(-(((nearest[..., 1] - nearest[..., 0]) / 3) ** 2))
    grain = 12 * gaussian_filter(rng.standard_normal(shape), 1.2) / 0.2 + 8 * rng.standard_normal(shape)
    return np.clip(170 - 90 * membrane + grain / 4, 0, 255).astype(np.uint8), (far.argmin(-1) + 1).astype(
        np.uint16
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A model that learned from one volume, and another that it segmented."""
    out = tmp_path_factory.mktemp("segment")
    for name, seed in (("learned", 1), ("other", 2)):
        images, labels = cells((12, 96, 96), 14, seed)
        tifffile.imwrite(out / f"{name}.tif", images)
        tifffile.imwrite(out / f"{name}_labels.tif", labels)
    command.train_membranes(out / "learned.tif", out / "learned_labels.tif", out / "model", cfg=LEARN)
    command.segment(
        out / "other.tif", out / "model", out / "other.zarr", cfg=BLOCKS, run=Run(record=out / "r.json")
    )
    return out


def _digests(path: Path) -> dict[str, str]:
    files = (file for file in sorted(path.rglob("*")) if file.is_file() and not file.name.startswith("."))
    return {str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def _json(path: Path):
    return json.loads(path.read_text())


def test_cells_are_found_and_the_held_out_rows_said_so(folder):
    told = _json(folder / "model" / "metrics.json")
    assert told["held_out_rand"] > 0.9 > told["held_out_one_segment_rand"]
    assert told["held_out_calibration_error"] < 0.05
    assert [v["verdict"] for v in _json(folder / "model" / "verdicts.json")] == ["pass", "pass"]
    for planes in ("volume", "xy", "xz"):
        command.score_segments(
            folder / "other.zarr", folder / "other_labels.tif", folder / "score.json",
            membrane=folder / "other.zarr", cfg=VemScoreSegments(planes=planes),
        )  # fmt: skip
        found = _json(folder / "score.json")
        assert found["rand"] > 0.9, planes
        assert found["info"] > 0.85, planes
        assert found["rand_error"] == pytest.approx(1 - found["rand"], abs=0.02)
    metrics = _json(folder / "other.zarr" / "metrics.json")
    assert 10 <= metrics["segments"] <= 25
    assert _json(folder / "other.zarr" / "verdicts.json")[0]["verdict"] == "pass"
    assert _json(folder / "r.json")["segments"] == metrics["segments"]


def test_the_membrane_is_where_cells_touch(folder):
    labels = open_volume(folder / "other_labels.tif").read()
    membrane = np.stack([targets(plane) == 0 for plane in labels])
    tifffile.imwrite(folder / "truth.tif", np.where(membrane, 0, labels))
    command.score_segments(
        folder / "other.zarr", folder / "truth.tif", folder / "score.json", membrane=folder / "other.zarr"
    )
    found = _json(folder / "score.json")
    assert found["dice"] > 0.7
    assert found["iou"] == pytest.approx(found["dice"] / (2 - found["dice"]))
    assert found["pixel_error"] < 0.1


def test_the_result_is_an_image_with_labels_as_the_standard_wants_them(folder, tmp_path):
    shutil.copytree(folder / "other.zarr", tmp_path / "copy.zarr")
    image = zarr.open_group(tmp_path / "copy.zarr")
    told = dict(image["labels/segments"].attrs)["ome"]
    assert told["image-label"] == {"source": {"image": "../../"}}
    # colours may be left to the viewer, but this validator stumbles without
    told["image-label"]["colors"] = [{"label-value": 1, "rgba": [255, 0, 0, 255]}]
    image["labels/segments"].attrs["ome"] = told
    found = Image.from_zarr(image)
    assert found.labels is not None
    assert found.labels.attributes.ome.labels == ["segments"]
    segments = open_volume(folder / "other.zarr" / "labels" / "segments")
    assert segments.voxel_nm == pytest.approx(VOXEL)
    assert segments.shape == open_volume(folder / "other.zarr").shape
    coarse = np.asarray(image["labels/segments/1"])
    np.testing.assert_array_equal(coarse, segments.read()[::2, ::2, ::2])
    assert not (folder / "other.zarr" / "labels" / "segments" / ".provisional").exists()


@pytest.mark.parametrize("stage", ["block_probability", "block_segments"])
def test_a_killed_run_goes_on_with_what_it_lacks(folder, tmp_path, monkeypatch, stage):
    whole, done = getattr(command_segment, stage), []

    def killed(*arguments):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(1)
        return whole(*arguments)

    paths = folder / "other.tif", folder / "model", tmp_path / "other.zarr"
    monkeypatch.setattr(command_segment, stage, killed)
    with pytest.raises(KeyboardInterrupt):
        command.segment(*paths, cfg=BLOCKS)
    again = []
    monkeypatch.setattr(command_segment, stage, lambda *given: (again.append(1), whole(*given))[1])
    command.segment(*paths, cfg=BLOCKS)
    assert len(again) == 8 - 3
    assert _digests(tmp_path / "other.zarr") == _digests(folder / "other.zarr")


def test_noise_has_no_membranes_that_the_network_is_sure_of(folder, tmp_path):
    noise = np.random.default_rng(0).normal(120, 25, (5, 96, 96)).clip(0, 255).astype(np.uint8)
    tifffile.imwrite(tmp_path / "noise.tif", noise)
    command.segment(tmp_path / "noise.tif", folder / "model", tmp_path / "n.zarr", cfg=BLOCKS)
    verdicts, metrics = (_json(tmp_path / "n.zarr" / f"{name}.json") for name in ("verdicts", "metrics"))
    assert verdicts[0]["verdict"] == "fail", metrics
    assert verdicts[0]["action"]
    assert metrics["clear_membranes"] < 0.2
    assert _json(folder / "other.zarr" / "metrics.json")["clear_membranes"] > 0.7
    level = _json(folder / "model" / "metrics.json")["clear_level"]
    assert np.mean(open_volume(tmp_path / "n.zarr").read() >= level * 255) < 0.01


def test_labels_that_have_nothing_to_do_with_the_images_are_said_to_teach_nothing(tmp_path):
    noise = np.random.default_rng(1).normal(120, 25, (5, 96, 96)).clip(0, 255).astype(np.uint8)
    tifffile.imwrite(tmp_path / "noise.tif", noise)
    tifffile.imwrite(tmp_path / "labels.tif", cells((5, 96, 96), 14, 3)[1])
    command.train_membranes(
        tmp_path / "noise.tif",
        tmp_path / "labels.tif",
        tmp_path / "m",
        cfg=LEARN.model_copy(update={"steps": 30}),
    )
    assert _json(tmp_path / "m" / "verdicts.json")[0]["verdict"] == "fail"


def test_a_volume_s_watershed_is_taken_of_voxels_that_are_cubes(folder, tmp_path):
    assert command_segment.mode_of(VemSegment(), VOXEL) == "volume"
    assert command_segment.mode_of(VemSegment(), (50.0, 4.0, 4.0)) == "linked"
    with pytest.raises(EmflowError, match="Restore the volume"):
        command_segment.mode_of(VemSegment(mode="volume"), (50.0, 4.0, 4.0))
    cut = np.ascontiguousarray(open_volume(folder / "other.tif").read()[:, :48, :48])
    tifffile.imwrite(tmp_path / "cut.tif", cut)
    tifffile.imwrite(tmp_path / "true.tif", open_volume(folder / "other_labels.tif").read()[:, :48, :48])
    command.segment(
        tmp_path / "cut.tif", folder / "model", tmp_path / "c.zarr", cfg=VemSegment(voxel_nm=VOXEL)
    )
    command.score_segments(tmp_path / "c.zarr", tmp_path / "true.tif", tmp_path / "score.json")
    assert _json(tmp_path / "score.json")["rand"] > 0.85


def test_real_labels_are_given_back_by_their_own_membranes(real_data):
    mask = tifffile.imread(real_data / "isbi2012" / "00_label.tif")
    segments = targets(mask)
    assert 30 < segments.max() < 200
    found = components((mask == 0).astype(np.float32), 0.5)
    inside = segments != 0
    pairs = np.unique(np.stack([found[inside], segments[inside]]), axis=1)
    assert pairs.shape[1] == segments.max()


def test_what_does_not_fit_is_refused(folder, tmp_path):
    zeros = np.zeros((12, 96, 96), np.uint8)
    for name, labels, words in (
        ("zero", zeros, "all labels are 0"),
        ("one", zeros + 1, "no membrane"),
        ("short", zeros[:5] + 1, "expected one shape"),
        ("float", zeros.astype(np.float32), "whole numbers"),
    ):
        tifffile.imwrite(tmp_path / f"{name}.tif", labels)
        with pytest.raises(EmflowError, match=words):
            command.train_membranes(folder / "other.tif", tmp_path / f"{name}.tif", tmp_path / "m", cfg=LEARN)
    with pytest.raises(EmflowError, match="voxel_nm"):
        command.segment(folder / "other.tif", folder / "model", tmp_path / "o.zarr")
    tifffile.imwrite(tmp_path / "flat.tif", zeros + 7)
    with pytest.raises(EmflowError, match="constant"):
        command.segment(tmp_path / "flat.tif", folder / "model", tmp_path / "o.zarr", cfg=BLOCKS)
    with pytest.raises(EmflowError, match="one shape"):
        command.score_segments(tmp_path / "short.tif", folder / "other_labels.tif", tmp_path / "s.json")
    with pytest.raises(EmflowError, match="no foreground"):
        command.score_segments(folder / "other_labels.tif", tmp_path / "zero.tif", tmp_path / "s.json")
