"""The CTF fit on images whose CTF is known, on pure noise, and on bad input."""

import math

import numpy as np
import pytest
import torch

from emflow.ctf.config import CtfFit
from emflow.ctf.fit import CtfResult, fit_ctf
from emflow.step import EmflowError, OpticsFacts

MICROSCOPE = OpticsFacts(pixel_size_angstrom=2.0, cs_mm=2.7, amplitude_contrast=0.07)


def ringed(
    u: float,
    v: float,
    angle: float,
    facts: OpticsFacts = MICROSCOPE,
    n: int = 768,
    seed: int = 0,
    strength: float = 0.3,
    phase_deg: float = 0.0,
    until_angstrom: float = 0.0,
) -> torch.Tensor:
    """Noise seen through a CTF (RELION's formula, written out), plus coloured noise; defocus in ångström."""
    assert facts.pixel_size_angstrom is not None
    rng = np.random.default_rng(seed)
    ky = np.fft.fftfreq(n, facts.pixel_size_angstrom)[:, None]
    kx = np.fft.rfftfreq(n, facts.pixel_size_angstrom)[None, :]
    k2 = kx**2 + ky**2
    volts = facts.voltage_kv * 1e3
    wavelength = 12.2643247 / math.sqrt(volts * (1 + 0.978466e-6 * volts))
    c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    dxx, dyy, dxy = u * c * c + v * s * s, u * s * s + v * c * c, (u - v) * c * s
    gamma = -math.pi * wavelength * (dxx * kx**2 + 2 * dxy * kx * ky + dyy * ky**2)
    gamma = gamma + 0.5 * math.pi * facts.cs_mm * 1e7 * wavelength**3 * k2**2
    gamma = gamma - math.radians(phase_deg) - math.asin(facts.amplitude_contrast)
    object_ = np.fft.rfft2(rng.normal(size=(n, n))) * np.sqrt(strength) * np.exp(-10 * k2)
    if until_angstrom:
        object_ = object_ * (np.sqrt(k2) < 1 / until_angstrom)
    noise = np.fft.rfft2(rng.normal(size=(n, n))) * np.sqrt(
        0.5 + 0.5 * np.exp(-50 * k2) + 5 * np.exp(-3e3 * k2)
    )
    return torch.from_numpy(np.fft.irfft2(object_ * -np.sin(gamma) + noise, s=(n, n)).astype(np.float32))


def astigmatism(result: CtfResult) -> np.ndarray:
    amount = (result.defocus_u_um - result.defocus_v_um) * 1e4
    twice = math.radians(2 * result.defocus_angle_deg)
    return amount * np.array([math.cos(twice), math.sin(twice)])


@pytest.mark.parametrize("cs", [0.0, 2.7])
@pytest.mark.parametrize(
    ("u", "v", "angle"),
    [
        (9000, 8600, 20.0),
        (16000, 15000, 70.0),
        (25000, 24800, 110.0),
        (31000, 29200, 165.0),
        (6000, 6000, 0.0),
    ],
)
def test_finds_defocus_and_astigmatism(u: float, v: float, angle: float, cs: float) -> None:
    facts = MICROSCOPE.model_copy(update={"cs_mm": cs})
    result = fit_ctf(ringed(u, v, angle, facts), facts, CtfFit())
    assert (result.defocus_u_um + result.defocus_v_um) * 5e3 == pytest.approx((u + v) / 2, abs=40)
    twice = math.radians(2 * angle)
    true = (u - v) * np.array([math.cos(twice), math.sin(twice)])
    assert np.linalg.norm(astigmatism(result) - true) < 120
    assert result.defocus_u_um >= result.defocus_v_um
    assert 0 <= result.defocus_angle_deg < 180
    assert result.reliable
    assert result.max_resolution_angstrom < 5


def test_a_phase_plate_is_taken_into_account() -> None:
    image = ringed(12000, 11800, 45.0, phase_deg=90)
    right = fit_ctf(image, MICROSCOPE, CtfFit(phase_shift_deg=90))
    assert (right.defocus_u_um + right.defocus_v_um) * 5e3 == pytest.approx(11900, abs=40)
    wrong = fit_ctf(image, MICROSCOPE, CtfFit())
    assert right.figure_of_merit > wrong.figure_of_merit + 0.02


def test_scale_and_offset_do_not_matter() -> None:
    image = ringed(14000, 13500, 30.0)
    first, second = (fit_ctf(i, MICROSCOPE, CtfFit()) for i in (image, 37 * image - 1200))
    assert second.defocus_u_um == pytest.approx(first.defocus_u_um, abs=1e-4)
    assert second.max_resolution_angstrom == pytest.approx(first.max_resolution_angstrom)


@pytest.mark.parametrize("until", [6.0, 9.0])
def test_extent_is_where_the_rings_end(until: float) -> None:
    result = fit_ctf(ringed(18000, 17500, 30.0, strength=1.0, until_angstrom=until), MICROSCOPE, CtfFit())
    assert result.reliable
    assert result.max_resolution_angstrom == pytest.approx(until, rel=0.15)


@pytest.mark.parametrize("seed", range(6))
def test_pure_noise_is_not_reliable(seed: int) -> None:
    result = fit_ctf(ringed(1e4, 1e4, 0.0, strength=0.0, seed=seed), MICROSCOPE, CtfFit())
    assert not result.reliable
    assert result.max_resolution_angstrom == pytest.approx(25.0)
    values = (result.defocus_u_um, result.defocus_angle_deg, result.figure_of_merit, result.confidence)
    assert all(math.isfinite(value) for value in values)


def test_rings_of_a_few_hundredths_are_enough() -> None:
    """Ring amplitude a tenth of the noise: defocus still right, and more certain when rings are stronger."""
    weak = fit_ctf(ringed(15000, 15000, 0.0, strength=0.08), MICROSCOPE, CtfFit())
    assert (weak.defocus_u_um + weak.defocus_v_um) * 5e3 == pytest.approx(15000, abs=100)
    strong = fit_ctf(ringed(15000, 15000, 0.0, strength=0.5), MICROSCOPE, CtfFit())
    assert strong.confidence > weak.confidence


def test_not_square_and_smaller_than_the_patch() -> None:
    image = ringed(15000, 14500, 60.0, n=768)[:500, :]
    result = fit_ctf(image, MICROSCOPE, CtfFit(patch_size=700))
    assert result.defocus_u_um == pytest.approx(1.5, abs=0.01)


@pytest.mark.parametrize(
    ("image", "facts", "message"),
    [
        (torch.randn(40, 40), MICROSCOPE, "at least 64"),
        (torch.ones(400, 400), MICROSCOPE, "constant"),
        (torch.full((400, 400), math.nan), MICROSCOPE, "NaN"),
        (torch.randn(400, 400), OpticsFacts(pixel_size_angstrom=20), "no ring"),
        (torch.randn(400, 400), OpticsFacts(), "pixel size"),
    ],
)
def test_bad_input_is_told_in_words(image: torch.Tensor, facts: OpticsFacts, message: str) -> None:
    with pytest.raises(EmflowError, match=message):
        fit_ctf(image, facts, CtfFit())


def test_settings_out_of_order_are_refused() -> None:
    with pytest.raises(ValueError, match="defocus_min_um must be less"):
        CtfFit(defocus_min_um=3, defocus_max_um=2)
    with pytest.raises(ValueError, match="high_resolution_angstrom must be less"):
        CtfFit(low_resolution_angstrom=6, high_resolution_angstrom=10)
