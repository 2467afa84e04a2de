"""The volume of a project: looked at once, divided among jobs, and not forgotten when it is archived."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import tifffile

from emflow.config import Settings, load_settings
from emflow.project.volume import find_volume, stored_parts, volume_workload
from emflow.step import EmflowError
from emflow.vem.parts import blocks_of_part


@pytest.fixture
def settings(tmp_path: Path, monkeypatch) -> Settings:
    """A project of a volume of 20 slices in a folder of its own, for three jobs."""
    monkeypatch.chdir(tmp_path)
    tifffile.imwrite("stack.tif", np.zeros((20, 24, 32), np.uint8))
    return load_settings(_configuration(0.006))


def _configuration(megavoxels: float) -> dict:
    restore = {"voxel_nm": [40, 10, 10], "block_slices": 4, "block_px": 16}
    return {
        "project": "tissue",
        "input": {"volume": "stack.tif"},
        "vem": {"restore": restore, "parts": {"megavoxels": megavoxels}},
    }


def test_every_block_belongs_to_one_part(settings):
    volume, parts = find_volume(settings)
    listed = [json.loads(Path(path).read_text()) for path in parts.values()]
    assert list(parts) == ["00001", "00002", "00003"]
    for blocks in (1, 2, 20, 21, 1000):
        shared = [n for part in listed for n in blocks_of_part(part["part"], part["of"], blocks)]
        assert shared == list(range(blocks))
    assert json.loads(Path(volume).read_text())["shape"] == [20, 24, 32]
    assert stored_parts(Path("results/tissue")) == (volume, parts)


def test_lists_that_stay_the_same_keep_their_time(settings):
    _, parts = find_volume(settings)
    for path in parts.values():
        os.utime(path, (1, 1))
    assert find_volume(settings)[1] == parts
    assert all(Path(path).stat().st_mtime == 1 for path in parts.values())


def test_another_volume_of_the_same_name_is_noticed(settings):
    _, parts = find_volume(settings)
    before = Path(parts["00001"]).read_text()
    tifffile.imwrite("stack.tif", np.ones((20, 24, 32), np.uint8))
    os.utime("stack.tif", (5, 5))
    assert Path(find_volume(settings)[1]["00001"]).read_text() != before


def test_larger_parts_leave_no_list_of_smaller_ones(settings):
    find_volume(settings)
    _, parts = find_volume(load_settings(_configuration(0.008)))
    assert len(parts) == 2
    assert stored_parts(Path("results/tissue"))[1] == parts


def test_a_dry_run_changes_nothing(settings, tmp_path):
    _, parts = find_volume(settings, tmp_path / "pretend")
    assert len(parts) == 3
    assert not Path("results").exists()


def test_what_was_made_of_an_archived_volume_stays(settings, capsys):
    seen = find_volume(settings)
    Path("stack.tif").unlink()
    assert find_volume(settings) == seen
    assert "stays" in capsys.readouterr().err


def test_a_volume_that_never_was_is_refused(settings):
    Path("stack.tif").unlink()
    with pytest.raises(EmflowError, match=r"stack\.tif: no such volume"):
        find_volume(settings)


def test_micrographs_beside_a_volume_are_refused(settings):
    both = _configuration(0.006)
    both["input"]["micrographs"] = "micrographs"
    with pytest.raises(EmflowError, match="one kind"):
        find_volume(load_settings(both))


def test_the_plan_counts_restored_voxels(settings):
    work = volume_workload(settings, *find_volume(settings))
    assert work.of("vem.restore").area == pytest.approx(20 * 24 * 32 * 4 / 1e6)
    assert work.of("vem.restore", "00003").area == pytest.approx(20 * 24 * 32 * 4 / 1e6 / 3)
