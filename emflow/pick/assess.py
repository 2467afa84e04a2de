"""What speaks against a micrograph: figures from its spectrum and its picture."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from emflow.pick.apply import require_micrograph
from emflow.pick.contamination import find_contamination, grow
from emflow.pick.normalise import shrink
from emflow.step import EmflowError

PATCH_PX, MOST_PATCHES = 256, 12
"""Side of a patch of which a spectrum is taken, and most of them along an axis."""
SECTORS = 12
"""Directions of a spectrum, over half a turn."""
FLOOR = (0.8, 0.98)
"""Part of the spectrum that is taken for noise alone, in Nyquist frequencies."""
COARSEST_FLOOR_ANGSTROM = 15.0
"""Coarser detail than this is not noise alone."""
SIGNAL_ANGSTROM = (300.0, 30.0)
"""Periods at which whatever lies in the ice shows."""
FALLOFF_ANGSTROM = (40.0, 6.0)
"""Periods over which directions are compared."""
LEAST_SIGNAL, OUTLYING = 1.1, 3.0
"""Signal below which no direction can be told; multiple of the usual at which a patch's power is cut."""
ICE_ANGSTROM, BESIDE_ANGSTROM = (3.95, 3.4), (4.6, 3.15)
"""Reflections of crystalline ice (3.90, 3.67, 3.44), and how far the spectrum beside them reaches."""
BLOCK_ANGSTROM, LEAST_BLOCK_PX = 120.0, 32
"""Side of the blocks whose noise is compared."""
PLANE_PASSES, PLANE_CLIP = 4, 3.0
"""Fits of a plane to the blocks' noise, and deviations beyond which a block counts no more in the next."""
OPAQUE = 0.6
"""Variance of a block's noise, over the usual one, below which it is opaque: electrons are counted."""
STRENGTH, MARGIN = 8.0, 0.25
"""Contamination is found as pick.apply does by default."""
WORKING_DIAMETER_PX = 28.0
"""Diameter of the particle in the image on which contamination is looked for."""


@dataclass(frozen=True)
class Signs:
    """Figures of one micrograph; not a number where it cannot be told."""

    signal: float
    """Power at periods of 30 to 300 Å over that of the finest: 1 for white noise."""
    ice_ring: float
    """Power of the strongest reflection of crystalline ice, over that of the spectrum beside it."""
    falloff: float
    """How much the power over the noise depends on direction: half of the second harmonic's part, 0 to about 0.5."""
    gradient: float
    """Part of the electrons by which the dimmest side falls behind the brightest, told by the noise: 0 to 1."""
    opaque: float
    """Part of the area whose noise is far below the rest's: a grid bar, the aperture's edge, very thick ice."""
    masked: float
    """Part of the area under contamination, found at the particle's scale."""
    mean: float
    """Median of the pixels."""
    deviation: float
    """Deviation of the pixels' noise."""


def assess(
    image: Tensor, pixel_size_angstrom: float, dark: bool, diameter_angstrom: float | None = None
) -> Signs:
    """Measure what may be wrong with a micrograph.

    Parameters
    ----------
    image
        Micrograph (y, x), any scale.
    pixel_size_angstrom
        Its pixel size, in ångström.
    dark
        Whether protein is dark.
    diameter_angstrom
        The particle's, in ångström; None: contamination is not looked for.

    Raises
    ------
    EmflowError
        If the image is constant, holds what is no number, or is smaller than two patches.
    """
    require_micrograph(image)
    if min(image.shape) < 2 * PATCH_PX:
        raise EmflowError(
            f"{image.shape[1]} x {image.shape[0]} pixels; expected at least {2 * PATCH_PX} along each side."
        )
    image = image.float()
    power, frequency = sector_power(image, pixel_size_angstrom)
    noise = _block_noise(image, pixel_size_angstrom)
    usual = float(noise.median())
    variance = noise.square()
    fine = FLOOR[0] * float(frequency[-1]) > 1 / COARSEST_FLOOR_ANGSTROM
    return Signs(
        signal=_signal(power, frequency) if fine else math.nan,
        ice_ring=_ice_ring(power, frequency),
        falloff=_falloff(power, frequency) if fine else math.nan,
        gradient=_gradient(variance) if fine else math.nan,
        opaque=float((variance < OPAQUE * usual**2).float().mean()) if fine else math.nan,
        masked=_masked(image, pixel_size_angstrom, dark, diameter_angstrom),
        mean=float(image.median()),
        deviation=usual,
    )


