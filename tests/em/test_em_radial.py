"""The spherical part of volumes whose transform is known."""

from __future__ import annotations

import math

import pytest
import torch

from emflow.device import generator
from emflow.em.fsc import shell_cross, shell_index
from emflow.em.masks import radius_grid, soft_sphere
from emflow.em.radial import spherical_transform, subtract_spherical_part


def test_transform_of_a_gaussian() -> None:
    n, width = 48, 3.0
    ball = torch.exp(-(radius_grid(n) ** 2) / (2 * width**2))
    k = torch.arange(0, 16 * 12 + 1).double() / 16
    expected = (2 * math.pi * width**2) ** 1.5 * torch.exp(-2 * (math.pi * width * k / n) ** 2)
    found = spherical_transform(ball, 12)[: len(k)]
    assert (found - expected).abs().max() < 2e-3 * expected[0]


@pytest.mark.parametrize("n", [48, 47])
def test_a_shell_is_taken_away_and_noise_stays(n: int) -> None:
    index = shell_index(n)
    shell = soft_sphere(n, 15, 3) - soft_sphere(n, 9, 3)
    for volume, low, high in ((shell, -1e-9, 2e-3), (torch.randn(n, n, n, generator=generator(1)), 0.8, 1.1)):
        spectrum = torch.fft.rfftn(volume)
        rest = subtract_spherical_part(spectrum, volume)
        left = shell_cross(rest, rest, index) / shell_cross(spectrum, spectrum, index)
        assert left[3:15].min() > low
        assert left[3:15].max() < high


def test_only_the_symmetric_part_of_an_off_centre_ball_goes() -> None:
    n = 32
    ball = soft_sphere(n, 5, 3)
    spectrum = torch.fft.rfftn(ball.roll(6, 2))
    rest = subtract_spherical_part(spectrum, ball.roll(6, 2))
    assert abs(complex(rest[0, 0, 0])) < 1e-3 * abs(complex(spectrum[0, 0, 0]))
    assert float(rest.abs().square().sum() / spectrum.abs().square().sum()) > 0.5
