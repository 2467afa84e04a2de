"""Particle tables: planted faults are found and named, clean tables raise no alarm, odd ones no error."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from emflow.em.poses import euler_to_matrix, matrix_to_euler, quaternion_to_matrix
from emflow.em.symmetry import to_asymmetric_unit
from emflow.figure import png_bytes
from emflow.step import Judgement
from emflow.validate.census import Census, HalfSets, count_particles, split_of, weigh
from emflow.validate.columns import centres_angstrom, numbers, of_optics
from emflow.validate.doubles import find_doubles
from emflow.validate.figures_census import draw_particles
from emflow.validate.inputs import read_particles
from emflow.validate.judge_census import judge_census, judge_halves, judge_poses
from emflow.validate.poses import look_at_poses, views_of

PIXEL, DIAMETER = 1.5, 150.0
OPTICS = pd.DataFrame(
    {
        "rlnOpticsGroup": ["1", "2"],
        "rlnMicrographPixelSize": [str(PIXEL)] * 2,
        "rlnImagePixelSize": [str(2 * PIXEL)] * 2,
        "rlnVoltage": ["300.0"] * 2,
        "rlnSphericalAberration": ["2.7"] * 2,
        "rlnAmplitudeContrast": ["0.1"] * 2,
    },
    dtype=object,
)


def text(columns: dict[str, np.ndarray | list[str]]) -> pd.DataFrame:
    return pd.DataFrame({name: [str(v) for v in values] for name, values in columns.items()}, dtype=object)


def clean(seed: int, micrographs: int = 20, each: int = 60, tilt_deg: float = 0.0) -> pd.DataFrame:
    """A sound table: picks of a micrograph on a jittered lattice, defocus on a plane, one half a micrograph."""
    rng = np.random.default_rng(seed)
    n = micrographs * each
    m = np.repeat(np.arange(micrographs), each)
    cell = np.concatenate([rng.permutation(100)[:each] for _ in range(micrographs)])
    x, y = (350 * part + 175 + rng.uniform(-120, 120, n) for part in (cell % 10, cell // 10))
    slope = np.tan(np.radians(tilt_deg)) * PIXEL * (x - 1750)
    defocus = rng.uniform(8000, 25000, micrographs)[m] + slope + rng.normal(0, 150, n)
    astigmatism = rng.uniform(0, 600, micrographs)[m]
    return text(
        {
            "rlnMicrographName": [f"m{k:03d}.mrc" for k in m],
            "rlnImageName": [f"{k + 1:06d}@p.mrcs" for k in range(n)],
            "rlnCoordinateX": x.round(2),
            "rlnCoordinateY": y.round(2),
            "rlnOpticsGroup": m % 2 + 1,
            "rlnRandomSubset": m % 2 + 1,
            "rlnAngleRot": rng.uniform(-180, 180, n),
            "rlnAngleTilt": np.degrees(np.arccos(rng.uniform(-1, 1, n))),
            "rlnAnglePsi": rng.uniform(-180, 180, n),
            "rlnOriginXAngst": rng.normal(0, 4, n),
            "rlnOriginYAngst": rng.normal(0, 4, n),
            "rlnDefocusU": defocus + astigmatism,
            "rlnDefocusV": defocus - astigmatism,
            "rlnNormCorrection": rng.normal(0.9, 0.05, n),
        }
    )


def judged(table: pd.DataFrame, optics: pd.DataFrame | None = OPTICS) -> tuple[Census, dict[str, Judgement]]:
    census = count_particles(table, optics, DIAMETER, 0.2 * DIAMETER)
    rows = judge_census(census, None)
    words = {"half-sets": "halves", "twice": "doubles", "poses": "poses", "CTF": "defoci", "carry": "weights"}
    return census, {next(words[w] for w in words if w in row.question): row for row in rows}


def answers(table: pd.DataFrame, optics: pd.DataFrame | None = OPTICS) -> dict[str, str]:
    return {name: row.verdict for name, row in judged(table, optics)[1].items()}


def change(table: pd.DataFrame, rows: np.ndarray, **columns: object) -> pd.DataFrame:
    """A copy with other values in some rows, by column name."""
    table = table.copy()
    for name, values in columns.items():
        table.loc[rows, name] = [str(v) for v in np.broadcast_to(np.asarray(values), len(rows))]
    return table


def test_half_sets_are_counted_by_micrograph() -> None:
    table = pd.DataFrame({"rlnMicrographName": ["a", "a", "b", "b"], "rlnRandomSubset": ["1", "1", "2", "1"]})
    assert split_of(table) == HalfSets(3, 1, 1)
    assert split_of(table.drop(columns="rlnRandomSubset")) is None
    assert judge_halves(HalfSets(50, 50, 0)).verdict == "pass"
    assert judge_halves(HalfSets(90, 10, 0)).verdict == "warn"
    assert judge_halves(None).verdict == "unknown"


@pytest.mark.parametrize("seed", range(10))
def test_clean_tables_raise_no_alarm(seed: int) -> None:
    table = clean(seed, each=60 if seed % 2 else 25, tilt_deg=40.0 if seed > 6 else 0.0)
    census, rows = judged(table)
    assert {name: row.verdict for name, row in rows.items()} == dict.fromkeys(rows, "pass")
    assert len(census.flagged(table)) == 0
    metrics = census.metrics()
    assert metrics["particle_copies"] == 0
    assert 0.98 * len(table) < metrics["effective_particles"] <= len(table)  # type: ignore[operator]
    assert 4 < metrics["median_shift_angstrom"] < 6  # type: ignore[operator]


def test_the_particle_sits_at_the_coordinate_minus_the_origin() -> None:
    table = text(
        {"rlnCoordinateX": [100], "rlnCoordinateY": [50], "rlnOriginXAngst": [3], "rlnOriginYAngst": [-6]}
    )
    np.testing.assert_allclose(centres_angstrom(table, OPTICS), [[147, 81]])  # type: ignore[arg-type]
    old = text(
        {
            "rlnCoordinateX": [100],
            "rlnCoordinateY": [50],
            "rlnOriginX": [2],
            "rlnOriginY": [-4],
            "rlnDetectorPixelSize": [5],
            "rlnMagnification": [50000],
        }
    )
    np.testing.assert_allclose(centres_angstrom(old, None), [[98, 54]])  # type: ignore[arg-type]
    assert centres_angstrom(table.drop(columns="rlnCoordinateX"), OPTICS) is None
    assert centres_angstrom(table, None) is None


def picked_twice(table: pd.DataFrame, rows: np.ndarray) -> pd.DataFrame:
    """The table with some particles picked again 20 pixels off; the refinement moves them back to their place."""
    copies = table.iloc[rows].copy()
    copies["rlnImageName"] = [f"{k + 1:06d}@q.mrcs" for k in range(len(rows))]
    for axis, step in (("X", 16.0), ("Y", -12.0)):
        copies[f"rlnCoordinate{axis}"] = [str(float(v) + step) for v in copies[f"rlnCoordinate{axis}"]]
        moved = copies[f"rlnOrigin{axis}Angst"].astype(float) + step * PIXEL + 0.5
        copies[f"rlnOrigin{axis}Angst"] = [str(v) for v in moved]
    return pd.concat([table, copies], ignore_index=True)


def test_particles_picked_twice_are_found_and_across_the_halves_they_fail() -> None:
    table = picked_twice(clean(1), np.arange(0, 1200, 30))
    census, rows = judged(table)
    assert rows["doubles"].verdict == "warn"
    assert census.doubles is not None
    assert census.doubles.copies == pytest.approx(40, abs=1)
    assert census.doubles.across_halves == 0
    listed = census.flagged(table)
    assert set(listed["emflowReason"]) == {"close to another"}
    assert sorted(int(r) - 1 for r in listed["emflowRow"]) == sorted(
        [*range(0, 1200, 30), *range(1200, 1240)]
    )
    other = {"1": "2", "2": "1"}
    table.loc[1200:, "rlnRandomSubset"] = [other[v] for v in table.loc[1200:, "rlnRandomSubset"]]
    census, rows = judged(table)
    assert census.doubles is not None
    assert census.doubles.across_halves == 80
    assert rows["doubles"].verdict == "fail"
    assert "other half" in rows["doubles"].evidence


def test_the_same_image_twice_is_found_without_any_distance() -> None:
    table = clean(2)
    census, rows = judged(pd.concat([table, table.iloc[:30]], ignore_index=True))
    assert rows["doubles"].verdict == "warn"
    assert census.doubles is not None
    assert census.doubles.copies == 30


@pytest.mark.parametrize("seed", range(10))
def test_overlap_by_chance_is_not_called_a_double(seed: int) -> None:
    """Particles anywhere, as in thick ice: many lie closer in projection than a fifth of their diameter."""
    rng = np.random.default_rng(seed)
    table = clean(seed)
    table["rlnCoordinateX"], table["rlnCoordinateY"] = (
        [f"{v:.2f}" for v in rng.uniform(0, 1200, len(table))] for _ in range(2)
    )
    found = find_doubles(table, OPTICS, 30.0)
    assert found is not None
    assert found.by_chance > 20
    assert found.copies <= 2
    assert answers(table)["doubles"] == "pass"


def test_poses_that_are_no_search_result_are_found() -> None:
    table = clean(3)
    n = len(table)
    census, rows = judged(change(table, np.arange(12), rlnAngleTilt="nan"))
    assert rows["poses"].verdict == "warn"
    assert set(census.flagged(table)["emflowReason"]) == {"pose is no number"}
    assert (
        answers(change(table, np.arange(n), rlnAngleRot=0, rlnAngleTilt=0, rlnAnglePsi=0))["poses"]
        == "unknown"
    )
    assert views_of(change(table, np.arange(n), rlnAngleRot=0, rlnAngleTilt=0), "C1") is None
    assert answers(change(table, np.arange(60), rlnOriginXAngst=90))["poses"] == "warn"
    assert (
        answers(change(table, np.arange(n), rlnAnglePsi=np.random.default_rng(1).normal(0, 40, n)))["poses"]
        == "warn"
    )


def test_the_choice_of_a_symmetry_mate_is_not_called_a_bias() -> None:
    """Octahedral poses, written as the mate nearest to one side view: psi is uneven without any fault."""
    random = torch.randn(1200, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    rotations = quaternion_to_matrix(random / random.norm(dim=1, keepdim=True))
    side = euler_to_matrix(torch.tensor([[0.0, 90.0, 50.0]]).double())
    angles = matrix_to_euler(side @ to_asymmetric_unit(rotations, "O")).numpy().T
    names = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
    table = change(clean(3), np.arange(1200), **dict(zip(names, angles, strict=True)))
    assert judge_poses(look_at_poses(table, OPTICS, DIAMETER, "O")).verdict == "pass"
    told = judge_poses(look_at_poses(table, OPTICS, DIAMETER, "C1"))
    assert told.verdict == "warn"
    assert "--symmetry" in told.action


@pytest.mark.parametrize("square", [False, True])
def test_shifts_at_the_edge_of_the_search_are_found(square: bool) -> None:
    rng = np.random.default_rng(8)
    table = clean(4)
    wide = rng.normal(0, 9, (len(table), 2))
    if square:
        wide = wide.clip(-12, 12)
    else:
        length = np.linalg.norm(wide, axis=1, keepdims=True)
        wide = wide * np.minimum(1, 12 / length)
    row = judged(
        change(table, np.arange(len(table)), rlnOriginXAngst=wide[:, 0], rlnOriginYAngst=wide[:, 1])
    )[1]
    assert row["poses"].verdict == "warn"
    assert "pile up" in row["poses"].evidence
    even = rng.uniform(-12, 12, (len(table), 2))  # a broad distribution without a pile
    table = change(table, np.arange(len(table)), rlnOriginXAngst=even[:, 0], rlnOriginYAngst=even[:, 1])
    assert answers(table)["poses"] == "pass"


def test_ctf_values_that_cannot_be_are_found() -> None:
    table = clean(5, tilt_deg=35.0)
    n = len(table)
    few = np.arange(0, n, 50)
    wrong = change(table, few, rlnDefocusU=4e4, rlnDefocusV=4e4)
    census, rows = judged(wrong)
    assert rows["defoci"].verdict == "warn"
    listed = census.flagged(wrong)
    assert sorted(int(r) - 1 for r in listed["emflowRow"]) == few.tolist()
    assert set(listed["emflowReason"]) == {"defocus off its micrograph's plane"}
    micrometre = [table[f"rlnDefocus{axis}"].astype(float) / 1e4 for axis in "UV"]
    row = judged(change(table, np.arange(n), rlnDefocusU=micrometre[0], rlnDefocusV=micrometre[1]))[1][
        "defoci"
    ]
    assert row.verdict == "fail"
    assert "ångström" in row.action
    assert answers(change(table, np.arange(30), rlnDefocusU=30000, rlnDefocusV=20000))["defoci"] == "warn"
    row = judged(table, OPTICS.assign(rlnVoltage=["300.0", "300000"]))[1]["defoci"]
    assert row.verdict == "fail"
    assert "rlnVoltage is 300000 kV" in row.evidence


def test_effective_number_is_kishs() -> None:
    table = text({"rlnNormCorrection": [1.0] * 50 + [2.0] * 50})
    found = weigh(table, 0)
    assert found.effective == pytest.approx((50 + 12.5) ** 2 / (50 + 50 / 16))
    assert found.columns == ("rlnNormCorrection",)
    assert weigh(table, 50).effective == pytest.approx(found.effective / 2)
    assert weigh(text({"rlnImageName": ["a"] * 7}), 0).effective == 7
    few = change(clean(6), np.arange(1100), rlnNormCorrection=6.0)
    assert answers(few)["weights"] == "warn"


def test_a_column_may_belong_to_the_particle_or_to_its_optics_group() -> None:
    table = text({"rlnOpticsGroup": ["2", "1", "7"], "rlnVoltage": ["200", "None", "300"]})
    np.testing.assert_array_equal(of_optics(table, OPTICS, "rlnVoltage"), [200, np.nan, 300])  # type: ignore[arg-type]
    mixed = OPTICS.assign(rlnMicrographPixelSize=["1.0", "2.0"])
    np.testing.assert_array_equal(of_optics(table, mixed, "rlnMicrographPixelSize"), [2, 1, np.nan])  # type: ignore[arg-type]
    assert of_optics(table, None, "rlnAmplitudeContrast") is None
    assert numbers(table, "rlnAngleRot") is None


VALUES = st.one_of(
    st.sampled_from(
        ["0", "1", "2", "None", "nan", "inf", "-inf", "1e300", "-1e300", "", "abc", "1.5", "0012"]
    ),
    st.floats(-1e5, 1e5, allow_subnormal=False).map(repr),
)
NAMES = [*clean(0, 1, 2).columns, "rlnOriginX", "rlnOriginY", "rlnDetectorPixelSize", "rlnMagnification",
         "rlnImagePixelSize", "rlnCtfScalefactor", "rlnVoltage", "emflowMicrographId"]  # fmt: skip


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.data())
def test_odd_tables_raise_nothing(data: st.DataObject) -> None:
    names = data.draw(st.lists(st.sampled_from(NAMES), unique=True, min_size=1, max_size=len(NAMES)))
    n = data.draw(st.sampled_from([1, 2, 30]))
    # a few values for each column, repeated: ties and constant columns are the rule
    table = pd.DataFrame(
        {name: [data.draw(VALUES) for _ in range(3)] * 10 for name in names}, dtype=object
    ).iloc[:n]
    optics = data.draw(
        st.sampled_from([None, OPTICS, OPTICS.drop(columns="rlnOpticsGroup"), OPTICS.iloc[:0]])
    )
    census, rows = judged(table, optics)
    assert {row.verdict for row in rows.values()} <= {"pass", "warn", "fail", "unknown"}
    json.dumps(census.metrics(), allow_nan=False)
    assert len(census.flagged(table)) <= n
    views_of(table, "C2")


def test_a_figure_is_drawn_of_a_full_and_of_an_empty_table() -> None:
    full = png_bytes(draw_particles(clean(1), OPTICS))
    assert full == png_bytes(draw_particles(clean(1), OPTICS))
    assert full != png_bytes(draw_particles(text({"rlnImageName": ["1@a.mrcs"]}), None))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "relion31.6opticsgroups.star",
            {"halves": "pass", "doubles": "pass", "poses": "pass", "defoci": "pass"},
        ),
        # the first two particles share a coordinate; image 1 and 4 of the second file stand there twice
        ("relion31.star", {"halves": "warn", "doubles": "warn", "defoci": "pass"}),
        ("relion5.star", {"halves": "warn", "doubles": "warn", "defoci": "pass"}),
    ],
)
def test_real_tables(real_data: Path, name: str, expected: dict[str, str]) -> None:
    table, optics = read_particles(real_data / "metadata" / name)
    assert table is not None
    found = answers(table, optics)
    assert {key: found[key] for key in expected} == expected
