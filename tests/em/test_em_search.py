"""Pose search: the likelihood written out, the exact answer found, posterior weights, local refinement."""

from __future__ import annotations

import torch

from emflow.em.grids import local_rotations, orientation_grid, shift_grid
from emflow.em.poses import angular_distance_deg, quaternion_to_matrix
from emflow.em.search import (
    Poses,
    References,
    WeightedImages,
    expect,
    likeliest_shifts,
    log_likelihoods,
    search_globally,
    search_locally,
)
from emflow.em.slices import HalfPlane, Spectrum, complex_product, volume_spectrum

BOX = 32


def specimen() -> torch.Tensor:
    torch.manual_seed(5)
    atoms = (torch.rand(10, 3) - 0.5) * 18
    line = (torch.arange(BOX) - BOX // 2).float()
    x, y, z = (torch.exp(-((line - atoms[:, i : i + 1]) ** 2) / (2 * 1.5**2)) for i in range(3))
    return torch.einsum("az,ay,ax->zyx", z, y, x)


def random_rotations(count: int, seed: int = 0) -> torch.Tensor:
    q = torch.randn(count, 4, generator=torch.Generator().manual_seed(seed))
    return quaternion_to_matrix(q / q.norm(dim=1, keepdim=True))


def seen(
    spectrum: Spectrum, plane: HalfPlane, rotations: torch.Tensor, origins: torch.Tensor, noise: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Fourier pixels of images of particles that sit at −origins, and their CTF."""
    torch.manual_seed(1)
    ctf = torch.cos(0.3 + 0.02 * plane.radius**2).expand(len(rotations), -1)
    images = complex_product(spectrum.slices(rotations, plane), plane.phases(-origins)) * ctf[:, None]
    return images + torch.randn(images.shape) * noise / 2**0.5, ctf


def test_likelihood_is_the_squared_distance() -> None:
    plane = HalfPlane.build(BOX, 6)
    spectrum = volume_spectrum(specimen(), 6)
    grid, shifts = orientation_grid(60.0), shift_grid(2.0, 1.0)
    images, ctf = seen(spectrum, plane, random_rotations(3), torch.zeros(3, 2), 1.0)
    sigma2 = 0.5 + torch.rand(len(plane))
    weighted = WeightedImages.make(images, ctf, 1 / sigma2)
    scores = log_likelihoods(weighted, References.make(spectrum, grid, plane), plane.phases(shifts))
    # written out for one image, one shift, one orientation
    moved = complex_product(images[1], plane.phases(shifts[4]))
    model = spectrum.slices(grid[7:8], plane)[0] * ctf[1]
    distance = (((moved - model) ** 2).sum(0) / sigma2).sum()
    empty = ((moved**2).sum(0) / sigma2).sum()
    assert torch.allclose(scores[1, 4, 7], empty - distance, rtol=1e-4)


def test_global_search_finds_the_grid_point_and_the_shift() -> None:
    plane = HalfPlane.build(BOX, 8)
    spectrum = volume_spectrum(specimen(), 8)
    grid = orientation_grid(25.0)
    origins = torch.tensor([[1.0, -2.0], [0.0, 2.0], [-1.0, 0.0]])
    images, ctf = seen(spectrum, plane, grid[[3, 200, 400]], origins, 0.3)
    weighted = WeightedImages.make(images, ctf, torch.ones(len(plane)))
    references = References.make(spectrum, grid, plane)
    found = search_globally(weighted, references, plane, shift_grid(3.0, 1.0), 4)
    assert torch.equal(found.rotations[:, 0], grid[[3, 200, 400]])
    assert torch.equal(found.shifts_px[:, 0], origins)
    assert (found.scores[:, :-1] >= found.scores[:, 1:]).all()


def test_local_search_closes_in_on_the_pose() -> None:
    plane = HalfPlane.build(BOX, 12)
    spectrum = volume_spectrum(specimen(), 12)
    true = random_rotations(8)
    origins = (torch.rand(8, 2) - 0.5) * 3
    images, ctf = seen(spectrum, plane, true, origins, 0.1)
    weighted = WeightedImages.make(images, ctf, torch.full((len(plane),), 100.0))
    coarse = plane.within(8)
    references = References.make(spectrum, orientation_grid(18.0), coarse)
    found = search_globally(weighted.within(len(coarse)), references, coarse, shift_grid(3.0, 1.0), 6)
    step, move = 9.0, 0.5
    for keep in (4, 2, 2, 1):
        found = search_locally(
            weighted, spectrum, plane, found, local_rotations(step), shift_grid(move, move), keep
        )
        step, move = step / 2, move / 2
    assert angular_distance_deg(found.rotations[:, 0], true).median() < 1.5
    assert (found.shifts_px[:, 0] - origins).norm(dim=1).median() < 0.15


def test_local_search_keeps_the_start_when_it_is_best() -> None:
    plane = HalfPlane.build(BOX, 10)
    spectrum = volume_spectrum(specimen(), 10)
    true = random_rotations(2)
    images, ctf = seen(spectrum, plane, true, torch.zeros(2, 2), 0.0)
    weighted = WeightedImages.make(images, ctf, torch.ones(len(plane)))
    start = Poses(true[:, None], torch.zeros(2, 1, 2), torch.zeros(2, 1))
    found = search_locally(weighted, spectrum, plane, start, local_rotations(5.0), shift_grid(0.5, 0.5), 15)
    assert torch.allclose(found.rotations[:, 0], true)
    assert found.rotations.shape == (2, 15, 3, 3)


def test_expectation_is_the_posterior_mean() -> None:
    plane = HalfPlane.build(BOX, 5)
    spectrum = volume_spectrum(specimen(), 5)
    grid, shifts = orientation_grid(70.0), shift_grid(1.0, 1.0)
    images, ctf = seen(spectrum, plane, random_rotations(4), torch.zeros(4, 2), 3.0)
    weighted = WeightedImages.make(images, ctf, torch.full((len(plane),), 1 / 9))
    references, phases = References.make(spectrum, grid, plane), plane.phases(shifts)
    found = expect(weighted, references, phases)
    scores = log_likelihoods(weighted, references, phases)
    weight = torch.softmax(scores.flatten(1), 1).view_as(scores)
    assert torch.allclose(
        found.evidence,
        torch.logsumexp(scores.flatten(1), 1) - torch.log(torch.tensor(scores[0].numel() * 1.0)),
        atol=1e-3,
    )
    assert torch.allclose(
        found.numerator, torch.einsum("btq,btcm->qcm", weight, weighted.shifted(phases)), atol=1e-4
    )
    assert torch.allclose(found.denominator, torch.einsum("btq,bm->qm", weight, weighted.power), atol=1e-4)
    assert torch.equal(found.orientation, weight.sum(1).argmax(1))
    assert torch.equal(found.shift, weight.sum(2).argmax(1))
    assert torch.equal(likeliest_shifts(weighted, references, phases), found.shift)
    # every image gives all of itself away
    assert torch.allclose(found.denominator.sum(0), weighted.power.sum(0), rtol=1e-3)
