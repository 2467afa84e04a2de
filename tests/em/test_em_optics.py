"""The CTF against torch-ctf and against RELION's formula written out."""

import math

import numpy as np
import pytest
import torch
from torch_ctf import calculate_ctf_2d

from emflow.em.optics import (
    Ctf,
    beam_tilt_phase,
    ctf_phase,
    ctf_values,
    rfft_frequencies,
    wavelength_angstrom,
)


def one(u: float, v: float, angle: float, **optics: float) -> Ctf:
    return Ctf(
        torch.tensor([u], dtype=torch.float64),
        torch.tensor([v], dtype=torch.float64),
        torch.tensor([angle], dtype=torch.float64),
        **optics,
    )


def frequencies(shape: tuple[int, int], pixel: float) -> tuple[torch.Tensor, torch.Tensor]:
    fy, fx = rfft_frequencies(shape, pixel)
    return fy.double(), fx.double()


@pytest.mark.parametrize(("voltage", "expected"), [(100, 0.0370144), (200, 0.0250793), (300, 0.0196875)])
def test_wavelengths_are_the_tabulated_ones(voltage: float, expected: float) -> None:
    assert wavelength_angstrom(voltage) == pytest.approx(expected, rel=2e-5)


@pytest.mark.parametrize("angle", [0.0, 25.0, 90.0, 160.0])
@pytest.mark.parametrize(("cs", "phase", "contrast"), [(2.7, 0.0, 0.1), (0.0, 0.0, 0.07), (2.0, 90.0, 0.0)])
def test_agrees_with_torch_ctf(angle: float, cs: float, phase: float, contrast: float) -> None:
    shape, pixel = (96, 80), 1.7
    ours = ctf_values(
        one(1.8, 1.5, angle, cs_mm=cs, amplitude_contrast=contrast, phase_shift_deg=phase),
        *frequencies(shape, pixel),
    )[0]
    theirs = calculate_ctf_2d(
        defocus=torch.tensor(1.65, dtype=torch.float64),
        astigmatism=torch.tensor(0.15, dtype=torch.float64),
        astigmatism_angle=torch.tensor(angle, dtype=torch.float64),
        voltage=300.0,
        spherical_aberration=cs,
        amplitude_contrast=contrast,
        phase_shift=phase,
        pixel_size=pixel,
        image_shape=shape,
        rfft=True,
        fftshift=False,
    ).squeeze()
    torch.testing.assert_close(ours, theirs.double(), atol=2e-3, rtol=0)  # float32 constants


def test_is_relions_formula() -> None:
    """γ = −πλ(Dxx kx² + 2Dxy kx ky + Dyy ky²) + π/2 Cs λ³ k⁴ − phase − atan(Q0/√(1−Q0²))."""
    u, v, angle, cs, q0, phase = 2.1, 1.6, 37.0, 2.7, 0.1, 20.0
    kx, ky = np.array([0.05, -0.1, 0.2]), np.array([0.12, 0.03, -0.15])
    c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    rotation = np.array([[c, s], [-s, c]])
    d = rotation.T @ np.diag([u * 1e4, v * 1e4]) @ rotation
    wavelength = wavelength_angstrom(300)
    k2 = kx**2 + ky**2
    gamma = -math.pi * wavelength * (d[0, 0] * kx**2 + 2 * d[0, 1] * kx * ky + d[1, 1] * ky**2)
    gamma += 0.5 * math.pi * cs * 1e7 * wavelength**3 * k2**2
    gamma -= math.radians(phase) + math.atan(q0 / math.sqrt(1 - q0**2))
    ctf = one(u, v, angle, cs_mm=cs, amplitude_contrast=q0, phase_shift_deg=phase)
    ours = ctf_phase(ctf, torch.from_numpy(ky), torch.from_numpy(kx))[0].numpy()
    np.testing.assert_allclose(ours, gamma, rtol=1e-9)


def test_defocus_u_lies_along_the_x_axis_at_angle_zero() -> None:
    """The first zero is nearer to the centre along the direction of the larger defocus."""
    s = torch.linspace(0.01, 0.2, 2000, dtype=torch.float64)
    still = torch.zeros_like(s)
    ctf = one(2.0, 1.0, 0.0, cs_mm=0.0, amplitude_contrast=0.0)
    along_x, along_y = ctf_values(ctf, still, s)[0], ctf_values(ctf, s, still)[0]

    def first_zero(values: torch.Tensor) -> float:
        return float(s[int((values[1:] * values[:-1] < 0).nonzero()[0])])

    wavelength = wavelength_angstrom(300)
    assert first_zero(along_x) == pytest.approx(1 / math.sqrt(wavelength * 2e4), rel=2e-3)
    assert first_zero(along_y) == pytest.approx(1 / math.sqrt(wavelength * 1e4), rel=2e-3)


def test_half_plane_is_that_of_rfft2() -> None:
    """A CTF is even, so filtering with the half plane equals filtering with the whole one."""
    ctf = one(1.2, 1.0, 30.0)
    shape, pixel = (32, 48), 2.0
    half = ctf_values(ctf, *frequencies(shape, pixel))[0]
    fy = torch.fft.fftfreq(shape[0], pixel, dtype=torch.float64)[:, None].expand(shape)
    fx = torch.fft.fftfreq(shape[1], pixel, dtype=torch.float64)[None, :].expand(shape)
    whole = ctf_values(ctf, fy, fx)[0]
    torch.testing.assert_close(half[:, :24], whole[:, :24], atol=1e-5, rtol=0)  # float32 frequencies
    image = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    spectrum = torch.fft.fft2(image)
    spectrum[16], spectrum[:, 24] = 0, 0  # Nyquist has no partner
    image = torch.fft.ifft2(spectrum).real
    by_half = torch.fft.irfft2(torch.fft.rfft2(image) * half, s=shape)
    by_whole = torch.fft.ifft2(torch.fft.fft2(image) * whole)
    torch.testing.assert_close(by_half, by_whole.real, atol=1e-4, rtol=0)
    assert float(by_whole.imag.abs().max()) < 1e-9


def test_many_images_at_once_and_protein_white() -> None:
    ctf = Ctf(torch.tensor([1.0, 2.0]), torch.tensor([0.9, 2.0]), torch.tensor([10.0, 0.0]))
    fy, fx = rfft_frequencies((16, 16), 3.0)
    both = ctf_values(ctf, fy, fx)
    assert both.shape == (2, 16, 9)
    torch.testing.assert_close(both[1:], ctf_values(ctf[1:2], fy, fx))
    torch.testing.assert_close(both[:, 0, 0], torch.full((2,), 0.07))


def test_beam_tilt_is_relions_phase_written_out() -> None:
    """RELION's selfApplyBeamTilt: 0.36 degrees · Cs[Å]·λ²/box³ · (i² + j²)(i·y + j·x), of rfft indices i, j."""
    n, pixel, cs, tilt = 64, 1.3, 2.7, (0.8, -0.3)
    fy, fx = frequencies((n, n), pixel)
    rows, columns = fy * n * pixel, fx * n * pixel
    factor = 0.360 * cs * 1e7 * wavelength_angstrom(300.0) ** 2 / (n * pixel) ** 3
    degrees = factor * (rows**2 + columns**2) * (rows * tilt[1] + columns * tilt[0])
    assert torch.allclose(
        beam_tilt_phase(tilt, 300.0, cs, fy, fx), torch.deg2rad(degrees), rtol=1e-5, atol=1e-9
    )
