"""Do two half maps lie on each other: shift, rotation and hand of the second against the first."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as functional
from torch import Tensor

from emflow.em.fourier import crop_spectrum
from emflow.em.fsc import first_below
from emflow.em.volume_align import Match, align_volume

_BAND = 40
"""Highest shell that is compared: shifts and hands show long before."""
_BANDS = (8, 20, _BAND)
_HANDS = ("", "inversion", "z", "y", "x")
"""As it is; inverted through the centre; mirrored along an axis."""
_GLOBAL_BAND = 12


@dataclass(frozen=True)
class Overlay:
    """How half 2 must be moved to lie on half 1."""

    shift_px: tuple[float, float, float]
    """z, y, x, in voxels, after the rotation."""
    rotation_deg: float
    mirrored: bool
    score_given: float
    """FSC averaged over the Fourier pixels of the band, as the halves were given."""
    score: float
    """The same after the movement."""
    band: int
    """Last shell that is compared: where the halves agree after the movement."""
    error_px: float
    """Standard error of the shift's length."""
    loss: float
    """Part of the FSC that the displacement takes away at the resolution, 0…1."""
    searched: bool
    """Whether all orientations were tried, as is done where the halves agree poorly."""
    significance: float
    """How many standard deviations of noise the score is; some four come from the search alone."""


