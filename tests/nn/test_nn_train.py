"""The training loop: it learns, it is seeded, it resumes to the same bits; weights are checked."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from emflow import leave
from emflow.device import generator
from emflow.nn.train import Outcome, Plan, rate_at, train
from emflow.nn.unet import UNet, count_parameters
from emflow.nn.weights import CheckpointFile, manifest_path, read_model, write_model
from emflow.step import EmflowError


def toy() -> UNet:
    torch.manual_seed(0)
    return UNet((4, 6))


def toy_loss(network: nn.Module, step: int, part: slice = slice(0, 8)) -> Tensor:
    """Noise2Noise on flat squares, drawn from the step's number."""
    rng = generator(5, step)
    clean = torch.randint(-2, 3, (8, 1, 1, 1), generator=rng).float().expand(8, 1, 16, 16)
    noisy, other = (clean + torch.randn(8, 1, 16, 16, generator=rng) for _ in range(2))
    return ((network(noisy[part]) - other[part]) ** 2).mean() * ((part.stop - part.start) / 8)


def test_training_lowers_the_loss_to_the_targets_own_noise() -> None:
    outcome = train(toy(), toy_loss, Plan(150, 8, 1e-2))
    assert sum(outcome.losses[:5]) / 5 > 2.2  # 2 of the squares and 1 of the noise
    assert sum(outcome.losses[-20:]) / 20 < 1.5
    assert not outcome.network.training
    with torch.no_grad():
        assert float(toy_loss(outcome.network, 1000)) < 1.5  # the average is as good, on unseen squares


class Killed(Exception):
    pass


def run_until(step_to_die: int | None, checkpoint: CheckpointFile) -> Outcome:
    def loss(network: nn.Module, step: int, part: slice) -> Tensor:
        if step == step_to_die:
            raise Killed
        return toy_loss(network, step, part)

    return train(toy(), loss, Plan(12, 8, 1e-2, checkpoint_seconds=0.0), checkpoint)


def test_a_killed_training_resumes_to_the_same_bits(tmp_path: Path) -> None:
    straight = run_until(None, CheckpointFile(tmp_path / "a.safetensors", "key"))
    with pytest.raises(Killed):
        run_until(7, CheckpointFile(tmp_path / "b.safetensors", "key"))
    resumed = run_until(None, CheckpointFile(tmp_path / "b.safetensors", "key"))
    assert resumed.losses == straight.losses
    for name, value in straight.network.state_dict().items():
        assert torch.equal(value, resumed.network.state_dict()[name])


def test_a_training_that_is_told_to_stop_keeps_its_last_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = run_until(None, CheckpointFile(tmp_path / "a.safetensors", "key"))
    checkpoint = CheckpointFile(tmp_path / "b.safetensors", "key")

    def loss(network: nn.Module, step: int, part: slice) -> Tensor:
        if step == 7:
            monkeypatch.setattr(leave._State, "asked", True)
        return toy_loss(network, step, part)

    with pytest.raises(leave.LeaveError):
        train(toy(), loss, Plan(12, 8, 1e-2, checkpoint_seconds=1e9), checkpoint)
    monkeypatch.setattr(leave._State, "asked", False)
    stored = checkpoint.load()
    assert stored is not None
    assert len(stored["losses"]) == 8
    assert run_until(None, checkpoint).losses == straight.losses


def test_a_checkpoint_serves_its_own_training_only(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    assert CheckpointFile(path, "key").load() is None
    CheckpointFile(path, "key").save({"losses": torch.zeros(3)})
    assert CheckpointFile(path, "key").load() is not None
    assert CheckpointFile(path, "another key").load() is None
    path.write_bytes(path.read_bytes()[:30])  # cut short
    assert CheckpointFile(path, "key").load() is None


def test_a_loss_that_is_no_number_stops_the_training() -> None:
    with pytest.raises(EmflowError, match="step 1"):
        train(toy(), lambda network, step, part: toy_loss(network, step) * float("nan"), Plan(3, 8))


def test_a_step_that_does_not_fit_is_taken_in_parts(scarce_memory: Callable[[int], Any]) -> None:
    whole = train(toy(), toy_loss, Plan(12, 8, 1e-2))
    with scarce_memory(3) as scarce:
        parts = train(toy(), toy_loss, Plan(12, 8, 1e-2))
    assert scarce.failures >= 2
    assert parts.losses == pytest.approx(whole.losses, rel=1e-5)
    for name, value in whole.network.state_dict().items():
        assert torch.allclose(value, parts.network.state_dict()[name], atol=1e-5)


def test_the_rate_rises_and_falls() -> None:
    rates = [rate_at(step, 200) for step in range(200)]
    assert rates.index(max(rates)) in (9, 10)
    assert max(rates) == 1
    assert 0 < rates[0] <= 0.1
    assert 0 < rates[-1] < 0.01


def model_file(folder: Path) -> Path:
    weights = folder / "m.safetensors"
    network = {"kind": "unet", "widths": [4, 6]}
    write_model(weights, toy().state_dict(), network, licence="BSD", recipe=["a"], facts={"x": 1})
    return weights


def test_weights_come_back_with_their_manifest(tmp_path: Path) -> None:
    weights = model_file(tmp_path)
    model = read_model(weights)
    UNet(model.network["widths"]).load_state_dict(model.state)
    assert model.facts == {"x": 1}
    manifest = json.loads(manifest_path(weights).read_text())
    assert {"sha256", "licence", "recipe", "emflow", "network"} <= manifest.keys()
    assert sum(t.numel() for t in model.state.values()) == count_parameters(toy())
    before = weights.read_bytes()
    assert model_file(tmp_path).read_bytes() == before


def test_changed_weights_are_refused(tmp_path: Path) -> None:
    weights = model_file(tmp_path)
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    with pytest.raises(EmflowError, match="checksum"):
        read_model(weights)


def test_weights_without_a_manifest_are_refused(tmp_path: Path) -> None:
    weights = model_file(tmp_path)
    manifest_path(weights).write_text('{"sha256": "0"}')
    with pytest.raises(EmflowError, match="lacks network"):
        read_model(weights)
    manifest_path(weights).unlink()
    with pytest.raises(EmflowError, match="manifest"):
        read_model(weights)
    with pytest.raises(EmflowError, match=r"\.safetensors"):
        read_model(tmp_path / "weights.pt")
