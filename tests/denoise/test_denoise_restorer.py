"""Restoring by samples: the flow's known answers, tiles, seeds, noise, the mark, and the training."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from emflow.denoise import command
from emflow.denoise.apply import denoise
from emflow.denoise.config import DenoiseApply, DenoiseTrainRestorer
from emflow.denoise.inputs import GENERAL_RESTORER, load_model, load_restorer
from emflow.denoise.restorer import Moments, Restorer, Sampling, restore, sample_errors
from emflow.denoise.scale import Scale
from emflow.denoise.train_restorer import kernel_of, noise_of
from emflow.io.mrc import read_header, read_mrc
from emflow.io.star import read_star
from emflow.nn.unet import UNet
from emflow.nn.weights import read_model
from emflow.step import EmflowError
from tests.denoise.conftest import blobs

CPU = torch.device("cpu")
Shipped = tuple[UNet, Restorer, Scale]


@pytest.fixture(scope="module")
def shipped() -> tuple[Shipped, float]:
    network, scale, model = load_model(None, CPU)
    restorer, widening, _ = load_restorer(None, model, CPU)
    return (network, restorer, scale), widening


def white(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_shipped_weights_are_small_and_told_of() -> None:
    manifest = json.loads(GENERAL_RESTORER.with_suffix(".json").read_text())
    assert GENERAL_RESTORER.stat().st_size < 1e6
    assert manifest["licence"] == "BSD-3-Clause"
    assert any("make_restorer" in line for line in manifest["recipe"])
    assert 0.8 < manifest["facts"]["widening"] < 1.25


def test_moments_of_pairs_are_those_of_all_samples() -> None:
    """Pairs from opposite noise: half sums and differences vary by themselves; 4 pairs know what 4 000 do, on average."""
    rng = torch.Generator().manual_seed(0)
    moments = Moments.like(torch.zeros(200, 200))
    for _ in range(4):
        shared, opposite = (torch.randn(200, 200, generator=rng) for _ in range(2))
        moments.add(5 + 0.3 * shared + 2 * opposite, 5 + 0.3 * shared - 2 * opposite)
    assert float(moments.mean().mean()) == pytest.approx(5, abs=0.01)
    assert float(moments.mean().std()) == pytest.approx(0.15, rel=0.03), "opposite noise cancels"
    assert float(moments.deviation().square().mean()) == pytest.approx(4.09, rel=0.02)


def test_noise_has_the_spectrum_of_what_it_was_measured_on() -> None:
    kernel = torch.zeros(33, 33)
    kernel[15:18, 15:18] = torch.tensor([[0.3, 0.6, 0.3], [0.6, 1.0, 0.6], [0.3, 0.6, 0.3]])
    images = noise_of(kernel, (40, 96, 96), torch.Generator().manual_seed(1))[:, 0]
    again = noise_of(kernel_of(images), (40, 96, 96), torch.Generator().manual_seed(2))[:, 0]
    assert float(again.std()) == pytest.approx(float(images.std()), rel=0.05)
    for lag in (1, 2, 4):
        wanted, found = (
            float((x[:, lag:] * x[:, :-lag]).mean() / x.square().mean()) for x in (images, again)
        )
        assert found == pytest.approx(wanted, abs=0.06)


@pytest.fixture
def eager() -> Restorer:
    """A restorer whose networks do something."""
    torch.manual_seed(3)
    restorer = Restorer((6, 8, 10))
    torch.nn.init.normal_(restorer.flow.last.weight, std=0.3)
    torch.nn.init.normal_(restorer.deviation.last.weight, std=0.1)
    restorer.kernel[14:19, 14:19] = 0.2
    return restorer.eval().requires_grad_(False)


def test_tiled_equals_whole_and_seeds_tell(eager: Restorer) -> None:
    noisy, mean = white(300, 230), 0.3 * white(300, 230, seed=1)

    def sampled(tile: int, seed: int = 5) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        moments, first = sample_errors(eager, noisy, mean, Sampling(4, 2, seed), tile)
        return moments.mean(), moments.deviation(), first

    whole = sampled(1024)
    for one, other in zip(whole, sampled(128), strict=True):
        assert float((one - other).abs().max()) < 1e-4 * float(one.std())
    assert all(torch.equal(a, b) for a, b in zip(whole, sampled(1024), strict=True))
    assert not torch.allclose(whole[2], sampled(1024, 6)[2], atol=0.1)


def test_without_evaluations_samples_are_noise_as_strong_as_told(eager: Restorer) -> None:
    noisy, mean = white(256, 256), torch.zeros(256, 256)
    moments, first = sample_errors(eager, noisy, mean, Sampling(2, 0, 1), 1024)
    told = eager.log_deviation(torch.stack([noisy, mean])[None]).exp()[0, 0]
    assert float(moments.mean().abs().max()) < 1e-6, "opposite noise cancels"
    assert float((first / told).std()) == pytest.approx(float(eager.kernel.square().sum().sqrt()), rel=0.1)


def scene(seed: int, deviation: float = 1.5) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    clean = blobs((240, 240), rng, 20)
    noisy = clean + rng.normal(0, deviation, clean.shape)
    return torch.from_numpy(noisy.astype(np.float32)), torch.from_numpy(clean.astype(np.float32))


def test_the_deviation_tells_the_error_and_samples_have_the_power_that_the_mean_lacks(
    shipped: tuple[Shipped, float],
) -> None:
    model, widening = shipped
    image, clean = scene(4)
    found = restore(image, 6.0, model, Sampling(8, 4, 0, widening), 1024, bright=False)
    plain = denoise(image, 6.0, model[0], model[2], 1024, bright=False).image
    error = (found.image - clean).square().mean().sqrt()
    regression = (plain - clean).square().mean().sqrt()
    of_sample = (found.sample - clean).square().mean().sqrt()
    assert float(error) < 1.06 * float(regression), "the samples' mean loses next to nothing"
    assert 1.1 < float(of_sample / error) < 1.8, "a sample is as far from the mean as the truth: 3 dB"
    assert 0.6 < float(error / found.deviation.square().mean().sqrt()) < 1.6
    order = found.deviation.flatten().argsort()
    errors = (found.image - clean).flatten()[order].square()
    fifth = len(errors) // 5
    assert float(errors[-fifth:].mean()) > 2 * float(errors[:fifth].mean()), "it tells where"
    assert float(found.sample.var()) > 1.03 * float(found.image.var())


def test_nothing_is_invented_of_noise(shipped: tuple[Shipped, float]) -> None:
    """The mean is the regression's, a picker finds nothing in it, and the deviation is one number."""
    from emflow.pick.apply import pick_micrograph
    from emflow.pick.config import PickApply

    model, widening = shipped
    image = 100 + 3 * white(500, 500, seed=3)
    found = restore(image, 3.0, model, Sampling(4, 4, 0, widening), 1024, bright=False)
    assert found.kept_variance < 0.01
    assert float(found.image.var()) < 0.05 * 9
    assert torch.equal(found.image, found.sample)
    assert float(found.deviation.std()) < 0.1 * float(found.deviation.mean()), (
        "flat but for the image's own scale"
    )
    assert float(found.deviation.mean()) < 0.3 * 3
    picks = pick_micrograph(found.image, 3.0, True, PickApply(diameter_angstrom=150.0))
    assert len(picks.xy_px) <= 1
    # nor does the flow itself make anything of it
    noisy = white(250, 250, seed=3)
    moments, _ = sample_errors(model[1], noisy, torch.zeros(250, 250), Sampling(4, 4), 1024)
    assert float(moments.mean().var()) < 0.01


