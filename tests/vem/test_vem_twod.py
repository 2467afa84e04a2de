"""Registration of a pair, what is hidden from the training, the intervals, and tiles that change nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter, map_coordinates

from emflow.step import EmflowError
from emflow.vem.alone import REACH, noise_kernel
from emflow.vem.config_images import VemTrainImages
from emflow.vem.denoiser import Denoiser, FoldedUNet, oriented
from emflow.vem.hidden import judge
from emflow.vem.inputs_images import enlarged, factor_between, read_denoiser, spread_over
from emflow.vem.pairs import HIDDEN, Pair, draw
from emflow.vem.register import register
from emflow.vem.textures import noise, texture

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tissue() -> np.ndarray:
    """A made-up slice of deviation 1, from a seed that no shipped weights were trained on."""
    return texture(320, np.random.default_rng(7))


def bent(image: np.ndarray, shift: tuple[float, float], local: float, seed: int) -> np.ndarray:
    """The image as a pair's other one sees it: shifted, and displaced smoothly by so many pixels (rms)."""
    rng = np.random.default_rng(seed)
    fields = [gaussian_filter(rng.standard_normal(image.shape), 50, mode="wrap") for _ in range(2)]
    rows, columns = np.mgrid[: image.shape[0], : image.shape[1]]
    at = [axis + s + local * f / f.std() for axis, s, f in zip((rows, columns), shift, fields, strict=True)]
    return map_coordinates(image, at, order=3, mode="reflect")


@pytest.mark.parametrize("deviation", [0.5, 1.5])
def test_a_shifted_and_bent_pair_is_laid_on_each_other(tissue: np.ndarray, deviation: float) -> None:
    rng = np.random.default_rng(1)
    seen = bent(tissue, (6.3, -9.6), 1.0, seed=2)
    found = register(100 + 20 * (seen + noise(seen, deviation, rng)), (30 * tissue + 7)[:310, 5:])
    inner = np.s_[30:-40, 40:-30]
    left = (found.clean - (30 * seen + 7))[inner][found.matched[inner]] / 30
    before = (np.roll(tissue, (-6, 10), (0, 1)) - seen)[inner]  # the whole shift alone
    assert np.sqrt((left**2).mean()) < (0.25 if deviation < 1 else 0.5) * before.std()
    assert found.shift_px == pytest.approx((6.3, -14.6), abs=1.2)  # the bend has a mean
    assert found.local_px == pytest.approx(1.4, abs=0.35)
    assert found.gain == pytest.approx(20 / 30, rel=0.06)
    assert found.offset == pytest.approx(100 - 7 * 20 / 30, abs=1.5)
    assert found.matched.mean() > 0.85


def test_what_does_not_match_is_set_aside(tissue: np.ndarray) -> None:
    rng = np.random.default_rng(3)
    clean = tissue.copy()
    clean[120:200, 100:190] = texture(320, np.random.default_rng(8))[:80, :90]
    found = register(tissue + noise(tissue, 0.5, rng), clean)
    assert found.matched[130:190, 110:180].mean() < 0.4
    assert found.matched.mean() > 0.85


def test_opposite_contrast_is_taken(tissue: np.ndarray) -> None:
    found = register(tissue + noise(tissue, 0.5, np.random.default_rng(4)), 50 - 10 * tissue)
    assert found.gain == pytest.approx(-0.1, rel=0.1)
    assert found.matched.mean() > 0.95


@pytest.mark.parametrize("other", ["mirrored", "noise", "another"])
def test_two_fields_are_refused(tissue: np.ndarray, other: str) -> None:
    rng = np.random.default_rng(5)
    clean = {
        "mirrored": tissue[::-1],
        "noise": rng.standard_normal(tissue.shape).astype(np.float32),
        "another": texture(320, np.random.default_rng(9)),
    }[other]
    with pytest.raises(EmflowError, match="do not show the same field"):
        register(tissue + noise(tissue, 0.5, rng), clean)


def pair_of(tissue: np.ndarray) -> Pair:
    noisy = torch.from_numpy(tissue + noise(tissue, 0.6, np.random.default_rng(6)))
    return Pair.of(noisy, torch.from_numpy(tissue), torch.ones(tissue.shape, dtype=torch.bool), 0)


def test_hidden_blocks_never_reach_the_loss(tissue: np.ndarray) -> None:
    pair = pair_of(tissue)
    assert float(pair.hidden.float().mean()) == pytest.approx(1 / HIDDEN, abs=0.03)
    assert pair.hidden.any(0).all()
    assert pair.hidden.any(1).all()
    told = torch.where(pair.hidden, 1000.0, 0.0)
    marked = Pair(pair.noisy, told, pair.matched, pair.hidden, pair.block)
    inputs, targets, weights = draw([marked], step=3, seed=1, batch=8, side=96)
    assert float((targets * weights).max()) == 0
    assert float(weights.mean()) > 0.7
    assert (targets > 0).any()  # they were there to be seen


