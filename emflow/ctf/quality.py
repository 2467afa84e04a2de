"""How far and how well the Thon rings are fitted."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from emflow.ctf.search import Rings
from emflow.ctf.spectrum import Spectrum

RINGS_IN_WINDOW = 4.0
BINS_IN_WINDOW = 13


@dataclass(frozen=True)
class Profile:
    """Equi-phase average of a spectrum: one value per frequency s (1/ångström), each of shape (m,).

    ``power`` is P/B, ``fit`` is CTF² averaged over the same pixels, ``correlation`` theirs in a moving window.
    """

    frequency: Tensor
    power: Tensor
    fit: Tensor
    correlation: Tensor


def equiphase_profile(spectrum: Spectrum, rings: Rings, parameters: Tensor) -> Profile:
    """Average pixels of equal phase, so that astigmatic rings do not blur (Zhang 2016; Rohou & Grigorieff 2015).

    A pixel goes to the frequency s' at which the *mean* defocus D gives its phase:
    D·s'² − ½Csλ²·s'⁴ = q, the pixel's own Δf·s² − ½Csλ²·s⁴; so s'² = 2q/(D + √(D² − 2Csλ²q)).
    """
    mean, a, b = (float(p) for p in parameters)
    s2 = spectrum.fx**2 + spectrum.fy**2
    spherical = rings.facts.cs_mm * 1e7 * rings.wavelength**2
    path = mean * s2 + a * (spectrum.fx**2 - spectrum.fy**2) + 2 * b * spectrum.fx * spectrum.fy
    q = path - 0.5 * spherical * s2 * s2
    root = mean * mean - 2 * spherical * q
    valid = (root > 0) & (q > 0)  # beyond the turning point of γ no s' has this phase
    s = torch.sqrt(2 * q[valid] / (mean + torch.sqrt(root[valid])))
    index = (s / spectrum.step).round().long()
    count = torch.bincount(index).clamp(min=1).double()

    def average(values: Tensor) -> Tensor:
        return torch.bincount(index, weights=values[valid].double()) / count

    ctf2 = 0.5 - 0.5 * torch.cos(rings.twice_phase(parameters.to(s2), spectrum.fy, spectrum.fx))
    power, fit = average(spectrum.power), average(ctf2)
    frequency = torch.arange(len(count), device=s.device) * spectrum.step
    radius = spectrum.radius
    inside = (frequency >= float(radius.min())) & (frequency <= float(radius.max())) & (count > 3)
    frequency, power, fit = frequency[inside].double(), power[inside], fit[inside]
    period = 1 / (2 * rings.wavelength * (mean * frequency).clamp(min=1e-6))
    half = (0.5 * RINGS_IN_WINDOW * period / spectrum.step).clamp(min=BINS_IN_WINDOW // 2)
    return Profile(frequency, power, fit, moving_correlation(power, fit, half))


class _Windows:
    """Moving windows of ``half`` samples to each side (may differ per sample), kept whole at the ends."""

    def __init__(self, half: Tensor) -> None:
        n = len(half)
        reach = half.round().long().clamp(max=(n - 1) // 2)
        low = (torch.arange(n, device=half.device) - reach).clamp(min=0)
        self.low = torch.minimum(low, n - 1 - 2 * reach)
        self.high = self.low + 2 * reach + 1

    def mean(self, values: Tensor) -> Tensor:
        total = torch.cat([values.new_zeros(1), values.cumsum(0)])
        return (total[self.high] - total[self.low]) / (self.high - self.low)


def moving_correlation(first: Tensor, second: Tensor, half: Tensor) -> Tensor:
    """Correlate two curves in a moving window of ``half`` samples to each side (shape as theirs)."""
    windows = _Windows(half)
    x, y = first - first.mean(), second - second.mean()  # for the digits' sake
    mean_x, mean_y = windows.mean(x), windows.mean(y)
    cross = windows.mean(x * y) - mean_x * mean_y
    own = (windows.mean(x * x) - mean_x**2) * (windows.mean(y * y) - mean_y**2)
    return torch.where(own > 1e-20, cross / own.clamp(min=1e-20).sqrt(), torch.zeros_like(cross))


def ring_extent(profile: Profile, threshold: float) -> float:
    """Return the resolution (Å) up to which the moving correlation stays at or above ``threshold``.

    Counted from the lowest frequency; without any correlation there, the lowest resolution itself.
    """
    fails = (profile.correlation < threshold).nonzero()
    if len(fails) == 0:
        return 1 / float(profile.frequency[-1])
    place = int(fails[0])
    return 1 / float(profile.frequency[max(place - 1, 0)])


def figure_of_merit(profile: Profile) -> float:
    """Correlation of profile and fit over the whole band."""
    value = float(torch.corrcoef(torch.stack([profile.power, profile.fit]))[0, 1])
    return value if math.isfinite(value) else 0.0


def for_display(profile: Profile, until: float, points: int) -> Profile:
    """Shorten a profile to at most ``points`` and give its power the fit's local mean and deviation.

    The raw rings stand on a background of 1 with an amplitude of a few hundredths; for the eye they are
    brought to the height of the fit, in the moving window of the correlation.

    Parameters
    ----------
    profile
        Equi-phase average.
    until
        Highest frequency kept, 1/ångström.
    points
        Largest number of points.
    """
    windows = _Windows(torch.full_like(profile.frequency, BINS_IN_WINDOW))

    def moments(values: Tensor) -> tuple[Tensor, Tensor]:
        mean = windows.mean(values)
        return mean, (windows.mean(values * values) - mean**2).clamp(min=1e-12).sqrt()

    (mean_power, sd_power), (mean_fit, sd_fit) = moments(profile.power), moments(profile.fit)
    scaled = mean_fit + (profile.power - mean_power) * sd_fit / sd_power
    kept = profile.frequency <= max(until, float(profile.frequency[0]))
    count = int(kept.sum())
    index = torch.linspace(0, count - 1, min(points, count), device=scaled.device).round().long()
    return Profile(profile.frequency[index], scaled[index], profile.fit[index], profile.correlation[index])
