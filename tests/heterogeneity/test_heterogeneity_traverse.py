"""Paths through populated latent space: in the order of the truth, never over an empty region."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path as File

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.datasets import make_moons

from emflow.heterogeneity import command
from emflow.heterogeneity.config import (
    HeterogeneityAnalyze,
    HeterogeneityFit,
    HeterogeneitySelect,
    HeterogeneityTraverse,
)
from emflow.heterogeneity.traverse import barrier, find_path
from emflow.io.particles import load_particles
from emflow.io.star import floats, read_star
from emflow.step import EmflowError

OPEN = HeterogeneityTraverse()


def turn(count: int, noise: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Angles, latents of a full turn in eight coordinates as a linear model has them, sizes of the components."""
    rng = np.random.default_rng(seed)
    angle = rng.uniform(0, 2 * np.pi, count)
    waves = [wave(k * angle) * 2**0.5 for k in (1, 2, 3, 4) for wave in (np.cos, np.sin)]
    sizes = np.repeat([1, 0.7, 0.45, 0.3], 2)
    latent = np.stack(waves, 1) + noise / sizes * rng.standard_normal((count, 8))
    return angle, latent, sizes


def circular_error(angle: np.ndarray, where: np.ndarray) -> float:
    """Median distance of places from angles, in degrees, either way round and from any beginning."""
    errors = []
    for sign in (1, -1):
        off = np.exp(1j * (2 * np.pi * where - sign * angle))
        errors.append(np.median(np.abs(np.angle(off / off.mean()))))
    return float(np.rad2deg(min(errors)))


@pytest.mark.parametrize("method", ["path", "curve"])
def test_a_full_turn_is_gone_round_in_order(method: str) -> None:
    angle, latent, sizes = turn(2500, 0.25)
    path = find_path(latent, sizes, HeterogeneityTraverse(method=method))
    assert path.closed
    where, _, tangent = path.place(latent)
    assert circular_error(angle, where) < 8
    assert np.linalg.norm(tangent, axis=1) == pytest.approx(np.ones(2500))
    points = path.points(12) * path.scale
    steps = np.linalg.norm(np.diff(np.concatenate([points, points[:1]]), axis=0), axis=1)
    assert steps.max() < 1.35 * steps.min(), "equal distances, the way back to the first too"


def test_half_a_turn_is_open_and_in_order() -> None:
    rng = np.random.default_rng(1)
    angle = rng.uniform(0, 1.5 * np.pi, 2000)
    latent = np.stack([np.cos(angle), np.sin(angle)], 1) + 0.1 * rng.standard_normal((2000, 2))
    path = find_path(latent, np.ones(2), OPEN)
    assert not path.closed
    where, distance, _ = path.place(latent)
    assert abs(spearmanr(where, angle).statistic) > 0.98
    assert distance.mean() < 0.12
    points = path.points(9)
    steps = np.linalg.norm(np.diff(points, axis=0), axis=1)
    assert steps == pytest.approx(np.full(8, steps.mean()), rel=0.1)
    ends = np.arctan2(points[[0, -1], 1], points[[0, -1], 0])
    assert abs(np.diff(np.unwrap(ends))[0]) > np.deg2rad(60), "the gap is not bridged"


def test_a_filled_cloud_is_no_loop() -> None:
    rng = np.random.default_rng(3)
    for shape in ([1.0, 1.0], [3.0, 1.0]):
        path = find_path(rng.standard_normal((2000, 2)) * shape, np.ones(2), OPEN)
        assert not path.closed
    tilted = rng.standard_normal((2000, 2)) * [3, 0.5] @ np.array([[0.6, 0.8], [-0.8, 0.6]])
    where, _, _ = find_path(tilted, np.ones(2), OPEN).place(tilted)
    assert abs(spearmanr(where, tilted @ [0.6, 0.8]).statistic) > 0.95


def test_no_path_leads_from_one_moon_to_the_other() -> None:
    latent, moon = make_moons(2000, noise=0.05, random_state=0)
    tips = latent[moon == 0][[latent[moon == 0][:, 0].argmin(), latent[moon == 0][:, 0].argmax()]]
    path = find_path(latent, np.ones(2), OPEN, *tips)
    # along the upper moon: over the empty middle it would be nearer to (0, 0)
    assert np.linalg.norm(path.fine, axis=1).min() > 0.8
    assert abs(spearmanr(path.place(latent[moon == 0])[0], latent[moon == 0][:, 0]).statistic) > 0.95
    with pytest.raises(EmflowError, match="no populated path"):
        find_path(latent, np.ones(2), OPEN, tips[0], latent[moon == 1].mean(0) - [0, 0.3])
    own = find_path(latent, np.ones(2), OPEN)
    assert len({int(moon[np.linalg.norm(latent - p, axis=1).argmin()]) for p in own.fine}) == 1


