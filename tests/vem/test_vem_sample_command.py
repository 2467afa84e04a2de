"""The sampling verbs on files: trained, judged, sampled, killed and gone on with; noise stays noise."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch

from emflow.io.volume import open_volume
from emflow.step import EmflowError, Run
from emflow.vem import command, command_sample
from emflow.vem.config import VemCheck, VemRestore, VemSample, VemScore, VemTrain, VemTrainSampler
from emflow.vem.inputs import read_filler
from emflow.vem.inputs_sample import read_examples
from emflow.vem.inputs_slices import Measured
from emflow.vem.outputs_sample import at_temperature, gate_verdicts

FACTOR = 4
VOXEL = (40.0, 10.0, 10.0)
LEARN = VemTrainSampler(voxel_nm=VOXEL, steps=20, batch=4, crop_px=64, evaluations=2)
SAMPLE = VemSample(voxel_nm=VOXEL, samples=2, evaluations=1, block_slices=6, block_px=128)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, truth, measured) -> Path:
    """A model, a sampler and samples."""
    out = tmp_path_factory.mktemp("sampling")
    tifffile.imwrite(out / "truth.tif", truth)
    tifffile.imwrite(out / "measured.tif", measured)
    quick = VemTrain(voxel_nm=VOXEL, steps=40, batch=4, held_out=False)
    command.train(out / "measured.tif", out / "model", cfg=quick)
    command.train_sampler(out / "measured.tif", out / "model", out / "sampler", cfg=LEARN)
    command.sample(
        out / "measured.tif", out / "model", out / "sampler", out / "samples", cfg=SAMPLE,
        run=Run(record=out / "record.json"),
    )  # fmt: skip
    return out


def _digests(path: Path) -> dict[str, str]:
    files = (file for file in sorted(path.rglob("*")) if file.is_file() and not file.name.startswith("."))
    return {str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def test_the_gate_says_what_texture_costs_and_brings(folder):
    metrics = json.loads((folder / "sampler" / "metrics.json").read_text())
    assert metrics["high_frequency_power"] > 3 * metrics["high_frequency_power_regression"]
    assert 0.1 < metrics["psnr_loss_db"] < 0.7
    assert 0.2 < metrics["psnr_loss_volume_db"] < 0.5
    (said,) = json.loads((folder / "sampler" / "verdicts.json").read_text())
    assert said == gate_verdicts(metrics)[0]
    assert f"{metrics['high_frequency_power']:.2f}" in said["evidence"]
    again, tells = json.loads((folder / "samples" / "verdicts.json").read_text())
    assert again == said
    assert tells["verdict"] == "pass"
    assert json.loads((folder / "record.json").read_text())["voxels"] == np.prod((69, 80, 88))


@pytest.mark.parametrize(
    ("power", "loss", "needed", "answer"),
    [(0.72, 0.45, 0.4, "pass"), (0.72, 0.6, 0.4, "fail"), (0.5, 0.45, 1.3, "fail"), (0.5, 0.4, None, "fail")],
)
def test_the_gate_s_bounds(power, loss, needed, answer):
    (said,) = gate_verdicts(
        {
            "psnr_loss_db": loss, "psnr_loss_volume_db": 0.4, "high_frequency_power": power,
            "high_frequency_power_regression": 0.1, "psnr_loss_needed_db": needed,
        }
    )  # fmt: skip
    assert said["verdict"] == answer
    assert bool(said["action"]) == (answer == "fail")
    assert ("1.30 dB" in said["evidence"]) == (needed == 1.3), "what no sampler could do better is said"


def test_figures_follow_the_temperature():
    """Half of the temperature adds a quarter of the squared error and of the power."""
    metrics = {
        "psnr_db": 24.5, "psnr_regression_db": 25.0, "psnr_loss_db": 0.5, "psnr_loss_volume_db": 0.45,
        "ssim": 0.6, "high_frequency_power": 0.8, "high_frequency_power_regression": 0.2,
    }  # fmt: skip
    half = at_temperature(metrics, 0.5)
    assert half["high_frequency_power"] == pytest.approx(0.35)
    assert half["psnr_loss_db"] == pytest.approx(10 * np.log10(1 + 0.25 * (10**0.05 - 1)))
    assert half["psnr_db"] == pytest.approx(25 - half["psnr_loss_db"])
    same = at_temperature(metrics, 1.0)
    assert {name: same[name] for name in same} == pytest.approx(
        {n: v for n, v in metrics.items() if n != "ssim"}
    )
    assert gate_verdicts(at_temperature(metrics, 1.2))[0]["verdict"] == "fail", "too much is lost"


def test_samples_keep_what_was_measured_and_differ_elsewhere(folder, measured):
    images = [open_volume(folder / "samples" / f"sample_{n}.zarr") for n in (1, 2)]
    values = np.stack([image.read() for image in images]).astype(np.float64)
    assert images[0].voxel_nm == pytest.approx((10.0, 10.0, 10.0))
    assert images[0].dtype == measured.dtype
    for sample in values:
        np.testing.assert_array_equal(sample[::FACTOR], measured)
    assert not np.array_equal(values[0], values[1])
    mean = open_volume(folder / "samples" / "mean.zarr").read()
    deviation = open_volume(folder / "samples" / "deviation.zarr").read()
    assert deviation.dtype == np.float32
    assert not deviation[::FACTOR].any()
    assert np.abs(mean - values.mean(0)).max() <= 1.0, "rounded"
    inside = (values.min(0) > 1) & (values.max(0) < 254)  # neither end of the range cut off
    assert np.abs(deviation - values.std(0, ddof=1))[inside].max() < 1.0


def test_a_temperature_of_zero_is_the_restored_volume(folder, tmp_path):
    cold = SAMPLE.model_copy(update={"temperature": 0.0, "samples": 1})
    paths = folder / "measured.tif", folder / "model"
    command.sample(*paths, folder / "sampler", tmp_path / "cold", cfg=cold)
    command.restore(*paths, tmp_path / "r.zarr", tmp_path / "e.zarr", cfg=VemRestore(voxel_nm=VOXEL))
    restored = open_volume(tmp_path / "r.zarr").read().astype(int)
    found = open_volume(tmp_path / "cold" / "sample_1.zarr").read().astype(int)
    assert np.abs(found - restored).max() <= 1, "rounding at most"
    assert np.mean(found != restored) < 1e-3
    assert not (tmp_path / "cold" / "mean.zarr").exists()


def test_a_killed_run_goes_on_with_what_it_lacks(folder, tmp_path, monkeypatch):
    done, again = [], []
    whole = command_sample._sample

    def killed(*arguments):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(arguments[2].number)
        whole(*arguments)

    paths = folder / "measured.tif", folder / "model", folder / "sampler", tmp_path / "samples"
    monkeypatch.setattr(command_sample, "_sample", killed)
    with pytest.raises(KeyboardInterrupt):
        command.sample(*paths, cfg=SAMPLE)
    monkeypatch.setattr(
        command_sample, "_sample", lambda *given: (again.append(given[2].number), whole(*given))
    )
    command.sample(*paths, cfg=SAMPLE)
    assert again
    assert not set(again) & set(done)
    assert _digests(tmp_path / "samples") == _digests(folder / "samples")


def test_noise_comes_out_as_noise(tmp_path):
    noise = np.random.default_rng(0).normal(120, 25, (17, 64, 64)).clip(0, 255).astype(np.uint8)
    tifffile.imwrite(tmp_path / "noise.tif", noise)
    quick = VemTrain(voxel_nm=VOXEL, steps=40, batch=4, held_out=False)
    command.train(tmp_path / "noise.tif", tmp_path / "model", cfg=quick)
    command.train_sampler(tmp_path / "noise.tif", tmp_path / "model", tmp_path / "sampler", cfg=LEARN)
    (said,) = json.loads((tmp_path / "sampler" / "verdicts.json").read_text())
    assert said["verdict"] == "fail"
    assert "at least, however texture is made" in said["evidence"]
    metrics = json.loads((tmp_path / "sampler" / "metrics.json").read_text())
    assert 0.7 < metrics["psnr_loss_needed_db"] < 0.9, "0.8 dB where nothing is known"
    one = SAMPLE.model_copy(update={"samples": 1})
    command.sample(
        tmp_path / "noise.tif", tmp_path / "model", tmp_path / "sampler", tmp_path / "out", cfg=one
    )
    command.restore(
        tmp_path / "noise.tif", tmp_path / "model", tmp_path / "r.zarr", tmp_path / "e.zarr",
        cfg=VemRestore(voxel_nm=VOXEL),
    )  # fmt: skip
    made = open_volume(tmp_path / "out" / "sample_1.zarr").read().astype(float)
    added = np.delete(made - open_volume(tmp_path / "r.zarr").read(), np.s_[::FACTOR], axis=0)
    assert 5 < added.std() < 13, "an eighth of the noise's variance"
    spectrum = (np.abs(np.fft.fft2(added)) ** 2).mean(0)
    radius = 2 * np.hypot(*np.meshgrid(np.fft.fftfreq(64), np.fft.fftfreq(64), indexing="ij"))
    bands = [spectrum[(radius > low) & (radius <= low + 0.2)].mean() for low in np.arange(0, 1, 0.2)]
    assert max(bands) < 2 * min(bands), "flat: no sheets, no bodies"
    assert np.abs(added).max() < 6 * added.std()


def test_noise_gets_a_flat_mean_though_the_network_knows_structure(folder, tmp_path):
    noise = np.random.default_rng(6).normal(120, 25, (17, 64, 64)).clip(0, 255).astype(np.uint8)
    tifffile.imwrite(tmp_path / "noise.tif", noise)
    cold = SAMPLE.model_copy(update={"temperature": 0.0, "samples": 1})
    command.sample(tmp_path / "noise.tif", folder / "model", folder / "sampler", tmp_path / "out", cfg=cold)
    made = open_volume(tmp_path / "out" / "sample_1.zarr").read().astype(float)
    assert np.delete(made, np.s_[::FACTOR], axis=0).std() < 0.02 * noise.std()
    assert json.loads((tmp_path / "out" / "verdicts.json").read_text())[-1]["verdict"] == "fail"


@pytest.mark.parametrize("absent", [[6], [6, 7]])
def test_across_absent_slices_samples_are_what_restore_makes(absent, folder, tmp_path, measured):
    spoilt = measured.copy()
    spoilt[absent] = 0
    tifffile.imwrite(tmp_path / "v.tif", spoilt)
    command.check(tmp_path / "v.tif", tmp_path / "check", cfg=VemCheck())
    given = {"slices": tmp_path / "check" / "slices.star"}
    paths = tmp_path / "v.tif", folder / "model"
    command.sample(*paths, folder / "sampler", tmp_path / "s", cfg=SAMPLE, **given)
    command.restore(*paths, tmp_path / "r.zarr", tmp_path / "e.zarr", cfg=VemRestore(voxel_nm=VOXEL), **given)
    made = open_volume(tmp_path / "s" / "sample_1.zarr").read().astype(float)
    restored = open_volume(tmp_path / "r.zarr").read().astype(float)
    differ = np.abs(made - restored).mean((1, 2))
    low, high = (absent[0] - 1) * FACTOR, (absent[-1] + 1) * FACTOR
    assert differ[low : high + 1].max() < 0.01
    between = np.delete(differ, np.r_[np.arange(0, len(differ), FACTOR), low:high])
    assert between.min() > 0.5
    assert not (restored[absent[0] * FACTOR] == 0).all()


def test_an_isotropic_volume_teaches_the_texture_along_the_axis(folder, tmp_path, truth):
    filler, _ = read_filler(folder / "model", torch.device("cpu"))
    source = Measured.of(open_volume(folder / "truth.tif"), None)
    found = read_examples(source, (10.0, 10.0, 10.0), filler, LEARN)
    units = (torch.from_numpy(truth.astype(np.float32)) - filler.mean) / filler.deviation
    assert found.axial
    assert not found.learned.turn
    assert torch.equal(found.slices, units[::FACTOR])
    assert torch.equal(found.learned.stacks[0], units[:, :60].permute(1, 0, 2))
    assert torch.equal(found.learned.stacks[1], units[:, :60].permute(2, 0, 1))
    assert torch.equal(found.unseen.stacks[0], units[:, 60:].permute(1, 0, 2))
    drawn = found.unseen.draw(FACTOR, 3, 64, torch.Generator().manual_seed(0))
    assert drawn.shape == (3, 65, 64), "sixteen gaps of four"


def test_what_does_not_fit_is_refused(folder, tmp_path, measured):
    paths = folder / "measured.tif", folder / "model"
    with pytest.raises(EmflowError, match="expected 'texture sampler'"):
        command.sample(*paths, folder / "model" / "model.safetensors", tmp_path / "o", cfg=SAMPLE)
    wrong = SAMPLE.model_copy(update={"voxel_nm": (50.0, 10.0, 10.0)})
    with pytest.raises(EmflowError, match="fills gaps of 4"):
        command.sample(*paths, folder / "sampler", tmp_path / "o", cfg=wrong)
    with pytest.raises(EmflowError, match="the model fills gaps of 4"):
        command.train_sampler(*paths, tmp_path / "o", cfg=LEARN.model_copy(update={"voxel_nm": (50, 10, 10)}))
    manifest = json.loads((folder / "sampler" / "sampler.json").read_text())
    manifest["facts"]["filler"] = "0" * 64
    (tmp_path / "sampler.json").write_text(json.dumps(manifest))
    (tmp_path / "sampler.safetensors").write_bytes((folder / "sampler" / "sampler.safetensors").read_bytes())
    with pytest.raises(EmflowError, match="trained with another model"):
        command.sample(*paths, tmp_path, tmp_path / "o", cfg=SAMPLE)
    tifffile.imwrite(tmp_path / "small.tif", measured[:, :20, :20])
    with pytest.raises(EmflowError, match="too small to learn texture"):
        command.train_sampler(tmp_path / "small.tif", folder / "model", tmp_path / "o", cfg=LEARN)


def test_a_real_volume_gets_its_texture_back_along_the_axis(real_data, tmp_path):
    """Every sixth slice of a FIB-SEM crop: the gate's promise holds where the truth is known."""
    truth = tifffile.imread(real_data / "fibsem_medulla" / "raw.tif")[:73]
    tifffile.imwrite(tmp_path / "truth.tif", truth)
    tifffile.imwrite(tmp_path / "kept.tif", np.ascontiguousarray(truth[::6]))
    voxel = (60.0, 10.0, 10.0)
    learn = VemTrain(voxel_nm=voxel, steps=50, batch=6, held_out=False)
    command.train(tmp_path / "kept.tif", tmp_path / "model", cfg=learn)
    quick = VemTrainSampler(voxel_nm=voxel, steps=10, batch=4, evaluations=0)
    command.train_sampler(tmp_path / "kept.tif", tmp_path / "model", tmp_path / "sampler", cfg=quick)
    found = {}
    for temperature in (0.0, 1.0):
        cfg = VemSample(voxel_nm=voxel, samples=1, evaluations=0, temperature=temperature)
        out = tmp_path / f"at_{temperature}"
        command.sample(tmp_path / "kept.tif", tmp_path / "model", tmp_path / "sampler", out, cfg=cfg)
        command.score(
            out / "sample_1.zarr", tmp_path / "truth.tif", out / "score.json", cfg=VemScore(factor=6)
        )
        found[temperature] = json.loads((out / "score.json").read_text())
    assert found[0.0]["high_frequency_power"] < 0.1
    assert found[1.0]["high_frequency_power"] > 0.35
    assert found[0.0]["psnr_db"] - found[1.0]["psnr_db"] < 0.5