def overlay(
    half1: Tensor,
    half2: Tensor,
    fraction: float,
    diameter_px: float,
    order: int = 1,
    edge_shell: int | None = None,
) -> Overlay:
    """Find the movement, and the hand, that bring half 2 onto half 1.

    Shifts come from phase correlation in three bands, for half 2 as it is, inverted, and mirrored along each
    axis; rotation and shift are then refined together. Only where the halves agree poorly are all
    orientations tried.

    Parameters
    ----------
    half1, half2
        Shape (n, n, n).
    fraction
        Fraction of the box that the particle fills: neighbouring Fourier pixels tell the same.
    diameter_px
        Diameter of the particle, in voxels.
    order
        Rotations of the point group: the halves hold that many times fewer independent numbers.
    edge_shell
        Shell at which the loss is stated, where that lies beyond the band that is compared.

    Returns
    -------
    Overlay. The error of the shift is the Cramér–Rao bound for phases of coherence γ: information
    Σ (2πk/n)²·2γ²/(1 − γ²) over independent Fourier pixels.
    """
    if half1.shape[-1] % 2:  # the aligner wants an even box; the centre n//2 stays where it is
        half1, half2 = (functional.pad(half, (1, 0) * 3) for half in (half1, half2))
    n = half1.shape[-1]
    top = min(_BAND, n // 2 - 2)
    guesses = _phase_correlation(half1, half2, top)
    reach = max(guess[1] for guess in guesses)
    mirror = max(range(1, len(guesses)), key=lambda i: guesses[i][2])
    band = max(6, min(reach, top))
    match = Match(half2, half1, band)
    rotations = torch.stack([_turn(_HANDS[i]) for i in (0, 0, mirror)]).to(half1)
    shifts = torch.stack([torch.zeros(3), guesses[0][0], guesses[mirror][0]]).to(half1)
    hands = torch.tensor([False, False, True], device=half1.device)
    given = float(match.scores(rotations[:1], shifts[:1], hands[:1], band)[0])
    # a mirror that does not come near the halves as they are is not worth refining
    tried = slice(1, 3 if guesses[mirror][2] > 0.3 * guesses[0][2] else 2)
    for level in sorted({min(12, band), band}):
        rotations[tried], shifts[tried] = match.refine(
            rotations[tried], shifts[tried], hands[tried], level, 12
        )
    scores = match.scores(rotations, shifts, hands, band)
    # a movement or another hand is believed only if it is clearly better than none
    chosen = 2 if float(scores[2]) > max(float(scores[1]) + 0.1, 0.2) else 1
    rotation, shift, score = rotations[chosen].double(), shifts[chosen].double(), float(scores[chosen])
    mirrored = bool(hands[chosen])
    searched = reach < max(6.0, 6 * n / diameter_px)
    if searched:
        wide = min(_GLOBAL_BAND, n // 2 - 2)
        found = align_volume(half2, half1, max_band=wide)
        coarse = Match(half2, half1, wide)
        now = coarse.scores(rotation[None].to(half1), shift[None].to(half1), hands[chosen : chosen + 1], wide)
        if found.score > max(float(now[0]) + 0.25, 0.35):
            rotation, shift, mirrored = found.rotation, found.shift, found.mirrored
            score, band = found.score, wide
            unmoved = (torch.eye(3)[None].to(half1), shifts[:1], hands[:1])
            given = float(coarse.scores(*unmoved, wide)[0])
    angle = _angle_deg(rotation, mirrored)
    length = float(shift.norm())
    turned = math.radians(min(angle, 60.0)) * 0.387 * diameter_px * math.sqrt(2 / 3)  # rms over a ball
    phase = 2 * math.pi * max(band, edge_shell or 0) / n * math.hypot(length, turned)
    loss = 1.0 if mirrored or phase > math.pi else 1 - (math.sin(phase) / phase if phase > 1e-6 else 1.0)
    error = _error(max(score, given), band, n, fraction / order)
    z_y_x = (float(shift[2]), float(shift[1]), float(shift[0]))
    pixels = 4 / 3 * math.pi * band**3 * max(fraction / order, 1e-4)  # real numbers in half of the ball
    return Overlay(
        z_y_x, angle, mirrored, given, score, band, error, loss, searched, score * math.sqrt(pixels)
    )


def _turn(hand: str) -> Tensor:
    """Rotation that makes of an inversion the mirror along one axis (half a turn about it); x, y, z."""
    if hand in ("", "inversion"):
        return torch.eye(3)
    signs = {axis: (1.0 if axis == hand else -1.0) for axis in "xyz"}
    return torch.diag(torch.tensor([signs["x"], signs["y"], signs["z"]]))


def _angle_deg(rotation: Tensor, mirrored: bool) -> float:
    """Angle of a rotation; of what is left beside half a turn about an axis, where the map is mirrored."""
    candidates = [_turn(hand).to(rotation) for hand in (_HANDS[1:] if mirrored else _HANDS[:1])]
    cosine = max(float((rotation * turn).sum() - 1) / 2 for turn in candidates)
    return math.degrees(math.acos(max(-1.0, min(1.0, cosine))))


def _error(coherence: float, band: int, n: int, fraction: float) -> float:
    """Standard error of the length of a shift, in voxels."""
    gamma = min(max(coherence, 0.05), 0.99)
    shell = torch.arange(1, band + 1, dtype=torch.float64)
    pixels = 2 * math.pi * shell**2 * max(fraction, 1e-4)
    information = (pixels * (2 * math.pi * shell / n) ** 2 / 3).sum() * 2 * gamma**2 / (1 - gamma**2)
    return float((3 / information).sqrt())


def _phase_correlation(half1: Tensor, half2: Tensor, top: int) -> list[tuple[Tensor, int, float]]:
    """For each hand: shift (x, y, z, voxels), last shell that agrees after it, Fourier pixels that agree."""
    n = half1.shape[-1]
    size = 2 * top + 2
    line = torch.fft.fftfreq(size, 1 / size, device=half1.device)
    kx = line[: top + 2].abs()
    radius = (line[:, None, None] ** 2 + line[:, None] ** 2 + kx**2).sqrt()
    shell = (radius + 0.5).floor().long().clamp(max=top + 1)
    spectra = (torch.fft.rfftn(torch.fft.ifftshift(half.float())) for half in (half1, half2))
    first, second = (crop_spectrum(spectrum, n, size) for spectrum in spectra)
    double = torch.where((kx > 0) & (kx <= top), 2.0, 1.0).expand(shell.shape)

    def per_shell(values: Tensor) -> Tensor:
        sums = torch.zeros(top + 2, dtype=torch.float64, device=values.device)
        return sums.index_add_(0, shell.reshape(-1), (values * double).reshape(-1).double())[: top + 1]

    count = per_shell(torch.ones_like(radius))
    whitened = []
    for part in (first, second):
        amplitude = (per_shell(part.abs().square()) / count).sqrt().clamp_min(1e-30)
        scale = functional.pad(1 / amplitude, (0, 1)).to(radius)
        scale[0] = 0
        whitened.append(part * scale[shell])
    out = []
    for hand in _HANDS:
        product = whitened[0] * _reflect(whitened[1], hand).conj()
        found: tuple[Tensor, int, float] | None = None
        for band in sorted({min(b, top) for b in _BANDS}):
            correlation = torch.fft.irfftn(product * (radius <= band), s=(size,) * 3)
            at = torch.unravel_index(correlation.argmax(), correlation.shape)
            steps = torch.stack([(i + size // 2) % size - size // 2 for i in at]).float()  # z, y, x
            phase = (line[:, None, None] * steps[0] + line[:, None] * steps[1] + kx * steps[2]) / size
            curve = per_shell((product * torch.polar(torch.ones_like(phase), 2 * math.pi * phase)).real)
            curve = (curve / count)[1:]
            last = first_below(functional.pad(curve, (1, 0), value=1.0), 0.143)
            reach = (top if last is None else last - 1) if len(curve) else 0
            agreeing = float((curve * count[1:])[:reach].sum())
            if found is None or agreeing > found[2]:
                found = (steps.flip(0).cpu() * (n / size), reach, agreeing)
        assert found is not None
        out.append(found)
    return out


def _reflect(spectrum: Tensor, hand: str) -> Tensor:
    """Transform of the map inverted, or mirrored along an axis, about its centre."""

    def back(dims: tuple[int, ...]) -> Tensor:
        return spectrum.flip(dims).roll((1,) * len(dims), dims)

    if hand == "":
        return spectrum
    if hand == "inversion":
        return spectrum.conj()
    if hand == "x":  # F(z, y, −x) is the conjugate of F(−z, −y, x)
        return back((0, 1)).conj()
    return back((0,) if hand == "z" else (1,))
