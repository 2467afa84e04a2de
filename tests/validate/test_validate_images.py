"""What raw images say about a map, on particles of which everything is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from emflow.device import generator
from emflow.em.fsc import fsc
from emflow.em.grids import local_rotations, orientation_grid, shift_grid
from emflow.em.images import ImageSet
from emflow.em.masks import soft_sphere
from emflow.em.optics import Ctf, ctf_values
from emflow.em.poses import quaternion_to_matrix
from emflow.em.search import References, WeightedImages, search_globally, search_locally
from emflow.em.slices import HalfPlane, complex_product, volume_spectrum
from emflow.validate import judge_images as judge
from emflow.validate.assess_images import assess_images
from emflow.validate.config import ValidateParticles
from emflow.validate.images import Agreement, compare_images, matched_filter
from emflow.validate.number import Draw, draw_of, fit_number
from emflow.validate.outliers import NOISE, find_outliers
from emflow.validate.subsets import Posed, Quarters, accumulate_quarters

BOX, PIXEL = 32, 5.0
MASK = soft_sphere(BOX, 11, 4)
BAND = BOX // 2 - 1


def rotations_of(count: int, random: torch.Generator) -> Tensor:
    q = torch.randn(count, 4, generator=random)
    return quaternion_to_matrix(q / q.norm(dim=1, keepdim=True))


def particles(
    count: int, amplitude: float, seed: int = 0, bfactor: float = 0.0, junk: float = 0.0
) -> tuple[Posed, Tensor]:
    """Images of a ball of random density at its poses in white noise of deviation 1; which of them are noise alone."""
    random = generator(seed, 1)
    volume = torch.randn(BOX, BOX, BOX, generator=random) * soft_sphere(BOX, 9, 3)
    rotations = rotations_of(count, random)
    shifts = torch.randn(count, 2, generator=random)
    defocus = 0.8 + 1.2 * torch.rand(count, generator=random)
    ctf = Ctf(defocus, defocus, 0 * defocus)
    plane = HalfPlane.build(BOX, BAND)
    frequency = [k / (BOX * PIXEL) for k in (plane.ky, plane.kx)]
    values = volume_spectrum(volume, BAND).slices(rotations, plane)
    values = complex_product(values, plane.phases(-shifts)) * ctf_values(ctf, *frequency)[:, None]
    values = amplitude * values * torch.exp(-bfactor / 4 * (plane.radius / (BOX * PIXEL)) ** 2)
    empty = torch.rand(count, generator=random) < junk
    values[empty] = 0
    full = torch.zeros(count, BOX, BOX // 2 + 1, dtype=torch.complex64)
    full[:, plane.ky.long() % BOX, plane.kx.long()] = BOX * torch.complex(values[:, 0], values[:, 1])
    line = torch.arange(1, BOX // 2)
    full[:, BOX - line, 0] = full[:, line, 0].conj()
    images = torch.fft.fftshift(torch.fft.irfft2(full, s=(BOX, BOX)), dim=(1, 2))
    images += torch.randn(images.shape, generator=random)
    stack = ImageSet(
        lambda rows: images[rows],
        lambda rows, fy, fx: ctf_values(ctf[rows], fy, fx),
        BOX,
        PIXEL,
        torch.arange(count) % 2 + 1,
        torch.zeros(count, dtype=torch.long),
        torch.device("cpu"),
    )
    return Posed(stack, rotations, shifts, "C1"), empty


def quarters_of(posed: Posed, seed: int = 0) -> Quarters:
    return accumulate_quarters(posed, BAND, seed, lambda count, one, two: None)


def compared(posed: Posed) -> Agreement:
    return compare_images(posed, quarters_of(posed), MASK)


def fitted(posed: Posed, rounds: int = 2) -> Posed:
    """Poses found anew against the map of the image's own half, all its noise included: over-fitting on purpose."""
    grid, plane = orientation_grid(15.0, "C1"), HalfPlane.build(BOX, 12)
    for _ in range(rounds):
        quarters = quarters_of(posed)
        rotations, shifts = posed.rotations.clone(), posed.shifts_px.clone()
        for half in (1, 2):
            spectrum = volume_spectrum(quarters.whole(half) * MASK, 12)
            references = References.make(spectrum, grid, plane)
            for rows in posed.images.rows(half).split(64):
                transforms, ctf = posed.images.transforms(rows, plane)
                weighted = WeightedImages.make(transforms, ctf, torch.ones(len(plane)))
                found = search_globally(weighted, references, plane, shift_grid(2.0, 1.0), 2)
                found = search_locally(
                    weighted, spectrum, plane, found, local_rotations(5.0), shift_grid(0.5, 0.5), 1
                )
                rotations[rows], shifts[rows] = found.rotations[:, 0], found.shifts_px[:, 0]
        posed = replace(posed, rotations=rotations, shifts_px=shifts)
    return posed