def test_the_interval_is_calibrated_whatever_the_network_says(tissue: np.ndarray) -> None:
    pair = pair_of(tissue)
    network = FoldedUNet((8, 8)).eval()  # predicts its input, with the scale 1
    judged = judge(network, [pair], VemTrainImages(orientations=1))
    errors = (pair.noisy - pair.target).abs()[pair.hidden]
    assert judged.quantile == pytest.approx(float(errors.quantile(0.9)), rel=0.01)
    assert judged.coverage == pytest.approx(0.9, abs=0.02)
    assert judged.psnr_gaussian_db > judged.psnr_noisy_db + 1
    peak = float(pair.target[pair.hidden].max() - pair.target[pair.hidden].min())
    assert judged.psnr_db == pytest.approx(10 * np.log10(peak**2 / float(errors.square().mean())), abs=0.01)
    assert judged.psnr_noisy_db > judged.psnr_db  # its intensities are matched, as the filter's are


def test_tiles_do_not_change_the_image(tissue: np.ndarray) -> None:
    denoiser, _ = read_denoiser(None, CPU)
    image = torch.from_numpy(np.tile(tissue, (1, 2))[:301, :603].copy())
    whole = oriented(denoiser.network, image, 1024, 2)
    tiled = oriented(denoiser.network, image, 256, 2)
    assert whole.shape == (2, *image.shape)
    assert float((whole - tiled).abs().max()) < 1e-4
    assert denoiser.network.margin % denoiser.network.stride == 0


def test_a_network_sees_no_further_than_its_margin() -> None:
    network = FoldedUNet((4, 6, 8))
    torch.manual_seed(0)
    torch.nn.init.normal_(network.inner.last.weight)
    image = torch.randn(1, 1, 192, 192)
    other = image.clone()
    other[..., 96, 96] += 5
    with torch.no_grad():
        changed = (network(image) != network(other)).any(1)[0].nonzero()
    assert len(changed) > 100
    assert int((changed - 96).abs().max()) <= network.margin


def test_intensities_of_another_image_are_brought_to_the_model() -> None:
    network = FoldedUNet((8, 8)).eval()  # predicts its input
    denoiser = Denoiser(network, mean=100.0, deviation=20.0, gain=2.0, offset=10.0, quantile=1.5)
    image = 100 + 20 * torch.randn(64, 64)
    expected = denoiser.denoise(image, 256)
    torch.testing.assert_close(expected.values, (image - 10) / 2, rtol=1e-4, atol=1e-3)
    brighter = 3 * image + 40
    found = denoiser.suited_to(brighter).denoise(brighter, 256)
    shift = float(image.mean()) - 100, float(image.std()) / 20
    torch.testing.assert_close(
        found.values * shift[1], expected.values - 45 + 45 * shift[1] - shift[0] / 2, rtol=1e-3, atol=0.02
    )
    torch.testing.assert_close(found.error, expected.error)


@pytest.mark.parametrize("correlation", [0.0, 0.6])
def test_pure_noise_comes_back_flat_and_the_interval_holds(correlation: float) -> None:
    rng = np.random.default_rng(11)
    white = rng.standard_normal((256, 256))
    field = gaussian_filter(white, correlation, mode="wrap") if correlation else white
    image = torch.from_numpy((100 + 20 * field / field.std()).astype(np.float32))
    denoiser, _ = read_denoiser(None, CPU)
    found = Denoiser(denoiser.network, 100.0, 20.0, quantile=denoiser.quantile).denoise(image, 1024, 8)
    assert float(found.values.std()) < 0.16 * 20  # of the noise's deviation; nothing is made of it
    assert float(((found.values - 100).abs() <= found.error).float().mean()) > 0.87


def test_the_noise_that_was_taken_away_is_known_again() -> None:
    rng = np.random.default_rng(12)
    field = gaussian_filter(rng.standard_normal((256, 256)), (0.5, 0.7), mode="wrap")
    field *= 0.4 / field.std()
    kernel = noise_kernel([torch.from_numpy(field.astype(np.float32))])
    again = map_kernel(kernel, rng.standard_normal((256, 256)))
    assert again.std() == pytest.approx(0.4, rel=0.05)
    for axis in (0, 1):
        near = [float((f * np.roll(f, 1, axis)).mean() / (f * f).mean()) for f in (field, again)]
        assert near[1] == pytest.approx(near[0], abs=0.06)


def map_kernel(kernel: torch.Tensor, white: np.ndarray) -> np.ndarray:
    padded = torch.from_numpy(np.pad(white, REACH, mode="wrap").astype(np.float32))
    return torch.nn.functional.conv2d(padded[None, None], kernel[None, None])[0, 0].numpy()


def test_sizes_tell_the_factor() -> None:
    where = Path("a.tif")
    small = np.zeros((100, 120))
    assert factor_between(small, np.zeros((104, 118)), where) == 1
    assert factor_between(small, np.zeros((200, 236)), where) == 2
    with pytest.raises(EmflowError, match="expected the same size"):
        factor_between(small, np.zeros((150, 180)), where)


def test_enlarging_keeps_the_field_in_place() -> None:
    rows = np.arange(64.0)[:, None] + np.zeros((1, 64))
    large = enlarged(rows, 2)  # a pixel's half lies a quarter before, or behind, its centre
    inner = np.s_[16:-16, 16:-16]
    expected = ((np.arange(128.0) - 0.5) / 2)[:, None] + np.zeros((1, 128))
    np.testing.assert_allclose(large[inner], expected[inner], atol=1e-3)


def test_images_to_learn_from_are_spread_over_the_list() -> None:
    assert spread_over(list(range(10)), 3) == [0, 3, 6]
    assert spread_over([1, 2], 3) == [1, 2]
