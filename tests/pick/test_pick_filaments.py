"""Filaments at known places: found, measured, cut; what is none is not taken; what is written is read."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from emflow.extract.command import join as join_shards
from emflow.extract.command import run as extract
from emflow.extract.config import ExtractJoin, ExtractRun
from emflow.io.coordinates import read_coordinates
from emflow.io.image import read_image
from emflow.io.imported import HELICAL
from emflow.io.micrographs import Micrographs, load_micrographs
from emflow.io.mrc import write_mrc
from emflow.io.record import read_json
from emflow.io.star import floats, read_star, write_star
from emflow.pick import command
from emflow.pick.config import PickFilaments, PickImport
from emflow.pick.curves import equidistant, join, length_of, smooth
from emflow.pick.filaments import Filament, Found, pick_filaments
from emflow.pick.outputs_filaments import as_result, write_pairs
from emflow.step import EmflowError

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "pick_filaments.py"
SIDE, PIXEL, WIDTH = 640, 3.0, 100.0
OPTICS = {"pixel_size_angstrom": PIXEL}
SETTINGS = PickFilaments(filament_width_angstrom=WIDTH, spacing_angstrom=48.0)


@pytest.fixture(scope="module")
def made() -> ModuleType:
    """The benchmark's micrographs."""
    spec = importlib.util.spec_from_file_location("pick_filaments_benchmark", BENCHMARK)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def axes(made: ModuleType) -> list[np.ndarray]:
    """A straight and a bent one that cross, and a steep one apart."""
    return [
        made.curve((60, 120), 32, 480),
        made.curve((60, 420), -22, 400, 20),
        made.curve((575, 90), 95, 420, -12),
    ]


@pytest.fixture(scope="module")
def image(made: ModuleType, axes: list[np.ndarray]) -> np.ndarray:
    return np.asarray(made.micrograph(made.density(axes, WIDTH / PIXEL, 16, SIDE), 0.5, 1))


@pytest.fixture(scope="module")
def found(image: np.ndarray) -> Found:
    return find(image)


def find(image: np.ndarray, dark: bool = True, **changes: Any) -> Found:
    return pick_filaments(torch.from_numpy(image), PIXEL, dark, SETTINGS.model_copy(update=changes))


def test_filaments_are_found_where_they_are(made: ModuleType, axes: list[np.ndarray], found: Found) -> None:
    figures = made.compare(found, axes, 0.5 * WIDTH / PIXEL)
    assert len(found.filaments) == 3
    assert figures["recall"] > 0.9
    assert figures["precision"] > 0.97
    assert figures["axis_angstrom"] < 6
    assert figures["direction_deg"] < 3
    lengths = sorted(one.length_angstrom for one in found.filaments)
    assert lengths == pytest.approx([1200, 1260, 1440], rel=0.17)


def test_segments_are_equidistant_and_those_near_a_crossing_are_left_out(
    axes: list[np.ndarray], found: Found
) -> None:
    assert found.left_out >= 8
    for one in found.filaments:
        steps = np.diff(one.track_angstrom) / 48
        assert steps == pytest.approx(np.round(steps), abs=1e-6)
        apart = np.linalg.norm(np.diff(one.segments_px, axis=0), axis=1) * PIXEL
        assert apart[np.round(steps) == 1] == pytest.approx(48, abs=0.5)  # chords of bent axes are shorter
        near = [np.linalg.norm(one.segments_px[:, None] - a[None, :, :2], axis=2).min(1) for a in axes]
        assert (np.sort(near, axis=0)[1] * PIXEL > 1.2 * WIDTH).all()


def test_bright_filaments_are_the_same(image: np.ndarray, found: Found) -> None:
    other = find(-image, dark=False)
    assert len(other.filaments) == len(found.filaments)
    for one, two in zip(other.filaments, found.filaments, strict=True):
        np.testing.assert_array_equal(one.segments_px, two.segments_px)


def test_what_is_no_filament_is_not_taken(made: ModuleType) -> None:
    empty = np.zeros((SIDE, SIDE))
    for seed in (1, 2):
        assert find(made.micrograph(empty, 1, seed)).filaments == []
        balls = made.disks(seed, 45, 1.3 * WIDTH / PIXEL, SIDE)
        assert find(made.micrograph(balls, 0.3, seed)).filaments == []
        film = (seed - 0.3) * made.carbon(seed, SIDE)
        assert find(made.micrograph(empty, 1, seed, film=film)).filaments == []


