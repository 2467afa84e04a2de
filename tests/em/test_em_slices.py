"""Slices: analytic cases, the library, RELION's projection, the pixels of an image."""

from __future__ import annotations

import math

import torch
from torch_fourier_slice import project_3d_to_2d

from emflow.em.grids import orientation_grid
from emflow.em.poses import euler_to_matrix, mirror_rotations
from emflow.em.slices import HalfPlane, complex_product, volume_spectrum


def blob(box: int, centre: tuple[float, float, float], width: float = 2.0) -> torch.Tensor:
    """Gaussian at (x, y, z) from the centre of the box."""
    line = (torch.arange(box) - box // 2).float()
    x, y, z = (torch.exp(-((line - c) ** 2) / (2 * width**2)) for c in centre)
    return z[:, None, None] * y[:, None] * x


def test_slice_of_a_centred_delta_is_one_everywhere() -> None:
    delta = torch.zeros(32, 32, 32)
    delta[16, 16, 16] = 1
    plane = HalfPlane.build(32, 15)
    slices = volume_spectrum(delta, 15).slices(orientation_grid(40.0), plane)
    assert torch.allclose(slices[:, 0] * 32, torch.ones(1), atol=1e-5)
    assert slices[:, 1].abs().max() < 1e-6


def test_slice_of_a_gaussian_off_centre_is_analytic() -> None:
    box, width, centre = 48, 2.5, torch.tensor([6.0, -3.0, 4.0])
    volume = blob(box, (6.0, -3.0, 4.0), width)
    plane = HalfPlane.build(box, 14)
    rotations = orientation_grid(60.0)
    slices = volume_spectrum(volume, 14, 4).slices(rotations, plane)
    seen = rotations @ centre  # r_image = A·r
    size = (2 * math.pi * width**2) ** 1.5 * torch.exp(-2 * (math.pi * width * plane.radius / box) ** 2)
    expected = size[None, None] * plane.phases(seen[:, :2]) / box
    assert (slices - expected)[..., 1:].abs().max() < 0.01 * expected.abs().max()


def test_projection_is_relions() -> None:
    # a blob at +x, viewed at rot 90: RELION's A maps x to −y
    volume = blob(32, (8.0, 0, 0))
    plane = HalfPlane.build(32, 15)
    rotation = euler_to_matrix(torch.tensor([[90.0, 0.0, 0.0]]))
    image = volume_spectrum(volume, 15, 4).slices(rotation, plane)
    expected = plane.transform(blob(32, (0, -8.0, 0)).sum(0)[None])
    assert (image - expected).norm() < 0.02 * expected.norm()


def test_against_torch_fourier_slice() -> None:
    volume = blob(32, (5, 3, -4)) + 0.7 * blob(32, (-6, 1, 5), 1.5)
    rotations = orientation_grid(70.0)
    plane = HalfPlane.build(32, 11)
    ours = volume_spectrum(volume, 11).slices(rotations, plane)
    images = project_3d_to_2d(volume, rotations.transpose(1, 2), pad_factor=2.0, zyx_matrices=False)
    theirs = plane.transform(images)
    # the library crops its projections in real space, which mends part of the interpolation
    assert (ours - theirs)[..., 1:].norm() < 0.025 * ours.norm()


def test_transform_of_an_image_and_its_shift() -> None:
    torch.manual_seed(0)
    image = torch.randn(1, 24, 24)
    plane = HalfPlane.build(24, 20)
    assert plane.radius.max() <= 11
    assert (plane.radius[1:] >= plane.radius[:-1]).all()
    full = torch.fft.fftshift(torch.fft.fft2(torch.fft.ifftshift(image, dim=(1, 2))), dim=(1, 2)) / 24
    values = full[0, plane.ky.long() + 12, plane.kx.long() + 12]
    ours = plane.transform(image)
    assert torch.allclose(ours[0], torch.stack([values.real, values.imag]), atol=1e-5)
    moved = plane.transform(image.roll((-2, 3), dims=(1, 2)))
    shifted = complex_product(ours, plane.phases(torch.tensor([[3.0, -2.0]])))
    assert torch.allclose(moved, shifted, atol=1e-4)


def test_every_frequency_stands_once() -> None:
    plane = HalfPlane.build(20, 9)
    pairs = {(int(x), int(y)) for x, y in zip(plane.kx, plane.ky, strict=True)}
    assert len(pairs) == len(plane)
    mates = {(-x, -y) for x, y in pairs}
    assert pairs & mates == {(0, 0)}
    inside = sum(1 for x in range(-9, 10) for y in range(-9, 10) if x * x + y * y <= 81)
    assert len(pairs | mates) == inside
    assert plane.count(5) == len(plane.within(5)) == int((plane.radius <= 5).sum())


def test_white_noise_has_unit_power() -> None:
    torch.manual_seed(0)
    power = HalfPlane.build(32, 15).transform(torch.randn(200, 32, 32)).square().sum(1).mean()
    assert abs(float(power) - 1) < 0.01


def test_inverted_volume_with_mirrored_poses_gives_the_same_images() -> None:
    volume = blob(32, (5, 3, -4)) + blob(32, (-6, 1, 5))
    inverted = volume[1:, 1:, 1:].flip((0, 1, 2))
    inverted = torch.nn.functional.pad(inverted, [1, 0, 1, 0, 1, 0])
    plane = HalfPlane.build(32, 10)
    rotations = orientation_grid(70.0)
    one = volume_spectrum(volume, 10).slices(rotations, plane)
    two = volume_spectrum(inverted, 10).slices(mirror_rotations(rotations), plane)
    assert (one - two).abs().max() < 1e-4 * one.abs().max()
