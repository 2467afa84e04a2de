"""Reality checks: planted states are confirmed; noise, imprecise poses and a state of one half are not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from emflow.em.poses import euler_to_matrix, matrix_to_euler
from emflow.heterogeneity import command
from emflow.heterogeneity.agree import Evidence
from emflow.heterogeneity.config import HeterogeneityAnalyze, HeterogeneityCheck, HeterogeneityFit
from emflow.heterogeneity.judge_reality import judge_all, judge_coordinate
from emflow.heterogeneity.model import Statistics
from emflow.heterogeneity.reality import Coordinates, Sides, part_of, pose_variance
from emflow.heterogeneity.reality_states import cross_labels, score
from emflow.io.star import floats, read_star, write_star
from emflow.step import EmflowError

Stack = Callable[..., tuple[Path, np.ndarray]]
ANGLES = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")


def _whatever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a fit keep all components."""
    monkeypatch.setattr(Evidence, "kept", lambda self, *_: torch.ones_like(self.gain, dtype=torch.bool))


def _checked(folder: Path, states: int, components: int = 2) -> tuple[dict[str, float], list[dict[str, str]]]:
    given = (folder / "particles.star", folder / "maps", folder / "fit")
    command.fit(*given, cfg=HeterogeneityFit(components=components))
    cfg = HeterogeneityAnalyze(states=states, half_maps=False)
    command.analyze(folder / "fit", folder / "analyze", cfg=cfg)
    mask = folder / "maps" / "mask.mrc"
    command.check(folder / "fit", folder / "analyze", folder / "check", mask=mask)
    metrics = json.loads((folder / "check" / "metrics.json").read_text())
    return metrics, json.loads((folder / "check" / "verdicts.json").read_text())


def test_planted_states_are_confirmed(make_stack: Stack) -> None:
    folder, _ = make_stack(3)
    metrics, verdicts = _checked(folder, 0)
    assert metrics["coordinates_real"] == metrics["coordinates"] == 2
    assert metrics["states_confirmed"] == metrics["states"] == 3
    assert [row["verdict"] for row in verdicts] == ["pass"] * 4
    tables = read_star(folder / "check" / "checks.star")
    assert floats(tables["states"], "emflowScore").min() > 2 * HeterogeneityCheck().deviations
    assert floats(tables["axes"], "emflowPoseFraction").max() < 0.3
    # random labels of the same sizes have nothing in common
    assert np.abs(floats(tables["fsc"], "emflowChanceMean")[1:8]).max() < 0.25
    before = (folder / "check" / "checks.star").read_bytes()
    command.check(folder / "fit", folder / "analyze", folder / "check", mask=folder / "maps" / "mask.mrc")
    assert (folder / "check" / "checks.star").read_bytes() == before
    assert (folder / "check" / "figures" / "reality.png").exists()
    assert not list((folder / "check").glob(".*"))


