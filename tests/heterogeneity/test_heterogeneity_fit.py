"""Stacks with known states: found, not invented, the same again, and gone on with after a kill."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score

from emflow.em.fsc import fsc
from emflow.heterogeneity import command
from emflow.heterogeneity.config import HeterogeneityAnalyze, HeterogeneityFit
from emflow.io.mrc import read_mrc, write_mrc
from emflow.io.star import floats, integers, read_star, write_star
from emflow.step import EmflowError

Stack = Callable[..., tuple[Path, np.ndarray]]
CFG = HeterogeneityFit(components=4)


@pytest.fixture(scope="module")
def three(make_stack: Stack) -> tuple[Path, np.ndarray]:
    """Three compositions in two optics groups, fitted and analysed."""
    folder, labels = make_stack(3, groups=2)
    command.fit(folder / "particles.star", folder / "maps", folder / "fit", cfg=CFG)
    command.analyze(folder / "fit", folder / "analyze")
    return folder, labels


def test_the_states_are_found(three: tuple[Path, np.ndarray]) -> None:
    folder, labels = three
    metrics = json.loads((folder / "analyze" / "metrics.json").read_text())
    assert metrics["components"] == 2
    assert metrics["states"] == 3
    assert metrics["canonical_correlation_min"] > 0.5
    assert metrics["latent_correlation_min"] > 0.8
    table = read_star(folder / "analyze" / "latents.star")["particles"]
    assert adjusted_rand_score(labels, integers(table, "emflowCluster")) > 0.9


def test_latents_are_as_uncertain_as_they_say(three: tuple[Path, np.ndarray]) -> None:
    """Within a true state, the spread of the means is that of the posterior, less its shrinkage."""
    folder, labels = three
    table = read_star(folder / "fit" / "latents.star")["particles"]
    z, deviation = floats(table, "emflowLatent1"), floats(table, "emflowLatentDeviation1")
    within = np.sqrt(np.mean([z[labels == s].var() for s in range(3)]))
    assert 0.5 < within / deviation.mean() < 1.3
    # prior variance = variance of the means + posterior variance
    assert z.var() + (deviation**2).mean() == pytest.approx(1, abs=0.05)


def test_decoded_volumes_are_nearer_to_the_truth_than_the_mean(
    three: tuple[Path, np.ndarray], true_volumes: list[torch.Tensor]
) -> None:
    folder, labels = three
    mask = torch.from_numpy(read_mrc(folder / "maps" / "mask.mrc"))
    table = read_star(folder / "analyze" / "latents.star")["particles"]
    clusters = integers(table, "emflowCluster")
    mean = torch.from_numpy(read_mrc(folder / "analyze" / "mean.mrc")) * mask
    for state in range(3):
        number = int(np.bincount(clusters[labels == state]).argmax())
        path = folder / "analyze" / "volumes" / f"state_{number:02d}.mrc"
        decoded = torch.from_numpy(read_mrc(path)) * mask
        truth = true_volumes[state] * mask
        assert fsc(decoded, truth)[1:10].mean() > fsc(mean, truth)[1:10].mean() + 0.01
        assert fsc(decoded, truth)[1:8].mean() > 0.95


def test_states_keep_every_column_as_text(three: tuple[Path, np.ndarray]) -> None:
    folder, _ = three
    whole = read_star(folder / "particles.star")["particles"]
    parts = [read_star(path) for path in sorted((folder / "analyze" / "states").glob("*/particles.star"))]
    assert len(parts) == 3
    assert sum(len(part["particles"]) for part in parts) == len(whole)
    known = dict(zip(whole["emflowParticleId"], whole["foreignColumn"], strict=True))
    for part in parts:
        assert list(part["optics"].columns)[0] == "rlnOpticsGroup"
        for name, text in zip(
            part["particles"]["emflowParticleId"], part["particles"]["foreignColumn"], strict=True
        ):
            assert known[name] == text


def test_raw_half_maps_of_a_state_agree(three: tuple[Path, np.ndarray]) -> None:
    folder, _ = three
    halves = [
        torch.from_numpy(read_mrc(folder / "analyze" / "states" / "01" / f"half{h}.mrc")) for h in (1, 2)
    ]
    mask = torch.from_numpy(read_mrc(folder / "maps" / "mask.mrc"))
    assert fsc(halves[0] * mask, halves[1] * mask)[1:5].mean() > 0.8


@pytest.mark.parametrize(("states", "signal"), [(1, True), (1, False)], ids=["homogeneous", "noise"])
def test_nothing_is_found_where_nothing_is(make_stack: Stack, states: int, signal: bool) -> None:
    folder, _ = make_stack(states, signal=signal)
    command.fit(folder / "particles.star", folder / "maps", folder / "fit", cfg=CFG)
    command.analyze(folder / "fit", folder / "analyze", cfg=HeterogeneityAnalyze(half_maps=False))
    verdicts = json.loads((folder / "analyze" / "verdicts.json").read_text())
    assert verdicts[0]["verdict"] == "unknown"
    assert "No heterogeneity beyond noise" in verdicts[0]["evidence"]
    metrics = json.loads((folder / "analyze" / "metrics.json").read_text())
    assert (metrics["components"], metrics["states"]) == (0, 1)
    assert not list((folder / "fit").glob("component_*.mrc"))


def test_a_killed_fit_goes_on_to_the_same_result(make_stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _ = make_stack(2, count=240)
    given = (folder / "particles.star", folder / "maps")
    cfg = HeterogeneityFit(components=2)
    command.fit(*given, folder / "whole", cfg=cfg)
    monkeypatch.setattr(command, "write_fit", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        command.fit(*given, folder / "killed", cfg=cfg)
    monkeypatch.undo()
    resumed = []
    monkeypatch.setattr(command.log, "info", lambda text, *args: resumed.append(text % args))
    command.fit(*given, folder / "killed", cfg=cfg)
    assert any("Going on after band 4" in text for text in resumed)
    for name in ("latents.star", "mean.mrc", "metrics.json"):
        assert (folder / "whole" / name).read_bytes() == (folder / "killed" / name).read_bytes()
    assert not list((folder / "killed").glob(".*"))


def test_too_few_particles_flow_through(make_stack: Stack) -> None:
    folder, _ = make_stack(1, count=40)
    command.fit(folder / "particles.star", folder / "maps", folder / "fit")
    command.analyze(folder / "fit", folder / "analyze")
    assert json.loads((folder / "analyze" / "metrics.json").read_text())["states"] == 1
    assert json.loads((folder / "analyze" / "verdicts.json").read_text())[0]["verdict"] == "unknown"


def test_no_particles_flow_through(make_stack: Stack) -> None:
    folder, _ = make_stack(1, count=40)
    tables = read_star(folder / "particles.star")
    write_star(folder / "empty.star", {**tables, "particles": tables["particles"].iloc[:0]})
    command.fit(folder / "empty.star", folder / "maps", folder / "fit")
    command.analyze(folder / "fit", folder / "analyze")
    assert json.loads((folder / "analyze" / "metrics.json").read_text())["particles"] == 0


def test_what_cannot_be_fitted_is_said_in_words(make_stack: Stack) -> None:
    folder, _ = make_stack(1, count=240)
    tables = read_star(folder / "particles.star")
    table = tables["particles"]
    write_star(folder / "bad.star", {**tables, "particles": table.drop(columns="rlnAngleTilt")})
    with pytest.raises(EmflowError, match="rlnAngleTilt"):
        command.fit(folder / "bad.star", folder / "maps", folder / "fit")
    write_star(folder / "bad.star", {**tables, "particles": table.assign(emflowRestored="1")})
    with pytest.raises(EmflowError, match="denoised"):
        command.fit(folder / "bad.star", folder / "maps", folder / "fit")
    write_mrc(folder / "small" / "mask.mrc", np.ones((16, 16, 16)), 6.0)
    with pytest.raises(EmflowError, match="32 px"):
        command.fit(folder / "particles.star", folder / "small", folder / "fit")
    with pytest.raises(EmflowError, match="neither"):
        command.fit(folder / "particles.star", folder / "nothing", folder / "fit")
