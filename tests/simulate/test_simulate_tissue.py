"""Volumes of tissue with known truth, and what goes wrong when they are measured."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import label

from emflow.io.volume import open_volume
from emflow.simulate.command import volume
from emflow.simulate.config import SimulateVolume
from emflow.step import EmflowError

SIZE = (49, 64, 72)
CLEAN = dict.fromkeys(
    ("staining_variation", "charging", "curtains", "jitter_px", "slice_brightness", "electrons_per_px"), 0.0
)


def _made(out: Path, **settings) -> tuple[np.ndarray, np.ndarray, dict]:
    """Measured, truth, facts."""
    volume(out, cfg=SimulateVolume(size_px=SIZE, file_format="tiff", cell_diameter_nm=200, **settings))
    facts = json.loads((out / "truth" / "facts.json").read_text())
    measured, truth = (open_volume(out / name).read() for name in ("measured.tif", "truth/image.tif"))
    return measured.astype(float), truth.astype(float), facts


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """A volume that nothing is done to but the thinning."""
    out = tmp_path_factory.mktemp("clean")
    return out, *_made(out, z_factor=4, **CLEAN)


def test_without_faults_the_slices_are_the_truth(clean):
    _, measured, truth, facts = clean
    assert facts["position_px"] == list(range(0, 49, 4))
    np.testing.assert_array_equal(measured, truth[::4])


def test_labels_and_membranes_are_the_image_s(clean):
    out, _, truth, facts = clean
    labels = open_volume(out / "truth/labels.tif").read()
    membranes = open_volume(out / "truth/membranes.tif").read()
    assert set(np.unique(membranes)) == {0, 1}
    np.testing.assert_array_equal(labels == 0, membranes == 1)
    assert 0.05 < membranes.mean() < 0.6
    assert truth[membranes == 1].mean() < truth[membranes == 0].mean() - 25, "membranes are dark"
    assert labels.max() == facts["cells"] > 5
    # no voxel of a cell touches one of another: between them is membrane
    for axis in range(3):
        a, b = np.moveaxis(labels, axis, 0)[:-1], np.moveaxis(labels, axis, 0)[1:]
        assert not ((a != b) & (a > 0) & (b > 0)).any()
    # cells are bodies, not dust
    sizes = np.bincount(labels.ravel())[1:]
    largest = [np.bincount(label(labels == n)[0].ravel())[1:].max() for n in sizes.argsort()[-3:] + 1]
    assert sum(largest) > 0.9 * np.sort(sizes)[-3:].sum()


def test_the_tissue_is_isotropic(clean):
    _, _, truth, _ = clean
    changes = [np.abs(np.diff(truth[:, :49, :49], axis=axis)).mean() for axis in range(3)]
    assert max(changes) < 1.5 * min(changes)


def test_same_seed_same_bytes_and_another_tissue_for_another(clean, tmp_path):
    out = clean[0]
    _made(tmp_path / "again", z_factor=4, **CLEAN)
    other = _made(tmp_path / "other", z_factor=4, seed=1, **CLEAN)[1]
    for name in ("measured.tif", "truth/image.tif", "truth/labels.tif", "truth/facts.json"):
        a, b = (
            hashlib.sha256((folder / name).read_bytes()).hexdigest() for folder in (out, tmp_path / "again")
        )
        assert a == b
    assert np.corrcoef(other.ravel(), clean[2].ravel())[0, 1] < 0.2


def test_each_fault_is_its_own_and_is_told(clean, tmp_path):
    """The tissue stays the same whatever is done to the slices."""
    truth = clean[2]
    moved, other, facts = _made(tmp_path / "jitter", z_factor=4, **(CLEAN | {"jitter_px": 2.0}))
    np.testing.assert_array_equal(other, truth)
    for number in (3, 7):
        dy, dx = facts["shift_px"][number]
        assert (dy, dx) != (0, 0)
        spectra = [np.fft.fft2(image - image.mean()) for image in (moved[number], truth[4 * number])]
        peak = np.fft.ifft2(spectra[0] * spectra[1].conj()).real
        found = np.array(np.unravel_index(peak.argmax(), peak.shape))
        found -= np.where(found > np.array(peak.shape) // 2, peak.shape, 0)
        assert np.abs(found - (dy, dx)).max() <= 1, "shifts are told with their sign"
    noisy, _, _ = _made(tmp_path / "dose", z_factor=4, **(CLEAN | {"electrons_per_px": 400.0}))
    errors = noisy - truth[::4]
    assert errors[truth[::4] > 150].std() == pytest.approx(200 / 20 * np.sqrt(170 / 200), rel=0.1)
    assert errors[truth[::4] < 100].std() < 0.85 * errors[truth[::4] > 150].std(), (
        "fewer electrons scatter less"
    )
    streaked, _, _ = _made(tmp_path / "curtains", z_factor=4, **(CLEAN | {"curtains": 0.1}))
    streaks = streaked - truth[::4]
    assert streaks.mean(axis=1).std() > 5 * streaks.mean(axis=2).std(), "curtains run along y"
    dimmed, _, facts = _made(tmp_path / "bright", z_factor=4, **(CLEAN | {"slice_brightness": 0.1}))
    slopes = [np.polyfit(truth[4 * n].ravel(), dimmed[n].ravel(), 1)[0] for n in range(len(dimmed))]
    np.testing.assert_allclose(slopes, facts["gain"], atol=0.02)


def test_lost_and_damaged_slices_are_listed(clean, tmp_path):
    spoilt, _, facts = _made(
        tmp_path / "v", z_factor=4, missing_slices=2, damaged_slices=3, **CLEAN
    )  # fmt: skip
    bad = set(facts["missing"]) | {item["slice"] for item in facts["damaged"]}
    assert len(bad) == 5
    assert not bad & {0, len(spoilt) - 1}
    assert not spoilt[facts["missing"]].any()
    for number in range(len(spoilt)):
        differs = np.abs(spoilt[number] - clean[2][4 * number]).mean() > 1
        assert differs == (number in bad)


def test_fractional_factors_and_thick_sections(clean, tmp_path):
    truth = clean[2]
    measured, _, facts = _made(tmp_path / "f", z_factor=2.5, **CLEAN)
    assert facts["position_px"] == [2.5 * n for n in range(20)]
    np.testing.assert_allclose(measured[::2], truth[::5], atol=2)
    between = (truth[2::5] + truth[3::5])[: len(measured[1::2])] / 2
    assert np.corrcoef(measured[1::2].ravel(), between.ravel())[0, 1] > 0.98
    thick, _, _ = _made(tmp_path / "t", z_factor=5, section_thickness=1, **CLEAN)
    mean = np.stack([truth[n - 2 : n + 3].mean(0) for n in range(5, 45, 5)])
    np.testing.assert_allclose(thick[1:9], mean, atol=1.5)


def test_files_tell_their_voxels(tmp_path):
    volume(tmp_path, cfg=SimulateVolume(size_px=(33, 40, 40), z_factor=8, nucleus_radius_nm=150))
    assert open_volume(tmp_path / "measured.zarr").voxel_nm == pytest.approx((64, 8, 8))
    assert open_volume(tmp_path / "truth/labels.zarr").voxel_nm == pytest.approx((8, 8, 8))
    assert open_volume(tmp_path / "measured.zarr").shape == (5, 40, 40)
    with pytest.raises(EmflowError, match="size_px"):
        volume(tmp_path / "small", cfg=SimulateVolume(size_px=(20, 40, 40), z_factor=10))


def test_tiff_tells_its_voxels_too(clean):
    assert open_volume(clean[0] / "measured.tif").voxel_nm == pytest.approx((32, 8, 8))
