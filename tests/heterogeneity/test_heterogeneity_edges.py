"""Input that is tampered with, lopsided or empty: said in words, never a crash, never an invented state."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from emflow.heterogeneity import command
from emflow.heterogeneity.config import HeterogeneityAnalyze
from emflow.io.mrc import write_mrc
from emflow.io.particles import load_particles, read_images
from emflow.io.star import read_star, write_star
from emflow.step import EmflowError

Stack = Callable[..., tuple[Path, np.ndarray]]


@pytest.fixture(scope="module")
def one(make_stack: Stack) -> Path:
    """One state, 240 particles."""
    return make_stack(1, count=240)[0]


@pytest.mark.parametrize("column", ["rlnAnglePsi", "rlnDefocusU", "rlnImageName"])
def test_a_missing_column_is_named(one: Path, column: str) -> None:
    tables = read_star(one / "particles.star")
    write_star(one / "bad.star", {**tables, "particles": tables["particles"].drop(columns=column)})
    with pytest.raises(EmflowError, match=column):
        command.fit(one / "bad.star", one / "maps", one / "bad")
    assert not (one / "bad" / "latents.star").exists()


def test_a_missing_stack_is_named(one: Path) -> None:
    tables = read_star(one / "particles.star")
    names = tables["particles"]["rlnImageName"].str.replace("stack", "gone")
    write_star(one / "bad.star", {**tables, "particles": tables["particles"].assign(rlnImageName=names)})
    with pytest.raises(EmflowError, match=r"gone\.mrcs"):
        command.fit(one / "bad.star", one / "maps", one / "bad")


def test_a_particle_that_comes_twice_is_named(one: Path) -> None:
    tables = read_star(one / "particles.star")
    table = tables["particles"].copy()
    table.loc[5, "emflowParticleId"] = "p4"
    write_star(one / "bad.star", {**tables, "particles": table})
    with pytest.raises(EmflowError, match="p4"):
        command.fit(one / "bad.star", one / "maps", one / "bad")


def test_pixels_that_are_no_numbers_are_named(one: Path) -> None:
    content = bytearray((one / "stack.mrcs").read_bytes())
    place = len(content) - 4 * 32 * 32 * (240 - 17)  # first pixel of image 18
    content[place : place + 4] = np.float32(np.nan).tobytes()
    (one / "broken.mrcs").write_bytes(content)
    tables = read_star(one / "particles.star")
    names = tables["particles"]["rlnImageName"].str.replace("stack", "broken")
    write_star(one / "bad.star", {**tables, "particles": tables["particles"].assign(rlnImageName=names)})
    with pytest.raises(EmflowError, match=r"000018@.*broken"):
        command.fit(one / "bad.star", one / "maps", one / "bad")
    assert not list((one / "bad").glob(".spectra*"))


@pytest.mark.parametrize("half", ["1", "2"])
def test_an_empty_half_is_said_and_flows_through(one: Path, half: str) -> None:
    tables = read_star(one / "particles.star")
    write_star(
        one / "lopsided.star", {**tables, "particles": tables["particles"].assign(rlnRandomSubset=half)}
    )
    command.fit(one / "lopsided.star", one / "maps", one / "lopsided")
    command.analyze(one / "lopsided", one / "lopsided_states")
    verdicts = json.loads((one / "lopsided_states" / "verdicts.json").read_text())
    assert verdicts[0]["verdict"] == "unknown"
    assert "0" in verdicts[0]["evidence"]
    table = read_star(one / "lopsided_states" / "latents.star")["particles"]
    assert (table["emflowCluster"] == "1").all()
    assert len(table) == 240


def test_an_empty_map_is_said_and_flows_through(one: Path) -> None:
    write_mrc(one / "void" / "mask.mrc", np.zeros((32, 32, 32), dtype=np.float32), 6.0)
    command.fit(one / "particles.star", one / "void", one / "nothing")
    command.analyze(one / "nothing", one / "nothing_states")
    verdicts = json.loads((one / "nothing_states" / "verdicts.json").read_text())
    assert "empty" in verdicts[0]["evidence"]


def test_one_state_stays_whole_and_readable(one: Path) -> None:
    """The only state holds every particle; its table finds the stack from any folder."""
    command.fit(one / "particles.star", one / "maps", one / "fit")
    command.analyze(one / "fit", one / "states", cfg=HeterogeneityAnalyze(half_maps=False))
    found = load_particles(one / "states" / "states" / "01" / "particles.star")
    given = load_particles(one / "particles.star")
    rows = np.arange(0, 240, 50)
    assert len(found) == len(given)
    np.testing.assert_array_equal(read_images(found, rows), read_images(given, rows))


def test_a_fit_that_lost_a_file_is_refused(one: Path) -> None:
    command.fit(one / "particles.star", one / "maps", one / "torn")
    tables = read_star(one / "torn" / "particles.star")
    write_star(one / "torn" / "particles.star", {**tables, "particles": tables["particles"].iloc[1:]})
    with pytest.raises(EmflowError, match="not of one fit"):
        command.analyze(one / "torn", one / "torn_states")
    (one / "torn" / "mean.mrc").unlink()
    with pytest.raises(EmflowError, match=r"mean\.mrc"):
        command.analyze(one / "torn", one / "torn_states")
