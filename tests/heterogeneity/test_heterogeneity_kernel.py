"""Volumes of a large motion beyond the linear model, and nothing beyond it where there is nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from emflow.em.fsc import fsc
from emflow.heterogeneity import command, kernel_fit
from emflow.heterogeneity.config import HeterogeneityDecode, HeterogeneityFit
from emflow.heterogeneity.inputs import open_stack, read_posed
from emflow.heterogeneity.kernel import Functions
from emflow.heterogeneity.kernel_fit import Coordinates, Curved, fit_curved
from emflow.heterogeneity.shrink import shrink
from emflow.io.mrc import read_mrc
from emflow.io.star import floats, read_star
from emflow.step import EmflowError

STEPS, RANGE_DEG = 24, 90.0
MakeStack = Callable[..., tuple[Path, np.ndarray]]


def hinge(angle_deg: float) -> torch.Tensor:
    """A core and an arm that turns about z: fine balls, so that the motion is many times their width."""
    line = torch.arange(32).float() - 16
    z, y, x = torch.meshgrid(line, line, line, indexing="ij")
    turn = np.deg2rad(angle_deg)
    arm = [[r * np.cos(turn) - s * np.sin(turn), r * np.sin(turn) + s * np.cos(turn), h] for r, s, h in ARM]
    volume = torch.zeros(32, 32, 32)
    for a, b, c in [*CORE, *arm]:
        volume += torch.exp(-((x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2) / (2 * 1.1**2))
    return volume


CORE = [[0.0, 0, 0], [-3, 2, -2], [-4, -2, 1], [-2, -4, 3], [-5, 3, 3], [-3, 0, 5]]
ARM = [[5.0, 0, 0], [7, 2, 2], [9, 0, -1], [7, -2, -3]]


@pytest.fixture(scope="module")
def moving(make_stack: MakeStack) -> tuple[Path, np.ndarray, list[torch.Tensor]]:
    """A domain through 90° at SNR 0.1, fitted."""
    true = [hinge(angle) for angle in np.linspace(-RANGE_DEG / 2, RANGE_DEG / 2, STEPS)]
    folder, labels = make_stack(STEPS, count=3000, snr=0.1, volumes=true)
    command.fit(
        folder / "particles.star", folder / "maps", folder / "fit", cfg=HeterogeneityFit(components=6)
    )
    return folder, labels, true


def test_a_large_motion_is_decoded_better_than_by_the_linear_model(
    moving: tuple[Path, np.ndarray, list[torch.Tensor]],
) -> None:
    folder, labels, true = moving
    table = read_star(folder / "fit" / "latents.star")["particles"]
    count = sum(name.startswith("emflowLatentDeviation") for name in table)
    latent = np.stack([floats(table, f"emflowLatent{k + 1}") for k in range(count)], 1)
    shown = list(range(1, STEPS, 3))
    centres = np.stack([latent[labels == state].mean(0) for state in shown])
    np.savetxt(folder / "points.csv", centres, delimiter=",")
    areas = {}
    mask = torch.from_numpy(read_mrc(folder / "maps" / "mask.mrc"))
    for method in ("linear", "kernel"):
        cfg = HeterogeneityDecode(method=method, extrapolate=True)
        given = {"latents": folder / "points.csv", "mask": folder / "maps" / "mask.mrc"}
        command.decode(folder / "fit", folder / method, cfg=cfg, **given)
        found = torch.stack(
            [
                torch.from_numpy(read_mrc(folder / method / f"volume_{i + 1:03d}.mrc"))
                for i in range(len(shown))
            ]
        )
        curves = [fsc(v[None] * mask, true[s] * mask)[0] for v, s in zip(found, shown, strict=True)]
        areas[method] = torch.stack(curves)[:, 1:16].mean(1)
    assert (areas["kernel"] > areas["linear"]).all(), "for every conformation"
    assert float((areas["kernel"] - areas["linear"]).mean()) > 0.005
    metrics = json.loads((folder / "kernel" / "metrics.json").read_text())
    assert 0 < metrics["functions_kept"] < metrics["functions_tried"]
    assert "functions_kept" not in json.loads((folder / "linear" / "metrics.json").read_text())
    assert not list(folder.glob("kernel/.*")), "the images' copy is removed"
    (folder / "stack.mrcs").rename(folder / "away.mrcs")
    with pytest.raises(EmflowError, match="--method linear"):
        command.decode(folder / "fit", folder / "kernel", latents=folder / "points.csv")
    (folder / "away.mrcs").rename(folder / "stack.mrcs")


@pytest.mark.parametrize("signal", [True, False], ids=["one state", "noise"])
def test_where_nothing_differs_nothing_is_added(
    make_stack: MakeStack, tmp_path: Path, signal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Coordinates that say nothing of the images, of which all is left to explain: no function is kept.

    Where memory is short, more passes over fewer functions at a time come to the same.
    """
    folder, _ = make_stack(1, count=600, signal=signal)
    posed = read_posed(folder / "particles.star")
    stack = open_stack(posed, HeterogeneityFit(), tmp_path / "store", torch.device("cpu"))
    latent = np.random.default_rng(1).normal(size=(600, 2))
    functions = Functions.build(latent, np.full_like(latent, 0.3), 16, 3.0)
    mask = torch.from_numpy(read_mrc(folder / "maps" / "mask.mrc"))
    found = _curved(stack, posed.rows(1), posed.rows(2), latent, mask, functions)
    assert found.kept.sum() == 0
    assert found.volumes.shape[0] == 3
    assert np.array_equal(found.extend(latent[:5]), latent[:5])
    monkeypatch.setattr(kernel_fit, "_TABLE_BYTES", 20_000_000)
    again = _curved(stack, posed.rows(1), posed.rows(2), latent, mask, functions)
    assert found.passes == 1 < again.passes
    assert again.standing == pytest.approx(found.standing, abs=1e-3)


