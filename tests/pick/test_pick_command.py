"""Files in, files out: tables, masks, the journal, what is set aside, imports, scores."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from emflow.io.atomic import StepError
from emflow.io.mrc import read_header, read_mrc, write_mrc
from emflow.io.star import floats, read_star, write_star
from emflow.pick import command
from emflow.pick.config import PickApply, PickImport, PickScore
from emflow.step import EmflowError, OutOfMemory

CFG = PickApply(pixel_size_angstrom=2.0, diameter_angstrom=80.0)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, paint: Callable, scatter: Callable) -> Path:
    """Three micrographs: particles; particles and an ice crystal; noise."""
    monkeypatch.chdir(tmp_path)
    axis = torch.arange(400.0)
    for index in range(3):
        centres = scatter(14 if index < 2 else 0, 400, 50, 30, seed=index)
        if index == 1:
            centres = centres[np.linalg.norm(centres - [200, 200], axis=1) > 100]
        image = paint(400, centres, 40, depth=1.5, seed=index)
        if index == 1:
            image -= 15 * torch.sigmoid((60 - torch.hypot(axis[:, None] - 200, axis[None] - 200)) / 3)
        write_mrc(Path(f"in/m{index}.mrc"), image.numpy(), 2.0)
        table = pd.DataFrame(centres, columns=["x_px", "y_px"])
        Path("truth").mkdir(exist_ok=True)
        table.to_csv(f"truth/m{index}.csv", index=False)
    return tmp_path


def run(
    out: str = "pick/shard_00001.star", source: str = "in", cfg: PickApply = CFG
) -> dict[str, pd.DataFrame]:
    command.apply(Path(source), Path(out), cfg=cfg)
    return read_star(out)


def test_lack_of_memory_is_not_laid_to_a_micrograph(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def short(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB.")

    monkeypatch.setattr(command, "pick_micrograph", short)
    with pytest.raises(OutOfMemory, match=r"execution\.device"):
        run()
    assert not Path("pick/shard_00001.star").exists()


def test_the_whole_round(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tables = run()
    particles, micrographs = tables["particles"], tables["micrographs"]
    assert list(tables) == ["optics", "micrographs", "particles", "set_aside"]
    assert micrographs["rlnMicrographName"].tolist() == ["in/m0.mrc", "in/m1.mrc", "in/m2.mrc"]
    assert floats(micrographs, "emflowPickCount").sum() == len(particles)
    assert micrographs["emflowPickCount"].tolist()[2] == "0"
    assert np.isfinite(floats(micrographs, "emflowPickThreshold")).all()
    assert particles["emflowParticleId"].is_unique
    first = particles.iloc[0]
    x, y = float(first["rlnCoordinateX"]), float(first["rlnCoordinateY"])
    assert first["emflowParticleId"] == f"{first['emflowMicrographId']}-{round(x)}-{round(y)}"
    assert floats(particles, "rlnAutopickFigureOfMerit").min() >= CFG.min_probability
    # the mask of the ice crystal, and of nothing else
    masked = floats(micrographs, "emflowMaskedFraction")
    assert masked[0] == masked[2] == 0 < masked[1]
    [mask] = Path("pick/masks").iterdir()
    assert mask.stem == micrographs["emflowMicrographId"][1]
    pixels = read_mrc(mask)
    assert set(np.unique(pixels)) == {0, 1}
    scale = pixels.shape[0] / 400
    assert pixels[int(200 * scale), int(200 * scale)] == 1
    assert pixels[int(20 * scale), int(20 * scale)] == 0
    assert read_header(mask).voxel_size_angstrom == pytest.approx(2 / scale, rel=1e-3)
    # and what is said of them
    command.score(Path("pick/shard_00001.star"), Path("truth"), Path("s.json"), cfg=PickScore(radius_px=8))
    metrics = json.loads(Path("s.json").read_text())
    assert metrics["f1"] > 0.95
    assert metrics["micrographs"] == 3
    assert json.loads(capsys.readouterr().out) == metrics


def test_nothing_is_computed_twice_and_bytes_are_the_same(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run()
    text = Path("pick/shard_00001.star").read_bytes()
    run("again/shard_00001.star")
    assert Path("again/shard_00001.star").read_bytes() == text

    calls = []
    pick = command.pick_micrograph
    monkeypatch.setattr(command, "pick_micrograph", lambda *a: calls.append(1) or pick(*a))
    Path("pick/shard_00001.star").unlink()
    run()
    assert calls == []
    assert Path("pick/shard_00001.star").read_bytes() == text
    write_mrc(Path("in/m3.mrc"), read_mrc(Path("in/m0.mrc")) + 1, 2.0)
    assert len(run()["micrographs"]) == 4
    assert len(calls) == 1  # a new micrograph costs its own work
    run(cfg=CFG.model_copy(update={"min_distance": 0.7}))
    assert len(calls) == 5


def test_a_broken_micrograph_is_set_aside_and_the_others_go_on(folder: Path) -> None:
    write_mrc(Path("in/m0.mrc"), np.zeros((400, 400)), 2.0)
    Path("in/m2.mrc").write_bytes(Path("in/m2.mrc").read_bytes()[:5000])
    tables = run()
    assert tables["set_aside"]["rlnMicrographName"].tolist() == ["in/m0.mrc", "in/m2.mrc"]
    assert tables["micrographs"]["rlnMicrographName"].tolist() == ["in/m1.mrc"]
    assert len(tables["particles"]) > 3


def test_the_contrast_is_the_sessions_unless_it_is_set(folder: Path) -> None:
    image = -read_mrc(Path("in/m0.mrc"))
    write_mrc(Path("in/m0.mrc"), image, 2.0)
    for index in (1, 2):
        Path(f"in/m{index}.mrc").unlink()
    dark = run("a.star")
    table = dark["micrographs"].assign(emflowContrast="bright", rlnOpticsGroup="1")
    write_star("check.star", {"optics": dark["optics"], "micrographs": table})
    bright = run("b.star", "check.star")
    forced = run("c.star", "in", CFG.model_copy(update={"contrast": "bright"}))
    assert len(bright["particles"]) == 14
    assert bright["particles"]["rlnCoordinateX"].tolist() == forced["particles"]["rlnCoordinateX"].tolist()
    assert dark["particles"]["rlnCoordinateX"].tolist() != bright["particles"]["rlnCoordinateX"].tolist()


def test_no_diameter_stops_at_once_and_no_micrograph_is_no_error(folder: Path) -> None:
    with pytest.raises(EmflowError, match="diameter"):
        run(cfg=PickApply(pixel_size_angstrom=2.0))
    tables = run()
    write_star("none.star", {"optics": tables["optics"], "micrographs": tables["micrographs"].iloc[:0]})
    empty = run("none_out.star", "none.star")
    assert len(empty["particles"]) == len(empty["micrographs"]) == 0
    assert "rlnCoordinateX" in empty["particles"]


def test_a_mask_does_not_outlive_what_it_masked(folder: Path) -> None:
    run()
    assert len(list(Path("pick/masks").iterdir())) == 1
    run(cfg=CFG.model_copy(update={"mask_contamination": False}))
    assert list(Path("pick/masks").iterdir()) == []


def test_imported_picks_have_the_same_form(folder: Path) -> None:
    ours = run()
    theirs = ours["particles"][["rlnMicrographName", "rlnCoordinateX", "rlnCoordinateY"]].copy()
    theirs["rlnMicrographName"] = "Movies/" + theirs["rlnMicrographName"]
    write_star("theirs.star", {"particles": theirs})
    cfg = PickImport(pixel_size_angstrom=2.0)
    command.import_(Path("in"), Path("theirs.star"), Path("imported.star"), cfg=cfg)
    imported = read_star("imported.star")
    for column in ("rlnCoordinateX", "rlnCoordinateY", "emflowParticleId", "rlnMicrographName"):
        assert imported["particles"][column].tolist() == ours["particles"][column].tolist()
    assert (
        imported["micrographs"]["emflowPickCount"].tolist() == ours["micrographs"]["emflowPickCount"].tolist()
    )
    assert list(imported) == list(ours) or set(imported) == set(ours)


def test_denoised_pixels_are_looked_at_where_raw_ones_show_particles(folder: Path) -> None:
    cfg = CFG.model_copy(update={"pixels": "denoised"})
    with pytest.raises(EmflowError, match="emflowDenoisedName"):
        run(cfg=cfg)
    tables = run("raw.star")
    shifted = np.roll(read_mrc(Path("in/m0.mrc")), 20, axis=1)
    for index in range(3):  # also where the raw one is noise
        write_mrc(Path(f"denoised/m{index}.mrc"), shifted, 2.0)
    names = [f"denoised/m{index}.mrc" for index in range(3)]
    listed = tables["micrographs"].assign(emflowDenoisedName=names)
    write_star("listed.star", {"optics": tables["optics"], "micrographs": listed})
    found = run("denoised.star", "listed.star", cfg)["particles"]
    assert set(found["rlnMicrographName"]) == {"in/m0.mrc", "in/m1.mrc"}
    raw = tables["particles"]
    mean = [floats(t[t["rlnMicrographName"] == "in/m0.mrc"], "rlnCoordinateX").mean() for t in (raw, found)]
    assert mean[1] - mean[0] == pytest.approx(20, abs=8)
    Path("denoised/m0.mrc").write_bytes(Path("denoised/m0.mrc").read_bytes()[:5000])
    with pytest.raises(StepError, match="denoise apply"):  # no fault of the micrograph: it is not set aside
        run("again.star", "listed.star", cfg)
