"""General weights: for every factor, from isotropic volumes, to start from or to take as they are."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch

from emflow.io.volume import open_volume
from emflow.nn.weights import read_model
from emflow.step import EmflowError
from emflow.vem import command
from emflow.vem.config import VemPretrain, VemRestore, VemTrain
from emflow.vem.crops import crops, draw, isotropic
from emflow.vem.gaps import between, divide, neighbours
from emflow.vem.general import FACTORS, GeneralFiller, state_of
from emflow.vem.inputs import GENERAL, GENERAL_KIND, first_weights
from emflow.vem.model import build
from tests.vem.conftest import tissue

FACTOR = 4
VOXEL = (40.0, 10.0, 10.0)
WHOLE = VemTrain(voxel_nm=VOXEL, steps=0)


def _metrics(folder: Path) -> dict:
    return json.loads((folder / "metrics.json").read_text())


def _gain(restored: Path, truth: np.ndarray, measured: np.ndarray) -> float:
    """PSNR of the filled slices above that of linear interpolation."""
    found = open_volume(restored).read().astype(float)
    rows = torch.from_numpy(measured.astype(np.float64)).permute(1, 0, 2)
    line = between(rows, FACTOR).permute(1, 2, 0, 3).numpy()
    target = truth[: len(found) - 1].reshape(-1, FACTOR, *truth.shape[1:])[:, 1:]
    errors = [
        np.square(guess - target).mean()
        for guess in (line, found[:-1].reshape(-1, FACTOR, *truth.shape[1:])[:, 1:])
    ]
    return 10 * np.log10(errors[0] / errors[1])


@pytest.fixture
def files(tmp_path, truth, measured) -> Path:
    tifffile.imwrite(tmp_path / "measured.tif", measured)
    tifffile.imwrite(tmp_path / "truth.tif", truth)
    return tmp_path


def test_what_is_taken_out_for_a_factor_is_what_was_trained():
    torch.manual_seed(0)
    general = GeneralFiller()
    for parameter in general.parameters():  # last layers begin with zeros
        torch.nn.init.normal_(parameter, std=0.1)
    x = torch.randn(2, 4, 4, 16)
    outs = []
    for factor in (2, 5, 16):
        plain = build(factor)
        plain.load_state_dict(state_of(general.state_dict(), factor))
        outs.append(plain(x))
        torch.testing.assert_close(outs[-1], general(x, factor))
        assert outs[-1].shape[1] == 4 * (factor - 1)
    size = sum(p.numel() for p in general.parameters())
    assert size < 1.2 * sum(p.numel() for p in build(6).parameters()), "one set for all, not one each"


def test_volumes_are_learned_from_across_every_axis():
    ramp = np.broadcast_to(np.arange(40.0)[:, None, None], (40, 40, 40)).copy()
    volume = isotropic(torch.from_numpy(ramp).float(), [4], 16, seed=0)
    planes, spreads = draw([volume], 4, 60, (2, 16), torch.Generator().manual_seed(0))
    along = (planes[:, 1] - planes[:, 0]).abs().mean(-1) > 1e-3
    across = (planes[:, :, 1] - planes[:, :, 0]).abs().mean(-1) > 1e-3
    assert along.any()
    assert across.any()
    assert (~along & ~across).any(), "and planes across the ramp itself"
    assert set(spreads.tolist()) == {spreads[0].item()}
    assert volume.spreads[4] == pytest.approx(1e-6), "linear interpolation misses nothing of a ramp"


def test_weights_are_learned_written_and_begun_with(files):
    other = tissue((64, 64, 64), seed=9)
    for number, part in enumerate((other, 255 - other)):
        tifffile.imwrite(files / f"iso{number}.tif", part)
    cfg = VemPretrain(steps=60, batch=4, crop_px=32, voxel_nm=(10, 10, 10))
    command.pretrain(files / "iso0.tif", files / "iso1.tif", files / "general", cfg=cfg)
    model = read_model(files / "general" / "model.safetensors")
    assert model.network == {"kind": GENERAL_KIND, "factors": list(FACTORS)}
    assert {str(values.dtype) for values in model.state.values()} == {"torch.float16"}
    metrics = _metrics(files / "general")
    assert (metrics["volumes"], metrics["unseen"]) == (1, 1)
    assert {f"gain_x{factor}_db" for factor in FACTORS} <= metrics.keys()
    network, begun = first_weights(str(files / "general"), 7, 0)
    assert begun == model.sha256
    rows = torch.randn(1, 5, 16)
    assert network(neighbours(rows)).abs().sum() > 0, "trained: from scratch it would say nothing"


@pytest.mark.parametrize("settings", [{}, {"voxel_nm": (20.0, 10.0, 10.0)}])
def test_volumes_that_cannot_be_learned_from_are_refused(files, settings):
    tifffile.imwrite(files / "small.tif", np.random.default_rng(0).integers(0, 255, (24, 24, 24), np.uint8))
    with pytest.raises(EmflowError, match=r"cubes|too small|voxel_nm"):
        command.pretrain(files / "small.tif", files / "general", cfg=VemPretrain(steps=1, **settings))


def test_shipped_weights_beat_linear_interpolation_untrained(files, truth, measured):
    command.train(files / "measured.tif", files / "model", cfg=WHOLE)
    command.restore(
        files / "measured.tif", files / "model", files / "r.zarr", files / "e.zarr",
        cfg=VemRestore(voxel_nm=VOXEL),
    )  # fmt: skip
    assert _gain(files / "r.zarr", truth, measured) > 0.7
    found, error = (open_volume(files / name).read().astype(float) for name in ("r.zarr", "e.zarr"))
    inside = np.abs(found - truth[: len(found)]) <= error
    between = np.arange(len(found)) % FACTOR != 0
    assert 0.85 < inside[between].mean() < 0.96, "the interval is this volume's own"
    facts = json.loads((files / "model" / "model.json").read_text())["facts"]
    assert facts["begun_from"] == read_model(GENERAL).sha256


def test_training_further_gains_more_than_from_scratch(files, truth, measured):
    gains = {}
    for start in ("general", "scratch"):
        cfg = VemTrain(voxel_nm=VOXEL, steps=60, batch=6, start=start, held_out=False)
        command.train(files / "measured.tif", files / start, cfg=cfg)
        command.restore(
            files / "measured.tif", files / start, files / f"{start}.zarr", files / f"{start}_e.zarr",
            cfg=VemRestore(voxel_nm=VOXEL),
        )  # fmt: skip
        gains[start] = _gain(files / f"{start}.zarr", truth, measured)
    assert gains["general"] > gains["scratch"] + 0.5


def test_an_isotropic_volume_is_learned_from(files, monkeypatch):
    """With a share of 1 from it alone, of which nothing is kept back; its planes come across all axes."""
    seen = []
    whole = crops

    def watched(slices, *rest):
        seen.append(slices.shape[0])
        return whole(slices, *rest)

    monkeypatch.setattr("emflow.vem.crops.crops", watched)
    tifffile.imwrite(files / "iso.tif", tissue((50, 60, 64), seed=9))
    for share in (0.5, 1.0):
        cfg = VemTrain(
            voxel_nm=VOXEL, steps=3, batch=4, start="scratch", held_out=False, isotropic_share=share
        )
        out = files / f"model{share}"
        command.train(files / "measured.tif", out, isotropic=files / "iso.tif", cfg=cfg)
    assert {50, 60, 64} == set(seen)
    a, b = (read_model(files / f"model{share}" / "model.safetensors") for share in (0.5, 1.0))
    assert a.sha256 != b.sha256
    tifffile.imwrite(
        files / "coarse.tif", tissue((50, 60, 64), seed=9), imagej=True, resolution=(1 / 16, 1 / 16),
        metadata={"axes": "ZYX", "spacing": 16, "unit": "nm"},
    )  # fmt: skip
    with pytest.raises(EmflowError, match="cubes of 10 nm"):
        command.train(files / "measured.tif", files / "m", isotropic=files / "coarse.tif", cfg=WHOLE)


def test_what_cannot_be_begun_with_is_refused(files):
    with pytest.raises(EmflowError, match="no such file"):
        command.train(
            files / "measured.tif", files / "m", cfg=WHOLE.model_copy(update={"start": "other.safetensors"})
        )
    denoiser = GENERAL.parents[2] / "denoise" / "weights" / "general.safetensors"
    with pytest.raises(EmflowError, match="weights of a unet"):
        first_weights(str(denoiser), 4, 0)
    command.train(files / "measured.tif", files / "four", cfg=WHOLE)
    with pytest.raises(EmflowError, match="none for 5"):
        first_weights(str(files / "four"), 5, 0)
    assert first_weights(str(files / "four"), 5, 0, or_scratch=True)[1] == "scratch"
    assert (
        first_weights(str(files / "four"), 4, 0)[1] == read_model(files / "four" / "model.safetensors").sha256
    )


def test_without_weights_for_the_doubled_gap_nothing_is_held_out(tmp_path):
    """Weights go up to 16: with slices 10 apart and no training, the held-out test's 20 cannot be filled."""
    tifffile.imwrite(tmp_path / "v.tif", tissue((12, 64, 64), seed=3))
    cfg = VemTrain(voxel_nm=(100, 10, 10), steps=0)
    command.train(tmp_path / "v.tif", tmp_path / "model", cfg=cfg)
    assert _metrics(tmp_path / "model")["held_out_slices"] is None
    assert json.loads((tmp_path / "model" / "verdicts.json").read_text())[0]["verdict"] == "unknown"


def test_crops_of_none_are_none():
    assert crops(torch.zeros(3, 40, 40), 4, 0, (2, 16), torch.Generator()).shape == (0, 9, 16)
    rows, missing = divide(torch.zeros(0, 9, 16), 4)
    assert len(rows) == len(missing) == 0
