"""Power spectrum, background, and the profile behind the quality figures."""

import math

import numpy as np
import pytest
import torch

from emflow.ctf.quality import (
    Profile,
    equiphase_profile,
    figure_of_merit,
    for_display,
    moving_correlation,
    ring_extent,
)
from emflow.ctf.search import Rings
from emflow.ctf.spectrum import Spectrum, averaged_power, flatten
from emflow.step import OpticsFacts


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_white_noise_has_a_flat_spectrum_of_its_variance() -> None:
    power = averaged_power(3 * noise(500, 430), 64)
    assert power.shape == (64, 33)
    inner = power[3:-3, 3:-1]
    assert float(inner.mean()) == pytest.approx(9, rel=0.03)
    assert float(inner.std()) < 2.5  # averaged over many patches: a single one would have 9


def test_a_wave_lands_on_its_pixel() -> None:
    y, x = torch.meshgrid(torch.arange(300.0), torch.arange(300.0), indexing="ij")
    power = averaged_power(torch.cos(2 * math.pi * (5 * y + 11 * x) / 100), 100)
    assert divmod(int(power.argmax()), power.shape[1]) == (5, 11)


def test_every_part_of_the_micrograph_is_used() -> None:
    image = torch.zeros(333, 250)
    for corner in ((5, 5), (5, 244), (327, 5), (327, 244)):
        marked = image.clone()
        marked[corner] = 1e6
        assert float(averaged_power(marked, 100).sum()) > 0


def test_flat_spectrum_has_mean_one_whatever_the_background() -> None:
    n, pixel = 256, 2.0
    fy, fx = torch.fft.fftfreq(n, pixel)[:, None], torch.fft.rfftfreq(n, pixel)[None, :]
    steep = 1 + 200 * torch.exp(-800 * (fx**2 + fy**2))
    chance = 1 + 0.2 * noise(n, n // 2 + 1)
    spectrum = flatten(steep * chance, pixel, (1 / 25, 1 / 4.5), 0.05)
    for low, high in ((1 / 25, 1 / 15), (1 / 15, 1 / 8), (1 / 8, 1 / 4.5)):
        ring = (spectrum.radius >= low) & (spectrum.radius < high)
        assert float(spectrum.power[ring].mean()) == pytest.approx(1, abs=0.03)
    assert float(spectrum.radius.min()) >= 1 / 25
    assert float(spectrum.radius.max()) <= 1 / 4.5
    assert bool(((spectrum.fx > 0) | (spectrum.fy > 0)).all())  # each Friedel pair once


def test_moving_correlation_is_that_of_each_window() -> None:
    first, second = noise(60).double(), noise(60, seed=1).double()
    half = torch.full((60,), 6.0)
    half[30:] = 9
    ours = moving_correlation(first, second, half)
    for place in (0, 3, 20, 45, 59):
        reach = int(half[place])
        low = min(max(0, place - reach), 59 - 2 * reach)
        window = slice(low, low + 2 * reach + 1)
        expected = np.corrcoef(first[window].numpy(), second[window].numpy())[0, 1]
        assert float(ours[place]) == pytest.approx(expected, abs=1e-9)
    torch.testing.assert_close(moving_correlation(first, 3 * first + 2, half), torch.ones(60).double())
    assert float(moving_correlation(first, torch.ones(60).double(), half).abs().max()) == 0


@pytest.mark.parametrize("cs", [0.0, 2.7])
def test_equiphase_average_undoes_astigmatism(cs: float) -> None:
    """A spectrum of CTF² itself: the average follows 1 − cos 2γ of the mean defocus without blur."""
    rings = Rings(OpticsFacts(pixel_size_angstrom=1.5, cs_mm=cs, amplitude_contrast=0.1))
    n, pixel = 640, 1.5
    fy = torch.fft.fftfreq(n, pixel)[:, None].expand(n, n // 2 + 1)
    fx = torch.fft.rfftfreq(n, pixel)[None].expand(n, n // 2 + 1)
    radius = torch.sqrt(fx**2 + fy**2)
    keep = (radius > 1 / 25) & (radius < 1 / 5) & ((fx > 0) | (fy > 0))
    fy, fx = fy[keep], fx[keep]
    parameters = torch.tensor([15000.0, 800.0, -900.0], dtype=torch.float64)
    power = 1 - torch.cos(rings.twice_phase(parameters.float(), fy, fx))
    profile = equiphase_profile(Spectrum(power, fy, fx, 1 / (n * pixel)), rings, parameters)
    still = torch.zeros_like(profile.frequency)
    plain = torch.tensor([15000.0, 0.0, 0.0], dtype=torch.float64)
    mean_ctf2 = 0.5 - 0.5 * torch.cos(rings.twice_phase(plain, still, profile.frequency))
    inner = (profile.frequency > 1 / 20) & (profile.frequency < 1 / 5.5)
    assert float((profile.fit - mean_ctf2)[inner].abs().max()) < 0.12
    assert float(profile.correlation.min()) > 0.999
    assert figure_of_merit(profile) > 0.999
    assert ring_extent(profile, 0.5) == pytest.approx(5, rel=0.01)
    wrong = equiphase_profile(Spectrum(power, fy, fx, 1 / (n * pixel)), rings, parameters + 3000)
    assert ring_extent(wrong, 0.5) > 8


def test_extent_is_the_last_place_before_the_first_failure() -> None:
    frequency = torch.linspace(0.04, 0.3, 27).double()
    correlation = torch.ones(27).double()
    correlation[14:16] = 0.2  # what comes after a gap does not count
    profile = Profile(frequency, correlation, correlation, correlation)
    assert ring_extent(profile, 0.5) == pytest.approx(1 / float(frequency[13]))
    assert ring_extent(Profile(frequency, correlation, correlation, 0 * correlation), 0.5) == pytest.approx(
        25
    )


def test_display_profile_is_short_and_as_high_as_the_fit() -> None:
    frequency = torch.linspace(0.04, 0.3, 400).double()
    fit = 0.5 + 0.5 * torch.cos(400 * frequency)
    profile = Profile(frequency, 1 + 0.02 * (fit - 0.5), fit, torch.ones(400).double())
    shown = for_display(profile, 0.25, 128)
    assert len(shown.frequency) == 128
    assert float(shown.frequency[-1]) <= 0.25
    torch.testing.assert_close(shown.power, shown.fit, atol=1e-6, rtol=0)
