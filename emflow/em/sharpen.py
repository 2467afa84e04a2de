"""The map for viewing: the mean of the halves, weighted by its FSC, sharpened by a B factor, low-passed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from emflow.em.fsc import radial_average, shell_index

_EMPTY = -99.0  # what RELION writes for a shell without signal
_LEAST_POINTS = 3
_FILTER_EDGE_SHELLS = 2.0
_SLAB = 16  # planes of the spectrum that are weighted at a time


class SharpenSettings(Protocol):
    """What a room's settings say of sharpening."""

    @property
    def bfactor_angstrom2(self) -> float | None:
        """B factor to apply; None fits it."""

    @property
    def bfactor_fit_from_angstrom(self) -> float:
        """Coarsest resolution of the fit."""

    @property
    def bfactor_fit_to_angstrom(self) -> float | None:
        """Finest resolution of the fit; None is the map's resolution."""

    @property
    def lowpass_angstrom(self) -> float | None:
        """Low-pass; None is the map's resolution."""


@dataclass(frozen=True)
class Line:
    """Straight line through the Guinier plot, ln⟨\\|F\\|⟩ against 1/d²."""

    slope: float
    """In Å²; a quarter of the B factor."""
    intercept: float
    correlation: float
    from_angstrom: float
    to_angstrom: float


@dataclass(frozen=True)
class Sharpened:
    """A sharpened map and how it came about."""

    volume: Tensor
    """(n, n, n), float32."""
    bfactor_angstrom2: float
    """Applied as exp(−B/4·s²): negative sharpens. 0 where nothing was given or fitted."""
    line: Line | None
    """None where the B factor was given, or too few shells lie in the range of the fit."""
    lowpass_angstrom: float
    inverse_square: Tensor
    """1/d² of each shell, in 1/Å²; (shells,), float64, as all that follow."""
    original: Tensor
    """ln of the mean amplitude in each shell."""
    weighted: Tensor
    sharpened: Tensor

    def guinier_columns(self) -> dict[str, Tensor]:
        """Guinier plot under the names of RELION's postprocess.star, each (shells,)."""
        intercept = self.line.intercept if self.line is not None else 0.0
        return {
            "rlnResolutionSquared": self.inverse_square,
            "rlnLogAmplitudesOriginal": self.original,
            "rlnLogAmplitudesWeighted": self.weighted,
            "rlnLogAmplitudesSharpened": self.sharpened,
            "rlnLogAmplitudesIntercept": torch.full_like(self.original, intercept),
        }

    def figures(self) -> dict[str, float | None]:
        """What was applied and fitted, for metrics.json."""
        return {
            "sharpening_bfactor_angstrom2": self.bfactor_angstrom2,
            "guinier_slope_angstrom2": self.line.slope if self.line is not None else None,
            "guinier_correlation": self.line.correlation if self.line is not None else None,
            "sharpening_lowpass_angstrom": self.lowpass_angstrom,
        }


def sharpen(
    mean: Tensor,
    corrected: Tensor,
    resolution_angstrom: float,
    voxel_size_angstrom: float,
    cfg: SharpenSettings,
    *,
    mtf: Tensor | None = None,
    mask: Tensor | None = None,
) -> Sharpened:
    """Weight by the FSC, fit and apply a B factor, and low-pass, as ``relion_postprocess --auto_bfac`` does.

    Parameters
    ----------
    mean
        Mean of both raw half maps, (n, n, n).
    corrected
        Their FSC F, corrected for the mask, (shells,): each shell is weighted by √(2F/(1 + F)), up to the
        first one without agreement.
    resolution_angstrom
        Resolution: the fit ends there, and so does the map (a cosine of two shells), unless the settings
        say otherwise.
    voxel_size_angstrom
        Voxel size.
    mtf
        Modulation transfer of the detector at each shell, (shells,), to be divided out first; None is 1.
    mask
        Mask that ``corrected`` belongs to, (n, n, n): the Guinier plot is then that of the masked map. None takes
        the whole box, as RELION does; its solvent's noise, which the FSC within a mask does not weigh down,
        flattens the plot and makes the B factor too small.

    Source: Rosenthal and Henderson, J. Mol. Biol. 333, 721 (2003).
    """
    n = mean.shape[-1]
    size = n * voxel_size_angstrom
    index = shell_index(n, device=mean.device)
    spectrum = torch.fft.rfftn(mean, dim=(-3, -2, -1))
    amplitude = radial_average((spectrum if mask is None else torch.fft.rfftn(mean * mask)).abs(), index)
    amplitude = amplitude.cpu() / n**3
    if mtf is not None:
        spectrum *= torch.cat([1 / mtf, mtf.new_zeros(1)]).float().to(mean.device)[index]
        amplitude = amplitude / mtf.cpu()
    weight = fsc_weight(corrected)
    s2 = (torch.arange(len(corrected), dtype=torch.float64) / size) ** 2
    original, weighted = log_amplitude(amplitude), log_amplitude(amplitude * weight)
    line, bfactor = None, cfg.bfactor_angstrom2
    if bfactor is None:
        end = cfg.bfactor_fit_to_angstrom or resolution_angstrom
        line = fit_line(s2, weighted, cfg.bfactor_fit_from_angstrom, end)
        bfactor = 4 * line.slope if line is not None else 0.0
    lowpass = cfg.lowpass_angstrom or resolution_angstrom
    del index
    volume, sharpened = _apply(spectrum, weight, bfactor / 4 / size**2, size / lowpass)
    final = log_amplitude(sharpened / n**3)
    if mask is not None:
        final = torch.where(weighted > _EMPTY, weighted - bfactor / 4 * s2, _EMPTY)
    return Sharpened(volume, bfactor, line, lowpass, s2, original, weighted, final)