def test_a_state_of_one_half_is_refused(make_stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, labels = make_stack(2, count=1000)
    tables = read_star(folder / "particles.star")
    half = np.arange(len(labels)) % 2 + 1
    tables["particles"] = tables["particles"][(half == 1) | (labels == 0)]
    write_star(folder / "particles.star", tables)
    _whatever(monkeypatch)
    metrics, verdicts = _checked(folder, 2)
    assert metrics["coordinates"] == 2
    assert metrics["coordinates_real"] == metrics["states_confirmed"] == 0
    assert verdicts[0]["verdict"] == "fail"
    assert {row["verdict"] for row in verdicts[1:]} <= {"fail", "unknown"}


def test_imprecise_poses_are_no_heterogeneity(make_stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _ = make_stack(1, count=1000)
    tables = read_star(folder / "particles.star")
    table, rng = tables["particles"], np.random.default_rng(2)
    true = euler_to_matrix(torch.from_numpy(np.stack([floats(table, name) for name in ANGLES], 1)))
    turn = Rotation.from_rotvec(np.deg2rad(5) * rng.standard_normal((len(table), 3)))
    angles = matrix_to_euler(torch.from_numpy(turn.as_matrix()) @ true).numpy()
    columns = {name: angles[:, i] for i, name in enumerate(ANGLES)}
    write_star(folder / "particles.star", {**tables, "particles": table.assign(**columns)})
    _whatever(monkeypatch)
    metrics, verdicts = _checked(folder, 2)
    assert metrics["coordinates_real"] == metrics["states_confirmed"] == 0
    assert "No heterogeneity beyond noise and imprecise poses" in verdicts[0]["evidence"]
    axes = read_star(folder / "check" / "checks.star")["axes"]
    assert floats(axes, "emflowHeldOutGain")[0] > 1, "both halves do find it"
    assert floats(axes, "emflowPoseFraction")[0] > 0.6


def test_noise_that_a_fit_kept_is_not_real(make_stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _ = make_stack(1, signal=False)
    _whatever(monkeypatch)
    metrics, verdicts = _checked(folder, 2)
    assert metrics["coordinates_real"] == metrics["states_confirmed"] == 0
    assert verdicts[0]["evidence"].startswith("No heterogeneity beyond noise")


def test_a_fit_without_components_is_said_to_have_none(make_stack: Stack) -> None:
    folder, _ = make_stack(1, count=60)
    cfg = HeterogeneityFit(minimum_particles=100)
    command.fit(folder / "particles.star", folder / "maps", folder / "fit", cfg=cfg)
    command.analyze(folder / "fit", folder / "analyze")
    command.check(folder / "fit", folder / "analyze", folder / "check")
    verdicts = json.loads((folder / "check" / "verdicts.json").read_text())
    assert "no component" in verdicts[0]["evidence"]


def test_an_analysis_of_another_fit_is_refused(make_stack: Stack) -> None:
    folder, _ = make_stack(2, count=300)
    cfg = HeterogeneityFit(components=1)
    command.fit(folder / "particles.star", folder / "maps", folder / "fit", cfg=cfg)
    command.analyze(folder / "fit", folder / "analyze", cfg=HeterogeneityAnalyze(half_maps=False))
    tables = read_star(folder / "analyze" / "latents.star")
    tables["particles"].loc[0, "emflowParticleId"] = "stranger"
    write_star(folder / "analyze" / "latents.star", tables)
    with pytest.raises(EmflowError, match="stranger"):
        command.check(folder / "fit", folder / "analyze", folder / "check")


def test_the_size_of_pose_errors_is_learnt() -> None:
    """Amplitudes of known variance, seen through noise."""
    rng = torch.Generator().manual_seed(4)
    count, true = 4000, torch.tensor([0.3, 2.0], dtype=torch.float64)
    root = torch.randn(count, 6, 3, generator=rng, dtype=torch.float64)
    gram = root.transpose(1, 2) @ root
    amplitude = torch.randn(count, 3, generator=rng, dtype=torch.float64)
    amplitude[:, 0] = 1 + 0.1 * amplitude[:, 0]
    amplitude[:, 1:] *= true.sqrt()
    noise = (root.transpose(1, 2) @ torch.randn(count, 6, 1, generator=rng, dtype=torch.float64)) / 2**0.5
    product = (gram @ amplitude[..., None] + noise)[..., 0]
    stats = Statistics(gram, product)
    assert pose_variance(stats, [1, 2], 0.01).numpy() == pytest.approx(true.numpy(), rel=0.15)
    whole = part_of(stats, [0, 1, 2]).gram
    assert torch.equal(whole, gram)


def test_labels_come_from_the_other_half() -> None:
    """The rule of a half is learnt from its own images: what the other half is called changes nothing."""
    rng = np.random.default_rng(3)
    state = rng.integers(1, 3, 400)
    points = torch.from_numpy(rng.normal(0, 0.2, (400, 2)) + np.where(state == 1, -1, 1)[:, None])
    labels = cross_labels((points, points), state, 200)
    assert (labels[0] == state).mean() > 0.99
    swapped = state.copy()
    swapped[200:] = 3 - swapped[200:]
    again = cross_labels((points, points), swapped, 200)
    assert (again[0] == labels[0]).all()
    assert (again[1] == 3 - labels[1]).all()


@pytest.mark.parametrize(
    ("beyond", "deviations", "latent", "contrast", "answer"),
    [
        (0.9, 20.0, 0.8, 0.0, "real"),
        (0.4, 20.0, 0.8, 0.0, "poses and more"),
        (0.1, 20.0, 0.8, 0.0, "poses"),
        (0.9, 2.0, 0.8, 0.0, "poses"),
        (0.9, 20.0, 0.2, 0.0, "noise"),
        (0.9, 20.0, 0.8, -0.8, "contrast"),
    ],
)
def test_what_is_said_of_a_coordinate(
    beyond: float, deviations: float, latent: float, contrast: float, answer: str
) -> None:
    def one(value: float) -> torch.Tensor:
        return torch.tensor([value], dtype=torch.float64)

    chance = torch.tensor([-0.1, 0.0, 0.1, 0.05], dtype=torch.float64)
    found = Coordinates(
        one(latent), chance, one(1.0), one(beyond), one(deviations), one(contrast), (chance, chance)
    )
    sides = SimpleNamespace(volume=one(0.9), volume_chance=chance)
    told = judge_coordinate(0, found, cast(Sides, sides), HeterogeneityCheck())
    assert told.answer == answer
    verdicts = judge_all([told], [])
    expected = {"real": "pass", "poses and more": "unknown"}.get(answer, "fail")
    assert [row.verdict for row in verdicts] == [expected]


def test_the_score_of_noise_is_about_one_and_of_a_signal_large() -> None:
    weight = torch.tensor([1.0, 10, 30, 80, 150], dtype=torch.float64)
    noise = (
        torch.randn(500, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64) / weight.sqrt()
    )
    level = score(noise, weight)
    assert 0.2 < float(level.mean()) < 2
    assert float(score(torch.tensor([1, 0.9, 0.6, 0.0, 0.0], dtype=torch.float64), weight)) > 4
