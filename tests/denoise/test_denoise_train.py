"""`denoise train`: pairs whose noise is independent, models that beat a low-pass, with halves and without."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from emflow.denoise import command
from emflow.denoise.config import DenoiseApply, DenoiseTrain
from emflow.denoise.noise import deviation_of, draw_noise, noise_spectrum, white_noise
from emflow.denoise.scale import Scale
from emflow.denoise.train import pair_of, sample_of_clean, sample_of_halves, sample_of_one
from emflow.io.mrc import read_mrc, write_mrc
from emflow.io.star import read_star, write_star
from emflow.nn.weights import read_model
from emflow.step import EmflowError
from tests.denoise.conftest import blobs

SMALL = DenoiseTrain(start="scratch", widths=(8, 12, 16), steps=120, batch=6, crop_px=64, learning_rate=5e-3)


def draw_pairs(sample: object, number: int = 60) -> tuple[torch.Tensor, torch.Tensor]:
    pairs = [pair_of(sample, 64, torch.Generator().manual_seed(seed)) for seed in range(number)]  # type: ignore[arg-type]
    return torch.stack([a for a, _ in pairs]), torch.stack([b for _, b in pairs])


def test_white_noise_is_measured_beside_any_smooth_signal() -> None:
    rng = torch.Generator().manual_seed(0)
    y = torch.arange(256.0)
    signal = 3 * torch.sin(2 * torch.pi * y / 32)[:, None] * torch.cos(2 * torch.pi * y / 64)
    noise = torch.randn(256, 256, generator=rng)
    assert white_noise(0.7 * noise + signal) == pytest.approx(0.7, rel=0.02)


@pytest.mark.parametrize("kind", ["halves", "single"])
def test_noise_of_input_and_target_is_independent(kind: str) -> None:
    """On pure noise they share nothing, so that there is nothing to be learned from it."""
    rng = torch.Generator().manual_seed(0)
    one, two = torch.randn(2, 256, 256, generator=rng)
    sample = (
        sample_of_halves(one, two, 6.0, Scale(), 1.0)
        if kind == "halves"
        else sample_of_one(one, 6.0, Scale(), 1.0)
    )
    inputs, targets = draw_pairs(sample)
    assert abs(float((inputs * targets).mean())) < 0.02 * float(inputs.std() * targets.std())
    assert sample.weight == pytest.approx(10, rel=0.2)  # no signal: the floor


def test_input_and_target_share_the_signal_at_one_scale() -> None:
    """Whatever the route, the target's regression on the input's signal has slope 1."""
    rng = np.random.default_rng(0)
    image = torch.from_numpy(gaussian_filter(rng.normal(size=(256, 256)), 3).astype(np.float32))
    signal = image / image.std()
    noise = torch.from_numpy(rng.normal(size=(2, 256, 256)).astype(np.float32))
    full = signal + (noise[0] + noise[1]) / 2**0.5
    samples = {
        "halves": sample_of_halves(
            signal / 2 + noise[0] / 2**0.5, signal / 2 + noise[1] / 2**0.5, 6.0, Scale(), 1.0
        ),
        "single": sample_of_one(full, 6.0, Scale(), 1.0),
        "clean": sample_of_clean(full, signal, 6.0, Scale(), 1.0),
    }
    for sample in samples.values():
        inputs, targets = draw_pairs(sample)
        low = torch.from_numpy(gaussian_filter(inputs.numpy(), (0, 4, 4)))
        high = torch.from_numpy(gaussian_filter(targets.numpy(), (0, 4, 4)))
        assert float((low * high).mean() / (low * low).mean()) == pytest.approx(1, abs=0.1)


def better_than_low_pass(table: Path, weights: Path, out: Path) -> list[float]:
    """Squared error left by the model over that of the best Gaussian low-pass, after the best fit, per micrograph."""
    command.apply(table, out, cfg=DenoiseApply(weights=str(weights)))
    ratios = []
    for row in read_star(out)["micrographs"].to_dict("records"):
        raw, image, clean = (
            read_mrc(row[name]) for name in ("rlnMicrographName", "emflowDenoisedName", "emflowCleanName")
        )

        def left(x: np.ndarray, truth: np.ndarray = clean) -> float:
            return 1 - float(np.corrcoef(x.ravel(), truth.ravel())[0, 1]) ** 2

        ratios.append(left(image) / min(left(gaussian_filter(raw, s)) for s in np.arange(0.5, 8, 0.25)))
    return ratios


@pytest.mark.parametrize("target", ["halves", "single"])
def test_a_model_from_scratch_beats_every_low_pass(session: Path, tmp_path: Path, target: str) -> None:
    tables = read_star(session)
    if target == "single":  # no halves: found out by itself
        table = tables["micrographs"].drop(columns=["emflowEvenName", "emflowOddName"])
        write_star(session, {**tables, "micrographs": table})
    command.train(session, tmp_path / "model", cfg=SMALL)
    model = read_model(tmp_path / "model" / "model.safetensors")
    assert model.facts["learned_from"] == target
    metrics = json.loads((tmp_path / "model" / "metrics.json").read_text())
    assert metrics["loss_last_tenth"] < metrics["loss_first_tenth"]
    assert metrics["held_out_gain"] > 0.2  # halves give less than the whole: their noise is twice as strong
    ratios = better_than_low_pass(
        session, tmp_path / "model" / "model.safetensors", tmp_path / "d" / "shard.star"
    )
    assert max(ratios) < 0.9  # the held-out micrograph among them


def test_a_single_image_beats_every_low_pass_where_its_noise_is_mildly_coloured(
    session: Path, tmp_path: Path
) -> None:
    """Neighbours' noise correlates by 0.2: taken for white, it is half learned as signal (ratio 1)."""
    tables = read_star(session)
    table = tables["micrographs"].drop(columns=["emflowEvenName", "emflowOddName"])
    rng = np.random.default_rng(5)
    for row in table.to_dict("records"):
        clean = read_mrc(row["emflowCleanName"])
        noise = gaussian_filter(rng.normal(size=clean.shape), 0.5)
        write_mrc(row["rlnMicrographName"], clean + 1.5 * noise / noise.std(), 6.0)
    write_star(session, {**tables, "micrographs": table})
    command.train(session, tmp_path / "model", cfg=SMALL)
    ratios = better_than_low_pass(
        session, tmp_path / "model" / "model.safetensors", tmp_path / "d" / "s.star"
    )
    assert max(ratios) < 0.95