def test_quarters_are_the_whole_and_each_image_is_in_one() -> None:
    posed, _ = particles(101, 1.0)
    seen: list[tuple[int, Tensor]] = []
    quarters = accumulate_quarters(posed, BAND, 0, lambda count, one, two: seen.append((count, one.solve())))
    rows = torch.cat([*quarters.rows[0], *quarters.rows[1]])
    assert sorted(rows.tolist()) == list(range(101))
    assert len(seen) == 15
    assert seen[-1][0] == 101
    assert torch.equal(seen[-1][1], quarters.whole(1))
    other = quarters_of(posed, seed=5)
    assert not torch.equal(other.rows[0][0], quarters.rows[0][0])
    assert float((other.whole(1) - quarters.whole(1)).abs().max()) < 1e-3 * float(quarters.whole(1).std())
    assert torch.equal(quarters_of(posed).whole(2), quarters.whole(2)), "the same input gives the same map"


def test_a_smaller_box_holds_the_same_map() -> None:
    posed, _ = particles(300, 2.0)
    small = accumulate_quarters(posed, 9.0, 0, lambda count, one, two: None)
    whole = accumulate_quarters(posed, BAND, 0, lambda count, one, two: None)
    assert small.box < BOX
    assert small.box * small.voxel_size_angstrom == pytest.approx(BOX * PIXEL)
    from emflow.em.fourier import resample

    cropped = resample(whole.whole(1), PIXEL, small.box, small.voxel_size_angstrom)
    assert float(fsc(small.whole(1), cropped)[1:8].min()) > 0.98


def test_noise_scores_are_normal_whatever_the_prediction() -> None:
    random = generator(3)
    noise = torch.randn(4000, 2, 200, generator=random) / 2**0.5 * 3.0
    predicted = torch.randn(4000, 2, 200, generator=random) * torch.linspace(3, 0.1, 200)
    wiener = torch.linspace(1, 0, 200)
    weight = (wiener / 9.0).expand(4000, 200)
    score, expected = matched_filter(noise, predicted, wiener, weight)
    assert float(score.mean()) == pytest.approx(0, abs=0.07)
    assert float(score.std()) == pytest.approx(1, abs=0.05)
    score, _ = matched_filter(noise + wiener[None, None] * predicted, predicted, wiener, weight)
    assert float((score - expected).mean()) == pytest.approx(0, abs=0.1)


def test_clean_sets_are_not_called_overfitted() -> None:
    """Ten sets with true poses, of signals strong and weak, and two of noise."""
    for seed in range(10):
        amplitude = (0.0, 0.2, 0.3, 0.5)[seed % 4]
        posed, _ = particles(240, amplitude, seed)
        agreement = compared(posed)
        for shell in (0, 8):
            found = judge.overfitting(agreement.rings, shell)
            assert found is not None
            assert abs(found[1]) < 4
            assert judge.judge_overfitting(found, ValidateParticles()).verdict == "pass"
        answer = judge.judge_held_out(agreement, True).verdict
        assert answer == ("fail" if amplitude == 0 else "pass"), (seed, agreement.significance)


def test_poses_fitted_to_noise_are_caught() -> None:
    """Noise aligned to the map of its own half: nothing held out agrees, but its own half does."""
    posed, _ = particles(240, 0.0, 4)
    agreement = compared(fitted(posed))
    found = judge.overfitting(agreement.rings, 0)
    assert found is not None
    assert found[1] > 8
    assert judge.judge_overfitting(found, ValidateParticles()).verdict == "fail"
    assert judge.judge_held_out(agreement, True).verdict == "fail"
    assert find_outliers(agreement).effective_particles is None


def test_weak_particles_with_overfitted_poses_are_caught() -> None:
    posed, _ = particles(240, 0.15, 5, bfactor=1500.0)
    before, after = (judge.overfitting(compared(p).rings, 8) for p in (posed, fitted(posed)))
    assert judge.judge_overfitting(before, ValidateParticles()).verdict == "pass"
    assert judge.judge_overfitting(after, ValidateParticles()).verdict in ("warn", "fail")


def test_planted_junk_is_found_and_counted_out() -> None:
    posed, empty = particles(600, 0.45, 6, junk=0.2)
    outliers = find_outliers(compared(posed))
    flagged = outliers.reason != ""
    junk = empty.numpy()
    assert flagged[junk].mean() >= 0.95
    assert flagged[~junk].mean() <= 0.01
    assert (outliers.reason[flagged] == NOISE).mean() > 0.9
    assert outliers.told_apart
    assert outliers.effective_particles == pytest.approx((~junk).sum(), rel=0.05)
    assert judge.judge_outliers(outliers, 600, ValidateParticles()).verdict == "warn"


def test_wrong_poses_are_found() -> None:
    posed, _ = particles(600, 0.45, 7)
    wrong = torch.arange(600) % 5 == 0
    rotations = posed.rotations.clone()
    rotations[wrong] = rotations_of(int(wrong.sum()), generator(8))
    outliers = find_outliers(compared(replace(posed, rotations=rotations)))
    flagged = outliers.reason != ""
    assert flagged[wrong.numpy()].mean() >= 0.95
    assert flagged[~wrong.numpy()].mean() <= 0.01


