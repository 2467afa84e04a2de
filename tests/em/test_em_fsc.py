"""FSC against an explicit loop, the library, and cases whose answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch_fourier_shell_correlation import fourier_shell_correlation

from emflow.device import generator
from emflow.em.fsc import (
    corrected_fsc,
    first_below,
    frc,
    fsc,
    radial_average,
    randomise_phases,
    resolution_at,
    shell_index,
)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=generator(seed))


def loop_fsc(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The definition, element by element, as relion_postprocess has it."""
    n = a.shape[0]
    fa, fb = np.fft.rfftn(a), np.fft.rfftn(b)
    sums = np.zeros((3, n // 2 + 1))
    for z, y, x in np.ndindex(fa.shape):
        kz, ky = (z if z <= n // 2 else z - n), (y if y <= n // 2 else y - n)
        shell = math.floor(math.sqrt(kz * kz + ky * ky + x * x) + 0.5)
        if shell <= n // 2:
            p, q = fa[z, y, x], fb[z, y, x]
            sums[:, shell] += (p * q.conjugate()).real, abs(p) ** 2, abs(q) ** 2
    return sums[0] / np.sqrt(sums[1] * sums[2])


@pytest.mark.parametrize("n", [8, 9, 12])
def test_fsc_is_relions_definition(n: int) -> None:
    a = noise(n, n, n)
    b = a + noise(n, n, n, seed=1)
    np.testing.assert_allclose(fsc(a, b).numpy(), loop_fsc(a.numpy(), b.numpy()), atol=1e-6)


def test_fsc_of_a_map_with_itself_and_its_negative() -> None:
    a = noise(16, 16, 16)
    torch.testing.assert_close(fsc(a, 3 * a), torch.ones(9, dtype=torch.float64))
    torch.testing.assert_close(fsc(a, -a), -torch.ones(9, dtype=torch.float64))


def test_fsc_of_deltas_is_the_phase_of_their_distance() -> None:
    a, b = torch.zeros(2, 32, 32, 32)
    a[16, 16, 16] = 1
    b[16, 16, 18] = 1  # correlation of shell r: the mean of cos(2π·2·kx/n), about sinc
    curve = fsc(a, b)
    r = torch.arange(1, 17, dtype=torch.float64)
    expected = torch.sinc(2 * 2 * r / 32)
    assert curve[0] == pytest.approx(1)
    # the stored half-grid counts kx = 0 double, which pulls the mean up a little
    assert (curve[4:] - expected[3:]).abs().max() < 0.08


def test_fsc_of_independent_noise_is_small_and_signal_to_noise_is_right() -> None:
    a, b = noise(48, 48, 48), noise(48, 48, 48, seed=1)
    assert fsc(a, b)[8:].abs().max() < 0.1
    signal = noise(48, 48, 48, seed=2)
    curve = fsc(signal + a, signal + b)  # SNR 1 in each half: FSC = S/(S+N) = ½
    assert curve[8:].mean() == pytest.approx(0.5, abs=0.01)


def test_fsc_batches_and_broadcasts() -> None:
    a, b = noise(2, 3, 12, 12, 12), noise(12, 12, 12, seed=1)
    curves = fsc(a, b)
    assert curves.shape == (2, 3, 7)
    torch.testing.assert_close(curves[1, 2], fsc(a[1, 2], b))
    images = noise(4, 12, 12)
    assert frc(images, images + noise(4, 12, 12, seed=3)).shape == (4, 7)


def test_fsc_of_an_empty_map_is_zero_not_nan() -> None:
    assert (fsc(noise(8, 8, 8), torch.zeros(8, 8, 8)) == 0).all()


def test_fsc_agrees_with_the_library_on_a_smooth_curve() -> None:
    index = shell_index(40)
    falling = torch.exp(-((index.clamp(max=20) / 9.0) ** 2))
    smooth = torch.fft.irfftn(torch.fft.rfftn(noise(40, 40, 40)) * falling, s=(40, 40, 40))
    a, b = smooth + 0.2 * noise(40, 40, 40, seed=1), smooth + 0.2 * noise(40, 40, 40, seed=2)
    library = fourier_shell_correlation(a, b)  # shares an element between neighbouring shells
    assert (fsc(a, b)[3:] - library[3:]).abs().max() < 0.05


@pytest.mark.parametrize("shapes", [((8, 8, 8), (9, 9, 9)), ((8, 8, 6), (8, 8, 6)), ((8, 8), (8, 8))])
def test_fsc_refuses_what_is_no_pair_of_cubes(shapes: tuple[tuple[int, ...], ...]) -> None:
    with pytest.raises(ValueError, match="cubes"):
        fsc(torch.ones(shapes[0]), torch.ones(shapes[1]))


def test_radial_average_of_the_radius_is_the_shell() -> None:
    index = shell_index(32)
    torch.testing.assert_close(radial_average(index.float(), index), torch.arange(17, dtype=torch.float64))
    flat = radial_average(torch.ones(2, *index.shape), index)
    torch.testing.assert_close(flat, torch.ones(2, 17, dtype=torch.float64))


def test_resolution_is_the_last_shell_before_the_first_below() -> None:
    curve = torch.tensor([1.0, 0.9, 0.5, 0.1, 0.9, 0.0])
    assert first_below(curve, 0.143) == 3
    assert resolution_at(curve, 0.143, 10, 2.0) == pytest.approx(
        10.0
    )  # shell 2; the rise at 4 is no resolution
    between = resolution_at(curve, 0.3, 10, 2.0, interpolate=True)
    assert between == pytest.approx(20 / 2.5)
    assert resolution_at(torch.tensor([1.0, 0.1, 0.9]), 0.143, 4, 1.0) is None
    assert resolution_at(torch.ones(6), 0.143, 10, 2.0) == pytest.approx(4.0)  # Nyquist


def test_randomised_phases_keep_amplitudes_and_low_shells() -> None:
    volume = noise(24, 24, 24).double()
    random = randomise_phases(volume, 5, generator(7))
    before, after = torch.fft.rfftn(volume), torch.fft.rfftn(random)
    torch.testing.assert_close(before.abs(), after.abs())
    curve = fsc(volume, random)
    torch.testing.assert_close(curve[:5], torch.ones(5, dtype=torch.float64))
    assert curve[6:].abs().max() < 0.25
    assert torch.equal(random, randomise_phases(volume, 5, generator(7)))
    assert not torch.equal(random, randomise_phases(volume, 5, generator(8)))


def test_correction_takes_away_what_a_tight_mask_adds() -> None:
    """Independent noise under one tight mask correlates; corrected, nothing is left."""
    n = 48
    centre = torch.arange(n) - n // 2
    ball = (centre[:, None, None] ** 2 + centre[:, None] ** 2 + centre**2 < 7**2).float()
    ball[n // 2] = 1  # a hard, flat feature: correlates far out
    bump = 20 * torch.exp(-(centre[:, None, None] ** 2 + centre[:, None] ** 2 + centre**2) / 50.0)
    halves = [bump + noise(n, n, n, seed=s) + 5 for s in (1, 2)]
    masked = fsc(halves[0] * ball, halves[1] * ball)
    shell = first_below(fsc(*halves), 0.8)
    assert shell is not None
    random = [randomise_phases(h, shell, generator(3, i)) * ball for i, h in enumerate(halves)]
    corrected = corrected_fsc(masked, fsc(random[0], random[1]), shell)
    assert torch.equal(corrected[: shell + 2], masked[: shell + 2])
    assert masked[shell + 2 :].mean() > 0.2
    assert corrected[shell + 2 :].mean().abs() < 0.1


def test_corrected_fsc_formula() -> None:
    masked, random = torch.tensor([1.0, 1, 0.9, 0.6, 0.5]), torch.tensor([1.0, 1, 0.2, 0.2, 1.0])
    assert corrected_fsc(masked, random, 1).tolist() == pytest.approx([1, 1, 0.9, 0.5, 0.0])
