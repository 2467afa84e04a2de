"""Faults of slices: found, listed with reasons, and not learned from; healthy slices are left alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from scipy.ndimage import fourier_shift, gaussian_filter

from emflow.io.star import floats, integers, read_star, read_table, write_star
from emflow.io.volume import open_volume
from emflow.step import EmflowError
from emflow.vem import command
from emflow.vem.check import check_slices, places_of
from emflow.vem.config import VemCheck, VemRestore, VemTrain
from emflow.vem.inputs_slices import Measured, read_slices
from emflow.vem.slices import Slices

COUNT, SIDE = 24, 288


@pytest.fixture(scope="module")
def healthy() -> np.ndarray:
    """Sheets, sections of five pixels, with noise."""
    rng = np.random.default_rng(7)
    field = gaussian_filter(rng.standard_normal((COUNT, SIDE, SIDE)).astype(np.float32), (1.8, 7, 7))
    field /= field.std()
    sheets = np.exp(-((field / 0.25) ** 2)) + np.exp(-(((field - 1.3) / 0.2) ** 2))
    return np.clip(180 - 110 * sheets + 8 * rng.standard_normal(field.shape), 0, 255).astype(np.uint8)


def _moved(image: np.ndarray, by: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(np.fft.ifft2(fourier_shift(np.fft.fft2(image), by)).real), 0, 255)


def _checked(pixels: np.ndarray, places: list[int] | None = None):
    return check_slices(
        lambda n: torch.from_numpy(pixels[n].astype(np.float32)),
        places or list(range(len(pixels))),
        VemCheck(),
    )


def test_nothing_is_found_in_healthy_slices(healthy):
    found = _checked(healthy)
    assert not any(found.slices.reasons)
    assert not found.slices.shifts.any()
    assert found.slices.used.all()


def test_each_fault_is_found_where_it_is_and_named(healthy):
    broken = healthy.astype(np.float32)
    broken[4] = 131
    broken[8] = np.clip((broken[8] - 150) * 9, 0, 255)
    broken[11] = gaussian_filter(broken[11], 2)
    broken[14] = np.random.default_rng(1).permuted(broken[14].ravel()).reshape(SIDE, SIDE)
    broken[17] = broken[16]
    broken[20] += 60
    found = _checked(broken)
    expected = {
        4: "blank",
        8: "saturated",
        11: "blurred",
        14: "unlike both neighbours",
        17: "the same as the slice before",
        20: "other brightness",
    }
    reasons = {place: reason for place, reason in enumerate(found.slices.reasons) if reason}
    assert reasons == expected
    assert np.flatnonzero(~found.slices.used).tolist() == [4, 8, 11, 14, 17]
    seen = found.slices.scale[20] * np.median(broken[20]) + found.slices.offset[20]
    assert seen == pytest.approx(np.median(healthy[20]), abs=8)


def test_a_slice_from_elsewhere_is_unlike_both_neighbours(healthy):
    broken = healthy.copy()
    broken[9] = healthy[9].T[::-1]
    found = _checked(broken)
    assert found.slices.reasons[9] == "unlike both neighbours"
    assert found.slices.used.sum() == COUNT - 1


def test_noise_alone_is_neither_damaged_nor_shifted():
    noise = np.random.default_rng(0).normal(120, 25, (16, SIDE, SIDE)).clip(0, 255)
    found = _checked(noise)
    assert found.slices.used.all()
    assert not found.slices.shifts.any()


@pytest.mark.parametrize("kind", ["jitter", "step", "single"])
def test_shifts_are_undone_and_the_course_stays(healthy, kind):
    rng = np.random.default_rng(2)
    place = np.zeros((COUNT, 2))
    if kind == "jitter":
        place = rng.normal(0, 4, (COUNT, 2))
    elif kind == "step":
        place[COUNT // 2 :] = [9.4, -6.3]
    else:
        place[7] = [14, 5]
    lean = np.outer(np.arange(COUNT), [0.5, 0.0])
    moved = np.stack([_moved(image, by) for image, by in zip(healthy, place + lean, strict=True)])
    found = _checked(moved)
    assert found.slices.used.all()
    apart, left = np.diff(place, axis=0), np.diff(found.slices.shifts + place, axis=0)
    assert np.sqrt((left**2).mean()) < 0.25 * np.sqrt((apart**2).mean())
    slope = np.polyfit(np.arange(COUNT), found.slices.shifts[:, 0] + place[:, 0], 1)[0]
    assert abs(slope) < 0.15, "a specimen that leans by half a pixel a slice is not straightened"


def test_a_region_is_read_alike_whatever_else_is_read(healthy, tmp_path):
    tifffile.imwrite(tmp_path / "v.tif", healthy)
    slices = Slices.plain(COUNT)
    slices.used[[5, 9, 10]] = False
    slices.shifts[3], slices.shifts[6], slices.shifts[8] = [4, -7], [2.3, -0.6], [-300.0, 5.5]
    measured = Measured(open_volume(tmp_path / "v.tif"), slices)
    whole = measured.read((0, COUNT), (0, SIDE), (0, SIDE))
    part = measured.read((5, 10), (40, 90), (200, SIDE))
    torch.testing.assert_close(part, whole[5:10, 40:90, 200:], rtol=0, atol=1e-4)
    assert torch.equal(whole[3, 4:, :-7].byte(), torch.from_numpy(healthy[3, :-4, 7:]))
    torch.testing.assert_close(whole[9], whole[8] * 2 / 3 + whole[11] / 3)
    expected = torch.from_numpy(_moved(gaussian_filter(healthy[6].astype(float), 2), np.array([2.3, -0.6])))
    smooth = torch.from_numpy(gaussian_filter(whole[6].numpy(), 2))
    assert (smooth - expected)[20:-20, 20:-20].abs().max() < 2.0, "of 110"
    assert measured.resampled == 2


def test_numbers_in_names_tell_what_is_missing():
    assert places_of(["s_001.tif", "s_002.tif", "s_004.tif", "s_005.tif"]) == [0, 1, 3, 4]
    assert places_of(["2024_10.tif", "2024_20.tif", "2024_30.tif", "2024_60.tif"]) == [0, 1, 2, 5]
    assert places_of(["a1.tif", "b7.tif", "c2.tif"]) == [0, 1, 2]
    assert places_of(["x.tif", "y.tif", "z.tif"]) == [0, 1, 2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, truth) -> Path:
    """Slices as files; the fifth is missing, the ninth blank; and a model that learned without them."""
    out = tmp_path_factory.mktemp("lacking")
    (out / "raw").mkdir()
    for number, image in enumerate(truth[::4]):
        if number != 4:
            tifffile.imwrite(
                out / "raw" / f"s{number:03}.tif", image if number != 8 else np.zeros_like(image)
            )
    command.check(out / "raw", out / "check")
    cfg = VemTrain(voxel_nm=(40, 10, 10), steps=100, batch=6)
    command.train(out / "raw", out / "model", slices=out / "check" / "slices.star", cfg=cfg)
    return out


def test_the_table_and_the_verdicts_list_what_is_absent(folder):
    table = read_table(folder / "check" / "slices.star", "slices")
    assert integers(table, "emflowSliceStored").tolist() == [*range(4), -1, *range(4, 17)]
    assert list(table["emflowSliceReason"][[4, 8]]) == ["missing", "blank"]
    assert integers(table, "emflowSliceUsed").sum() == 16
    verdicts = json.loads((folder / "check" / "verdicts.json").read_text())
    assert "4: missing; 8: blank" in verdicts[0]["evidence"]
    assert [row["verdict"] for row in verdicts] == ["warn", "unknown", "pass", "pass"]


def test_absent_slices_are_filled_better_than_by_lines_and_their_interval_holds(folder, truth, tmp_path):
    cfg = VemRestore(voxel_nm=(40, 10, 10), block_slices=6, block_px=48)
    table = folder / "check" / "slices.star"
    out = tmp_path / "r.zarr", tmp_path / "e.zarr"
    command.restore(folder / "raw", folder / "model", *out, slices=table, report=tmp_path, cfg=cfg)
    restored = open_volume(out[0]).read().astype(float)
    error = open_volume(out[1]).read().astype(float)
    present = [z for z in range(0, 69, 4) if z not in (16, 32)]
    np.testing.assert_array_equal(restored[present], truth[present])
    for first in (12, 28):  # gaps of eight
        gap = slice(first + 1, first + 8)
        part = np.arange(1, 8)[:, None, None] / 8
        linear = truth[first] * (1 - part) + truth[first + 8] * part
        missed, by_lines = (np.square(values - truth[gap]).mean() for values in (restored[gap], linear))
        assert missed < 0.95 * by_lines
        assert 0.8 < (np.abs(restored[gap] - truth[gap]) <= error[gap]).mean() < 0.99
        assert error[gap].mean() > 1.1 * error[41:44].mean(), "wider than in gaps of four"
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert (metrics["slices_absent"], metrics["longest_gap_slices"]) == (2, 2)
    assert metrics["wide_gaps_by_network"] == 1


def test_wider_gaps_are_lines_with_the_interval_of_hidden_slices(folder, truth, tmp_path):
    tables = read_star(folder / "check" / "slices.star")
    tables["slices"].loc[[7, 9, 17], "emflowSliceUsed"] = "0"
    write_star(tmp_path / "edited.star", tables)
    cfg = VemRestore(voxel_nm=(40, 10, 10))
    out = tmp_path / "r.zarr", tmp_path / "e.zarr"
    command.restore(folder / "raw", folder / "model", *out, slices=tmp_path / "edited.star", cfg=cfg)
    restored, error = (open_volume(path).read().astype(float) for path in out)
    assert len(restored) == 16 * 4 + 1, "nothing is made beyond the last slice that is used"
    part = np.arange(1, 16)[:, None, None] / 16
    np.testing.assert_allclose(restored[25:40], truth[24] * (1 - part) + truth[40] * part, atol=0.51)
    assert 0.75 < (np.abs(restored[25:40] - truth[25:40]) <= error[25:40]).mean() < 0.99


def test_without_a_held_out_test_gaps_about_single_slices_are_lines(folder, truth, tmp_path):
    table = folder / "check" / "slices.star"
    cfg = VemTrain(voxel_nm=(40, 10, 10), steps=2, batch=2, held_out=False)
    (tmp_path / "model").mkdir()
    for name in ("doubled.safetensors", "doubled.json"):
        (tmp_path / "model" / name).write_bytes((folder / "model" / name).read_bytes())
    command.train(folder / "raw", tmp_path / "model", slices=table, cfg=cfg)
    out = tmp_path / "r.zarr", tmp_path / "e.zarr"
    command.restore(
        folder / "raw", tmp_path / "model", *out, slices=table, report=tmp_path,
        cfg=VemRestore(voxel_nm=(40, 10, 10)),
    )  # fmt: skip
    part = np.arange(1, 8)[:, None, None] / 8
    linear = truth[12] * (1 - part) + truth[20] * part
    np.testing.assert_allclose(open_volume(out[0]).read()[13:20], linear, atol=0.51)
    assert json.loads((tmp_path / "metrics.json").read_text())["wide_gaps_by_network"] == 0


def test_another_volume_s_table_is_refused(folder, tmp_path, healthy):
    tifffile.imwrite(tmp_path / "v.tif", healthy)
    with pytest.raises(EmflowError, match="tells of 17 stored slices"):
        read_slices(folder / "check" / "slices.star", open_volume(tmp_path / "v.tif"))
    assert floats(read_table(folder / "check" / "slices.star", "slices"), "emflowShiftYPixel").sum() == 0