def deconvolved(
    mean: Tensor, bfactor_angstrom2: float, voxel_size_angstrom: float, mtf: Tensor | None = None
) -> Tensor:
    """Map times exp(−B/4·s²) over the detector's transfer (shells,), neither weighted nor low-passed: (n, n, n)."""
    n = mean.shape[-1]
    index = shell_index(n, device=mean.device)
    shells = torch.arange(n // 2 + 2, dtype=torch.float64)
    gain = torch.exp(-bfactor_angstrom2 / 4 * (shells / (n * voxel_size_angstrom)) ** 2)
    if mtf is not None:
        gain = gain / torch.cat([mtf.double(), mtf[-1:].double()])
    gain[-1] = 0  # the corners
    return torch.fft.irfftn(torch.fft.rfftn(mean) * gain.float().to(mean.device)[index], s=(n, n, n))


def range_suffices(finest_angstrom: float, from_angstrom: float, size_angstrom: float) -> bool:
    """Whether a B factor can be fitted from ``from_angstrom`` to a map's resolution, in a box of a size in ångström.

    A third beyond the start and five shells are asked for: coarser than that, amplitudes follow the particle's
    shape and not Wilson's statistics (Rosenthal and Henderson 2003), and a B factor would be made of chance.
    """
    first, last = math.ceil(size_angstrom / from_angstrom), round(size_angstrom / finest_angstrom)
    return last >= 1.33 * first and last - first >= 4


def fsc_weight(corrected: Tensor) -> Tensor:
    """√(2F/(1 + F)) up to the first shell where F vanishes, 0 beyond: (shells,)."""
    # shell 0 is one number, of either sign: it says nothing
    none = (corrected[1:] < 1e-5).nonzero()
    kept = corrected.clamp(0, 1)
    weight = (2 * kept / (1 + kept)).sqrt()
    if len(none):
        weight[int(none[0, 0]) + 1 :] = 0
    return weight


def log_amplitude(amplitude: Tensor) -> Tensor:
    """ln of amplitudes; −99 where there is none, as RELION writes it."""
    return torch.where(amplitude > 0, amplitude.clamp_min(1e-300).log(), _EMPTY)


def fit_line(s2: Tensor, weighted: Tensor, from_angstrom: float, to_angstrom: float) -> Line | None:
    """Line of least squares through the Guinier plot (1/d² and ln amplitude, each (shells,)) in a range of resolution.

    None with fewer than three shells.
    """
    chosen = (
        (s2 >= from_angstrom**-2 * (1 - 1e-9)) & (s2 <= to_angstrom**-2 * (1 + 1e-9)) & (weighted > _EMPTY)
    )
    x, y = s2[chosen], weighted[chosen]
    if len(x) < _LEAST_POINTS:
        return None
    dx, dy = x - x.mean(), y - y.mean()
    slope = float((dx * dy).sum() / dx.square().sum())
    correlation = float(
        (dx * dy).sum().abs() / (dx.square().sum() * dy.square().sum()).sqrt().clamp_min(1e-300)
    )
    return Line(slope, float(y.mean()) - slope * float(x.mean()), correlation, from_angstrom, to_angstrom)


def _apply(spectrum: Tensor, weight: Tensor, quarter_b: float, lowpass_shell: float) -> tuple[Tensor, Tensor]:
    """Weight by shell, sharpen by exp(−quarter_b·r²) and low-pass by radius r (in shells), in place.

    Returns the map, and the mean amplitude of each shell before the low-pass.
    """
    n, device = spectrum.shape[0], spectrum.device
    weight = torch.cat([weight, torch.zeros(1, dtype=weight.dtype)]).float().to(device)
    full, half = (torch.fft.fftfreq(n, 1 / n, device=device), torch.fft.rfftfreq(n, 1 / n, device=device))
    plane = full.square()[:, None] + half.square()
    shells = n // 2 + 1
    sums, counts = (torch.zeros(shells + 1, dtype=torch.float64, device=device) for _ in range(2))
    low = round(lowpass_shell) - _FILTER_EDGE_SHELLS / 2
    for part, height in zip(spectrum.split(_SLAB), full.split(_SLAB), strict=True):
        radius = (height.square()[:, None, None] + plane).sqrt()
        shell = (radius + 0.5).long().clamp_(max=shells)
        part *= weight[shell] * torch.exp(-quarter_b * radius.square()) * (radius <= n / 2)
        where = shell.reshape(-1)
        sums += torch.bincount(where, part.abs().reshape(-1).double(), minlength=shells + 1)
        counts += torch.bincount(where, minlength=shells + 1)
        edge = ((radius - low) / _FILTER_EDGE_SHELLS).clamp_(0, 1)
        part *= 0.5 + 0.5 * torch.cos(torch.pi * edge)
    volume = torch.fft.irfftn(spectrum, s=(n, n, n), dim=(-3, -2, -1))
    return volume, (sums / counts.clamp_min(1))[:shells].cpu()
