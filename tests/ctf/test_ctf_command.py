"""The CTF command: tables in and out, bad micrographs set aside, nothing computed twice."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from emflow.ctf import command
from emflow.ctf.config import CtfFit, CtfImport
from emflow.io.mrc import write_mrc
from emflow.io.star import floats, read_star, write_star
from emflow.step import EmflowError

CFG = CtfFit(pixel_size_angstrom=2.0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    images = tmp_path / "images"
    images.mkdir()
    for name in "ab":
        write_mrc(images / f"{name}.mrc", rng.normal(size=(420, 400)).astype(np.float32), 1.0)
    (images / "broken.mrc").write_bytes((images / "a.mrc").read_bytes()[:2000])
    return images


def test_columns_profiles_and_set_aside(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "ctf" / "shard_00001.star"
    command.fit(folder, out, cfg=CFG)
    tables = read_star(out)
    table = tables["micrographs"]
    assert [Path(n).name for n in table["rlnMicrographName"]] == ["a.mrc", "b.mrc"]
    for column in command.COLUMNS:
        assert np.isfinite(floats(table, column)).all()
    assert list(table["emflowCtfReliable"]) == ["0", "0"]  # pure noise
    assert list(floats(tables["optics"], "rlnMicrographPixelSize")) == [2.0]
    (aside,) = tables["set_aside"].to_dict("records")
    assert aside["rlnMicrographName"].endswith("broken.mrc")
    assert "truncated" in aside["emflowReason"]
    profiles = read_star(out.with_name("shard_00001.profiles.star"))["profiles"]
    assert list(profiles.columns) == [
        "emflowMicrographId",
        "emflowFrequency",
        "emflowSpectrum",
        "emflowCtfFit",
        "emflowCtfCorrelation",
    ]
    counts = profiles["emflowMicrographId"].value_counts()
    assert set(counts.index) == set(table["emflowMicrographId"])
    assert counts.max() <= 128


def test_what_was_done_is_not_done_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "ctf.star"
    command.fit(folder, out, cfg=CFG)
    first = out.read_bytes(), out.with_name("ctf.profiles.star").read_bytes()
    calls = []
    real = command.fit_ctf
    monkeypatch.setattr(command, "fit_ctf", lambda *given: calls.append(1) or real(*given))
    out.unlink()
    command.fit(folder, out, cfg=CFG)
    assert not calls
    assert first == (out.read_bytes(), out.with_name("ctf.profiles.star").read_bytes())
    write_mrc(folder / "c.mrc", np.random.default_rng(1).normal(size=(420, 400)).astype(np.float32), 1.0)
    command.fit(folder, out, cfg=CFG)
    assert len(calls) == 1  # the new one only
    command.fit(folder, out, cfg=CFG.model_copy(update={"defocus_max_um": 5.0}))
    assert len(calls) == 4  # other settings: all anew


def test_columns_of_the_input_are_kept_and_ours_replace_old_ones(folder: Path, tmp_path: Path) -> None:
    table = pd.DataFrame(
        {
            "rlnMicrographName": [str(folder / "b.mrc")],
            "rlnOpticsGroup": ["1"],
            "emflowMicrographId": ["0012"],
            "rlnDefocusU": ["1"],
            "emflowDigest": ["1e-9"],
        }
    )
    optics = pd.DataFrame(
        {
            "rlnOpticsGroup": ["1"],
            "rlnMicrographPixelSize": ["1.5"],
            "rlnVoltage": ["200"],
            "rlnSphericalAberration": ["0"],
            "rlnAmplitudeContrast": ["0.1"],
        }
    )
    source = tmp_path / "in.star"
    write_star(source, {"optics": optics, "micrographs": table})
    command.fit(source, tmp_path / "out.star", cfg=CFG)
    out = read_star(tmp_path / "out.star")
    row = out["micrographs"].iloc[0]
    assert (row["emflowMicrographId"], row["emflowDigest"]) == ("0012", "1e-9")
    assert float(row["rlnDefocusU"]) > 1000
    assert list(out["micrographs"].columns).count("rlnDefocusU") == 1
    assert out["optics"].to_dict("records") == optics.to_dict("records")


def test_no_micrographs_at_all_flow_through(tmp_path: Path) -> None:
    columns = ["rlnMicrographName", "rlnOpticsGroup", "emflowMicrographId"]
    empty = pd.DataFrame(columns=pd.Index(columns), dtype=object)
    write_star(tmp_path / "in.star", {"micrographs": empty})
    command.fit(tmp_path / "in.star", tmp_path / "out.star", cfg=CFG)
    out = read_star(tmp_path / "out.star")
    assert len(out["micrographs"]) == 0
    assert {"rlnDefocusU", "rlnCtfMaxResolution", "emflowCtfReliable"} <= set(out["micrographs"].columns)


def test_without_a_pixel_size_nothing_is_guessed(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(EmflowError, match="pixel_size_angstrom"):
        command.fit(folder, tmp_path / "out.star", cfg=CtfFit())


def test_somebodys_ctf_is_taken_by_base_name(folder: Path, tmp_path: Path) -> None:
    theirs = pd.DataFrame(
        {
            "rlnMicrographName": ["MotionCorr/job002/b.mrc", "MotionCorr/job002/z.mrc"],
            "rlnDefocusU": ["12345.678901", "1"],
            "rlnDefocusV": ["12000", "1"],
            "rlnDefocusAngle": ["0012", "1"],
            "rlnCtfMaxResolution": ["3.9", "1"],
        }
    )
    write_star(tmp_path / "theirs.star", {"micrographs": theirs})
    out = tmp_path / "ctf.star"
    out.with_name("ctf.profiles.star").write_text("of an earlier fit")
    command.import_(folder, tmp_path / "theirs.star", out, cfg=CtfImport(pixel_size_angstrom=2.0))
    tables = read_star(out)
    (row,) = tables["micrographs"].to_dict("records")
    assert Path(row["rlnMicrographName"]) == folder / "b.mrc"
    assert (row["rlnDefocusU"], row["rlnDefocusAngle"]) == ("12345.678901", "0012")
    assert {Path(n).name for n in tables["set_aside"]["rlnMicrographName"]} == {"a.mrc", "broken.mrc"}
    assert not out.with_name("ctf.profiles.star").exists()