def _curved(stack, one, two, latent, mask, functions) -> Curved:  # type: ignore[no-untyped-def]
    empty = torch.zeros(3, 32, 32, 32)
    known = Coordinates(latent, np.ones(len(latent)))
    # a mean map of 0: all of the signal is residual
    return fit_curved(stack, (one, two), known, (empty, (empty, empty)), mask, functions)


def test_functions_are_new_and_follow_an_arc() -> None:
    rng = np.random.default_rng(0)
    angle = rng.uniform(-2, 2, 2000)
    latent = np.stack([np.cos(angle), np.sin(angle), np.zeros(2000)], 1) + rng.normal(0, 0.05, (2000, 3))
    functions = Functions.build(latent, np.full_like(latent, 0.1), 12, 3.0)
    values = functions.of(latent)
    assert values.shape == (2000, 12)
    known = np.concatenate([np.ones((2000, 1)), latent, values], 1)
    moments = known.T @ values / 2000
    assert np.abs(moments[:4]).max() < 1e-6, "uncorrelated with 1 and z"
    assert moments[4:] == pytest.approx(np.eye(12), abs=1e-6)
    for order in (2, 3, 4):
        told = known @ np.linalg.lstsq(known, np.cos(order * angle), rcond=None)[0]
        assert np.var(np.cos(order * angle) - told) < 0.1 * np.var(np.cos(order * angle))
    again = Functions.build(latent, np.full_like(latent, 0.1), 12, 3.0).of(latent[:7])
    assert np.array_equal(again, functions.of(latent[:7]))


def test_functions_of_hardly_any_or_equal_particles() -> None:
    few = np.random.default_rng(0).normal(size=(30, 2))
    assert Functions.build(few, np.full_like(few, 0.3), 16, 3.0).count == 1
    equal = np.zeros((100, 2))
    assert np.isfinite(Functions.build(equal, equal, 16, 3.0).of(equal)).all()


def test_learnt_coordinates_put_weak_ones_where_strong_ones_say() -> None:
    """On an arc the noise of the weak coordinate goes; of one Gaussian nothing is changed."""
    rng = np.random.default_rng(3)
    angle = rng.uniform(-1.4, 1.4, 3000)
    true = np.stack([np.sin(angle), np.cos(angle)], 1)
    true = (true - true.mean(0)) / true.std(0)
    noise = np.array([0.1, 0.8])
    variance = 1 / (1 + 1 / noise**2)
    means = variance / noise**2 * (true + noise * rng.normal(size=true.shape))
    deviation = np.broadcast_to(np.sqrt(variance), means.shape)
    learnt = shrink(means, deviation, 10, 0)
    before, after = (((v - true) ** 2).mean(0) for v in (means, learnt))
    assert after[1] < 0.4 * before[1]
    assert after[0] < 1.1 * before[0]
    assert np.array_equal(learnt, shrink(means, deviation, 10, 0))
    wider = shrink(means, np.sqrt(1.2) * deviation, 10, 0)  # deviations that hold the model's error too
    assert wider.std(0).max() < 1.02, "weak coordinates do not grow"
    one = rng.normal(size=(2000, 3))
    assert np.array_equal(shrink(one, np.full_like(one, 0.5), 10, 0), one)
    assert shrink(one[:0], one[:0], 10, 0).shape == (0, 3)
