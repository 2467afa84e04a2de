"""The working scale: resampling, normalisation and back."""

import numpy as np
import pytest
import torch

from emflow.denoise.scale import Scale, resample, smooth, to_scale
from emflow.step import EmflowError


def wave(shape: tuple[int, int], cycles_y: float, cycles_x: float) -> torch.Tensor:
    """A cosine with mirror-symmetric borders, so many half periods down and across."""
    y, x = (torch.arange(n, dtype=torch.float64) + 0.5 for n in shape)
    return (
        torch.cos(torch.pi * cycles_y * y[:, None] / shape[0]) * torch.cos(torch.pi * cycles_x * x / shape[1])
    ).float()


def test_resampled_waves_are_the_same_waves_on_the_other_grid() -> None:
    for shape in ((101, 64), (37, 300), (200, 200)):
        torch.testing.assert_close(
            resample(wave((90, 77), 8, 21), shape), wave(shape, 8, 21), atol=1e-4, rtol=0
        )
    assert float(resample(wave((90, 77), 70, 21), (60, 60)).abs().max()) < 1e-4  # beyond Nyquist: gone


def test_finer_and_back_is_the_image() -> None:
    image = torch.randn(61, 84)
    torch.testing.assert_close(resample(resample(image, (130, 97)), (61, 84)), image, atol=1e-4, rtol=0)
    assert resample(image + 5, (30, 33)).mean() == pytest.approx(float(image.mean()) + 5, abs=1e-4)


def test_smooth_is_a_gaussian() -> None:
    point = torch.zeros(101, 101)
    point[50, 50] = 1
    y = torch.arange(101.0) - 50
    expected = torch.exp(-(y[:, None] ** 2 + y**2) / (2 * 6.0**2)) / (2 * torch.pi * 6.0**2)
    torch.testing.assert_close(smooth(point, 6.0), expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(smooth(torch.full((40, 50), 3.0), 90.0), torch.full((40, 50), 3.0))


def test_normalised_once_whatever_units_gradient_and_hot_pixels() -> None:
    rng = np.random.default_rng(0)
    noise = torch.from_numpy(rng.normal(size=(400, 330)).astype(np.float32))
    plain = to_scale(noise, 3.0, Scale())
    assert plain.z.shape == (200, 165)
    assert float(plain.z.std()) == pytest.approx(1, abs=0.05)
    gradient = torch.linspace(0, 0.5, 330)
    other = to_scale(noise * 7 + 1000 + 7 * gradient, 3.0, Scale())
    assert float((other.z - plain.z).std()) < 0.1
    hot = noise.clone()
    hot[::97, ::89] = 1e5
    assert float((to_scale(hot, 3.0, Scale()).z - plain.z).abs().mean()) < 0.05


def test_restore_gives_the_low_passed_image_back() -> None:
    image = 20 + 4 * wave((200, 240), 31, 40)
    noise = 0.5 * torch.randn(200, 240, generator=torch.Generator().manual_seed(0))
    scaled = to_scale(image + noise, 3.0, Scale())
    back = scaled.restore(scaled.z)
    assert float((back - image).std()) < 0.3  # a quarter of the noise's power is left


def test_coarse_pixels_are_left_as_they_are() -> None:
    image = torch.randn(64, 80)
    scaled = to_scale(image, 9.0, Scale())
    assert scaled.pixel_angstrom == 9.0
    torch.testing.assert_close(scaled.restore(scaled.z), image.clamp(-5.5, 5.5), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("image", "word"),
    [
        (torch.ones(200, 200), "one single value"),
        (torch.full((200, 200), float("nan")), "no numbers"),
        (torch.randn(20, 200), "too few"),
    ],
)
def test_nothing_to_denoise_is_said(image: torch.Tensor, word: str) -> None:
    with pytest.raises(EmflowError, match=word):
        to_scale(image, 6.0, Scale())
