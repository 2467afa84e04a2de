"""Filters against scipy, and in white noise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage, signal

from emflow.pick.crowd import Crowd
from emflow.pick.filters import correlate, filter_radially, gaussian_blur, matched_filter, noise_spectrum
from emflow.pick.normalise import normalise_locally, remove_trend, shrink
from emflow.pick.template import SIZES, disks, learn_profile, render

CPU = torch.device("cpu")


def white(shape: tuple[int, int], seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_blur_is_scipys_with_zeros_beyond_the_border() -> None:
    image = white((61, 90))
    expected = ndimage.gaussian_filter(image.numpy().astype(float), 5.0, mode="constant", truncate=8)
    assert np.allclose(gaussian_blur(image, 5.0).numpy(), expected, atol=2e-4)


def test_correlation_is_scipys_and_does_not_wrap() -> None:
    image, kernel = white((50, 77)), disks(12.0, CPU)[2]
    expected = signal.correlate2d(image.numpy(), kernel.numpy(), mode="same")
    assert np.allclose(correlate(image, kernel).numpy(), expected, atol=1e-5)
    corner = torch.zeros(64, 64)
    corner[0, 0] = 1
    answer = correlate(corner, disks(12.0, CPU)[2])
    assert float(answer[40:].abs().max()) < 1e-6
    assert float(answer[:, 40:].abs().max()) < 1e-6


def test_the_spectrum_of_white_noise_is_one_also_behind_a_mask() -> None:
    image, weight = white((300, 300)), torch.ones(300, 300)
    weight[100:180, :150] = 0
    assert noise_spectrum(image, weight, 20)[1:].numpy() == pytest.approx(
        1.0, abs=0.12
    )  # ring 0 is few numbers
    assert float(noise_spectrum(image, weight, 20)[1:].mean()) == pytest.approx(1.0, abs=0.03)


def test_whitening_makes_coloured_noise_white() -> None:
    coloured = gaussian_blur(white((300, 300)), 1.5) + 0.05 * white((300, 300), 1)
    coloured /= coloured.std()
    ones = torch.ones_like(coloured)
    flat = filter_radially(coloured, noise_spectrum(coloured, ones, 56).rsqrt())[20:-20, 20:-20]
    # what lies beyond the border is not known, so the lowest rings keep some error
    assert noise_spectrum(flat, torch.ones_like(flat), 14)[1:].numpy() == pytest.approx(1.0, abs=0.2)


def test_a_matched_filter_scores_in_deviations_of_the_noise_even_where_pixels_are_missing() -> None:
    weight = torch.ones(400, 400)
    weight[:, 200:210] = 0
    image = white((400, 400)) * weight
    score = matched_filter(image, weight, disks(20.0, CPU)[4])
    assert float(score.std()) == pytest.approx(1.0, abs=0.05)
    assert float(score[:4].std()) == pytest.approx(1.0, abs=0.25)  # half the template is outside


def test_shrinking_keeps_places_and_means() -> None:
    axis = torch.arange(301.0)
    image = torch.exp(-((axis[:, None] - 100.3) ** 2 + (axis[None, :] - 200.6) ** 2) / (2 * 12.0**2)) + 3
    small = shrink(image, 2.7)
    ratio = 301 / small.shape[0]
    weight = (small - 3).clamp_min(0)
    centre = [float((weight.sum(1 - k) * torch.arange(small.shape[k])).sum() / weight.sum()) for k in (0, 1)]
    assert [(c + 0.5) * ratio - 0.5 for c in centre] == pytest.approx([100.3, 200.6], abs=0.05)
    assert float(small.mean()) == pytest.approx(float(image.mean()), abs=1e-3)
    assert shrink(image, 0.5) is image


def test_a_trend_is_removed_also_where_part_is_masked() -> None:
    y, x = torch.linspace(-1, 1, 150)[:, None], torch.linspace(-1, 1, 210)[None]
    noise, weight = white((150, 210)), torch.ones(150, 210)
    trend = 100 + 30 * y - 20 * x * y + 15 * x**3 + 10 * y**2
    image = trend + noise
    image[:, 150:] += 40
    weight[:, 150:] = 0
    rest = remove_trend(image, weight) - noise
    assert float(rest[:, :150].abs().max()) < 0.2
    assert rest.dtype == torch.float32


def test_normalisation_leaves_out_what_is_masked() -> None:
    image = 2 * white((200, 200)) + 50 + 0.05 * torch.arange(200.0)[:, None]
    weight = torch.ones_like(image)
    clean = normalise_locally(image, weight, weight, 20.0)
    assert float(clean.std()) == pytest.approx(1.0, abs=0.03)
    assert float(clean.mean()) == pytest.approx(0.0, abs=0.02)
    image[80:100, 80:100] = 1e4
    weight[80:100, 80:100] = 0
    masked = normalise_locally(image, weight, weight, 20.0)
    assert float(masked[80:100, 80:100].abs().max()) == 0
    assert float((masked - clean)[weight > 0].abs().max()) < 0.5


def test_a_ring_is_learnt_as_a_ring() -> None:
    axis = torch.arange(200.0)
    image = torch.zeros(200, 200)
    centres = torch.tensor([[50, 50], [120, 60], [199, 150]])  # the last is cut by the border
    for y, x in centres.tolist():
        radius = torch.sqrt((axis[:, None] - y) ** 2 + (axis[None, :] - x) ** 2)
        image += torch.exp(-((radius - 12) ** 2) / 8)
    profile = learn_profile(image, torch.ones_like(image), centres, 28)
    expected = torch.exp(-((torch.arange(29.0) - 12) ** 2) / 8)
    assert profile.numpy() == pytest.approx(expected.numpy(), abs=0.06)
    kernel = render(profile, 28.0)
    assert kernel.shape == (57, 57)
    assert float((kernel**2).sum()) == pytest.approx(1.0)
    assert int(kernel[28].argmax()) in (16, 40)
    assert torch.allclose(kernel, kernel.flip(0, 1))


def test_disks_ignore_a_constant_background() -> None:
    kernels = disks(28.0, CPU)
    assert len(kernels) == len(SIZES)
    assert float(kernels.sum((-2, -1)).abs().max()) < 1e-4


def test_neighbours_are_told_apart() -> None:
    kernel = disks(28.0, CPU)[4]
    places = torch.tensor([[60, 60], [60, 84], [82, 70], [150, 150]])
    amplitude = torch.tensor([10.0, 12.0, 8.0, 11.0])
    seeds = torch.zeros(200, 200)
    seeds[places[:, 0], places[:, 1]] = amplitude
    score = correlate(correlate(seeds, kernel), kernel)
    alone = score[places[:, 0], places[:, 1]]
    assert float((alone - amplitude).abs().max()) > 1  # the neighbours' rings
    crowd = Crowd(kernel, places)
    explained = crowd.fit(score)
    assert float((score - explained).abs().max()) < 0.05
    assert crowd.own(places).numpy() == pytest.approx(amplitude.numpy(), abs=0.05)
    assert crowd.own(torch.tensor([[110, 110]])).tolist() == [0]
