"""What the microscope does to a projection: defocus, envelopes, the interaction constant."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from emflow.device import generator
from emflow.em.optics import Ctf, ctf_values, rfft_frequencies, wavelength_angstrom
from emflow.simulate.config import Specimen
from emflow.step import EmflowError


def interaction(voltage_kv: float) -> float:
    """Interaction constant, radian per volt and ångström (6.5e-4 at 300 kV). E. Kirkland, 2010, eq. 5.6."""
    energy, rest = voltage_kv * 1e3, 510998.95
    return 2 * math.pi / (wavelength_angstrom(voltage_kv) * energy) * (rest + energy) / (2 * rest + energy)


def check_defocus(cfg: Specimen, step: str) -> None:
    """Refuse a range of defoci that is upside down."""
    if cfg.defocus_min_um > cfg.defocus_max_um:
        raise EmflowError(
            f"{step}: defocus_min_um {cfg.defocus_min_um:g} is above defocus_max_um {cfg.defocus_max_um:g}."
        )


def draw_ctf(cfg: Specimen, index: int, total: int) -> Ctf:
    """Draw the CTF of one of ``total`` micrographs: its defocus stratified over all, astigmatism uniform."""
    rng = generator(cfg.seed, 11, index)
    order = torch.randperm(total, generator=generator(cfg.seed, 12))
    jitter, stretch, angle = torch.rand(3, generator=rng, dtype=torch.float64).tolist()
    mean = (
        cfg.defocus_min_um + (cfg.defocus_max_um - cfg.defocus_min_um) * (int(order[index]) + jitter) / total
    )
    half = 0.5 * cfg.astigmatism_max_um * stretch
    return Ctf(
        torch.tensor([mean + half], dtype=torch.float64),
        torch.tensor([mean - half], dtype=torch.float64),
        torch.tensor([180 * angle], dtype=torch.float64),
        cfg.voltage_kv,
        cfg.cs_mm,
        cfg.amplitude_contrast,
    )


def transfer(cfg: Specimen, ctf: Ctf, size: int, pixel: float, device: torch.device) -> Tensor:
    """Return −2·CTF·envelope on the grid of ``rfft2`` of a square image: phase (rad) to contrast (dark protein).

    Shape (N, size, size//2 + 1) for the parameters of N images.
    """
    fy, fx = rfft_frequencies((size, size), pixel, device)
    envelope = torch.exp(-0.25 * cfg.envelope_b_factor_angstrom2 * (fy**2 + fx**2))
    if cfg.dose_e_per_a2 > 0:
        envelope = envelope * damage(torch.hypot(fy, fx), cfg.dose_e_per_a2, cfg.voltage_kv)
    return -2 * ctf_values(ctf, fy, fx) * envelope


def damage(s: Tensor, dose_e_per_a2: float, voltage_kv: float) -> Tensor:
    """Amplitude left at frequencies s (1/Å) on average over an exposure; radiation fades fine detail first.

    The amplitude falls as exp(−n/(2 n_c)) with the dose n, n_c = 0.245 s^−1.665 + 2.81 electrons per Å² at
    300 kV, 0.8 of it at 200 kV and below (T. Grant & N. Grigorieff, eLife 4 (2015) e06980).
    """
    critical = 0.245 * s.clamp(min=1e-4) ** -1.665 + 2.81
    exponent = dose_e_per_a2 / (2 * critical * (1.0 if voltage_kv > 250 else 0.8))
    return -torch.expm1(-exponent) / exponent
