"""The verbs for images on files: pairs, noisy images alone, super-resolution, formats, a run that goes on, errors."""

from __future__ import annotations

import json
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from scipy.ndimage import gaussian_filter

import emflow
from emflow.io.mrc import write_mrc
from emflow.step import EmflowError
from emflow.vem import command
from emflow.vem.config_images import VemDenoise, VemTrainImages
from emflow.vem.inputs_images import enlarged
from emflow.vem.textures import noise, texture

SHORT = VemTrainImages(steps=25, batch=4, crop_px=64, orientations=1)
ONE = VemDenoise(orientations=1)


def taken(tissue: np.ndarray, deviation: float, seed: int) -> np.ndarray:
    """One noisy image of it, uint8."""
    found = tissue + noise(tissue, deviation, np.random.default_rng(seed))
    return np.clip(np.rint(128 + 25 * found), 0, 255).astype(np.uint8)


def misses(image: np.ndarray, truth: np.ndarray) -> float:
    """Root mean square of the difference, away from the borders."""
    return float(np.sqrt(np.square(image.astype(float) - truth)[8:-8, 8:-8].mean()))


def smoothed(image: np.ndarray, truth: np.ndarray) -> float:
    """What the best Gaussian filter misses."""
    return min(misses(gaussian_filter(image.astype(float), s), truth) for s in (0.6, 0.8, 1, 1.2, 1.5, 2))


@pytest.fixture(scope="module")
def tissue() -> np.ndarray:
    """A made-up slice of deviation 1; its left is learned from, its right is the test."""
    return texture(320, np.random.default_rng(21))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tissue: np.ndarray) -> Path:
    """Folder with a model of one pair, whose clean image is shifted, and of another contrast and type."""
    folder = tmp_path_factory.mktemp("pair")
    tifffile.imwrite(folder / "noisy.tif", taken(tissue, 0.8, 1)[:, 4:180])
    tifffile.imwrite(folder / "clean.tif", (3000 + 500 * tissue).astype(np.uint16)[:, :176])
    command.train_images(folder / "noisy.tif", folder / "model", clean=folder / "clean.tif", cfg=SHORT)
    return folder


def test_one_pair_is_registered_learned_from_and_judged(
    trained: Path, tissue: np.ndarray, tmp_path: Path
) -> None:
    figures = json.loads((trained / "model" / "metrics.json").read_text())
    assert figures["pairs"] == 1
    assert figures["shift_px"] == pytest.approx(4, abs=0.3)
    assert figures["held_out_share"] == pytest.approx(0.2, abs=0.04)
    assert (
        figures["held_out_psnr_db"] > figures["held_out_psnr_gaussian_db"] > figures["held_out_psnr_noisy_db"]
    )
    assert figures["held_out_coverage"] == pytest.approx(0.9, abs=0.05)
    answers = [row["verdict"] for row in json.loads((trained / "model" / "verdicts.json").read_text())]
    assert answers[1:] == ["pass", "pass"]
    test = taken(tissue, 0.8, 2)[:, 180:]
    tifffile.imwrite(tmp_path / "test.tif", test)
    command.denoise(
        tmp_path / "test.tif",
        tmp_path / "out",
        cfg=ONE.model_copy(update={"weights": str(trained / "model")}),
    )
    found = tifffile.imread(tmp_path / "out" / "denoised" / "test.tif")
    error = tifffile.imread(tmp_path / "out" / "error" / "test.tif")
    truth = (3000 + 500 * tissue)[:, 180:]
    assert found.dtype == np.uint16  # the clean image's type and intensities
    assert misses(found, truth) < 0.9 * smoothed(3000 + 20.0 * (test.astype(float) - 128), truth)
    assert (np.abs(found.astype(float) - truth) <= error).mean() == pytest.approx(0.9, abs=0.06)


def test_the_same_again_gives_the_same_bytes(trained: Path, tmp_path: Path) -> None:
    command.train_images(trained / "noisy.tif", tmp_path / "again", clean=trained / "clean.tif", cfg=SHORT)
    model = "model.safetensors"
    assert (tmp_path / "again" / model).read_bytes() == (trained / "model" / model).read_bytes()


def test_images_of_other_noise_are_told(trained: Path, tissue: np.ndarray, tmp_path: Path) -> None:
    answers = []
    for deviation in (0.8, 1.4):
        tifffile.imwrite(tmp_path / "image.tif", taken(tissue, deviation, 4)[:128, :128])
        command.denoise(
            tmp_path / "image.tif",
            tmp_path / "out",
            cfg=VemDenoise(weights=str(trained / "model"), orientations=1),
        )
        (row,) = json.loads((tmp_path / "out" / "verdicts.json").read_text())
        answers.append(row["verdict"])
    assert answers == ["pass", "warn"]


