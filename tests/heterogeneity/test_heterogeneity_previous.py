"""A fit run again as particles come: each half goes on from its own components, or begins anew and says why."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score

from emflow.heterogeneity import command
from emflow.heterogeneity import fit as fitting
from emflow.heterogeneity.config import HeterogeneityFit
from emflow.io.star import integers, read_star, write_star
from emflow.step import Run

Stack = Callable[..., tuple[Path, np.ndarray]]
CFG = HeterogeneityFit(components=4)
FIRST = 500


@pytest.fixture(scope="module")
def grown(make_stack: Stack) -> tuple[Path, np.ndarray]:
    """A fit of most particles of a stack, and then one of all in the same place."""
    folder, labels = make_stack(3)
    tables = read_star(folder / "particles.star")
    write_star(folder / "first.star", {**tables, "particles": tables["particles"].iloc[:FIRST]})
    fit(folder, "first.star", folder / "out")
    shutil.copytree(folder / "out", folder / "warm")
    fit(folder, "particles.star", folder / "warm")
    return folder, labels


def fit(folder: Path, star: str, out: Path) -> dict[str, object]:
    """Fit as the workflow does; return the record."""
    run = Run(threads=1, device="cpu", record=out / "record.json")
    command.fit(folder / star, folder / "maps", out, previous=out / ".previous", cfg=CFG, run=run)
    content: dict[str, object] = json.loads((out / "record.json").read_text())
    return content


def test_it_goes_on_and_finds_the_same_states(grown: tuple[Path, np.ndarray]) -> None:
    folder, labels = grown
    record = json.loads((folder / "warm" / "record.json").read_text())
    assert record["went_on"]
    assert record["began"].startswith("from the previous fit (00001-")
    metrics = json.loads((folder / "warm" / "metrics.json").read_text())
    assert (metrics["particles"], metrics["warm_start_particles"], metrics["anew_particles"]) == (
        600,
        FIRST,
        FIRST,
    )
    assert metrics["components"] == 2
    assert metrics["latent_correlation_min"] > 0.8
    command.analyze(folder / "warm", folder / "analyze")
    table = read_star(folder / "analyze" / "latents.star")["particles"]
    assert adjusted_rand_score(labels, integers(table, "emflowCluster")) > 0.9
    verdicts = json.loads((folder / "warm" / "verdicts.json").read_text())
    assert any("100 particles have come since, 17% of all" in row["evidence"] for row in verdicts)


def test_a_repeated_run_begins_where_it_began(grown: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    folder, _ = grown
    shutil.copytree(folder / "warm", tmp_path / "again")
    fit(folder, "particles.star", tmp_path / "again")
    for file in ("latents.star", "mean.mrc", "metrics.json"):
        assert (tmp_path / "again" / file).read_bytes() == (folder / "warm" / file).read_bytes(), file


def test_each_half_goes_on_from_its_own_components(
    grown: tuple[Path, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = grown
    began = []

    def stop(stage: fitting.Stage, earlier: fitting.Models | None) -> fitting.Stage:
        began.append((stage, earlier))
        raise KeyboardInterrupt

    monkeypatch.setattr(fitting, "_warm", stop)
    shutil.copytree(folder / "out", tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        fit(folder, "particles.star", tmp_path / "out")
    ((stage, earlier),) = began
    assert earlier is not None
    for half in (0, 1):
        like = [
            fitting.correlations(
                stage.models[half].volumes[:1],
                fitting.rebox(earlier[other].volumes[:1], stage.models[half].volumes.shape[-1]),
            )
            for other in (0, 1)
        ]
        assert like[half] > like[1 - half], "in the same units, each beside its own half"
    ratio = stage.models[0].volumes[0].norm() / earlier[0].volumes[0].norm()
    assert 0.5 < float(ratio) < 2


def test_another_mean_map_or_other_settings_begin_anew(
    grown: tuple[Path, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = grown
    volumes = torch.randn(5, 16, 16, 16, generator=torch.Generator().manual_seed(1))
    model = fitting.Model(volumes, 0.01, torch.ones(1, 9))
    turned = fitting.Model(volumes.flip(1), 0.01, torch.ones(1, 9))
    stage = fitting.Stage(0, 6.0, (model, model))
    assert fitting._warm(stage, (model, model)).warm
    assert not fitting._warm(stage, (turned, model)).warm
    monkeypatch.setenv("EMFLOW_LINEAGE", json.dumps({"heterogeneity.fit": "another:"}))
    shutil.copytree(folder / "out", tmp_path / "out")
    record = fit(folder, "particles.star", tmp_path / "out")
    assert not record["went_on"]
    assert "a setting has changed" in str(record["began"])
