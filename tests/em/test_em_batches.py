"""Batches that shrink where memory runs out: nothing lost, nothing twice, and said once."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch

from emflow.em import batches
from emflow.em.batches import in_batches
from emflow.em.grids import local_rotations, orientation_grid, shift_grid
from emflow.em.images import ImageSet, noise_spectra
from emflow.em.pose_fit import climb
from emflow.em.poses import quaternion_to_matrix
from emflow.em.search import (
    References,
    WeightedImages,
    expect,
    likeliest_shifts,
    log_evidence,
    search_globally,
    search_locally,
)
from emflow.em.slices import HalfPlane, volume_spectrum
from emflow.em.wiener import Accumulator
from emflow.step import OutOfMemory

Scarce = Callable[[int], Any]
BOX = 24


@pytest.fixture(autouse=True)
def clean(scarce_memory: Scarce) -> None:
    """Each test begins with whole batches."""


def test_slices_cover_all_and_shrink_for_good(caplog: pytest.LogCaptureFixture) -> None:
    def work(here: slice) -> range:
        if here.stop - here.start > 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate\nmore")
        return range(here.start, here.stop)

    with caplog.at_level(logging.WARNING, "emflow"):
        for _ in range(2):
            found = in_batches(work, 20, 16, "images")
            assert [i for part in found for i in part] == list(range(20))
        assert {len(part) for part in found} == {2}  # 16, 8, 4, 2
        assert caplog.messages == [
            f"Out of memory with {n} images: going on with {n // 2} at a time." for n in (16, 8, 4)
        ]
        assert len(in_batches(lambda here: here, 20, 16, "others")) == 2  # work of another kind is left alone
    assert in_batches(work, 0, 16, "images") == []


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError(
            "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
        ),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_one_item_that_does_not_fit_is_told_with_what_to_do(error: Exception) -> None:
    def work(here: slice) -> None:
        raise error

    with pytest.raises(OutOfMemory, match=r"not even one of the images fits .*execution\.device"):
        in_batches(work, 4, 4, "images")


def test_other_errors_pass() -> None:
    def work(here: slice) -> None:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        in_batches(work, 4, 4, "images")
    assert not batches._largest


def specimen() -> torch.Tensor:
    torch.manual_seed(5)
    atoms = (torch.rand(10, 3) - 0.5) * 14
    line = (torch.arange(BOX) - BOX // 2).float()
    x, y, z = (torch.exp(-((line - atoms[:, i : i + 1]) ** 2) / (2 * 1.5**2)) for i in range(3))
    return torch.einsum("az,ay,ax->zyx", z, y, x)


def kernels() -> dict[str, Callable[[], list[torch.Tensor]]]:
    """Every kernel that works in batches, on 40 images."""
    plane = HalfPlane.build(BOX, 7)
    spectrum = volume_spectrum(specimen(), 7)
    random = torch.Generator().manual_seed(0)
    q = torch.randn(40, 4, generator=random)
    rotations = quaternion_to_matrix(q / q.norm(dim=1, keepdim=True))
    ctf = torch.cos(0.3 + 0.02 * plane.radius**2).expand(40, -1)
    images = spectrum.slices(rotations, plane) * ctf[:, None]
    images = images + 0.3 * torch.randn(images.shape, generator=random)
    weighted = WeightedImages.make(images, ctf, torch.full_like(plane.radius, 10.0))
    references = References.make(spectrum, orientation_grid(30.0), plane)
    shifts = shift_grid(1.0, 1.0)
    phases = plane.phases(shifts)

    def locally() -> list[torch.Tensor]:
        found = search_globally(weighted, references, plane, shifts, 3)
        turns = local_rotations(15.0)
        found = search_locally(weighted, spectrum, plane, found, turns, shift_grid(0.5, 0.5), 2)
        fitted = climb(weighted, spectrum, plane, found, 3)
        return [found.rotations, found.scores, fitted.rotations, fitted.shifts_px, fitted.covariance]

    def added() -> list[torch.Tensor]:
        sums = Accumulator(BOX, 7, symmetry="D2")
        for _ in range(3):
            sums.add(weighted.data, weighted.power, rotations, plane)
        return [sums.sums]

    def images_of(rows: torch.Tensor) -> torch.Tensor:
        return torch.stack(
            [torch.randn(BOX, BOX, generator=torch.Generator().manual_seed(r)) for r in rows.tolist()]
        )

    def spectra() -> list[torch.Tensor]:
        half, group = torch.arange(40) % 2 + 1, torch.arange(40) % 3
        whole = ImageSet(
            images_of,
            lambda rows, fy, fx: torch.ones(len(rows), len(fy)),
            BOX,
            2.0,
            half,
            group,
            plane.kx.device,
        )
        return [noise_spectra(whole, whole.rows(1), plane)]

    return {
        "expect": lambda: list(vars(expect(weighted, references, phases)).values()),
        "evidence": lambda: [log_evidence(weighted, references, phases)],
        "shifts": lambda: [likeliest_shifts(weighted, references, phases)],
        "search": locally,
        "accumulate": added,
        "noise": spectra,
    }


@pytest.mark.parametrize("kernel", ["expect", "evidence", "shifts", "search", "accumulate", "noise"])
def test_no_result_depends_on_the_batches(scarce_memory: Scarce, kernel: str) -> None:
    run = kernels()[kernel]
    whole = run()
    context: AbstractContextManager[Any] = scarce_memory(5)
    with context as scarce:
        parts = run()
    assert scarce.failures >= 2
    for a, b in zip(whole, parts, strict=True):
        assert torch.allclose(a.double(), b.double(), rtol=1e-4, atol=1e-5 * float(a.double().abs().max()))