def test_beside_carbon_filaments_are_found_and_on_it_nothing(made: ModuleType) -> None:
    axis = made.curve((110, 600), -88, 520)
    body = made.density([axis], WIDTH / PIXEL, 16, SIDE)
    found = find(made.micrograph(body, 0.6, 3, film=2 * made.carbon(3, SIDE)))
    figures = made.compare(found, [axis], 0.5 * WIDTH / PIXEL)
    assert figures["recall"] > 0.8
    assert figures["precision"] > 0.95


def test_pieces_are_joined_in_their_direction_only() -> None:
    line = np.column_stack([np.arange(0, 60.0), np.full(60, 10.0)])
    on = line + [80, 1]
    turned = np.column_stack([np.full(60, 70.0), np.arange(20, 80.0)])
    assert [round(length_of(c)) for c in join([line, on, turned], 10, 40)] == [139, 59]
    assert len(join([line, on], 10, 15)) == 2
    assert join([], 10, 40) == []


@settings(max_examples=30, deadline=None)
@given(st.floats(0, 6.28), st.floats(-1, 1), st.floats(40, 200), st.floats(3, 20))
def test_places_along_a_curve(direction: float, bend: float, length: float, spacing: float) -> None:
    along = np.linspace(0, 1, 200)
    angle = direction + bend * along
    steps = np.column_stack([np.cos(angle), np.sin(angle)]) * length / 199
    curve = smooth(np.cumsum(steps, axis=0), 10)
    places, track = equidistant(curve, spacing)
    assert np.diff(track) == pytest.approx(spacing)
    assert track[0] == pytest.approx(length_of(curve) - track[-1], abs=1e-6)
    chord = np.linalg.norm(np.diff(places[:, :2], axis=0), axis=1)
    assert chord == pytest.approx(spacing, rel=0.02)
    true = direction + bend * track / length
    turn = np.arctan2(places[:, 3], places[:, 2]) - true
    assert np.abs((turn + np.pi) % (2 * np.pi) - np.pi).max() < 0.03