def test_junk_that_cannot_be_told_is_not_claimed() -> None:
    posed, _ = particles(400, 0.1, 9)
    outliers = find_outliers(compared(posed))
    assert judge.judge_outliers(outliers, 400, ValidateParticles()).verdict == "unknown"


def line_draws(bfactor: float, scatter: float, seed: int) -> list[Draw]:
    """Resolutions that follow the law, with scatter in 1/d² of so many parts."""
    random = generator(seed)
    draws = []
    for part in [0.0625, 0.125, 0.25] * 4 + [0.5, 0.5, 1.0]:
        count, d = round(20000 * part), 5.0
        for _ in range(50):  # ln(N·d) = a + B/(2d²), a fixed point
            d = (bfactor / 2 / (np.log(count * d) - 6.0)) ** 0.5
        s2 = d**-2 * (1 + scatter * float(torch.randn(1, generator=random)))
        draws.append(Draw(count, s2**-0.5, False, 99.0))
    return draws


def test_the_line_is_fitted_and_its_error_is_honest() -> None:
    exact = fit_number(line_draws(120.0, 0.0, 0), 0)
    assert exact is not None
    assert exact.bfactor_angstrom2 == pytest.approx(120, rel=1e-3)
    assert exact.resolution_with(20000) == pytest.approx(
        line_draws(120.0, 0.0, 0)[-1].resolution_angstrom, rel=1e-3
    )
    assert exact.particles_for(exact.resolution_with(1e6)) == pytest.approx(1e6, rel=1e-3)
    fits = [fit_number(line_draws(120.0, 0.03, seed), 0) for seed in range(200)]
    covered = [f.bfactor_low_angstrom2 <= 120 <= f.bfactor_high_angstrom2 for f in fits if f]
    assert len(covered) == 200
    assert 0.85 <= np.mean(covered) <= 0.99


def test_no_line_is_drawn_through_what_the_number_does_not_set() -> None:
    draws = line_draws(120.0, 0.0, 0)
    assert fit_number([replace(draw, limited=True) for draw in draws], 0) is None
    assert fit_number([replace(draw, slices=3.0) for draw in draws], 0) is None
    flat = [replace(draw, resolution_angstrom=8.0 * (1 + 0.01 * (-1) ** i)) for i, draw in enumerate(draws)]
    assert fit_number(flat, 0) is None
    assert judge.judge_number(flat, None, ValidateParticles()).verdict == "unknown"


def test_a_planted_envelope_comes_back() -> None:
    """Density of a flat spectrum with amplitudes falling as exp(−B s²/4), B = 2000 Å²."""
    posed, _ = particles(4000, 0.2, 10, bfactor=2000.0)
    draws: list[Draw] = []
    cfg = ValidateParticles()
    accumulate_quarters(
        posed,
        BAND,
        0,
        lambda n, one, two: draws.append(draw_of(n, one.solve(), two.solve(), MASK, PIXEL, cfg)),
    )
    fit = fit_number(draws, 0)
    assert fit is not None
    assert fit.bfactor_angstrom2 == pytest.approx(2000, rel=0.3)
    assert fit.bfactor_low_angstrom2 < 2000 < fit.bfactor_high_angstrom2


def test_all_together_on_a_clean_set_and_on_an_enhanced_map() -> None:
    posed, _ = particles(800, 0.5, 11, bfactor=3000.0)
    quarters = quarters_of(posed)
    halves = (quarters.whole(1), quarters.whole(2))
    found, agreement, _ = assess_images(posed, halves, MASK, ValidateParticles())
    answers = {row.question: row.verdict for row in found.judgements}
    assert answers["Do these particles make these half maps?"] == "pass"
    assert answers["Do the poses follow noise?"] == "pass"
    assert answers["Do the images agree with a map that they did not make?"] == "pass"
    assert found.figures.keys() == {"agreement", "scores", "number"}
    assert len(agreement.score) == 800
    common = (halves[0] + halves[1]) / 2
    invented = torch.randn(BOX, BOX, BOX, generator=generator(12)) * soft_sphere(BOX, 9, 3) * common.std() * 3
    false = tuple(common + invented + 0.05 * half for half in halves)
    found, _, _ = assess_images(posed, (false[0], false[1]), MASK, ValidateParticles())
    answers = {row.question: row.verdict for row in found.judgements}
    assert answers["Do these particles make these half maps?"] == "warn"


def test_nothing_depends_on_the_batches_that_fit_in_memory(scarce_memory: Callable[[int], Any]) -> None:
    posed, _ = particles(160, 0.5)
    whole = compared(posed)
    with scarce_memory(3) as scarce:
        parts = compared(posed)
    assert scarce.failures >= 2
    assert torch.allclose(whole.score, parts.score, atol=1e-3)
    for name in ("own", "held_out", "own_error", "phantom"):
        a, b = getattr(whole.rings, name), getattr(parts.rings, name)
        assert torch.allclose(a, b, rtol=1e-3, atol=1e-5)
