"""A small volume through the whole workflow: restored in parts, segmented, scored, and nothing done twice."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

from emflow.io.volume import open_volume

SETTINGS = {
    "project": "tissue",
    "input": {
        "volume": "results/input/measured.zarr",
        "labels": "results/input/labels.zarr",
        "truth": "results/input/truth",
    },
    "execution": {"threads": 1},
    "simulate": {
        "volume": {"size_px": [49, 96, 96], "z_factor": 4, "missing_slices": 1, "labelled_slices": 4}
    },
    "vem": {
        "train": {"steps": 20, "batch": 4},
        "restore": {"block_slices": 6, "block_px": 48},
        "parts": {"megavoxels": 0.04},
        "score": {"factor": 4},
        "train_membranes": {"steps": 20, "batch": 2, "crop_px": 64, "turns": False},
    },
}


@pytest.fixture(scope="module")
def done(tmp_path_factory, workspace_class):
    """A finished run."""
    space = workspace_class(tmp_path_factory.mktemp("volume"), SETTINGS)
    space.call("emflow", "simulate", "volume", "results/input", "--config", "run.yaml")
    space.call(*space.snakemake())
    return space


def test_it_ends_in_an_isotropic_volume_and_a_page(done):
    vem = done.results / "vem"
    restored, measured = (
        open_volume(vem / "restored.zarr"),
        open_volume(done.folder / "results/input/measured.zarr"),
    )
    assert restored.shape == (49, 96, 96)
    assert restored.voxel_nm == pytest.approx((8.0, 8.0, 8.0))
    used = [n for n in range(measured.shape[0]) if measured.read()[n].any()]
    assert len(used) == measured.shape[0] - 1
    np.testing.assert_array_equal(restored.read()[::4][used], measured.read()[used])
    assert len(list((vem / "parts").glob("done_*.json"))) == 3
    summary = json.loads((done.results / "report" / "summary.json").read_text())
    assert summary["vem.slices"]["slices_used"] == len(used)
    assert summary["vem.score"]["psnr_db"] > 10
    assert summary["vem.segmentation"]["segments"] > 0
    page = (done.results / "report" / "index.html").read_text()
    for name in ("An xz plane", "Power along the axis", "Segments over"):
        assert f'alt="{name}' in page


def test_nothing_is_left_to_do(done):
    assert done.jobs() == {}
    assert "Nothing to be done" in done.call("emflow", "plan", "run.yaml")


def test_another_block_size_restores_again_and_trains_nothing(done):
    jobs = done.jobs("--config", "vem={restore: {block_px: 96}}")
    assert jobs["vem_restore"] == 3
    assert not {"vem_check", "vem_train", "vem_train_membranes"} & set(jobs)


def test_a_volume_that_changed_is_restored_anew(done, tmp_path):
    space = done.copy(tmp_path / "space")
    os.utime(space.folder / "results/input/measured.zarr/zarr.json")
    assert {"vem_check", "vem_train", "vem_restore", "vem_finish"} <= set(space.jobs())


def test_a_part_that_was_lost_costs_only_itself_and_gives_the_same_bytes(done, tmp_path):
    space = done.copy(tmp_path / "space")
    for name in ("parts/done_00002.json", "metrics.json"):
        (space.results / "vem" / name).unlink()
    assert space.jobs()["vem_restore"] == 1
    space.call(*space.snakemake())
    assert space.digests() == done.digests()


def test_labels_that_are_not_there_are_told_at_once(done):
    said = done.call(*done.snakemake("--config", "input={labels: none.tif}"), code=2)
    assert "input.labels: no file none.tif" in said


def test_a_step_of_it_is_repeated_from_its_record(done, tmp_path):
    space = done.copy(tmp_path / "space")
    space.call("emflow", "record", "results/tissue")
    said = space.call("emflow", "reproduce", "results/tissue", "--steps", "vem.check")
    assert "Reproduced." in said
    assert (
        space.folder / "reproduced-tissue" / "results" / "tissue" / "vem" / "slices" / "slices.star"
    ).is_file()