ENDS = st.tuples(*[st.floats(0, 4000)] * 4).filter(lambda e: abs(e[0] - e[2]) > 1)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.lists(ENDS, max_size=4), min_size=1, max_size=3))
def test_starts_and_ends_are_read_as_they_were_written(
    tmp_path_factory: pytest.TempPathFactory, ends: list[list[tuple[float, ...]]]
) -> None:
    folder = tmp_path_factory.mktemp("pairs")
    names = [f"in/m{row}.mrc" for row in range(len(ends))]
    write_star(folder / "m.star", {"micrographs": pd.DataFrame({"rlnMicrographName": names}, dtype=object)})
    images = load_micrographs(folder / "m.star", SETTINGS.model_copy(update=OPTICS))
    empty = np.zeros(0)
    results = {}
    for row, some in enumerate(ends):
        lines = [np.array(e).reshape(2, 2) for e in some]
        filaments = [Filament(e, 1.0, 7.0, np.zeros((0, 2)), empty, empty, empty) for e in lines]
        results[row] = as_result(Found(filaments, 6.0, 0.02, 0, np.zeros((2, 2), bool)), 30.0)
    assert write_pairs(folder / "out", images, results) == sum(map(len, ends))
    if not any(ends):
        return
    back = read_coordinates(folder / "out" / "manualpick.star").table
    for name, some in zip(names, ends, strict=True):
        part = back[back["rlnMicrographName"] == name]
        xy = np.column_stack([floats(part, "rlnCoordinateX"), floats(part, "rlnCoordinateY")])
        assert xy.reshape(-1, 4) == pytest.approx(np.array(some).reshape(-1, 4), abs=0.006)
        assert part["rlnHelicalTubeID"].tolist() == [str(1 + n // 2) for n in range(2 * len(some))]


def test_the_command_and_extraction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, image: np.ndarray, axes: list[np.ndarray]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_mrc(Path("in/a.mrc"), image, PIXEL)
    write_mrc(Path("in/b.mrc"), np.ascontiguousarray(image.T), PIXEL)
    write_mrc(Path("in/flat.mrc"), np.ones_like(image), PIXEL)
    cfg = SETTINGS.model_copy(update={**OPTICS, "figures": 1})
    command.filaments(Path("in"), Path("out/filaments.star"), cfg=cfg)
    tables = read_star("out/filaments.star")
    assert list(tables["set_aside"]["rlnMicrographName"]) == ["in/flat.mrc"]
    assert "constant" in tables["set_aside"]["emflowReason"].iloc[0]
    metrics = read_json("out/metrics.json")
    assert metrics["filaments"] == len(tables["filaments"]) == 6
    assert metrics["segments"] == len(tables["particles"])
    assert len(list(Path("out/filaments_figures").glob("a_*.png"))) == 1

    segments = tables["particles"]
    here = segments[segments["rlnMicrographName"] == "in/a.mrc"]
    straight = np.hypot(floats(here, "rlnCoordinateX") - 60, floats(here, "rlnCoordinateY") - 120) < 120
    psi = floats(here, "rlnAnglePsiPrior")[straight] % 180
    assert len(psi) > 3
    assert np.median(psi) == pytest.approx(180 - 32, abs=3)  # down to the right is a negative angle
    assert set(segments["rlnAngleTiltPrior"]) == {"90"}
    assert set(segments["rlnAnglePsiFlipRatio"]) == {"0.5"}

    pairs = read_coordinates(Path("out/filaments_startend/manualpick.star")).table
    assert len(pairs) == 2 * metrics["pairs"]
    command.import_(Path("in"), Path("out/filaments.star"), Path("imported.star"), cfg=PickImport(**OPTICS))
    imported = read_star("imported.star")["particles"]
    for name in HELICAL:
        assert imported[name].tolist() == segments[name].tolist()
    first = Path("out/filaments.star").read_bytes()
    command.filaments(Path("in"), Path("again/filaments.star"), cfg=cfg)
    assert Path("again/filaments.star").read_bytes() == first

    images = load_micrographs("in", cfg)
    write_star("ctf.star", with_ctf(images))
    boxes = ExtractRun(box_size_px=48, diameter_angstrom=100.0)
    extract(Path("ctf.star"), Path("ctf.star"), Path("out/filaments.star"), Path("cut.star"), cfg=boxes)
    join_shards(Path("cut.star"), Path("particles.star"), cfg=ExtractJoin())
    cut = read_star("particles.star")["particles"]
    assert len(cut) > 0.8 * len(segments)
    kept = cut.merge(segments, on="emflowParticleId", suffixes=("", "_picked"))
    assert len(kept) == len(cut)
    for name in HELICAL:
        assert (kept[name] == kept[f"{name}_picked"]).all()
    tubes = cut.groupby(["rlnMicrographName", "rlnHelicalTubeID"])["rlnRandomSubset"].nunique()
    assert (tubes == 1).all()
    assert set(cut["rlnRandomSubset"]) == {"1", "2"}


def with_ctf(images: Micrographs) -> dict[str, Any]:
    table = images.table.assign(rlnDefocusU="15000", rlnDefocusV="15000", rlnDefocusAngle="0")
    return {"optics": images.optics, "micrographs": table}


def test_real_single_particles_are_no_filaments(real_data: Path) -> None:
    for pattern, pixel, width in (("apoferritin/*.tif", 1.5, 120.0), ("ribosome/*.tif", 5.36, 250.0)):
        path = sorted(real_data.glob(pattern))[0]
        cfg = PickFilaments(filament_width_angstrom=width)
        assert pick_filaments(torch.from_numpy(read_image(path)), pixel, True, cfg).filaments == []


def test_errors_say_what_is_missing(tmp_path: Path, image: np.ndarray) -> None:
    with pytest.raises(EmflowError, match="--filament-width-angstrom"):
        command.filaments(tmp_path, tmp_path / "out.star")
    with pytest.raises(EmflowError, match=r"spans 3\.3 pixels"):
        find(image, filament_width_angstrom=10.0)
    with pytest.raises(EmflowError, match="shortest filament"):
        find(image, min_length_angstrom=5000.0)