def sector_power(image: Tensor, pixel_size_angstrom: float) -> tuple[Tensor, Tensor]:
    """Power spectra of patches spread over the image, in rings and sectors.

    Returns
    -------
    Power (patches, rings, sectors), over the mean of the patch's finest rings; frequencies of the rings (1/Å).
    """
    corners = [_starts(side) for side in image.shape]
    patches = torch.stack([image[y : y + PATCH_PX, x : x + PATCH_PX] for y in corners[0] for x in corners[1]])
    window = torch.hann_window(PATCH_PX, device=image.device)
    patches = (patches - patches.mean((1, 2), keepdim=True)) * (window[:, None] * window)
    fy = torch.fft.fftfreq(PATCH_PX, device=image.device)[:, None]
    fx = torch.fft.rfftfreq(PATCH_PX, device=image.device)[None]
    ring = (torch.hypot(fy, fx) * PATCH_PX).round().long()
    sector = (
        torch.atan2(fy.expand_as(ring), fx.expand_as(ring)) / math.pi * SECTORS
    ).round().long() % SECTORS
    rings = PATCH_PX // 2
    keep = ((ring > 0) & (ring < rings)).flatten()
    cell = (ring * SECTORS + sector).flatten()[keep]
    count = torch.zeros(rings * SECTORS, device=image.device).index_add_(
        0, cell, torch.ones_like(cell).float()
    )
    total = torch.zeros(len(patches), rings * SECTORS, device=image.device)
    for row, patch in enumerate(patches):
        spectrum = torch.view_as_real(torch.fft.rfft2(patch)).square().sum(-1)
        total[row].index_add_(0, cell, spectrum.flatten()[keep])
    power = (total / count.clamp(min=1)).reshape(len(patches), rings, SECTORS)
    low, high = (round(part * rings) for part in FLOOR)
    floor = power[:, low:high].mean((1, 2), keepdim=True).clamp_min(1e-30)
    frequency = torch.arange(rings, device=image.device) / (PATCH_PX * pixel_size_angstrom)
    return power / floor, frequency


def _starts(side: int) -> list[int]:
    count = min(MOST_PATCHES, math.ceil((side - PATCH_PX) / (PATCH_PX / 2)) + 1)
    return [round(i * (side - PATCH_PX) / (count - 1)) for i in range(count)]


def _band(frequency: Tensor, angstrom: tuple[float, float]) -> Tensor:
    return (frequency >= 1 / angstrom[0]) & (frequency <= 1 / angstrom[1])


def _signal(power: Tensor, frequency: Tensor) -> float:
    return float(power[:, _band(frequency, SIGNAL_ANGSTROM)].mean((1, 2)).median())


def _ice_ring(power: Tensor, frequency: Tensor) -> float:
    """Highest of the reflections' rings and sectors over the mean beside them; nan beyond the band."""
    on = _band(frequency, ICE_ANGSTROM)
    beside = _band(frequency, BESIDE_ANGSTROM) & ~on
    if float(frequency[-1]) < 1 / BESIDE_ANGSTROM[1] or not bool(on.any()):
        return math.nan
    mean = power.mean(0)
    return float(mean[on].amax() / mean[beside].mean())


def _falloff(power: Tensor, frequency: Tensor) -> float:
    """Second harmonic over direction of the power over the noise, each ring weighted by how well it shows."""
    band = _band(frequency, FALLOFF_ANGSTROM) & (frequency < FLOOR[0] * frequency[-1])
    if int(band.sum()) < 4:
        return math.nan
    usual = power[:, band]
    usual = torch.minimum(usual, OUTLYING * usual.median(0).values).mean(
        0
    )  # crystals and edges are in few patches
    over = (usual - 1).clamp_min(0)
    turn = torch.arange(SECTORS, device=power.device) * (2 * math.pi / SECTORS)
    mean = over.mean(1)
    weight = frequency[band] * (mean / (1 + mean)) ** 2
    if float(weight.sum()) == 0 or not _signal(power, frequency) > LEAST_SIGNAL:
        return math.nan
    part = [(over * wave(turn)).mean(1) / mean.clamp_min(1e-6) for wave in (torch.cos, torch.sin)]
    return float(torch.hypot(*[(weight * p).sum() / weight.sum() for p in part]))


def _block_noise(image: Tensor, pixel_size_angstrom: float) -> Tensor:
    """Deviation of the finest detail in each block, from differences of neighbours (y, x)."""
    side = max(LEAST_BLOCK_PX, round(BLOCK_ANGSTROM / pixel_size_angstrom))
    fine = (image[:-1, :-1] - image[1:, :-1] - image[:-1, 1:] + image[1:, 1:]).square() / 4
    rows, columns = (max(1, n // side) for n in fine.shape)
    blocks = fine[: rows * side, : columns * side].reshape(rows, side, columns, side)
    return blocks.mean((1, 3)).sqrt()


def _gradient(variance: Tensor) -> float:
    """Part by which the plane through the blocks' variances (y, x) falls from its highest corner to its lowest."""
    values = variance.double().cpu().numpy()
    y, x = (axis.ravel() - axis.mean() for axis in np.indices(values.shape, dtype=float))
    terms, level, used = np.column_stack([np.ones(y.size), y, x]), values.ravel(), np.ones(y.size, dtype=bool)
    for _ in range(PLANE_PASSES):
        plane = terms @ np.linalg.lstsq(terms[used], level[used], rcond=None)[0]
        off = np.abs(level - plane)
        used = off <= PLANE_CLIP * 1.4826 * np.median(off) + 1e-9 * level.mean()
    return float(np.clip(1 - plane.min() / max(plane.max(), 1e-30), 0, 1))


def _masked(image: Tensor, pixel: float, dark: bool, diameter_angstrom: float | None) -> float:
    if diameter_angstrom is None:
        return math.nan
    small = shrink(-image if dark else image, diameter_angstrom / pixel / WORKING_DIAMETER_PX)
    diameter = min(WORKING_DIAMETER_PX, diameter_angstrom / pixel)
    mask = find_contamination(small.cpu().numpy(), diameter, STRENGTH)
    return float(np.mean(grow(mask, MARGIN * diameter)))
