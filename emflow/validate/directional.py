"""Fourier shell correlation by direction: cones, their area ratio, the 3D FSC and its sphericity."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial import ConvexHull
from torch import Tensor

from emflow.em.fsc import first_below
from emflow.validate.maps import THRESHOLD
from emflow.validate.sphere import cell_centres, cell_of, hemisphere_points

CONE_DEG = 20.0
"""Half angle of the cones (Tan et al. 2017)."""
_SIDE = 36  # cells along a face: 2.5°, so a cone's edge is soft by that much
_DIRECTIONS = 200  # on the half sphere, 10° apart
_SHAPE_DIRECTIONS = 500  # of the surface whose sphericity is taken
_CHUNK = 1 << 20  # Fourier pixels at a time
_LEAST_PIXELS = 4.0  # independent pixels of a cone in the first shell that counts
_LEAST_SHELLS = 4
_FLOOR = 0.2
"""A cone's power counts as at least this part of its shell's: where nothing was measured, the mask leaks from
neighbouring directions into both halves, and that little would correlate well."""
_STEADY_PIXELS = 100.0  # pooled for a resolution: a deviation of 0.07 by chance where nothing correlates


@dataclass(frozen=True)
class DirectionalSums:
    """Sums over the Fourier pixels of each shell and cell of directions: all that cones are made of."""

    sums: Tensor
    """(4, shells, cells), float32: Re F₁F₂*, |F₁|², |F₂|² (each shell scaled to a power of 1), and the number of
    independent pixels: one of each Friedel pair."""
    box: int
    voxel_size_angstrom: float
    independent: float
    """Fraction of the pixels that the mask leaves independent of each other."""


def sum_directions(half1: Tensor, half2: Tensor, mask: Tensor, voxel_size_angstrom: float) -> DirectionalSums:
    """Sum the masked half maps' Fourier pixels by shell and direction.

    Each pixel is put into its shell and one of 3·36² cells of directions, so that any number of cones afterwards
    costs a small matrix product and no look at the pixels.

    Parameters
    ----------
    half1, half2
        Half maps, (n, n, n).
    mask
        Values 0…1, (n, n, n), multiplied to both.
    voxel_size_angstrom
        Voxel size.
    """
    n = half1.shape[-1]
    spectra = [torch.fft.rfftn(half * mask) for half in (half1, half2)]
    shells, cells, device = n // 2 + 1, 3 * _SIDE**2, half1.device
    sums = torch.zeros(4, shells * cells, dtype=torch.float64, device=device)
    full, half = (f(n, 1 / n, device=device) for f in (torch.fft.fftfreq, torch.fft.rfftfreq))
    planes = max(1, _CHUNK // (n * len(half)))
    for start in range(0, n, planes):
        z, y, x = torch.meshgrid(full[start : start + planes], full, half, indexing="ij")
        points = torch.stack([x.reshape(-1), y.reshape(-1), z.reshape(-1)], 1)
        shell = (points.norm(dim=1) + 0.5).floor_().long()
        kept = ((shell > 0) & (shell < shells)).nonzero()[:, 0]
        points = points[kept]
        one, two = (s[start : start + planes].reshape(-1)[kept] for s in spectra)
        # the plane x = 0 holds both of each Friedel pair
        weight = torch.where(points[:, 0] == 0, 0.5, 1.0)
        place = shell[kept] * cells + cell_of(points, _SIDE, folded=True)
        values = (one.real * two.real + one.imag * two.imag, one.abs().square(), two.abs().square())
        for row, value in enumerate((*values, torch.ones_like(weight))):
            sums[row].index_add_(0, place, (value * weight).double())
    table = sums.reshape(4, shells, cells)
    # whitened: so that shells may be pooled without the strong ones drowning the weak
    pixels = table[3].sum(1).clamp_min(1)
    power = (table[1:3].sum(2) / pixels).clamp_min(1e-300)
    table[0] /= power.sqrt().prod(0)[:, None]
    table[1:3] /= power[:, :, None]
    squared = mask.double().square()
    independent = float(squared.sum().square() / squared.square().sum() / n**3)
    return DirectionalSums(table.float().cpu(), n, voxel_size_angstrom, independent)


@dataclass(frozen=True)
class Cones:
    """FSC within cones about directions of the half sphere."""

    directions: Tensor
    """Unit vectors x, y, z with z > 0, (d, 3)."""
    curves: Tensor
    """FSC of the masked half maps in each cone, pooled over a few shells, (d, shells)."""
    first_shell: int
    """Below it a cone holds too few pixels to tell."""
    band_shell: int
    """Last shell that counts into the areas: 1.3 times the resolution's."""
    areas: Tensor
    """Mean of each cone's FSC from the first shell to the band's last, (d,)."""
    area_deviation: float
    """Standard deviation of such an area from chance alone."""
    sphericity: float
    """Of the body within which the 3D FSC is above 0.5: 1 for a ball (Wadell 1935; Tan et al. 2017)."""
    box: int
    voxel_size_angstrom: float

    @property
    def area_ratio(self) -> float:
        """Conical FSC area ratio: the least area over the greatest, at least 0; 1 for an isotropic map."""
        greatest = float(self.areas.max())
        return max(float(self.areas.min()), 0.0) / greatest if greatest > 0 else 0.0

    def deficit(self, ratio: float) -> float:
        """How far the least area lies under ``ratio`` times the greatest, in standard deviations of chance."""
        gap = ratio * float(self.areas.max()) - float(self.areas.min())
        return gap / max(self.area_deviation * math.hypot(1, ratio), 1e-9)

    def resolutions(self, threshold: float = THRESHOLD) -> Tensor:
        """Resolution in each direction, in ångström, (d,)."""
        return self.box * self.voxel_size_angstrom / crossing_shells(self.curves, threshold, self.first_shell)


