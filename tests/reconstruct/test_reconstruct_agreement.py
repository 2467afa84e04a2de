"""What counts as agreement: structure does, a shared shell and noise do not."""

from __future__ import annotations

import pytest
import torch

from emflow.em.masks import radius_grid, soft_sphere
from emflow.reconstruct.agreement import compare
from emflow.reconstruct.judge import judge_agreement, judge_convergence, judge_hand, judge_starts, too_few
from emflow.reconstruct.merge import merge

BOX, VOXEL, DIAMETER = 48, 4.0, 120.0


def noise(seed: int) -> torch.Tensor:
    return torch.randn(BOX, BOX, BOX, generator=torch.Generator().manual_seed(seed))


def shell() -> torch.Tensor:
    return torch.exp(-((radius_grid(BOX) - 12) ** 2) / 4)


def structure() -> torch.Tensor:
    """Band-limited lumps in a sphere."""
    spectrum = torch.fft.rfftn(noise(9))
    k = torch.fft.fftfreq(BOX, 1 / BOX)
    radius2 = k[:, None, None] ** 2 + k[:, None] ** 2 + torch.fft.rfftfreq(BOX, 1 / BOX) ** 2
    smooth = torch.fft.irfftn(spectrum * torch.exp(-radius2 / 60), s=(BOX,) * 3)
    return smooth / smooth.std() * soft_sphere(BOX, 13, 4)


def test_structure_is_found_to_where_it_ends() -> None:
    truth = structure()
    found = compare(truth + 0.5 * noise(1), truth + 0.5 * noise(2), VOXEL, DIAMETER, "C1")
    assert found.found
    assert found.claim_angstrom is not None
    assert 10 < found.claim_angstrom < 25
    assert judge_agreement("?", found, "Halves").verdict == "pass"


def test_noise_is_not() -> None:
    for symmetry in ("C1", "O"):
        found = compare(noise(1), noise(2), VOXEL, DIAMETER, symmetry)
        assert found.claim_angstrom is None
        assert abs(found.significance("aspherical")) < 4
        judged = judge_agreement("?", found, "Halves")
        assert judged.verdict == "fail"
        assert "No structure" in judged.evidence


def test_a_shell_is_a_shell() -> None:
    found = compare(shell() + 0.3 * noise(1), shell() + 0.3 * noise(2), VOXEL, DIAMETER, "C1")
    whole = found.resolution()
    assert whole is not None
    assert whole < 30
    assert found.claim_angstrom is None
    judged = judge_agreement("?", found, "Halves")
    assert judged.verdict == "warn"
    assert "not resolved beyond the shell" in judged.evidence


def test_structure_coarser_than_the_shell_sets_the_claim() -> None:
    spectrum = torch.fft.rfftn(structure())
    k = torch.fft.fftfreq(BOX, 1 / BOX)
    radius2 = k[:, None, None] ** 2 + k[:, None] ** 2 + torch.fft.rfftfreq(BOX, 1 / BOX) ** 2
    coarse = torch.fft.irfftn(spectrum * (radius2 < 49), s=(BOX,) * 3)
    sharp = 4 * torch.exp(-((radius_grid(BOX) - 12) ** 2) / 2.5)
    found = compare(sharp + coarse + 0.2 * noise(1), sharp + coarse + 0.2 * noise(2), VOXEL, DIAMETER, "C1")
    whole, rest = found.resolution(), found.resolution("aspherical")
    assert whole is not None
    assert rest is not None
    assert found.claim_angstrom == rest > whole


def test_symmetric_copies_count_once() -> None:
    deviations = [
        compare(noise(1), noise(2), VOXEL, DIAMETER, symmetry).noise_deviation for symmetry in ("C1", "O")
    ]
    ratio = deviations[1] / deviations[0]
    assert float(ratio[-1]) == pytest.approx(24**0.5)


def test_a_mask_lifts_nothing_out_of_noise() -> None:
    mask = soft_sphere(BOX, 6, 3)
    found = compare(noise(1), noise(2), VOXEL, DIAMETER, "C1", mask)
    assert found.claim_angstrom is None


def test_merged_map_ends_where_the_halves_do() -> None:
    truth = structure()
    curve = torch.zeros(BOX // 2 + 1, dtype=torch.float64)
    curve[:8] = 1.0
    merged, bfactor = merge(truth, truth, curve, VOXEL, None)
    assert bfactor == 0
    spectrum = torch.fft.rfftn(merged)
    k = torch.fft.fftfreq(BOX, 1 / BOX)
    radius = torch.sqrt(k[:, None, None] ** 2 + k[:, None] ** 2 + torch.fft.rfftfreq(BOX, 1 / BOX) ** 2)
    assert spectrum.abs()[radius > 8.5].max() < 1e-3 * spectrum.abs().max()
    inside = (radius < 7) & (radius > 0)
    assert torch.allclose(spectrum[inside], torch.fft.rfftn(truth)[inside], rtol=1e-3, atol=1e-2)


def test_sharpening_levels_the_fall_off() -> None:
    box, voxel, b = 64, 1.5, 90.0
    k = torch.fft.fftfreq(box, 1 / box)
    radius2 = k[:, None, None] ** 2 + k[:, None] ** 2 + torch.fft.rfftfreq(box, 1 / box) ** 2
    white = torch.fft.rfftn(torch.randn(box, box, box, generator=torch.Generator().manual_seed(0)))
    blurred = torch.fft.irfftn(white * torch.exp(-b / 4 * radius2 / (box * voxel) ** 2), s=(box,) * 3)
    curve = torch.ones(box // 2 + 1, dtype=torch.float64)
    _, bfactor = merge(blurred, blurred, curve, voxel, None)
    assert bfactor == pytest.approx(-b, abs=6)


def test_words() -> None:
    assert too_few(0)[0].evidence == "There are no particles."
    assert judge_hand(True).verdict == "unknown"
    assert judge_convergence(4, 15).verdict == "pass"
    assert judge_convergence(15, 15).verdict == "warn"
    assert judge_starts([[0.9, 0.8], [0.95, 0.2]], [12, 12]).verdict == "pass"
    assert judge_starts([[0.3, 0.2], [0.95, 0.9]], [12, 12]).verdict == "warn"
    assert judge_starts([[], []], [1, 1]).verdict == "unknown"
