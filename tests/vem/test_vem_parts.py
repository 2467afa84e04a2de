"""A volume restored by several jobs: the same bytes as in one go, figures beside it, and no part left out unseen."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import tifffile

from emflow.io.volume import Volume, open_volume
from emflow.step import EmflowError
from emflow.vem import command
from emflow.vem.config import VemParts, VemRestore, VemTrain
from emflow.vem.figures import draw_plane
from emflow.vem.grid import Grid
from emflow.vem.inputs_shown import read_plane
from emflow.vem.inputs_slices import Measured
from emflow.vem.slices import Slices

VOXEL = (40.0, 10.0, 10.0)
BLOCKS = VemRestore(voxel_nm=VOXEL, block_slices=6, block_px=48)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, measured) -> Path:
    """A volume and a model."""
    out = tmp_path_factory.mktemp("parts")
    tifffile.imwrite(out / "measured.tif", measured)
    command.train(out / "measured.tif", out / "model", cfg=VemTrain(voxel_nm=VOXEL, steps=0, held_out=False))
    return out


def _digests(path: Path) -> dict[str, str]:
    files = (file for file in sorted(path.rglob("*")) if file.is_file() and not file.name.startswith("."))
    return {str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def _fill(folder: Path, out: Path, number: int, of: int) -> Path:
    voxels = tifffile.imread(folder / "measured.tif").size
    command.parts(folder / "measured.tif", out, cfg=VemParts(megavoxels=voxels / (of - 0.5) / 1e6))
    assert len(list(out.glob("part_*.json"))) == of
    part, done = out / f"part_{number:05d}.json", out / f"done_{number}.json"
    command.fill(folder / "measured.tif", folder / "model", out, done, part=part, cfg=BLOCKS)
    return done


def test_parts_give_the_bytes_of_the_whole(folder, tmp_path, measured):
    given = folder / "measured.tif", folder / "model"
    whole = tmp_path / "whole"
    command.restore(
        *given, whole / "restored.zarr", whole / "uncertainty.zarr", mask=whole / "abstain.zarr",
        report=whole, cfg=BLOCKS,
    )  # fmt: skip
    command.begin(*given, tmp_path, tmp_path / "begun.json", cfg=BLOCKS)
    done = [_fill(folder, tmp_path, number, 3) for number in (3, 1, 2)]
    command.finish(*given, tmp_path, *done, cfg=BLOCKS)
    for name in ("restored.zarr", "uncertainty.zarr", "abstain.zarr"):
        assert _digests(tmp_path / name) == _digests(whole / name)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics == json.loads((whole / "metrics.json").read_text())
    assert metrics["voxels_filled"] == (len(measured) - 1) * 3 * measured[0].size
    assert metrics["voxel_nm"] == 10
    assert 0 < metrics["axial_over_lateral_power"] < 1.2
    for name in ("plane.png", "spectra.png"):
        assert (tmp_path / "figures" / name).read_bytes().startswith(b"\x89PNG")


def test_a_part_needs_images_that_were_begun_for_it(folder, tmp_path):
    with pytest.raises(EmflowError, match="vem begin"):
        _fill(folder, tmp_path, 1, 2)
    other = BLOCKS.model_copy(update={"max_error": 0.7})
    command.begin(folder / "measured.tif", folder / "model", tmp_path, tmp_path / "begun.json", cfg=other)
    with pytest.raises(EmflowError, match=r"abstain\.zarr: was not begun"):
        _fill(folder, tmp_path, 1, 2)


def test_a_part_that_is_lacking_is_noticed(folder, tmp_path):
    given = folder / "measured.tif", folder / "model"
    command.begin(*given, tmp_path, tmp_path / "begun.json", cfg=BLOCKS)
    done = _fill(folder, tmp_path, 1, 2)
    with pytest.raises(EmflowError, match="each of one division"):
        command.finish(*given, tmp_path, done, cfg=BLOCKS)


@pytest.mark.parametrize("text", ["", "{}", '{"part": 3, "of": 2}', '{"part": 0, "of": 2}', "[1, 2]"])
def test_what_is_no_part_is_refused(folder, tmp_path, text):
    (tmp_path / "part.json").write_text(text)
    with pytest.raises(EmflowError, match="which part of how many"):
        command.fill(
            folder / "measured.tif", folder / "model", tmp_path, tmp_path / "done.json",
            part=tmp_path / "part.json", cfg=BLOCKS,
        )  # fmt: skip


def test_a_slice_that_is_not_used_is_none_in_the_picture(folder):
    source = open_volume(folder / "measured.tif")
    slices = Slices.plain(source.shape[0])
    slices.used[8] = False
    depth = 4 * (source.shape[0] - 1) + 1
    restored = Volume(
        Path("r"),
        (depth, *source.shape[1:]),
        np.dtype("u1"),
        (10.0, 10.0, 10.0),
        np.zeros((depth, *source.shape[1:])).__getitem__,
    )
    plane = read_plane(Measured(source, slices), Grid.of(4.0), restored, restored)
    assert np.flatnonzero(~plane.used).tolist() == [8]
    np.testing.assert_allclose(plane.measured[8], (plane.measured[7] + plane.measured[9]) / 2)
    np.testing.assert_allclose(plane.at, np.arange(depth) / 4)
    assert draw_plane(plane).axes
