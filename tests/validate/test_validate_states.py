"""States of an analysis, each judged by its own half maps."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import Tensor

from emflow.device import generator
from emflow.em.masks import soft_sphere
from emflow.io.mrc import write_mrc
from emflow.io.star import read_table, write_star
from emflow.step import EmflowError
from emflow.validate.command import states

N, VOXEL = 48, 3.0


def state(analysis: Path, name: str, particles: int, halves: tuple[Tensor, ...]) -> None:
    folder = analysis / "states" / name
    write_star(
        folder / "particles.star", {"particles": pd.DataFrame({"rlnImageName": ["1@a.mrcs"] * particles})}
    )
    for number, half in enumerate(halves, start=1):
        write_mrc(folder / f"half{number}.mrc", half.numpy(), VOXEL)


def pair(signal: float, seed: int) -> tuple[Tensor, Tensor]:
    """Two half maps with a common part of some strength in white noise of deviation 1."""
    ball = soft_sphere(N, 14, 3)
    common = signal * (torch.randn(N, N, N, generator=generator(seed)) + 1.5) * ball
    one, two = (torch.randn(N, N, N, generator=generator(seed, k)) for k in (1, 2))
    return common + one, common + two


def test_each_state_has_a_resolution_of_its_own_or_none(tmp_path: Path) -> None:
    analysis = tmp_path / "heterogeneity"
    write_star(analysis / "latents.star", {"particles": pd.DataFrame({"emflowParticleId": ["a"]})})
    write_mrc(tmp_path / "mask.mrc", soft_sphere(N, 16, 4).numpy(), VOXEL)
    state(analysis, "01", 30, pair(3.0, 1))
    state(analysis, "02", 20, pair(0.0, 2))
    state(analysis, "03", 2, pair(3.0, 3)[:1])
    states(analysis, tmp_path / "out", mask=tmp_path / "mask.mrc")
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["states"] == 3
    assert metrics["states_resolved"] == 1
    assert metrics["state_01_resolution_angstrom"] == pytest.approx(2 * VOXEL, rel=0.05)
    assert metrics["state_02_resolution_angstrom"] is None
    assert metrics["state_03_resolution_angstrom"] is None
    (row,) = json.loads((tmp_path / "out" / "verdicts.json").read_text())
    assert row["verdict"] == "warn"
    assert "state 02, 20 particles: no agreement" in row["evidence"]
    table = read_table(tmp_path / "out" / "states.star", "states")
    assert list(table["emflowParticleCount"]) == ["30", "20", "2"]


def test_no_states_is_no_failure_and_a_wrong_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(EmflowError, match=r"latents\.star"):
        states(tmp_path, tmp_path / "out")
    write_star(tmp_path / "latents.star", {"particles": pd.DataFrame({"emflowParticleId": []})})
    states(tmp_path, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["states"] == 0
    assert json.loads((tmp_path / "out" / "verdicts.json").read_text())[0]["verdict"] == "unknown"
