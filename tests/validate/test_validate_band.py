"""How sure a curve is: against many simulated pairs whose truth is known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from emflow.device import generator
from emflow.em.fsc import fourier_correlation, radial_average, resolution_at, shell_cross, shell_index
from emflow.em.masks import soft_sphere
from emflow.validate.band import Independent, correlated_pixels, sign_test
from emflow.validate.config import ValidateMaps
from emflow.validate.judge import is_resolved
from emflow.validate.maps import compare_halves

N, SEEDS = 40, 30
MASKS = {
    "none": torch.ones(N, N, N),
    "ball": soft_sphere(N, 10, 4),
    "slab": soft_sphere(N, 14, 4) * (torch.arange(N) - N // 2).abs().lt(5).float(),
}


def noise(seed: int, half: int, slope: Tensor | None = None) -> Tensor:
    """Noise of deviation 1, or with an amplitude for each element of its spectrum."""
    white = torch.randn(N, N, N, generator=generator(seed, half))
    return white if slope is None else torch.fft.irfftn(torch.fft.rfftn(white) * slope, s=(N, N, N))


class Truth:
    """A particle with noise that rises by shells, and the FSC that its half maps have on average."""

    def __init__(self, radius: float, crossing: float, mask: Tensor) -> None:
        index = shell_index(N)
        self.signal = (noise(5, 0) + 1) * soft_sphere(N, radius, 3)
        spectrum = torch.fft.rfftn(self.signal)
        power = radial_average(spectrum.abs().square(), index)
        ratio = torch.exp(-(torch.arange(N // 2 + 1) - crossing) / 3) / 6
        level = (power / ratio).sqrt() / N**1.5
        self.slope = torch.cat([level, level[-1:]])[index].float()
        signal, drawn = torch.fft.rfftn(self.signal * mask), torch.zeros(N // 2 + 1).double()
        for seed in range(40):
            one = torch.fft.rfftn(noise(1000 + seed, 1, self.slope) * mask)
            drawn += shell_cross(one, one, index) / 40
        common = shell_cross(signal, signal, index)
        self.curve = common / (common + drawn)

    def halves(self, seed: int) -> tuple[Tensor, Tensor]:
        return self.signal + noise(seed, 1, self.slope), self.signal + noise(seed, 2, self.slope)


@pytest.mark.parametrize("name", MASKS)
def test_noise_scatters_as_the_independent_numbers_say(name: str) -> None:
    mask, index = MASKS[name], shell_index(N)
    curves = []
    for seed in range(SEEDS):
        pair = [torch.fft.rfftn(noise(seed, half) * mask) for half in (1, 2)]
        curves.append(fourier_correlation(pair[0], pair[1], index))
    found = torch.stack(curves).square().mean(0).sqrt()[4:]
    told = Independent.count(mask).noise_deviation[4:]
    # under a mask the numbers are taken a few per cent too few, for noise that is not white
    assert float((found / told).mean()) == pytest.approx(1 if name == "none" else 0.96, abs=0.08)
    assert (correlated_pixels(mask, mask, 21)[-1] > 2) == (name != "none")


@pytest.mark.parametrize("name", ["none", "ball"])
def test_the_band_covers_the_truth_as_often_as_it_says(name: str) -> None:
    """95 %, over shells and seeds, whatever the FSC there; a band for a random signal would cover 98 %."""
    mask, index = MASKS[name], shell_index(N)
    truth = Truth(8, 9, mask)
    covered = []
    for seed in range(SEEDS):
        maps = [half * mask for half in truth.halves(seed)]
        curve = fourier_correlation(torch.fft.rfftn(maps[0]), torch.fft.rfftn(maps[1]), index)
        signal = maps[0] * maps[1] if name == "ball" else None
        low, high = Independent.count(mask, signal).band(curve)
        covered.append((low <= truth.curve) & (truth.curve <= high))
    rate = float(torch.stack(covered)[:, 2:].double().mean())
    assert 0.92 < rate < 0.975


def test_the_resolutions_interval_holds_the_truth() -> None:
    mask = MASKS["ball"]
    truth = Truth(8, 9, mask)
    true = resolution_at(truth.curve, 0.143, N, 3.0, interpolate=True)
    assert true is not None
    held = 0
    for seed in range(20):
        curves = compare_halves(*truth.halves(seed), mask, 3.0, ValidateMaps())
        assert is_resolved(curves)
        fine, coarse = curves.resolution_interval()
        assert fine is not None
        assert coarse is not None
        held += fine <= true <= coarse
        assert fine <= (curves.resolution(interpolate=True) or 0) <= coarse
    assert held >= 18


def test_symmetry_makes_fewer_numbers() -> None:
    mask = MASKS["ball"]
    ratio = Independent.count(mask).numbers / Independent.count(mask, symmetry_order=4).numbers
    torch.testing.assert_close(ratio[8:], torch.full_like(ratio[8:], 4))


def test_bit_thresholds_have_their_published_limits() -> None:
    """van Heel and Schatz 2005: 0.2071/1.2071 and 1/3 for many voxels; with N voxels their equation 17."""
    many = Independent(torch.tensor([2e12]).double(), torch.tensor([2e12]).double())
    assert float(many.bit_threshold(0.5)) == pytest.approx(0.1716, abs=1e-4)
    assert float(many.bit_threshold(1.0)) == pytest.approx(1 / 3, abs=1e-4)
    some = Independent(torch.tensor([200.0, 3.0]).double(), torch.tensor([200.0, 3.0]).double())
    expected = (0.2071 + 1.9102 / 10) / (1.2071 + 0.9102 / 10)
    assert some.bit_threshold(0.5).tolist() == pytest.approx([expected, 0], abs=1e-4)


def coloured(seed: int, half: int) -> Tensor:
    """Spectrum of noise as few views leave it: strong in a plane of Fourier space."""
    height = torch.fft.fftfreq(N, 1 / N).abs()[:, None, None]
    return torch.fft.rfftn(noise(seed, half)) * torch.exp(-4 * height / (shell_index(N) + 1))


def test_random_signs_are_fair_to_noise_of_any_colour() -> None:
    found = [sign_test(coloured(s, 1), coloured(s, 2), 6, 1, 1, 0) for s in range(30)]
    p = torch.tensor(found)
    assert 0.3 < float(p.mean()) < 0.7
    assert int((p < 0.05).sum()) <= 5
    assert float(p.min()) > 5e-4


def test_random_signs_find_what_is_common_and_scale_with_symmetry() -> None:
    common = torch.fft.rfftn(noise(99, 0))
    pair = [common + 2 * torch.fft.rfftn(noise(1, half)) for half in (1, 2)]  # FSC 0.2
    assert sign_test(pair[0], pair[1], 8, 1, 1, 0) == pytest.approx(1e-4)
    weak = [common + 3.5 * torch.fft.rfftn(noise(1, half)) for half in (1, 2)]
    once, many = (sign_test(weak[0], weak[1], 8, 1, order, 0) for order in (1, 24))
    assert once < 0.02 < many


def test_symmetrised_noise_is_not_resolved() -> None:
    """Four copies of the same noise agree by chance twice as far."""

    def fourfold(volume: Tensor) -> Tensor:
        turns = [
            torch.rot90(volume, k, (1, 2)).roll(roll, (1, 2))
            for k, roll in enumerate(((0, 0), (1, 0), (1, 1), (0, 1)))
        ]
        return torch.stack(turns).mean(0)

    cfg = ValidateMaps(symmetry="C4", randomisations=1)
    scores = []
    for seed in range(8):
        curves = compare_halves(fourfold(noise(seed, 1)), fourfold(noise(seed, 2)), MASKS["ball"], 3.0, cfg)
        assert not is_resolved(curves)
        scores.append(curves.significance())
    assert max(abs(score) for score in scores) < 3.5
