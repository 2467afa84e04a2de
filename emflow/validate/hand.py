"""The hand of a map, told from its α-helices: they are right-handed.

A helix is a rod whose density winds about the axis once in 5.4 Å. By Cochran, Crick and Vand (Acta Cryst. 5
(1952) 581) that winding is the first layer line with the Bessel function of order one: in cylinder coordinates
about the axis, the component exp(i(φ − 2πz/5.4)) of the density where the helix is right-handed,
exp(i(−φ − 2πz/5.4)) where it is left-handed. Rods are found first, by a filter that knows no hand; at each the
strength of both components is measured, through the profile that an ideal poly-alanine helix has. A mirror
image exchanges the two, so that noise favours neither.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as functional
from scipy import ndimage
from scipy.spatial import KDTree
from torch import Tensor

from emflow.em.fourier import good_size, resample
from emflow.em.fsc import shell_index
from emflow.em.masks import cosine_edge, solvent_mask
from emflow.validate.sphere import hemisphere_points

PITCH_ANGSTROM = 5.4
CLAIM = 0.95
"""Probability from which a hand is claimed; see docs/validate-model.md for how often that errs."""
_UNRESOLVED_SIGMA = 1.1
_ROD_VOXEL, _ROD_RESOLUTION = 3.0, 6.5  # Å: of the map in which rods are sought
_FINE_VOXEL, _FINEST_RESOLUTION = 1.35, 3.8  # Å: of the map whose winding is measured
_AXES = 180  # on the half sphere, 11° apart
_ROD_SIGMA, _LENGTH_SIGMA = 2.0, 6.0  # Å: Gaussians across and along (about three turns)
_MOST_RODS = 300
_ATOM_BLUR = 1.2  # Å
# N, CA, C, O, CB of an ideal α-helix (φ −57°, ψ −47°): radius Å, angle °, height Å, electrons
_ALANINE = (
    (1.55, -27.9, -0.88, 7.0),
    (2.29, 0.0, 0.0, 6.0),
    (1.65, 26.3, 1.05, 6.0),
    (2.02, 30.3, 2.25, 8.0),
    (3.30, -19.0, -0.40, 6.0),
)


@dataclass(frozen=True)
class Windings:
    """Rods of a map and how strongly each winds either way."""

    position_angstrom: Tensor
    """Middle of each rod, (R, 3), x, y, z from the centre n//2."""
    axis: Tensor
    """Unit vectors, (R, 3)."""
    right: Tensor
    """Power of the right-handed component, (R,); the strongest within 1 Å and 6°."""
    left: Tensor
    """The same of the left-handed one."""

    @property
    def score(self) -> float:
        """Sum of right − left over the root of its squares: standard normal, about, where nothing is resolved."""
        difference = self.right - self.left
        norm = float(difference.square().sum().sqrt())
        return float(difference.sum()) / norm if norm > 0 else 0.0

    @property
    def probability(self) -> float:
        """Probability that the map has the right hand; see :func:`right_probability`."""
        return right_probability(self.score, len(self.right))


def right_probability(score: float, rods: int) -> float:
    """Probability of the right hand, if before looking either hand is as likely, and helices are resolved or not.

    Where they are not the score is normal about 0; where they are, about ±0.7 √rods (it cannot exceed √rods).
    The deviations are those of simulated maps.
    """

    def normal(mean: float, sigma: float) -> float:
        return math.exp(-0.5 * ((score - mean) / sigma) ** 2) / sigma

    mean, sigma = 0.7 * math.sqrt(rods), math.sqrt(0.5 + 0.04 * rods)
    unresolved = normal(0.0, _UNRESOLVED_SIGMA) + 1e-9
    right, left = unresolved + normal(mean, sigma), unresolved + normal(-mean, sigma)
    return right / (right + left)


def measure_windings(volume: Tensor, voxel_size_angstrom: float, resolution_angstrom: float) -> Windings:
    """Find the rods in a map and measure how they wind.

    Parameters
    ----------
    volume
        Map with bright protein, (n, n, n), n even.
    voxel_size_angstrom
        Voxel size.
    resolution_angstrom
        What lies beyond is noise and cut off.

    Returns
    -------
    Windings of at most 300 rods, none where the map has none.
    """
    volume = volume.cpu()
    side = volume.shape[-1] * voxel_size_angstrom
    coarse_box = 2 * max(8, round(side / _ROD_VOXEL / 2))
    coarse = _band_limited(volume, voxel_size_angstrom, max(_ROD_RESOLUTION, resolution_angstrom))
    coarse = resample(coarse, voxel_size_angstrom, coarse_box, side / coarse_box)
    position, axis = _find_rods(coarse, side / coarse_box)
    fine_box = good_size(side / _FINE_VOXEL)
    fine = _band_limited(volume, voxel_size_angstrom, max(_FINEST_RESOLUTION, resolution_angstrom))
    fine = resample(fine, voxel_size_angstrom, fine_box, side / fine_box)
    if not len(position):
        return Windings(position, axis, torch.zeros(0), torch.zeros(0))
    return Windings(position, axis, *_wind(fine, side / fine_box, position, axis))


