"""The contrast transfer function of a thin specimen, for whole stacks at once."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor


def wavelength_angstrom(voltage_kv: float) -> float:
    """Relativistic electron wavelength, in ångström (0.0197 at 300 kV)."""
    volts = voltage_kv * 1e3
    return 12.2643247 / math.sqrt(volts * (1 + 0.978466e-6 * volts))


@dataclass(frozen=True)
class Ctf:
    """CTF parameters of one image or of N images.

    Defocus in micrometre (underfocus positive), the astigmatism angle from the x axis to the
    direction of ``defocus_u_um`` in degrees, the phase shift of a phase plate in degrees; the envelope as a B
    factor in Å² and a scale; each a float or a tensor of shape (N,).
    """

    defocus_u_um: Tensor
    defocus_v_um: Tensor
    defocus_angle_deg: Tensor
    voltage_kv: float = 300.0
    cs_mm: float = 2.7
    amplitude_contrast: float = 0.07
    phase_shift_deg: Tensor | float = 0.0
    b_factor_angstrom2: Tensor | float = 0.0
    scale: Tensor | float = 1.0

    def to(self, device: torch.device) -> Ctf:
        """Return a copy with its tensors on ``device``."""
        return self._each(lambda values: values.to(device))

    def __getitem__(self, index: slice | Tensor) -> Ctf:
        """Return the parameters of some of the images."""
        return self._each(lambda values: values[index])

    def _each(self, change: Callable[[Tensor], Tensor]) -> Ctf:
        changed: dict[str, Any] = {
            name: change(value) for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        return replace(self, **changed)


def ctf_phase(ctf: Ctf, fy: Tensor, fx: Tensor) -> Tensor:
    """Return the aberration phase γ at given frequencies, as RELION defines it.

    γ = −πλ·Δf(θ)·s² + (π/2)·Cs·λ³·s⁴ − phase shift − atan(Q0/√(1−Q0²)); the CTF is −sin γ.

    Parameters
    ----------
    ctf
        Parameters of N images.
    fy, fx
        Frequencies in 1/ångström, of one common shape F.

    Returns
    -------
    Tensor of shape (N, *F), in radian.
    """
    wavelength = wavelength_angstrom(ctf.voltage_kv)
    s2 = fx * fx + fy * fy
    u, v = _column(ctf.defocus_u_um, s2) * 1e4, _column(ctf.defocus_v_um, s2) * 1e4
    angle = torch.deg2rad(_column(ctf.defocus_angle_deg, s2))
    # Δf·s² without atan2: ½(u+v)·s² + ½(u−v)·((fx²−fy²)·cos 2α + 2·fx·fy·sin 2α)
    defocus_s2 = 0.5 * (u + v) * s2 + 0.5 * (u - v) * (
        (fx * fx - fy * fy) * torch.cos(2 * angle) + 2 * fx * fy * torch.sin(2 * angle)
    )
    amplitude = math.asin(ctf.amplitude_contrast)  # = atan(Q0/√(1−Q0²))
    spherical = 0.5 * math.pi * ctf.cs_mm * 1e7 * wavelength**3 * s2 * s2
    return (
        -math.pi * wavelength * defocus_s2
        + spherical
        - torch.deg2rad(_column(ctf.phase_shift_deg, s2))
        - amplitude
    )


def _column(value: Tensor | float, like: Tensor) -> Tensor:
    """A parameter of N images (or of all), to be held against frequencies of shape F: (N, 1, …)."""
    return torch.as_tensor(value, dtype=like.dtype, device=like.device).reshape(-1, *[1] * like.ndim)


def ctf_envelope(ctf: Ctf, fy: Tensor, fx: Tensor) -> Tensor | None:
    """Return the envelope scale·exp(−B·s²/4), broadcast to (N, *F), as RELION defines it; None where it is 1."""
    known = isinstance(ctf.scale, Tensor) or isinstance(ctf.b_factor_angstrom2, Tensor)
    if not known and (ctf.scale, ctf.b_factor_angstrom2) == (1.0, 0.0):
        return None
    s2 = fx * fx + fy * fy
    return _column(ctf.scale, s2) * torch.exp(_column(ctf.b_factor_angstrom2, s2) * (-s2 / 4))


def ctf_values(ctf: Ctf, fy: Tensor, fx: Tensor) -> Tensor:
    """Return the CTF, −sin γ under its envelope, of N images at given frequencies: shape (N, *F).

    With underfocus positive and protein white in the object, the image shows protein white where the
    CTF is positive: the value at zero frequency is +amplitude contrast.
    """
    values = -torch.sin(ctf_phase(ctf, fy, fx))
    envelope = ctf_envelope(ctf, fy, fx)
    return values if envelope is None else values * envelope


def beam_tilt_phase(
    tilt_mrad: tuple[float, float], voltage_kv: float, cs_mm: float, fy: Tensor, fx: Tensor
) -> Tensor:
    """Return the phase φ by which a tilted beam falsifies images, as RELION defines it.

    φ = 2π·Cs·λ²·s²·(s·t): an image's transform is that of the untilted one times exp(−iφ), so exp(+iφ) mends it
    (axial coma; Zivanov et al., eLife 7 (2018) e42166, eq. 11; the sign is that of rlnBeamTiltX/Y).

    Parameters
    ----------
    tilt_mrad
        rlnBeamTiltX and rlnBeamTiltY, in milliradian.
    voltage_kv, cs_mm
        Of the microscope. Without spherical aberration there is no coma.
    fy, fx
        Frequencies in 1/ångström, of one common shape F.

    Returns
    -------
    Tensor of shape F, in radian.
    """
    factor = 2 * math.pi * cs_mm * 1e7 * wavelength_angstrom(voltage_kv) ** 2 * 1e-3
    return factor * (fx * fx + fy * fy) * (fx * tilt_mrad[0] + fy * tilt_mrad[1])


def rfft_frequencies(
    shape: tuple[int, int], pixel_size_angstrom: float, device: torch.device | None = None
) -> tuple[Tensor, Tensor]:
    """Return fy, fx in 1/ångström of ``torch.fft.rfft2`` of an image: each of shape (ny, nx//2 + 1)."""
    fy = torch.fft.fftfreq(shape[0], pixel_size_angstrom, device=device)
    fx = torch.fft.rfftfreq(shape[1], pixel_size_angstrom, device=device)
    grid_y, grid_x = torch.meshgrid(fy, fx, indexing="ij")
    return grid_y, grid_x
