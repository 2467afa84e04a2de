"""Figures of restored volumes, where they are known; SSIM beside scikit-image's."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from emflow.vem.score import axial_resolution, axial_spectra, high_frequency_power, psnr, ssim


def _noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_psnr_of_a_known_error():
    truth = _noise(4, 16, 16)
    assert psnr(truth + 0.1, truth, 1.0) == pytest.approx(20.0, abs=1e-3)
    assert psnr(truth, truth, 1.0) == math.inf


def test_ssim_is_the_reference_implementation_s():
    truth = 50 * _noise(1, 40, 50)
    values = truth + 20 * _noise(1, 40, 50, seed=1)
    expected = structural_similarity(
        truth[0].double().numpy(), values[0].double().numpy(), data_range=255.0,
        gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
    )  # fmt: skip
    assert ssim(values, truth, 255.0) == pytest.approx(expected, abs=0.01)
    assert ssim(truth, truth, 255.0) == pytest.approx(1.0)


def test_a_volume_blurred_along_the_axis_loses_resolution_and_texture_there():
    truth = _noise(8, 64, 64)
    sharp = axial_spectra(truth, truth)
    assert torch.allclose(sharp[1][1:], torch.ones(32, dtype=torch.float64))
    assert axial_resolution(sharp[0], sharp[1]) == 2.0
    assert high_frequency_power(sharp[0], sharp[2]) == pytest.approx(1.0)
    cut = torch.fft.rfft2(truth)
    cut[:, torch.fft.fftfreq(64).abs() > 0.125] = 0  # nothing beyond a quarter of Nyquist along the axis
    low = torch.fft.irfft2(cut, s=(64, 64))
    noisy = low + 0.05 * _noise(8, 64, 64, seed=2)
    frequency, correlation, power = axial_spectra(noisy, truth)
    assert axial_resolution(frequency, correlation) == pytest.approx(8.0, rel=0.12)
    assert high_frequency_power(frequency, power) < 0.01


def test_lateral_blur_alone_does_not_count_as_axial_texture_of_the_low_frequencies():
    truth = _noise(4, 32, 32)
    doubled = 2 * truth
    frequency, correlation, power = axial_spectra(doubled, truth)
    assert np.allclose(correlation[1:], 1.0)
    assert np.allclose(power[1:], 4.0)
    assert len(frequency) == 17
