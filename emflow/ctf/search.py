"""Search and refine defocus and astigmatism on the Thon rings of a power spectrum."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from emflow.ctf.spectrum import Spectrum
from emflow.em.optics import wavelength_angstrom
from emflow.step import OpticsFacts

SECTORS = 36
DEFOCUS_STEP = 100.0  # Å; a third of the peak's width at 3 Å and 300 kV
ASTIGMATISM_STEP = 150.0  # Å
ANGLES = 18
REFINE_UNIT = 1000.0  # Å; makes the parameters of order one


@dataclass(frozen=True)
class Rings:
    """The part of the CTF's phase that does not depend on defocus.

    Thon rings are CTF² = ½ − ½ cos 2γ, and 2γ is linear in the defocus parameters:
    2γ = φ0(s) − 2πλ·(D·s² + a·(fx² − fy²) + 2b·fx·fy), with φ0 from spherical aberration, phase shift
    and amplitude contrast, D the mean defocus, a = ½A cos 2α and b = ½A sin 2α for the astigmatism A.
    """

    facts: OpticsFacts
    phase_shift_deg: float = 0.0

    @property
    def wavelength(self) -> float:
        """Electron wavelength, ångström."""
        return wavelength_angstrom(self.facts.voltage_kv)

    def constant(self, s2: Tensor) -> Tensor:
        """φ0 at squared frequencies (1/Å²)."""
        spherical = math.pi * self.facts.cs_mm * 1e7 * self.wavelength**3 * s2 * s2
        return (
            spherical - 2 * math.radians(self.phase_shift_deg) - 2 * math.asin(self.facts.amplitude_contrast)
        )

    def twice_phase(self, parameters: Tensor, fy: Tensor, fx: Tensor) -> Tensor:
        """2γ at frequencies fy, fx for parameters (D, a, b) in ångström."""
        s2 = fx * fx + fy * fy
        mean, a, b = parameters
        path = mean * s2 + a * (fx * fx - fy * fy) + 2 * b * fx * fy
        return self.constant(s2) - 2 * math.pi * self.wavelength * path


@dataclass(frozen=True)
class Search:
    """Result of the grid search: parameters (D, a, b) in ångström and how clear the best defocus is."""

    parameters: Tensor
    confidence: float


def search(spectrum: Spectrum, rings: Rings, defocus: tuple[float, float], astigmatism: float) -> Search:
    """Search mean defocus, astigmatism and angle exhaustively.

    In each sector of the spectrum the score of *all* defoci is one matrix product, because the rings
    are a chirp in s: C(θ, D) = −Σ_s (P/B − 1)·cos(φ0 − 2πλDs²). A candidate with astigmatism reads the
    sector at θ at its own defocus D + ½A cos 2(θ − α), so the grid costs look-ups only.

    Parameters
    ----------
    spectrum
        Flattened spectrum.
    rings
        Optics.
    defocus
        Lowest and highest mean defocus, ångström.
    astigmatism
        Largest astigmatism, ångström.
    """
    by_defocus, grid = _sector_scores(spectrum, rings, defocus, astigmatism / 2)
    device = by_defocus.device
    theta = torch.arange(SECTORS, device=device) * (math.pi / SECTORS)
    margin = math.ceil(astigmatism / 2 / DEFOCUS_STEP) + 1
    inside = torch.arange(margin, len(grid) - margin, device=device)
    shapes = [(0.0, 0.0)] + [
        (ASTIGMATISM_STEP * i, math.pi * j / ANGLES)
        for i in range(1, int(astigmatism / ASTIGMATISM_STEP) + 1)
        for j in range(ANGLES)
    ]
    scores = by_defocus.new_empty(len(shapes), len(inside))
    for number, (amount, angle) in enumerate(shapes):
        shift = 0.5 * amount * torch.cos(2 * (theta - angle)) / DEFOCUS_STEP
        low = shift.floor()
        part = (shift - low)[:, None]
        index = inside[None] + low.long()[:, None]
        taken = by_defocus.gather(1, index) * (1 - part) + by_defocus.gather(1, index + 1) * part
        scores[number] = taken.sum(0)
    curve = scores.amax(0)
    place = int(curve.argmax())
    amount, angle = shapes[int(scores[:, place].argmax())]
    parameters = torch.tensor(
        [float(grid[inside[place]]), 0.5 * amount * math.cos(2 * angle), 0.5 * amount * math.sin(2 * angle)],
        dtype=torch.float64,
    )
    return Search(
        parameters, _gap(torch.maximum(curve, -scores.amin(0)), float(curve[place]), place, spectrum, rings)
    )


def _sector_scores(
    spectrum: Spectrum, rings: Rings, defocus: tuple[float, float], reach: float
) -> tuple[Tensor, Tensor]:
    sector = torch.atan2(spectrum.fy, spectrum.fx).remainder(math.pi) * (SECTORS / math.pi)
    sector = sector.round().long() % SECTORS
    bin_width = spectrum.step / 2
    ring = (spectrum.radius / bin_width).round().long()
    count = int(ring.max()) + 1
    polar = torch.bincount(
        sector * count + ring, weights=(spectrum.power - 1).double(), minlength=SECTORS * count
    )
    polar = polar.reshape(SECTORS, count).to(torch.float32)
    first = defocus[0] - reach - 2 * DEFOCUS_STEP
    steps = math.ceil((defocus[1] + reach + 3 * DEFOCUS_STEP - first) / DEFOCUS_STEP)
    grid = first + DEFOCUS_STEP * torch.arange(steps, device=polar.device, dtype=torch.float32)
    used = polar.abs().sum(0) > 0
    s2 = ((torch.arange(count, device=polar.device) * bin_width) ** 2)[used]
    phase = rings.constant(s2)[:, None] - 2 * math.pi * rings.wavelength * s2[:, None] * grid
    return -(polar[:, used] @ torch.cos(phase)), grid


def _gap(curve: Tensor, best: float, place: int, spectrum: Spectrum, rings: Rings) -> float:
    """1 − second/best, the second at least one ring (at the middle of the band) away from the best.

    ``curve`` is the best score of each defocus on the spectrum *or on its negative*: noise is as good at
    making dark rings as bright ones, so both tell what chance can do.
    """
    middle = float(spectrum.radius.median())
    width = math.ceil(1.0 / (rings.wavelength * middle**2) / DEFOCUS_STEP)
    away = (torch.arange(len(curve), device=curve.device) - place).abs() > width
    if best <= 0 or not bool(away.any()):
        return 0.0
    return max(0.0, 1 - float(curve[away].max()) / best)


def refine(
    spectrum: Spectrum, rings: Rings, start: Tensor, defocus: tuple[float, float], astigmatism: float
) -> Tensor:
    """Refine (D, a, b) continuously on the pixels of the 2-D spectrum.

    Maximises −Σ (P/B − 1)·cos 2γ, of which the gradient is exact (2γ is linear in the parameters), by
    L-BFGS-B within the searched range.

    Parameters
    ----------
    spectrum
        Flattened spectrum.
    rings
        Optics.
    start
        (D, a, b) in ångström.
    defocus, astigmatism
        Range of the mean defocus and largest astigmatism, ångström.

    Returns
    -------
    Tensor (3,), float64, ångström.
    """
    s2 = spectrum.fx**2 + spectrum.fy**2
    paths = torch.stack([s2, spectrum.fx**2 - spectrum.fy**2, 2 * spectrum.fx * spectrum.fy])
    paths *= 2 * math.pi * rings.wavelength * REFINE_UNIT
    constant = rings.constant(s2)
    signal = spectrum.power - 1
    signal = signal / signal.norm().clamp(min=1e-20)

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        phase = constant - torch.as_tensor(parameters, dtype=s2.dtype, device=s2.device) @ paths
        gradient = paths @ (signal * torch.sin(phase))
        return float((signal * torch.cos(phase)).sum()), gradient.double().cpu().numpy()

    half = astigmatism / 2
    bounds = np.array([defocus, (-half, half), (-half, half)]) / REFINE_UNIT
    found = minimize(loss, start.cpu().numpy() / REFINE_UNIT, jac=True, method="L-BFGS-B", bounds=bounds)
    return torch.from_numpy(found.x * REFINE_UNIT)