def test_sparse_places_are_gone_round() -> None:
    """A straight way over few particles, a longer one through many."""
    rng = np.random.default_rng(5)
    angle = rng.uniform(0, np.pi, 3000)
    dense = np.stack([np.cos(angle), np.sin(angle)], 1) + 0.05 * rng.standard_normal((3000, 2))
    few = np.stack([rng.uniform(-1, 1, 150), 0.05 * rng.standard_normal(150)], 1)
    latent, ends = np.concatenate([dense, few]), np.array([[-1.0, 0], [1, 0]])
    around = find_path(latent, np.ones(2), HeterogeneityTraverse(power=4), *ends)
    across = find_path(latent, np.ones(2), HeterogeneityTraverse(power=0), *ends)
    assert around.fine[:, 1].max() > 0.8
    assert across.fine[:, 1].max() < around.fine[:, 1].max() / 2
    with pytest.raises(EmflowError, match="too few"):
        find_path(latent[:20], np.ones(2), OPEN)


def test_a_barrier_is_measured_from_the_higher_valley() -> None:
    assert barrier(np.array([1.0, 0, 3, 1.5, 2])) == 1.5
    assert barrier(np.array([3.0, 2, 1, 0])) == 0


def test_without_components_there_is_no_path(make_stack: Callable[..., tuple[File, np.ndarray]]) -> None:
    folder, _ = make_stack(1, count=60)
    command.fit(folder / "particles.star", folder / "maps", folder / "fit")
    command.traverse(folder / "fit", folder / "path")
    verdicts = json.loads((folder / "path" / "verdicts.json").read_text())
    assert (verdicts[0]["verdict"], verdicts[0]["evidence"]) == (
        "unknown",
        "There is no path: the fit kept no component.",
    )


def test_volumes_and_places_are_written(make_stack: Callable[..., tuple[File, np.ndarray]]) -> None:
    folder, labels = make_stack(3)
    command.fit(
        folder / "particles.star", folder / "maps", folder / "fit", cfg=HeterogeneityFit(components=3)
    )
    cfg = HeterogeneityTraverse(points=4)
    command.traverse(folder / "fit", folder / "path", cfg=cfg)
    metrics = json.loads((folder / "path" / "metrics.json").read_text())
    assert metrics["volumes"] == 4
    assert len(list((folder / "path").glob("volume_*_confidence.mrc"))) == 4
    table = read_star(folder / "path" / "latents.star")["particles"]
    where = floats(table, "emflowPathPlace")
    assert where.min() >= 0
    assert where.max() <= 1
    # particles of a state lie together on it
    spread = np.mean([where[labels == state].std() for state in range(3)])
    assert spread < 0.5 * where.std()
    assert {row["verdict"] for row in json.loads((folder / "path" / "verdicts.json").read_text())} <= {
        "pass",
        "warn",
    }
    before = (folder / "path" / "latents.star").read_bytes()
    command.traverse(folder / "fit", folder / "path", cfg=cfg)
    assert (folder / "path" / "latents.star").read_bytes() == before
    chosen = HeterogeneitySelect(where="emflowPathPlace < 0.2")
    fitted = folder / "fit" / "particles.star"
    command.select(folder / "path" / "latents.star", folder / "low.star", particles=fitted, cfg=chosen)
    assert len(load_particles(folder / "low.star")) == (where < 0.2).sum()
    with pytest.raises(EmflowError, match="times as far"):
        command.traverse(folder / "fit", folder / "no", cfg=HeterogeneityTraverse(start="9,9"))
    command.analyze(folder / "fit", folder / "analyze", cfg=HeterogeneityAnalyze(half_maps=False))
    chosen = HeterogeneitySelect(density_above=40)
    command.select(folder / "analyze" / "latents.star", folder / "dense.star", particles=fitted, cfg=chosen)
    assert len(load_particles(folder / "dense.star")) == pytest.approx(0.6 * len(labels), abs=2)
