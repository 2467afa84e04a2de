"""From atoms to a volume to projections, against exact sums."""

import numpy as np
import pytest
import torch

from emflow.device import generator
from emflow.em.poses import quaternion_to_matrix
from emflow.simulate.density import ICE_VOLT, PROTEIN_VOLT, potential
from emflow.simulate.project import Projector, random_rotations
from emflow.simulate.session import interaction
from emflow.simulate.specimen import Atoms, generate_specimen


def test_potential_is_the_exact_transform_of_its_atoms() -> None:
    """The Fourier transform at high frequency (where ice says nothing) is the sum over atoms."""
    rng = np.random.default_rng(0)
    n, pixel, b = 32, 2.0, 50.0
    atoms = Atoms(rng.normal(0, 8, (40, 3)), np.ones(40), np.zeros(40))
    volume = potential(atoms, n, pixel, b).double()
    spectrum = torch.fft.fftn(torch.fft.ifftshift(volume)).numpy()
    index = np.array([(12, 3, 0), (0, 13, 5), (-9, 9, 7), (11, -5, -6)])  # kx, ky, kz
    s = index / (n * pixel)
    s2 = (s**2).sum(1)
    a = np.array([0.0893, 0.2563, 0.7570, 1.0487, 0.3575])  # carbon, Peng 1996
    fall = np.array([0.2465, 1.7100, 6.4094, 18.6113, 50.2523])
    form = (a * np.exp(-0.25 * fall * s2[:, None])).sum(1) * np.exp(-0.25 * b * s2)
    exact = form * np.exp(-2j * np.pi * atoms.position @ s.T).sum(0)
    got = spectrum[index[:, 2], index[:, 1], index[:, 0]]
    scale = np.vdot(exact, got) / np.vdot(exact, exact)
    assert scale.real > 0
    assert abs(scale.imag) < 0.02 * scale.real
    assert np.abs(got - scale * exact).max() < 0.05 * np.abs(scale * exact).max()


def test_protein_stands_out_of_ice_by_a_few_volt() -> None:
    atoms = generate_specimen(150, 110, 3, np.random.default_rng(0))
    pixel = 3.0
    volume = potential(atoms, 64, pixel, 60.0)
    total = float(volume.sum()) * pixel**3  # volt Å³
    displaced = atoms.mass_kda * 1e3 * 1.21
    assert total == pytest.approx((PROTEIN_VOLT - ICE_VOLT) * displaced, rel=0.5)
    border = torch.cat([volume[0].flatten(), volume[:, 0].flatten(), volume[:, :, 0].flatten()])
    assert border.abs().max() < 0.05 * volume.max()  # ringing of the band limit


def test_centred_point_projects_to_the_centre() -> None:
    volume = torch.zeros(24, 24, 24)
    volume[12, 12, 12] = 1.0
    images = Projector(volume, 2.0)(random_rotations(8, generator(0)), torch.zeros(8, 2))
    assert (images.flatten(1).argmax(1) == 12 * 24 + 12).all()
    # one voxel of 1 over 2 Å of depth; the transform is a disc, not a square: the sum is its zero frequency
    assert images.sum((1, 2)).numpy() == pytest.approx(2.0, rel=1e-3)


def test_point_projects_where_the_pose_puts_it() -> None:
    n, at = 32, torch.tensor([5.0, -3.0, 4.0])  # x, y, z
    line = (torch.arange(n) - n // 2).float()
    z, y, x = torch.meshgrid(line, line, line, indexing="ij")
    volume = torch.exp(-((x - at[0]) ** 2 + (y - at[1]) ** 2 + (z - at[2]) ** 2) / (2 * 1.5**2))
    rotations = random_rotations(5, generator(1))
    shifts = torch.tensor([[0.0, 0], [0.3, 0], [0, -0.6], [1.5, 2.25], [-3, 0.1]])
    images = Projector(volume, 1.0)(rotations, shifts).clamp(min=0)
    weight = images * (images > 0.05 * images.amax((1, 2), keepdim=True))
    centre = torch.stack([(weight * line).sum((1, 2)), (weight * line[:, None]).sum((1, 2))], 1)
    centre = centre / weight.sum((1, 2))[:, None]
    expected = (rotations @ at)[:, :2] + shifts
    assert (centre - expected).abs().max() < 0.05


def test_random_rotations_are_rotations_and_uniform() -> None:
    rotations = random_rotations(4000, generator(2))
    assert torch.allclose(rotations @ rotations.mT, torch.eye(3).expand(4000, 3, 3), atol=1e-5)
    assert torch.linalg.det(rotations).min() > 0.99
    assert rotations.mean(0).abs().max() < 0.05
    assert rotations.square().mean(0).numpy() == pytest.approx(1 / 3, abs=0.03)
    assert random_rotations(0, generator(2)).shape == (0, 3, 3)
    assert quaternion_to_matrix(torch.tensor([1.0, 0, 0, 0])).equal(torch.eye(3))


def test_interaction_constant() -> None:
    assert interaction(300) == pytest.approx(6.526e-4, rel=2e-3)  # E. Kirkland, 2010, table
    assert interaction(100) == pytest.approx(9.244e-4, rel=2e-3)
