"""What the picker network learns from, and what its scores are made into."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from emflow.device import generator
from emflow.io.mrc import read_mrc, write_mrc
from emflow.io.star import floats, read_star
from emflow.nn.train import Plan
from emflow.pick import command
from emflow.pick.calibration import Calibration, count_taken
from emflow.pick.config import PickApply
from emflow.pick.inputs_sample import examples_of, simulated
from emflow.pick.junk import add_junk
from emflow.pick.learn import CROP_PX, Example, _crop, new_network, train_network
from emflow.pick.network import DIAMETER_PX
from emflow.pick.weights import sessions


def example(seed: int = 0) -> Example:
    """Bright spots where the centres are."""
    random = np.random.default_rng(seed)
    centres = random.uniform(20, 180, (12, 2))
    y, x = np.mgrid[:200, :200]
    image = sum(4 * np.exp(-((y - a) ** 2 + (x - b) ** 2) / 50) for a, b in centres)
    noise = random.normal(size=(200, 200))
    ignored = np.array([[100.0, 100.0]])
    return Example(torch.from_numpy(image + noise).float(), centres, ignored, torch.zeros(200, 200))


def test_targets_point_to_the_centres() -> None:
    one = example()
    heat, judged, _, *offset, near = one.targets().numpy()
    for y, x in one.centres:
        at = int(y) + 1, int(x)
        assert heat[at] > 0.6
        assert near[at] == 1
        found = np.array(at) + np.array([o[at] for o in offset]) * DIAMETER_PX / 4
        nearest = one.centres[np.argmin(np.linalg.norm(one.centres - at, axis=1))]
        np.testing.assert_allclose(found, nearest, atol=1e-4)
    assert heat[0, 0] < 1e-6
    assert judged[100, 100] == (heat[100, 100] > 0.1)
    assert judged[0, 0] == 1


def test_turned_crops_keep_image_and_offsets_together() -> None:
    stack = torch.cat([example().image[None], example().targets()])
    for item in range(12):
        crop = _crop([stack], generator(0, item)).numpy()
        assert crop.shape == (7, CROP_PX, CROP_PX)
        y, x = np.argwhere((crop[1] > 0.5) & (crop[1] < 0.9))[0]
        to = np.array([y, x]) + crop[4:6, y, x] * DIAMETER_PX / 4
        ty, tx = to.round().astype(int).clip(0, CROP_PX - 1)
        assert crop[1, ty, tx] > 0.93 or not (to.min() > 0 and to.max() < CROP_PX - 1)


def test_training_is_seeded_and_learns() -> None:
    plan = Plan(steps=12, batch=2, learning_rate=2e-3)
    first, second = (train_network(new_network(3), [example(), example(1)], plan, 3) for _ in range(2))
    assert first.losses == second.losses
    assert np.mean(first.losses[-3:]) < 0.9 * np.mean(first.losses[:3])


def test_junk_is_where_its_mask_is() -> None:
    image = torch.randn(300, 300, generator=torch.Generator().manual_seed(0))
    for seed in range(6):
        dirty, mask = add_junk(image, DIAMETER_PX, generator(seed))
        change = (dirty - image).abs()
        assert 0 < mask.mean() < 1
        assert change[mask > 0].mean() > 8 * change[mask == 0].mean()
        again, _ = add_junk(image, DIAMETER_PX, generator(seed))
        assert torch.equal(dirty, again)


def test_sessions_differ_and_stay_the_same() -> None:
    drawn = [sessions.session_flags(index) for index in (*sessions.TRAINING, *sessions.CALIBRATION)]
    assert drawn[3] == sessions.session_flags(3)
    assert len({tuple(flags) for flags in drawn}) == len(drawn)
    assert not any("grains" in flags for flags in drawn)  # kept for judging


def test_examples_of_a_simulated_session(tmp_path: Path) -> None:
    words = ["--seed", "7", "--n-micrographs", "1", "--n-carbon-micrographs", "1", "--mass-kda", "60"]
    words += ["--micrograph-size-px", "256", "--pixel-size-angstrom", "4", "--diameter-angstrom", "100"]
    words += ["--particles-per-micrograph", "30", "--n-state-volumes", "1", "--keep-clean"]
    sessions.run([["simulate", "session", str(tmp_path), *words]])
    (micrograph,) = simulated(tmp_path)
    raw, denoised, masked = examples_of(micrograph, {str(micrograph.path): micrograph.path}, 1)
    assert len(raw.centres) > 5
    assert raw.dirt.mean() > 0.05
    assert (masked.image[masked.dirt > 0] == 0).float().mean() > 0.5
    for one in (raw, denoised):  # protein is bright there, whatever the scale
        at = one.centres.round().astype(int)
        assert one.image.numpy()[at[:, 0], at[:, 1]].mean() > one.image[one.dirt == 0].mean() + 0.2


def test_calibration_finds_the_odds_and_the_threshold_keeps_the_rate() -> None:
    random = np.random.default_rng(0)
    score = random.normal(0, 3, 20000)
    true = random.random(20000) < 1 / (1 + np.exp(-(1.5 * score - 1)))
    calibration = Calibration.fit(score, true)
    told = calibration.probabilities(np.array([-2.0, 0.0, 1.0, 2.0]))
    np.testing.assert_allclose(
        told, 1 / (1 + np.exp(-(1.5 * np.array([-2.0, 0.0, 1.0, 2.0]) - 1))), atol=0.06
    )
    assert (np.diff(calibration.chance) >= 0).all()
    order = np.argsort(-score)
    for rate in (0.02, 0.05, 0.2):
        n = count_taken(calibration.probabilities(score[order]), rate, 0.0)
        assert 1 - true[order[:n]].mean() == pytest.approx(rate, abs=0.015)
    assert count_taken(np.zeros(0), 0.05, 0.5) == 0
    assert count_taken(np.array([0.6, 0.5]), 0.05, 0.5) == 0
    assert count_taken(np.array([1.0, 1.0, 0.9, 0.3]), 0.5, 0.5) == 3


def test_the_command_picks_with_the_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, paint: Callable, scatter: Callable
) -> None:
    monkeypatch.chdir(tmp_path)
    image = paint(400, scatter(20, 400, 50, 30), 40, depth=1.5) - 20 * (torch.arange(400.0) > 320).float()
    write_mrc(Path("in/a.mrc"), image.numpy(), 2.0)
    cfg = PickApply(
        method="network", pixel_size_angstrom=2.0, diameter_angstrom=80.0, false_discovery_rate=0.6
    )
    cfg = cfg.model_copy(update={"min_probability": 0.0})  # disks are taken for dirt
    command.apply(Path("in"), Path("pick/picks.star"), cfg=cfg)
    tables = read_star("pick/picks.star")
    assert set(tables["micrographs"]["emflowPickThresholdFrom"]) <= {"candidates", "lowest", "shipped"}
    x = floats(tables["particles"], "rlnCoordinateX")
    assert (x < 330).all()
    (mask,) = Path("pick/masks").glob("*.mrc")
    seen = read_mrc(mask)
    assert seen[:, -2:].mean() > 0.8
    assert seen[:, : seen.shape[1] // 2].mean() < 0.8  # the disks and their surroundings
    first = Path("pick/picks.star").read_bytes()
    monkeypatch.setattr(command, "pick_with_network", None)  # the journal knows it
    command.apply(Path("in"), Path("pick/picks.star"), cfg=cfg)
    assert Path("pick/picks.star").read_bytes() == first
