"""Fourier crop and pad: a delta stays at the centre, means and band-limited images survive."""

import pytest
import torch

from emflow.em.fourier import fourier_resize, good_size


def noise(n: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(3, n, n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("n", "size"), [(32, 16), (32, 20), (24, 40), (64, 62)])
def test_delta_stays_at_the_centre(n: int, size: int) -> None:
    image = torch.zeros(n, n, dtype=torch.float64)
    image[n // 2, n // 2] = 1
    out = fourier_resize(image, size)
    assert divmod(int(out.argmax()), size) == (size // 2, size // 2)
    torch.testing.assert_close(out, out.T)
    # symmetric about the centre: the first row and column have no partner
    torch.testing.assert_close(out[1:, 1:], out[1:, 1:].flip(0, 1))


@pytest.mark.parametrize("size", [16, 30, 48, 64, 90])
def test_mean_is_kept(size: int) -> None:
    images = noise(48) + 5
    torch.testing.assert_close(fourier_resize(images, size).mean((-2, -1)), images.mean((-2, -1)))


def test_pad_then_crop_gives_a_band_limited_image_back() -> None:
    band_limited = fourier_resize(noise(48), 32)
    torch.testing.assert_close(fourier_resize(fourier_resize(band_limited, 54), 32), band_limited)


def test_crop_is_a_band_limit_of_the_samples() -> None:
    """A wave below the new Nyquist keeps its amplitude and phase; one above vanishes."""
    n, size = 48, 16
    x = torch.arange(n, dtype=torch.float64) - n // 2
    new = (torch.arange(size, dtype=torch.float64) - size // 2) * (n / size)

    def wave(k: int, places: torch.Tensor) -> torch.Tensor:
        return torch.cos(2 * torch.pi * k * places / n + 0.3)

    image = wave(3, x)[:, None] * wave(5, x)[None, :]
    torch.testing.assert_close(fourier_resize(image, size), wave(3, new)[:, None] * wave(5, new)[None, :])
    above = wave(9, x)[:, None] * torch.ones(n, dtype=torch.float64)
    assert float(fourier_resize(above, size).abs().max()) < 1e-12


def test_same_size_is_untouched_and_odd_sizes_are_refused() -> None:
    images = noise(16)
    assert fourier_resize(images, 16) is images
    with pytest.raises(ValueError, match="even square"):
        fourier_resize(noise(15), 8)
    with pytest.raises(ValueError, match="even square"):
        fourier_resize(noise(16), 9)


@pytest.mark.parametrize(
    ("least", "size"), [(1, 2), (63.2, 64), (111.2, 112), (263, 270), (533.3, 540), (1009, 1024)]
)
def test_good_size(least: float, size: int) -> None:
    assert good_size(least) == size
