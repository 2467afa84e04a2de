"""Reconstruction: the adjoint of slicing, symmetry, the Wiener filter, the way back from projections."""

from __future__ import annotations

import pytest
import torch

from emflow.em.fsc import fsc, radial_average, shell_index
from emflow.em.grids import orientation_grid
from emflow.em.optics import Ctf
from emflow.em.poses import quaternion_to_matrix
from emflow.em.slices import HalfPlane, Spectrum, volume_spectrum
from emflow.em.symmetry import symmetry_operators
from emflow.em.wiener import Accumulator, PosedImages, fsc_to_ssnr, reconstruct_from_poses


def _specimen(box: int, symmetry: str = "C1") -> torch.Tensor:
    torch.manual_seed(3)
    atoms = (torch.rand(12, 3) - 0.5) * box * 0.55
    atoms = (atoms @ symmetry_operators(symmetry).float()).reshape(-1, 3)
    line = (torch.arange(box) - box // 2).float()
    x, y, z = (torch.exp(-((line - atoms[:, i : i + 1]) ** 2) / (2 * 1.3**2)) for i in range(3))
    return torch.einsum("az,ay,ax->zyx", z, y, x)


def _rotations(count: int, seed: int = 0) -> torch.Tensor:
    q = torch.randn(count, 4, generator=torch.Generator().manual_seed(seed))
    return quaternion_to_matrix(q / q.norm(dim=1, keepdim=True))


def _images(volume: torch.Tensor, rotations: torch.Tensor) -> torch.Tensor:
    """Projections through the slices themselves; their correctness is tested against the library elsewhere."""
    box = volume.shape[-1]
    plane = HalfPlane.build(box, box // 2 - 1)
    values = volume_spectrum(volume, box // 2 - 1).slices(rotations, plane) * box
    full = torch.zeros(len(rotations), box, box // 2 + 1, dtype=torch.complex64)
    full[:, plane.ky.long() % box, plane.kx.long()] = torch.complex(values[:, 0], values[:, 1])
    rows = torch.arange(1, box // 2)
    full[:, box - rows, 0] = full[:, rows, 0].conj()
    return torch.fft.fftshift(torch.fft.irfft2(full, s=(box, box)), dim=(1, 2))


def test_insertion_is_the_adjoint_of_slicing() -> None:
    torch.manual_seed(0)
    plane = HalfPlane.build(16, 7)
    rotations = _rotations(5)
    sums = Accumulator(16, 7, 2)
    grid = torch.randn(1, 2, sums.size, sums.size, sums.size)
    images = torch.randn(5, 2, len(plane))
    sums.add(images, images[:, 0], rotations, plane)
    forward = (Spectrum(grid, 2.0).slices(rotations, plane) * images).sum()
    backward = (grid.reshape(2, -1) * sums.sums[:2]).sum()
    assert float(forward) == pytest.approx(float(backward), rel=1e-4)
    assert torch.allclose(sums.sums[2], sums.sums[0])


def test_map_of_clean_projections_is_the_specimen() -> None:
    truth = _specimen(32)
    rotations = _rotations(600)
    images = _images(truth, rotations)
    shifted = images.roll((2, -1), dims=(1, 2))
    batches = [
        PosedImages(
            shifted[i : i + 200], rotations[i : i + 200], torch.tensor([[1.0, -2.0]]).expand(200, 2), None
        )
        for i in (0, 200, 400)
    ]
    volume = reconstruct_from_poses(batches, 32, 3.0)
    curve = fsc(volume, truth)
    assert curve[:12].min() > 0.99
    slope = (volume * truth).sum() / (truth * truth).sum()
    assert float(slope) == pytest.approx(1, abs=0.03)


def test_ctf_is_undone() -> None:
    truth = _specimen(32)
    rotations = _rotations(600)
    images = _images(truth, rotations)
    defocus = torch.linspace(0.8, 2.5, 600)
    ctf = Ctf(defocus + 0.05, defocus - 0.05, torch.full((600,), 30.0))
    from emflow.em.optics import ctf_values, rfft_frequencies

    fy, fx = rfft_frequencies((32, 32), 4.0)
    seen = torch.fft.irfft2(torch.fft.rfft2(images) * ctf_values(ctf, fy, fx), s=(32, 32))
    batch = PosedImages(seen, rotations, torch.zeros(600, 2), ctf)
    volume = reconstruct_from_poses([batch], 32, 4.0)
    assert fsc(volume, truth)[1:12].min() > 0.97
    wrong = PosedImages(seen, rotations, torch.zeros(600, 2), None)
    assert fsc(reconstruct_from_poses([wrong], 32, 4.0), truth)[4:12].min() < 0.9


@pytest.mark.parametrize("symmetry", ["C3", "D2", "T", "O", "I"])
def test_symmetry_fills_in_the_missing_views(symmetry: str) -> None:
    truth = _specimen(32, symmetry)
    rotations = orientation_grid(10.0, symmetry)
    batch = PosedImages(_images(truth, rotations), rotations, torch.zeros(len(rotations), 2), None)
    volume = reconstruct_from_poses([batch], 32, 3.0, symmetry=symmetry)
    assert fsc(volume, truth)[:12].min() > 0.98


def test_wiener_filter_takes_shells_down_by_their_ssnr() -> None:
    truth = _specimen(32)
    rotations = _rotations(400)
    batch = PosedImages(_images(truth, rotations), rotations, torch.zeros(400, 2), None)
    raw = reconstruct_from_poses([batch], 32, 3.0)
    ssnr = torch.full((17,), 1.0)
    ssnr[8:] = 0
    filtered = reconstruct_from_poses([batch], 32, 3.0, ssnr=ssnr)
    before, after = (radial_average(torch.fft.rfftn(v).abs(), shell_index(32)) for v in (raw, filtered))
    ratio = after / before
    assert ((ratio[1:7] > 0.4) & (ratio[1:7] < 0.65)).all()
    assert after[10] < 0.1 * before[10]


def test_noise_alone_has_no_ssnr() -> None:
    assert torch.equal(fsc_to_ssnr(torch.tensor([-0.2, 0.0, 0.5])), torch.tensor([0.0, 0.0, 1.0]))
    assert fsc_to_ssnr(torch.tensor([1.0])).isfinite().all()


def test_no_images_is_an_error() -> None:
    with pytest.raises(ValueError, match="no images"):
        reconstruct_from_poses([], 32, 3.0)