def _band_limited(volume: Tensor, voxel: float, resolution: float) -> Tensor:
    """Cut off at a resolution, with a soft edge of 15 %."""
    n = volume.shape[-1]
    frequency = torch.arange(n // 2 + 2) / (n * voxel)
    weight = cosine_edge(frequency * resolution - 1, 0.15)
    return torch.fft.irfftn(torch.fft.rfftn(volume) * weight[shell_index(n)], s=(n, n, n))


def _find_rods(volume: Tensor, voxel: float) -> tuple[Tensor, Tensor]:
    """Middles and axes of rods, strongest first; on one rod they are 9 Å apart."""
    n = volume.shape[-1]
    made = solvent_mask(
        volume, voxel, lowpass_angstrom=15, dilate_angstrom=0, edge_angstrom=5 * voxel
    ).mask.gt(0.5)
    axes, spectrum = hemisphere_points(_AXES).float(), torch.fft.rfftn(volume)
    full, half = torch.fft.fftfreq(n, voxel), torch.fft.rfftfreq(n, voxel)
    squared = full[:, None, None] ** 2 + full[:, None] ** 2 + half**2
    best, which = torch.full(volume.shape, -torch.inf), torch.zeros(volume.shape, dtype=torch.long)
    width, length = 2 * (math.pi * _ROD_SIGMA) ** 2, 2 * (math.pi * _LENGTH_SIGMA) ** 2
    for number, (x, y, z) in enumerate(axes.tolist()):
        along = (z * full[:, None, None] + y * full[:, None] + x * half).square_()
        across = squared - along
        rod = torch.exp(-width * across) - torch.exp(-4 * width * across)  # brighter than what is around it
        response = torch.fft.irfftn(spectrum * rod.mul_(torch.exp(along.mul_(-length))), s=volume.shape)
        better = response > best
        best = torch.where(better, response, best)
        which[better] = number
    found = torch.where(made, best, -torch.inf).numpy()
    at = np.argwhere((ndimage.maximum_filter(found, 3) == found) & (found > 0))
    at = at[np.argsort(-found[tuple(at.T)], kind="stable")]
    position = (at[:, ::-1] - n // 2) * voxel
    axis = axes[which.numpy()[tuple(at.T)]].numpy()
    kept = _apart(position, axis)
    return torch.from_numpy(position[kept]).float(), torch.from_numpy(axis[kept])


def _apart(position: np.ndarray, axis: np.ndarray) -> list[int]:
    """Walk from the strongest rod down and drop what lies within 9 Å along and 4 Å across of a kept one."""
    kept: list[int] = []
    if not len(position):
        return kept
    tree, alive = KDTree(position), np.ones(len(position), dtype=bool)
    for i in range(len(position)):
        if alive[i]:
            kept.append(i)
            near = np.array(tree.query_ball_point(position[i], 10.0))
            step = position[near] - position[i]
            along = step @ axis[i]
            across = np.linalg.norm(step - along[:, None] * axis[i], axis=1)
            alive[near[(np.abs(along) < 9) & (across < 4)]] = False
        if len(kept) == _MOST_RODS:
            break
    return kept


def helix_profile(radii_angstrom: np.ndarray) -> np.ndarray:
    """Coefficient of exp(i(φ − 2πz/pitch)) of an ideal right-handed helix at some radii: (R,), complex."""
    phi = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    out = np.zeros(len(radii_angstrom), dtype=complex)
    for radius, angle, height, weight in _ALANINE:
        turned = np.cos(phi - np.deg2rad(angle))
        squared = radii_angstrom[:, None] ** 2 + radius**2 - 2 * radii_angstrom[:, None] * radius * turned
        ring = weight * np.exp(-squared / (2 * _ATOM_BLUR**2))
        out += (ring * np.exp(-1j * phi)).mean(1) * np.exp(2j * np.pi * height / PITCH_ANGSTROM)
    return out


def _wind(volume: Tensor, voxel: float, position: Tensor, axis: Tensor) -> tuple[Tensor, Tensor]:
    """Power of the right- and left-handed component at each rod, the strongest of a few near poses."""
    r, phi, z = np.meshgrid(
        np.arange(0.5, 6.1, 0.9),
        np.arange(12) * np.pi / 6,
        np.arange(-9, 10) * 1.3,
        indexing="ij",
    )
    points = torch.from_numpy(np.stack([r * np.cos(phi), r * np.sin(phi), z], -1).reshape(-1, 3)).float()
    profile = helix_profile(r[:, 0, 0])[:, None, None] * r
    wave = np.exp(2j * np.pi * z / PITCH_ANGSTROM - z**2 / (2 * _LENGTH_SIGMA**2))
    # a helix may run up or down its axis: then the profile is conjugate
    filters = np.stack(
        [p * np.exp(-1j * hand * phi) * wave for hand in (1, -1) for p in (profile.conj(), profile)]
    ).reshape(4, -1)
    weights = torch.from_numpy(np.concatenate([filters.real, filters.imag])).float().T
    helper = torch.where(
        axis[:, :1].abs() < 0.8, torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([[0.0, 1.0, 0.0]])
    )
    first = functional.normalize(torch.linalg.cross(helper, axis), dim=1)
    frames = torch.stack([first, torch.linalg.cross(axis, first), axis], -1)
    n, tilt = volume.shape[-1], math.radians(6)
    best = torch.zeros(2, len(position))
    for a, b, u, v in torch.cartesian_prod(*[torch.tensor([-1.0, 0.0, 1.0])] * 4).tolist():
        turn = torch.tensor([[1, 0, a * tilt], [0, 1, b * tilt], [-a * tilt, -b * tilt, 1]])
        middle = position + frames[:, :, 0] * u + frames[:, :, 1] * v
        at = points @ (frames @ turn).transpose(1, 2) + middle[:, None]
        grid = (2 * (at / voxel + n // 2) + 1) / n - 1
        values = functional.grid_sample(volume[None, None], grid[None, None], align_corners=False)
        component = values[0, 0, 0] @ weights
        power = (component[:, :4].square() + component[:, 4:].square()).reshape(-1, 2, 2).amax(2)
        best = torch.maximum(best, power.T)
    return best[0], best[1]