def test_bright_protein_is_the_negative(shipped: tuple[Shipped, float]) -> None:
    image, _ = scene(1)
    image = image[:100, :100]
    dark = restore(image, 6.0, shipped[0], Sampling(2, 1), 1024, bright=False)
    bright = restore(-image, 6.0, shipped[0], Sampling(2, 1), 1024, bright=True)
    torch.testing.assert_close(-dark.sample, bright.sample, atol=1e-3, rtol=0)
    torch.testing.assert_close(dark.deviation, bright.deviation, atol=1e-3, rtol=0)


DIFFUSION = DenoiseApply(method="diffusion", samples=2, evaluations=1)


def test_the_command_writes_marked_images_once(
    session: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out" / "micrographs.star"
    command.apply(session, out, cfg=DIFFUSION)
    table = read_star(out)["micrographs"]
    names = ("emflowDenoisedName", "emflowDeviationName", "emflowSampleName")
    for row in table.to_dict("records"):
        for name in names:
            header = read_header(row[name])
            assert header.restored
            assert header.shape == (150, 141) or tuple(header.shape)[-2:] == (150, 141)
        assert read_mrc(row["emflowDeviationName"]).min() >= 0
        assert row["emflowRestored"] == "1"
    assert len({read_mrc(name).tobytes() for name in table["emflowSampleName"]}) == 3
    first = Path(table["emflowSampleName"].iloc[0]).read_bytes()
    calls: list[int] = []
    real = command.restore
    monkeypatch.setattr(command, "restore", lambda *a: calls.append(1) or real(*a))
    command.apply(session, out, cfg=DIFFUSION)
    assert not calls
    Path(table["emflowSampleName"].iloc[0]).unlink()  # what lies beside an image is made again with it
    command.apply(session, out, cfg=DIFFUSION)
    assert len(calls) == 1
    assert Path(table["emflowSampleName"].iloc[0]).read_bytes() == first, "the same bytes"
    command.apply(session, out, examples=1, cfg=DIFFUSION)
    for folder in ("images", "deviations", "samples"):
        assert len(list((out.parent / folder).iterdir())) == 1


SMALL = DenoiseTrainRestorer(deviation_steps=6, steps=6, batch=2, crop_px=64, widths=(4, 6))


def test_a_restorer_is_trained_beside_its_model_and_refused_beside_another(
    session: Path, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        command.train_restorer(session, tmp_path / name, cfg=SMALL)
    made = tmp_path / "a" / "restorer.safetensors"
    assert made.read_bytes() == (tmp_path / "b" / "restorer.safetensors").read_bytes()
    assert read_model(made).facts["mean"] == load_model(None, CPU)[2].sha256
    assert {"widening", "held_out_error"} <= set(json.loads((tmp_path / "a" / "metrics.json").read_text()))
    cfg = DIFFUSION.model_copy(update={"restorer": str(tmp_path / "a")})
    command.apply(session, tmp_path / "own" / "m.star", cfg=cfg)
    assert len(read_star(tmp_path / "own" / "m.star")["micrographs"]) == 3
    manifest = json.loads((tmp_path / "a" / "restorer.json").read_text())
    manifest["facts"]["mean"] = "0" * 64
    (tmp_path / "a" / "restorer.json").write_text(json.dumps(manifest))
    with pytest.raises(EmflowError, match="another model"):
        command.apply(session, tmp_path / "no" / "m.star", cfg=cfg)
    with pytest.raises(EmflowError, match="last the folder"):
        command.train_restorer(session)


def test_the_regression_does_not_depend_on_the_sampler(session: Path, tmp_path: Path) -> None:
    command.apply(session, tmp_path / "a" / "m.star")
    command.apply(session, tmp_path / "b" / "m.star", cfg=DenoiseApply(samples=16, seed=4))
    for path in (tmp_path / "a" / "images").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / "images" / path.name).read_bytes()
    assert "emflowSampleName" not in read_star(tmp_path / "a" / "m.star")["micrographs"]


def test_noise_of_a_whole_session_is_left(
    session: Path, tmp_path: Path, noise: Callable[[Path], None]
) -> None:
    noise(session)
    command.apply(session, tmp_path / "m.star", cfg=DIFFUSION)
    for row in read_star(tmp_path / "m.star")["micrographs"].to_dict("records"):
        assert read_mrc(row["emflowDenoisedName"]).std() < 0.3
        assert np.array_equal(read_mrc(row["emflowDenoisedName"]), read_mrc(row["emflowSampleName"]))
