"""Blocks of any size give the whole's values, killed runs go on, and memory belongs to the block."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch

from emflow.io.record import read_json
from emflow.io.volume import open_volume
from emflow.vem import command
from emflow.vem.axial import Told
from emflow.vem.blocks import blocks_of
from emflow.vem.config import VemRestore, VemTrain
from emflow.vem.grid import Grid
from emflow.vem.lacking import Lacking
from emflow.vem.model import Filler
from emflow.vem.outputs import stored
from emflow.vem.restore import restore_block

SHAPE = (29, 24, 28)


def _filler(factor: int, ratio: float | None, seed: int) -> Filler:
    torch.manual_seed(seed)
    made = Filler.begin(factor, mean=100.0, deviation=20.0, spread=0.4, ratio=ratio)
    torch.nn.init.normal_(made.network.last.weight, std=0.1)
    return made


@pytest.mark.parametrize("size", [(4, 16, 16), (6, 24, 16), (13, 8, 28), (28, 16, 28)])
@pytest.mark.parametrize(("ratio", "doubled"), [(4.0, True), (3.3, False)])
def test_four_sizes_of_blocks_agree_with_the_whole_where_slices_are_absent(size, ratio, doubled):
    grid = Grid.of(ratio)
    filler = _filler(grid.factor, None if grid.whole else ratio, 3)
    half = _filler(2 * grid.factor, None, 4)
    used = [place not in (5, 12, 15, 16, 17, 27) for place in range(SHAPE[0])]
    volume = 100 + 20 * torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
    for place in (5, 12, 27):  # as they are read: interpolated
        volume[place] = (volume[place - 1] + volume[place + 1]) / 2
    for step in (1, 2, 3):
        volume[14 + step] = volume[14] + (volume[18] - volume[14]) * step / 4
    lacking = Lacking(tuple(used), half if doubled else None, {2: [9.0], 4: [7.0, 8.0, 6.0]})
    _, (whole,) = blocks_of(SHAPE, (10_000,) * 3, filler.network, grid, doubled)
    expected = restore_block(filler, volume, whole, lacking)
    assert len(expected.values) == grid.slices(SHAPE[0])
    got, error = (torch.full_like(expected.values, torch.nan) for _ in range(2))
    _, blocks = blocks_of(SHAPE, size, filler.network, grid, doubled)
    assert len(blocks) > 1
    for block in blocks:
        seen = volume[tuple(slice(*span) for span in block.seen)]
        found = restore_block(filler, seen, block, lacking)
        assert got[block.region].isnan().all(), "each voxel is made once"
        got[block.region], error[block.region] = found.values, found.error
    deviation = float(volume.std())
    torch.testing.assert_close(got, expected.values, rtol=0, atol=1e-4 * deviation)
    torch.testing.assert_close(error, expected.error, rtol=0, atol=1e-4 * deviation)
    if grid.whole:
        for place, there in enumerate(used):
            assert bool((error[place * 4] == 0).all()) == there
        at = torch.arange(57, 72)
        linear = volume[14] + (volume[18] - volume[14]) * ((at - 56) / 16)[:, None, None]
        torch.testing.assert_close(got[at], linear, rtol=0, atol=1e-3)
        assert error[at].amin() >= 6.0


def test_where_neighbours_tell_nothing_gaps_are_flat():
    told = Told(0.0, 0.0, 0.01, mean=101.0, deviation=20.0, half_width=33.0)
    filler = _filler(4, None, 3)
    volume = 100 + 20 * torch.randn(9, 16, 16)
    _, (block,) = blocks_of((9, 16, 16), (100,) * 3, filler.network, filler.grid)
    found = restore_block(filler, volume, block, Lacking((True,) * 9, nothing=told))
    assert torch.equal(found.values[::4], volume)
    between = found.values[torch.arange(33) % 4 != 0]
    assert torch.all(between == 101.0)
    assert torch.all(found.error[torch.arange(33) % 4 != 0] == 33.0)


def test_half_widths_are_rounded_up_and_kept_within_the_type():
    values = torch.tensor([[0.2, 254.1, 300.0]])
    assert stored(values, np.dtype(np.uint8), up=True).tolist() == [[1, 255, 255]]
    assert stored(values, np.dtype(np.uint8)).tolist() == [[0, 254, 255]]


@pytest.fixture(scope="module")
def run(tmp_path_factory, measured) -> tuple[Path, list[str]]:
    """A folder with slices and weights that were hardly trained, and the command that restores them."""
    out = tmp_path_factory.mktemp("killed")
    tifffile.imwrite(out / "in.tif", np.tile(measured[:, :32, :32], (2, 1, 1)))
    command.train(
        out / "in.tif", out / "model", cfg=VemTrain(voxel_nm=(40, 10, 10), steps=5, batch=4, held_out=False)
    )
    words = "in.tif model {0}/r.zarr {0}/e.zarr --mask {0}/m.zarr --voxel-nm 40 10 10 --block-slices 4"
    return out, [sys.executable, "-m", "emflow.cli", "vem", "restore", *words.split(), "--block-px", "32"]


def _digests(path: Path) -> dict[str, str]:
    files = (file for file in sorted(path.rglob("*")) if file.is_file())
    kept = (file for file in files if not file.name.startswith(".") and file.suffix != ".partial")
    return {str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest() for file in kept}


def test_a_run_that_was_killed_at_once_and_gone_on_with_has_the_same_bytes(run):
    folder, words = run
    whole = [word.format("whole") for word in words]
    broken = [word.format("broken") for word in words]
    subprocess.run([*whole, "--record", "whole.json"], cwd=folder, check=True, capture_output=True)
    journal = folder / "broken" / "m.zarr" / ".blocks.journal"
    process = subprocess.Popen(broken, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 240
    while not (journal.exists() and journal.read_bytes().count(b"\n") >= 3):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    done = journal.read_bytes().count(b"\n")
    subprocess.run([*broken, "--record", "broken.json"], cwd=folder, check=True, capture_output=True)
    for name in ("r.zarr", "e.zarr", "m.zarr"):
        assert _digests(folder / "broken" / name) == _digests(folder / "whole" / name)
    records = [read_json(folder / f"{name}.json") for name in ("whole", "broken")]
    assert done < records[0]["blocks"], "it was killed before the end"
    assert records[0]["share_abstained"] == records[1]["share_abstained"]


@pytest.mark.parametrize("suffix", ["tif", "mrc"])
def test_one_file_is_written_where_the_name_asks_for_it(run, suffix, tmp_path):
    folder, _ = run
    cfg = VemRestore(voxel_nm=(40, 10, 10))
    found = {}
    for place, end in (("a", "zarr"), ("b", suffix), ("c", suffix)):
        names = [tmp_path / f"{place}_{name}.{end}" for name in ("restored", "error", "mask")]
        command.restore(folder / "in.tif", folder / "model", *names[:2], mask=names[2], cfg=cfg)
        found[place] = names
    for file, expected, again in zip(found["b"], found["a"], found["c"], strict=True):
        volume = open_volume(file)
        np.testing.assert_array_equal(volume.read(), open_volume(expected).read())
        assert volume.voxel_nm == pytest.approx((10, 10, 10))
        assert volume.dtype == (np.uint8 if suffix == "tif" else np.uint16)
        assert file.read_bytes() == again.read_bytes()
    assert sorted(path.name[0] for path in tmp_path.iterdir()) == list("aaabbbccc"), (
        "blocks are removed in the end"
    )
