"""Masks of known shapes: volumes, softness, what is kept and what is dropped."""

from __future__ import annotations

import math

import pytest
import torch

from emflow.device import generator
from emflow.em.masks import (
    background,
    cosine_edge,
    lowpass,
    radius_grid,
    soft_sphere,
    solvent_mask,
    spherical_part,
)


def test_soft_sphere_is_one_inside_half_in_the_edge_zero_outside() -> None:
    mask = soft_sphere(32, 8, 4)
    assert mask[16, 16, 16 + 8] == 1
    assert mask[16, 16, 16 + 10] == pytest.approx(0.5)
    assert mask[16, 16, 16 - 12] == 0
    assert soft_sphere(32, 8, 0, 2).sum() == pytest.approx(math.pi * 64, rel=0.03)
    assert torch.equal(radius_grid(5, 2)[2], torch.tensor([2.0, 1, 0, 1, 2]))
    assert cosine_edge(torch.tensor([-1.0, 0, 0.1]), 0).tolist() == [1, 1, 0]


def test_lowpass_keeps_the_mean_and_halves_at_the_resolution() -> None:
    n, voxel = 32, 2.0
    wave = torch.cos(2 * math.pi * 4 * torch.arange(n) / n).expand(n, n, n)  # period 16 Å
    torch.testing.assert_close(lowpass(wave + 3, voxel, 16.0), 0.5 * wave + 3, atol=1e-5, rtol=0)


def ball(n: int, radius: float, centre: tuple[float, float, float]) -> torch.Tensor:
    z, y, x = (torch.arange(n) - c for c in centre)
    return (z[:, None, None] ** 2 + y[:, None] ** 2 + x**2 <= radius**2).float()


def test_solvent_mask_finds_the_particle_and_drops_specks() -> None:
    n, voxel = 64, 3.0
    particle = ball(n, 12, (30, 34, 32))
    speck = ball(n, 2.5, (12, 12, 12))
    noise = torch.randn(n, n, n, generator=generator(0))
    result = solvent_mask(
        particle + speck + noise, voxel, lowpass_angstrom=15, dilate_angstrom=6, edge_angstrom=12
    )
    assert result.found
    assert result.components == 1
    assert result.mask[30, 34, 32] == 1
    assert result.mask[12, 12, 12] == 0
    assert result.mask[particle > 0].mean() > 0.99
    true_core = 4 / 3 * math.pi * 36**3
    assert result.core_volume_angstrom3 == pytest.approx(true_core, rel=0.35)
    # dilated by 6 Å, half of the 12 Å edge: about a ball of 48 Å
    assert result.volume_angstrom3 == pytest.approx(4 / 3 * math.pi * 48**3, rel=0.35)
    assert result.volume_angstrom3 == pytest.approx(float(result.mask.sum()) * 27, rel=1e-4)


def test_solvent_mask_does_not_depend_on_scale_offset_or_an_earlier_mask() -> None:
    n, voxel = 48, 4.0
    sphere = soft_sphere(n, 20, 3)
    volume = ball(n, 9, (24, 24, 24)) * 3 + torch.randn(n, n, n, generator=generator(1))
    plain = solvent_mask(volume, voxel)
    scaled = solvent_mask(volume * 1e-4, voxel)
    masked = solvent_mask(volume * sphere, voxel)
    torch.testing.assert_close(plain.mask, scaled.mask)
    assert masked.core_volume_angstrom3 == pytest.approx(plain.core_volume_angstrom3, rel=0.15)


def test_noise_and_nothing_get_the_sphere_and_say_so() -> None:
    n, voxel = 48, 4.0
    for volume in (torch.randn(n, n, n, generator=generator(2)), torch.zeros(n, n, n)):
        result = solvent_mask(volume, voxel)
        assert not result.found
        assert result.components == 0
        assert result.mask[24, 24, 24] == 1
        assert result.mask[0, 0, 0] == 0


def test_background_ignores_a_bright_minority() -> None:
    solvent = 5 + 2 * torch.randn(100_000, generator=generator(3))
    protein = torch.full((25_000,), 40.0)
    level, deviation = background(torch.cat([solvent, protein]))
    assert level == pytest.approx(5, abs=0.1)
    assert deviation == pytest.approx(2, rel=0.1)


def test_spherical_part_keeps_a_ball_and_drops_the_rest() -> None:
    shell = soft_sphere(32, 9, 6)
    torch.testing.assert_close(spherical_part(shell), shell, atol=0.03, rtol=0)
    z = (torch.arange(32.0) - 16).expand(32, 32, 32)  # odd in x: no mean over a sphere
    inside = radius_grid(32) < 14
    assert spherical_part(z)[inside].abs().max() < 0.05
