"""In-plane turns: against slices of a volume, the adjoint, back to real space."""

from __future__ import annotations

import torch

from emflow.em.poses import euler_to_matrix
from emflow.em.slices import HalfPlane, volume_spectrum
from emflow.em.turns import Turns, angles_deg


def lumps(box: int, seed: int = 0) -> torch.Tensor:
    """Blobs within a disc, (box, box), of no symmetry."""
    random = torch.Generator().manual_seed(seed)
    line = (torch.arange(box) - box // 2).float()
    at = torch.randn(7, 2, generator=random) * box / 9
    y, x = (torch.exp(-((line - at[:, i : i + 1]) ** 2) / 5) for i in range(2))
    return torch.einsum("ay,ax->yx", y, x)


def test_a_turned_image_is_the_slice_of_a_flat_volume() -> None:
    box = 32
    image = lumps(box)
    volume = torch.zeros(box, box, box)
    volume[box // 2] = image
    plane = HalfPlane.build(box, 11)
    angles = torch.tensor([0.0, 17.0, 90.0, 203.0])
    turned = Turns.build(plane, angles)
    ours = turned.slices(turned.spectra(image[None]))[0]
    poses = euler_to_matrix(torch.stack([torch.zeros(4), torch.zeros(4), angles], 1))
    theirs = volume_spectrum(volume, 11).slices(poses, plane)
    assert (ours - theirs).norm() < 0.01 * theirs.norm()


def test_insertion_is_the_adjoint() -> None:
    plane = HalfPlane.build(24, 8)
    turns = Turns.build(plane, angles_deg(40.0))
    random = torch.Generator().manual_seed(1)
    grid = torch.randn(2, 2, turns.side, turns.side, generator=random)
    # of a real image: the mate of each point is its conjugate
    mate = grid.flip((2, 3))
    grid = torch.stack([grid[:, 0] + mate[:, 0], grid[:, 1] - mate[:, 1]], 1)
    image = torch.randn(2, len(turns), 2, len(plane), generator=random)
    there = (turns.slices(grid) * image).sum()
    weight = torch.zeros(2, len(turns), len(plane))
    back = (turns.insert(image, weight)[:, :2] * grid).sum() / 2
    assert torch.isclose(there, back, rtol=1e-4)


def test_an_average_of_its_own_turns_is_the_image() -> None:
    box = 32
    image = lumps(box, 3)
    plane = HalfPlane.build(box, 14)
    turns = Turns.build(plane, angles_deg(5.0))
    slices = turns.slices(turns.spectra(image[None]))
    weight = torch.ones(1, len(turns), len(plane))
    sums = turns.insert(slices, weight)[0]
    total = torch.where(turns.radius() <= 14, sums[2].clamp(min=1e-6), torch.inf)
    back = turns.to_real((torch.complex(sums[0], sums[1]) / total)[None])[0]
    assert (back - image).norm() < 0.06 * image.norm()
