"""Results are compared by kind: what is within the stated tolerance, what is beyond it."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imsave

from emflow.io.mrc import write_mrc
from emflow.io.star import write_star
from emflow.project.compare import differences


@pytest.fixture
def two(tmp_path):
    """Write two versions of a file; return whether all that differs is within tolerance, and the words."""

    def compare(name, write, before, now, **more):
        for folder, content in (("old", before), ("new", now)):
            (tmp_path / folder).mkdir(exist_ok=True)
            write(tmp_path / folder / name, content)
        found = differences(tmp_path / "old" / name, tmp_path / "new" / name, **more)
        assert found, "bytes differ, so something is said"
        return all(item.within for item in found), " | ".join(item.what for item in found)

    return compare


def _star(path, columns):
    write_star(path, {"particles": pd.DataFrame(columns)})


def _particles(count=40, **changed):
    rng = np.random.default_rng(0)
    columns = {
        "emflowParticleId": [f"p{row}" for row in range(count)],
        "rlnImageName": [f"{row + 1:06d}@old.mrcs" for row in range(count)],
        "rlnAngleRot": rng.uniform(-180, 180, count),
        "rlnAngleTilt": rng.uniform(20, 160, count),
        "rlnAnglePsi": rng.uniform(-180, 180, count),
        "rlnDefocusU": rng.uniform(1e4, 2e4, count),
        "rlnMicrographName": [f"/a/m{row % 4}.mrc" for row in range(count)],
    }
    return columns | changed


def test_rows_are_matched_by_identity_whatever_their_order(two):
    before = _particles()
    now = {name: list(reversed(list(values))) for name, values in before.items()}
    now["rlnImageName"] = before["rlnImageName"]
    now["rlnMicrographName"] = [name.replace("/a/", "/elsewhere/") for name in now["rlnMicrographName"]]
    now["rlnDefocusU"] = [value + 0.5 for value in now["rlnDefocusU"]]
    within, said = two("t.star", _star, before, now)
    assert within
    assert "largest difference 0.5" in said


def test_turned_particles_other_defoci_and_lost_rows_are_beyond(two):
    before = _particles()
    turned = _particles(rlnAnglePsi=before["rlnAnglePsi"] + 5.0)
    within, said = two("t.star", _star, before, turned)
    assert not within
    assert "orientation: 0.0% of rows within 2" in said
    assert two("t.star", _star, before, _particles(rlnAnglePsi=before["rlnAnglePsi"] + 360.0 + 0.1))[0]
    assert not two("t.star", _star, before, _particles(rlnDefocusU=before["rlnDefocusU"] + 2000))[0]
    lost = {name: list(values)[:30] for name, values in before.items()}
    within, said = two("t.star", _star, before, lost)
    assert not within
    assert "40 → 30 rows, 30 in both" in said
    assert not two("t.star", _star, before, {**before, "rlnNew": ["1"] * 40})[0]


def test_a_few_rows_at_a_threshold_are_within(two):
    before = _particles()
    lost = {name: list(values)[:39] for name, values in before.items()}
    assert two("t.star", _star, before, lost)[0]


def test_maps_are_compared_up_to_the_resolution(two):
    rng = np.random.default_rng(1)
    side = 32
    radius = np.sqrt(sum(axis**2 for axis in np.meshgrid(*[np.fft.fftfreq(side) * side] * 3, indexing="ij")))
    coarse = np.fft.ifftn(np.fft.fftn(rng.normal(size=(side,) * 3)) * (radius < 5)).real.astype(np.float32)

    def fine(seed):
        noise = np.fft.fftn(np.random.default_rng(seed).normal(size=(side,) * 3))
        return np.fft.ifftn(noise * (radius > 6)).real.astype(np.float32)

    def write(path, data):
        write_mrc(path, data, 2.0)

    assert two("m.mrc", write, coarse + fine(2), coarse + fine(3), finest_angstrom=13.0)[0]
    within, said = two("m.mrc", write, coarse + fine(2), coarse + fine(3), finest_angstrom=4.0)
    assert not within
    assert "FSC to 8 Å" in said, "half of Nyquist at the finest"
    assert not two("m.mrc", write, coarse, coarse[::-1].copy(), finest_angstrom=13.0)[0]
    assert not two("m.mrc", write, coarse, coarse[:16, :16, :16].copy())[0]


def test_stacks_are_compared_pixel_by_pixel(two):
    images = np.random.default_rng(4).normal(size=(70, 8, 8)).astype(np.float32)

    def write(path, data):
        write_mrc(path, data, 1.0)

    nearly = images + np.float32(1e-4) * images[::-1]
    assert two("s.mrcs", write, images, nearly)[0]
    other = images.copy()
    other[66:] *= -1
    assert not two("s.mrcs", write, images, other)[0]


def test_figures_of_metrics_may_move_a_little_and_verdicts_not_at_all(two):
    def write(path, content):
        path.write_text(json.dumps(content))

    before = {
        "resolution_angstrom": 3.00,
        "components": 2,
        "row": [{"verdict": "pass", "evidence": "3.00 Å"}],
    }
    assert two("m.json", write, before, {**before, "resolution_angstrom": 3.05})[0]
    assert two("m.json", write, before, {**before, "row": [{"verdict": "pass", "evidence": "3.05 Å"}]})[0]
    assert not two("m.json", write, before, {**before, "resolution_angstrom": 3.4})[0]
    assert not two("m.json", write, before, {**before, "row": [{"verdict": "warn", "evidence": "3.00 Å"}]})[0]
    assert not two("m.json", write, before, {**before, "components": None})[0]
    assert not two("m.json", write, before, {"components": 2})[0]


def test_figures_and_other_text(two):
    image = np.zeros((20, 20, 3))
    dot = image.copy()
    dot[3, 3] = 1.0
    assert two("f.png", imsave, image, dot)[0]
    assert not two("f.png", imsave, image, 1.0 - image)[0]

    def write(path, text):
        path.write_text(text)

    assert two("f.xml", write, "<fsc><x>0.5</x></fsc>", "<fsc><x>0.51</x></fsc>")[0]
    assert not two("f.xml", write, "<fsc><x>0.5</x></fsc>", "<fsc><y>0.5</y></fsc>")[0]


def test_a_damaged_file_is_a_difference_not_a_crash(two):
    def write(path, content):
        path.write_bytes(content)

    within, said = two("t.star", write, b"data_\n_a 1\n", b"\0\0")
    assert not within
    assert "cannot be compared" in said
