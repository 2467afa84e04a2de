"""Where memory runs out half-way through a batch, maps, poses and noise are as with memory enough."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch

from emflow.io.particle_images import image_set
from emflow.io.particles import load_particles
from emflow.reconstruct.config import ReconstructRefine
from emflow.reconstruct.merge import reconstruct_halves
from emflow.reconstruct.refine import Refinement, State
from emflow.step import OutOfMemory

Scarce = Callable[[int], Any]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def begun(
    make_particles: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Refinement, State]:
    """A refinement of 60 particles, after a first global iteration."""
    made = make_particles(tmp_path_factory.mktemp("batches"), 60, 0.3)
    images = image_set(load_particles(made.star), CPU)
    refinement = Refinement(images, 120.0, ReconstructRefine(global_iterations=1, diameter_angstrom=120))
    curve = torch.linspace(1, 0, 17, dtype=torch.float64)
    return refinement, refinement.begin((made.volume, made.volume), curve)


@pytest.mark.parametrize("iterations", [1, 2])
def test_an_iteration_is_the_same(
    begun: tuple[Refinement, State], scarce_memory: Scarce, iterations: int
) -> None:
    """The first iteration searches everywhere, the second nearby."""
    refinement, start = begun
    before = copy.deepcopy(start)
    for _ in range(iterations - 1):
        before = refinement.iterate(before)
    whole = refinement.iterate(copy.deepcopy(before))
    with scarce_memory(7) as scarce:
        parts = refinement.iterate(copy.deepcopy(before))
    assert scarce.failures >= 3
    for a, b in zip(whole.halves, parts.halves, strict=True):
        assert torch.allclose(a.noise, b.noise, rtol=1e-4)
    # half 2 is turned back as a whole by an angle that follows from all of it: half 1 is compared
    a, b = whole.halves[0], parts.halves[0]
    assert torch.allclose(a.poses.rotations, b.poses.rotations, atol=1e-3)
    # poses climb to the same places but for rounding; a batch that counted twice would show as several per cent
    assert float((a.volume - b.volume).norm() / a.volume.norm()) < 5e-3


def test_maps_of_given_poses_are_the_same(begun: tuple[Refinement, State], scarce_memory: Scarce) -> None:
    images = begun[0].images
    random = torch.Generator().manual_seed(1)
    rotations = torch.linalg.qr(torch.randn(60, 3, 3, generator=random)).Q
    shifts = torch.randn(60, 2, generator=random)
    whole = reconstruct_halves(images, rotations, shifts, "C2")
    with scarce_memory(4) as scarce:
        parts = reconstruct_halves(images, rotations, shifts, "C2")
    assert scarce.failures >= 2
    for a, b in zip(whole, parts, strict=True):
        assert torch.allclose(a, b, atol=1e-4 * float(a.abs().max()))


def test_no_memory_at_all_is_told(begun: tuple[Refinement, State], scarce_memory: Scarce) -> None:
    with scarce_memory(0), pytest.raises(OutOfMemory, match="not even one of the"):
        begun[0].iterate(copy.deepcopy(begun[1]))
