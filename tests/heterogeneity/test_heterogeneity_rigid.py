"""Errors of the poses are told from heterogeneity."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import rotate, shift

from emflow.em.poses import euler_to_matrix, matrix_to_euler
from emflow.heterogeneity import command
from emflow.heterogeneity.config import HeterogeneityAnalyze, HeterogeneityFit
from emflow.heterogeneity.rigid import rigid_fraction
from emflow.io.star import floats, read_star, write_star


def test_shifts_and_turns_are_rigid_and_a_domain_is_not(true_volumes: list[torch.Tensor]) -> None:
    whole = true_volumes[0].numpy()
    changes = [
        shift(whole, (0.1, -0.2, 0.15), order=5) - whole,
        rotate(whole, 2, axes=(0, 1), reshape=False, order=5) - whole,
        true_volumes[1].numpy() - whole,
    ]
    volumes = torch.from_numpy(np.stack([whole, *changes])).float()
    found = rigid_fraction(volumes)
    assert found[0] > 0.97
    assert found[1] > 0.97
    assert found[2] < 0.2


def test_a_round_map_has_no_turns() -> None:
    line = torch.arange(16.0) - 8
    z, y, x = torch.meshgrid(line, line, line, indexing="ij")
    ball = torch.exp(-(x**2 + y**2 + z**2) / 18)
    change = torch.roll(torch.exp(-(x**2 + y**2 + z**2) / 4), (3, 2, 4), (0, 1, 2))
    assert float(rigid_fraction(torch.stack([ball, change]))[0]) < 0.4
    assert float(rigid_fraction(torch.stack([torch.zeros_like(ball), change]))[0]) == pytest.approx(
        0, abs=1e-9
    )


def test_imprecise_poses_of_one_state_are_not_called_states(
    make_stack: Callable[..., tuple[Path, np.ndarray]],
) -> None:
    folder, _ = make_stack(1, count=800, snr=2.0)
    tables = read_star(folder / "particles.star")
    table = tables["particles"]
    rng = torch.Generator().manual_seed(1)
    names = [f"rlnAngle{name}" for name in ("Rot", "Tilt", "Psi")]
    right = euler_to_matrix(torch.from_numpy(np.stack([floats(table, name) for name in names], 1)))
    off = torch.zeros(len(table), 3, 3, dtype=torch.float64)
    x, y, z = (torch.randn(len(table), 3, generator=rng, dtype=torch.float64) * 0.06).T
    off[:, 0, 1], off[:, 0, 2], off[:, 1, 2] = -z, y, -x
    wrong = matrix_to_euler(torch.linalg.matrix_exp(off - off.mT) @ right).numpy()
    moved = {
        f"rlnOrigin{a}Angst": floats(table, f"rlnOrigin{a}Angst")
        + 4.0 * torch.randn(len(table), generator=rng).numpy()
        for a in "XY"
    }
    turned = {name: wrong[:, i] for i, name in enumerate(names)}
    write_star(folder / "wrong.star", {**tables, "particles": table.assign(**turned, **moved)})
    command.fit(folder / "wrong.star", folder / "maps", folder / "fit", cfg=HeterogeneityFit(components=4))
    command.analyze(folder / "fit", folder / "states", cfg=HeterogeneityAnalyze(half_maps=False))
    verdicts = json.loads((folder / "states" / "verdicts.json").read_text())
    metrics = json.loads((folder / "states" / "metrics.json").read_text())
    assert metrics["components"] > 0
    assert metrics["rigid_fraction"] > 0.5
    assert verdicts[0]["verdict"] == "warn"
    assert "poses" in verdicts[0]["action"]