def test_the_spectrum_of_noise_is_measured_beside_particles() -> None:
    rng = np.random.default_rng(2)
    noise = gaussian_filter(rng.normal(size=(300, 300)), 0.5)
    image = torch.from_numpy((blobs((300, 300), rng, 25) + 1.5 * noise / noise.std()).astype(np.float32))
    spectrum = noise_spectrum(image)
    level = deviation_of(spectrum)
    assert level == pytest.approx(1.5, rel=0.07)
    drawn = draw_noise(spectrum, (300, 300), torch.Generator().manual_seed(0))
    assert float(drawn.std()) == pytest.approx(level, rel=0.05)
    for x in (drawn.numpy(), noise):
        assert np.corrcoef(x[:, 1:].ravel(), x[:, :-1].ravel())[0, 1] == pytest.approx(0.22, abs=0.05)


def test_same_seed_same_weights_and_the_list_is_kept(session: Path, tmp_path: Path) -> None:
    cfg = SMALL.model_copy(update={"steps": 4})
    for name in ("a", "b"):
        command.train(session, tmp_path / name, cfg=cfg)
    a, b = (tmp_path / name / "model.safetensors" for name in ("a", "b"))
    assert a.read_bytes() == b.read_bytes()
    used = read_star(tmp_path / "a" / "micrographs.star")["micrographs"]
    assert list(used["emflowHeldOut"]) == ["0", "1", "0"]
    assert not list((tmp_path / "a").glob(".checkpoint*"))
    command.train(session, tmp_path / "c", cfg=cfg.model_copy(update={"seed": 1}))
    assert (tmp_path / "c" / "model.safetensors").read_bytes() != a.read_bytes()


def test_nothing_is_learned_from_noise(session: Path, tmp_path: Path, noise: Callable[[Path], None]) -> None:
    noise(session)
    command.train(session, tmp_path / "model", cfg=SMALL.model_copy(update={"steps": 60}))
    (row,) = json.loads((tmp_path / "model" / "verdicts.json").read_text())
    assert row["verdict"] == "fail"
    command.apply(
        session,
        tmp_path / "out.star",
        cfg=DenoiseApply(weights=str(tmp_path / "model" / "model.safetensors")),
    )
    kept = read_star(tmp_path / "out.star")["micrographs"]["emflowKeptVariance"]
    assert max(map(float, kept)) < 0.05


def test_fine_tuning_begins_with_the_general_model(session: Path, tmp_path: Path) -> None:
    cfg = DenoiseTrain(steps=2, batch=2, crop_px=64, learning_rate=1e-5)
    command.train(session, tmp_path / "model", cfg=cfg)
    tuned = read_model(tmp_path / "model" / "model.safetensors")
    general = read_model(command_general())
    assert tuned.facts["begun_from"] == general.sha256
    assert tuned.network == general.network
    for name, value in general.state.items():
        assert float((tuned.state[name] - value).abs().max()) < 1e-4


def command_general() -> Path:
    from emflow.denoise.inputs import GENERAL

    return GENERAL


def test_what_is_missing_is_said(session: Path, tmp_path: Path) -> None:
    tables = read_star(session)
    bare = tables["micrographs"][["rlnMicrographName", "rlnOpticsGroup", "emflowMicrographId"]]
    write_star(tmp_path / "bare.star", {**tables, "micrographs": bare})
    for target, word in (("halves", "input.even"), ("clean", "emflowCleanName")):
        with pytest.raises(EmflowError, match=word):
            command.train(
                tmp_path / "bare.star", tmp_path / "m", cfg=SMALL.model_copy(update={"target": target})
            )
    write_star(tmp_path / "one.star", {**tables, "micrographs": bare.iloc[:1]})
    with pytest.raises(EmflowError, match="at least 2"):
        command.train(tmp_path / "one.star", tmp_path / "m", cfg=SMALL)
    with pytest.raises(EmflowError, match="last the folder"):
        command.train(tmp_path / "one.star", cfg=SMALL)
