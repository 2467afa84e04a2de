"""Several volumes sliced at once: against the slices of one, the adjoint, and there and back."""

from __future__ import annotations

import pytest
import torch

from emflow.em.basis import BasisGrid, rebox
from emflow.em.grids import super_fibonacci
from emflow.em.poses import quaternion_to_matrix
from emflow.em.slices import HalfPlane, volume_spectrum

CPU = torch.device("cpu")


def blobs(count: int, size: int) -> torch.Tensor:
    """Smooth, lopsided volumes."""
    line = torch.arange(size).float() - size // 2
    z, y, x = torch.meshgrid(line, line, line, indexing="ij")
    generator = torch.Generator().manual_seed(3)
    out = []
    for _ in range(count):
        volume = torch.zeros(size, size, size)
        for centre in torch.randn(6, 3, generator=generator) * size / 10:
            distance = (x - centre[0]) ** 2 + (y - centre[1]) ** 2 + (z - centre[2]) ** 2
            volume += torch.exp(-distance / (2 * (size / 14) ** 2))
        out.append(volume)
    return torch.stack(out)


@pytest.mark.parametrize("padding", [2.0, 1.5])
def test_slices_equal_those_of_one_volume(padding: float) -> None:
    volumes = blobs(3, 24)
    plane = HalfPlane.build(24, 9)
    rotations = quaternion_to_matrix(super_fibonacci(40)).float()
    grid = BasisGrid.build(24, 9, padding)
    where = grid.locate(rotations, plane)
    slices = grid.gather(grid.to_table(volumes), where).view(len(rotations), len(plane), 2, 3)
    slices[:, :, 1] *= where.sign[..., None]
    for c, volume in enumerate(volumes):
        expected = volume_spectrum(volume, 9, 2).slices(rotations, plane).transpose(1, 2)
        worst = (slices[..., c] - expected).abs().max() / expected.abs().max()
        assert worst < (1e-5 if padding == 2.0 else 0.05)


def test_scatter_is_the_adjoint_of_gather() -> None:
    grid = BasisGrid.build(16, 6)
    plane = HalfPlane.build(16, 6)
    generator = torch.Generator().manual_seed(0)
    where = grid.locate(quaternion_to_matrix(super_fibonacci(9)).float(), plane)
    table = torch.randn(grid.points, 6, generator=generator)
    rows = torch.randn(9 * len(plane), 6, generator=generator)
    left = (grid.gather(table, where).double() * rows).sum()
    right = (table.double() * grid.scatter(rows, where)).sum()
    assert left == pytest.approx(float(right), rel=1e-5)


def test_mates_make_the_sums_those_of_a_real_volume() -> None:
    """The plane kx = 0 of an adjoint equals its own Friedel mate, real parts even and imaginary parts odd."""
    grid = BasisGrid.build(16, 6)
    plane = HalfPlane.build(16, 6)
    where = grid.locate(quaternion_to_matrix(super_fibonacci(9)).float(), plane)
    rows = torch.randn(9 * len(plane), 2, generator=torch.Generator().manual_seed(0))
    sums = grid.add_mates(grid.scatter(rows, where), 1).view(*grid.shape, 2)[:, :, 0]
    mate = sums.flip((0, 1))
    torch.testing.assert_close(sums[..., 0], mate[..., 0])
    torch.testing.assert_close(sums[..., 1], -mate[..., 1])


def test_volumes_come_back_from_the_grid() -> None:
    volumes = blobs(2, 24)
    grid = BasisGrid.build(24, 11)
    back = grid.to_volumes(grid.to_table(volumes))
    assert (back - volumes).abs().max() < 2e-2 * volumes.max()


def test_a_smaller_box_keeps_the_slices() -> None:
    volumes = blobs(2, 32)
    plane = HalfPlane.build(32, 5)
    rotations = quaternion_to_matrix(super_fibonacci(12)).float()
    slices = []
    for size in (32, 16):
        grid = BasisGrid.build(size, 5, 2.0)
        slices.append(grid.gather(grid.to_table(rebox(volumes, size)), grid.locate(rotations, plane)))
    assert (slices[0] - slices[1]).abs().max() < 1e-2 * slices[0].abs().max()
    there_and_back = rebox(rebox(volumes, 24), 32)
    assert (there_and_back - volumes).abs().max() < 1e-2 * volumes.max()