def test_shipped_weights_take_every_format_and_a_run_goes_on(
    tissue: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    one = taken(tissue, 0.8, 3)[:128, :144]
    tifffile.imwrite(images / "a.tif", one)
    (images / "b.png").write_bytes(imagecodecs.png_encode(one))
    write_mrc(images / "c.mrc", one.astype(np.float32), 10.0)
    tifffile.imwrite(images / "d.tif", np.stack([one, 255 - one]))
    tifffile.imwrite(images / "g.tif", np.stack([one] * 3, axis=-1))  # grey values as colours
    (images / "e.tif").write_bytes(b"II*\0 cut short")
    with pytest.raises(EmflowError, match="not a readable TIFF"):
        command.denoise(images, tmp_path / "out", cfg=ONE)
    (images / "e.tif").unlink()
    tifffile.imwrite(images / "f.tif", np.full((64, 64), np.nan, np.float32))
    command.denoise(images, tmp_path / "out", cfg=ONE)
    made = {path.stem: tifffile.imread(path) for path in (tmp_path / "out" / "denoised").glob("*.tif")}
    assert sorted(made) == ["a", "b", "c", "d_0001", "d_0002", "g"]
    np.testing.assert_array_equal(made["a"], made["b"])
    np.testing.assert_array_equal(made["a"], made["d_0001"])
    np.testing.assert_array_equal(made["a"], made["g"])
    np.testing.assert_allclose(made["a"], made["c"], atol=0.51)
    assert made["c"].dtype == np.float32
    truth = (128 + 25 * tissue)[:128, :144]
    assert misses(made["a"], truth) < 0.85 * smoothed(one, truth)
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["images_set_aside"] == 1
    before = (tmp_path / "out" / "denoised" / "a.tif").stat().st_mtime_ns
    tifffile.imwrite(images / "f.tif", one)
    command.denoise(images, tmp_path / "out", cfg=ONE)
    assert (tmp_path / "out" / "denoised" / "a.tif").stat().st_mtime_ns == before  # done, and not done again
    assert (tmp_path / "out" / "denoised" / "f.tif").exists()


def test_two_noisy_images_of_a_field_will_do(tissue: np.ndarray, tmp_path: Path) -> None:
    for number in (1, 2):
        tifffile.imwrite(tmp_path / f"{number}.tif", taken(tissue, 0.8, 10 + number))
    command.train_images(tmp_path / "1.tif", tmp_path / "model", clean=tmp_path / "2.tif", cfg=SHORT)
    figures = json.loads((tmp_path / "model" / "metrics.json").read_text())
    assert (
        figures["held_out_psnr_db"] > figures["held_out_psnr_gaussian_db"]
    )  # by little: the target's noise is in both
    weights = VemDenoise(weights=str(tmp_path / "model"), orientations=1)
    command.denoise(tmp_path / "1.tif", tmp_path / "out", cfg=weights)
    found, truth = tifffile.imread(tmp_path / "out" / "denoised" / "1.tif"), 128 + 25 * tissue
    assert misses(found, truth) < 0.95 * smoothed(taken(tissue, 0.8, 11), truth)


def test_noisy_images_alone_beat_the_best_gaussian_and_are_not_called_scored(
    tissue: np.ndarray, tmp_path: Path
) -> None:
    one = taken(tissue, 1.0, 31)
    tifffile.imwrite(tmp_path / "one.tif", one)
    command.train_images(tmp_path / "one.tif", tmp_path / "model", cfg=SHORT)
    rows = json.loads((tmp_path / "model" / "verdicts.json").read_text())
    assert {row["verdict"] for row in rows} == {"unknown"}
    figures = json.loads((tmp_path / "model" / "metrics.json").read_text())
    assert figures["noise_in_deviations"] == pytest.approx(1 / np.sqrt(2), rel=0.15)
    weights = VemDenoise(weights=str(tmp_path / "model"), orientations=1)
    command.denoise(tmp_path / "one.tif", tmp_path / "out", cfg=weights)
    truth = 128 + 25 * tissue
    assert misses(tifffile.imread(tmp_path / "out" / "denoised" / "one.tif"), truth) < 0.85 * smoothed(
        one, truth
    )


def test_half_the_pixels_are_doubled(tissue: np.ndarray, tmp_path: Path) -> None:
    fine = (128 + 25 * tissue).astype(np.float32)
    coarse = fine.reshape(160, 2, 160, 2).mean((1, 3)) + 2 * np.random.default_rng(0).standard_normal(
        (160, 160)
    )
    tifffile.imwrite(tmp_path / "coarse.tif", coarse[:, :100].astype(np.float32))
    tifffile.imwrite(tmp_path / "fine.tif", fine[:, :200])
    cfg = SHORT.model_copy(update={"steps": 60})
    command.train_images(tmp_path / "coarse.tif", tmp_path / "model", clean=tmp_path / "fine.tif", cfg=cfg)
    tifffile.imwrite(tmp_path / "test.tif", coarse[:, 100:].astype(np.float32))
    weights = VemDenoise(weights=str(tmp_path / "model"), orientations=1)
    command.denoise(tmp_path / "test.tif", tmp_path / "out", cfg=weights)
    found = tifffile.imread(tmp_path / "out" / "denoised" / "test.tif")
    assert found.shape == (320, 120)
    truth = fine[:, 200:]
    assert misses(found, truth) < 0.9 * misses(enlarged(coarse[:, 100:], 2), truth)


def test_errors_say_what_to_do(trained: Path, tissue: np.ndarray, tmp_path: Path) -> None:
    noisy, out = trained / "noisy.tif", tmp_path / "m"
    tifffile.imwrite(tmp_path / "other.tif", texture(320, np.random.default_rng(5))[:, :176])
    tifffile.imwrite(tmp_path / "larger.tif", np.tile(tissue, (2, 1))[:480, :264])
    tifffile.imwrite(tmp_path / "stack.tif", np.zeros((5, 70, 70), np.uint8))
    for clean, message in (
        ("other.tif", "do not show the same field"),
        ("larger.tif", "set factor"),
        ("stack.tif", "as many"),
        ("none.tif", "no such"),
    ):
        with pytest.raises(EmflowError, match=message):
            command.train_images(noisy, out, clean=tmp_path / clean, cfg=SHORT)
    with pytest.raises(EmflowError, match="constant"):
        command.train_images(tmp_path / "stack.tif", out, cfg=SHORT)
    with pytest.raises(EmflowError, match="first weights"):
        command.train_images(noisy, out, cfg=SHORT.model_copy(update={"start": "scratch"}))
    colours = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    (tmp_path / "rgb.png").write_bytes(imagecodecs.png_encode(colours))
    with pytest.raises(EmflowError, match="colour"):
        command.denoise(tmp_path / "rgb.png", tmp_path / "out", cfg=ONE)
    general = Path(emflow.__file__).parent / "denoise" / "weights" / "general.safetensors"
    with pytest.raises(EmflowError, match="expected 'image denoiser'"):
        command.denoise(noisy, tmp_path / "out", cfg=VemDenoise(weights=str(general)))


def test_a_real_pair_of_sem_images(real_data: Path, tmp_path: Path) -> None:
    for name in ("noisy", "clean"):
        image = tifffile.imread(real_data / "sem_brain_pair" / f"{name}.tif")
        tifffile.imwrite(tmp_path / f"{name}.tif", image[:, :288])
        tifffile.imwrite(tmp_path / f"test_{name}.tif", image[:, 288:])
    cfg = VemTrainImages(steps=40, orientations=1)
    command.train_images(tmp_path / "noisy.tif", tmp_path / "model", clean=tmp_path / "clean.tif", cfg=cfg)
    figures = json.loads((tmp_path / "model" / "metrics.json").read_text())
    assert figures["matched_share"] > 0.95
    assert figures["held_out_psnr_db"] > figures["held_out_psnr_gaussian_db"]
    weights = VemDenoise(weights=str(tmp_path / "model"), orientations=1)
    command.denoise(tmp_path / "test_noisy.tif", tmp_path / "out", cfg=weights)
    clean = tifffile.imread(tmp_path / "test_clean.tif").astype(float)
    found = tifffile.imread(tmp_path / "out" / "denoised" / "test_noisy.tif")
    error = tifffile.imread(tmp_path / "out" / "error" / "test_noisy.tif")
    assert misses(found, clean) < 0.94 * smoothed(tifffile.imread(tmp_path / "test_noisy.tif"), clean)
    assert (np.abs(found - clean) <= error).mean() == pytest.approx(0.9, abs=0.03)