def compare_directions(sums: DirectionalSums) -> Cones | None:
    """Compute the FSC in cones, and what it says of the map's isotropy.

    The curves are pooled over so many shells that a cone holds about a hundred independent pixels at the
    resolution; the areas are taken from single shells.

    Returns
    -------
    None where the half maps agree over too few shells in which a cone holds enough pixels.

    Sources: Tan et al., Nat. Methods 14, 793 (2017), for cones and sphericity; the area ratio as cryoSPARC's
    cFAR (its guide, version 4), here over the band up to 1.3 times the resolution's frequency.
    """
    total = sums.sums.sum(2)
    whole = total[0] / (total[1] * total[2]).sqrt().clamp_min(1e-20)
    below = first_below(whole, THRESHOLD)
    last = (len(whole) if below is None else below) - 1
    directions = hemisphere_points(_DIRECTIONS)
    pooled = cone_sums(sums, directions)
    pixels = pooled[3].mean(1) * sums.independent
    enough = (pixels >= _LEAST_PIXELS).nonzero()
    first = int(enough[0, 0]) if len(enough) else len(whole)
    if last - first < _LEAST_SHELLS:
        return None
    band = min(int(1.3 * last) + 1, len(whole) - 1)
    used = slice(first, band + 1)
    variance = ((1 - whole.square()).square() / (2 * pixels.clamp_min(0.5)))[used]
    window = min(round(_STEADY_PIXELS / float(pixels[last]) / 1.5), last // 6)
    surface = hemisphere_points(_SHAPE_DIRECTIONS)
    radii = crossing_shells(cone_fsc(cone_sums(sums, surface), window), 0.5, first)
    return Cones(
        directions,
        cone_fsc(pooled, window),
        first,
        band,
        cone_fsc(pooled, 0)[:, used].mean(1),
        float(variance.sum().sqrt()) / len(variance),
        sphericity(surface, radii),
        sums.box,
        sums.voxel_size_angstrom,
    )


def cone_sums(sums: DirectionalSums, directions: Tensor) -> Tensor:
    """Add up the cells whose centres lie within a cone about ±directions (d, 3): (4, shells, d)."""
    cosine = (directions.float() @ cell_centres(_SIDE).float().T).abs()
    return sums.sums @ (cosine >= math.cos(math.radians(CONE_DEG))).float().T


def cone_fsc(pooled: Tensor, window: int) -> Tensor:
    """FSC (d, shells) of :func:`cone_sums`, over ``window`` shells to either side with falling weights."""
    values = torch.cat([pooled[:1], torch.maximum(pooled[1:3], _FLOOR * pooled[3])])
    if window:
        kernel = 1 - torch.arange(-window, window + 1).abs() / (window + 1)
        flat = values.transpose(1, 2).reshape(-1, 1, pooled.shape[1])
        flat = torch.nn.functional.conv1d(flat, kernel[None, None], padding=window)
        values = flat.reshape(3, pooled.shape[2], pooled.shape[1]).transpose(1, 2)
    norm = (values[1] * values[2]).sqrt()
    return torch.where(norm > 0, values[0] / norm.clamp_min(1e-20), 0.0).T


def crossing_shells(curves: Tensor, threshold: float, first: int) -> Tensor:
    """Radius, in shells, at which curves (d, shells) first fall below a threshold; linear between shells.

    At the earliest ``first``, at the latest the last shell.
    """
    part = curves[:, first:]
    below = part < threshold
    shell = torch.where(below.any(1), below.int().argmax(1), part.shape[1] - 1)
    high = part.gather(1, (shell - 1).clamp_min(0)[:, None])[:, 0]
    low = part.gather(1, shell[:, None])[:, 0]
    back = torch.where((low < threshold) & (shell > 0), (threshold - low) / (high - low).clamp_min(1e-6), 0.0)
    return first + shell - back


def sphericity(directions: Tensor, radii: Tensor) -> float:
    """Sphericity π^⅓ (6V)^⅔ / A of the body whose surface lies at ``radii`` (d,) along ±directions (d, 3).

    Volume and area are those of a triangulated surface, relative to the same triangles on a ball.
    """
    points = torch.cat([directions, -directions]).double().numpy()
    triangles = ConvexHull(points).simplices
    corners, reach = points[triangles], torch.cat([radii, radii]).double().numpy()[triangles][..., None]

    def measure(surface: np.ndarray) -> tuple[float, float]:
        volume = np.abs(np.linalg.det(surface)).sum() / 6
        sides = surface[:, 1:] - surface[:, :1]
        return volume, np.linalg.norm(np.cross(sides[:, 0], sides[:, 1]), axis=1).sum() / 2

    (volume, area), (ball, skin) = measure(corners * reach), measure(corners)
    return float((volume / ball) ** (2 / 3) / (area / skin)) if area > 0 else 0.0


def fsc_volume(sums: DirectionalSums, last_shell: int) -> Tensor:
    """3D FSC: at each Fourier pixel the FSC of its shell within the cone about its direction.

    Parameters
    ----------
    sums
        From :func:`sum_directions`.
    last_shell
        The map ends there; beyond it everything is 0.

    Returns
    -------
    Tensor (m, m, m), m = 2·(last_shell + 1) and at most the box, zero frequency at m//2; its pixels are those of
    the half maps' transform, 1/(box·voxel) apart, so that cropping to the band loses nothing.

    Source: Tan et al., Nat. Methods 14, 793 (2017).
    """
    last = min(last_shell, sums.box // 2 - 1)
    table = cone_fsc(cone_sums(sums, cell_centres(_SIDE)), 0).T[: last + 2].contiguous()  # (shells, cells)
    table[0], table[-1] = 1.0, 0.0
    half = last + 1
    volume = torch.zeros(2 * half, 2 * half, 2 * half)
    axis = torch.arange(-half, half, dtype=torch.float32)
    y, x = (part.reshape(-1) for part in torch.meshgrid(axis, axis, indexing="ij"))
    for plane in range(half + 1):  # z = -half … 0
        points = torch.stack([x, y, torch.full_like(x, plane - half)], 1)
        shell = (points.norm(dim=1) + 0.5).floor_().long().clamp_(max=half)
        volume[plane] = table[shell, cell_of(points, _SIDE, folded=True)].reshape(2 * half, 2 * half)
    # the other half are the Friedel mates; the first plane of each axis is beyond the band
    volume[half + 1 :, 1:, 1:] = volume[1:half, 1:, 1:].flip(0, 1, 2)
    return volume
