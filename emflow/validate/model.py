"""How well a model in its place explains a map: Fourier shell correlation, correlation in real space, inclusion."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from scipy.spatial import KDTree
from torch import Tensor

from emflow.em.atoms import AtomicModel
from emflow.em.fsc import first_below, fourier_correlation, radial_average, shell_index
from emflow.em.masks import cosine_edge

REACH_ANGSTROM, EDGE_ANGSTROM = 3.0, 6.0
"""How far a model's mask reaches beyond its atoms, and the width of the soft edge outside of that."""
_VOLUME_PER_DALTON = 1.21  # Å³: partial specific volume 0.73 cm³/g


@dataclass(frozen=True)
class ModelCurves:
    """FSC inside the model's mask, each (shells,), float64; shell i stands at i/(box·voxel)."""

    full: Tensor
    """Model against the combined map."""
    half1: Tensor
    half2: Tensor
    """Model against each half map."""
    halves: Tensor
    """Half map against half map, in the same mask."""
    box: int
    voxel_size_angstrom: float
    mask_fraction: float

    def angstrom(self, shell: int) -> float | None:
        """Resolution of a shell."""
        return self.box * self.voxel_size_angstrom / shell if shell > 0 else None

    @property
    def fit_shell(self) -> int:
        """Last shell before the map-model FSC falls below 0.5."""
        return fit_shell(self.full)

    @property
    def resolved_shell(self) -> int:
        """Last shell before the FSC between the half maps falls below 0.143."""
        shell = first_below(self.halves, 0.143)
        return (len(self.halves) if shell is None else shell) - 1

    def _deviation(self) -> Tensor:
        """Standard deviation of an FSC of noise in each shell, as for half maps."""
        shells = torch.arange(len(self.full), dtype=torch.float64).clamp_min(1)
        return (4 * math.pi * shells**2 * max(self.mask_fraction, 1e-6)).rsqrt().clamp_max(1)

    def excess(self) -> tuple[float, float] | None:
        """By how much the model agrees with both halves better than a perfect model could, and its significance.

        A model ρ that is independent of the noise has FSC(ρ, half 1)·FSC(ρ, half 2) ≤ FSC(half 1, half 2).
        Weighted mean of the difference over the shells beyond the resolution, in FSC and in standard deviations.
        (Nearer to the centre a model's other errors make it negative.) None where fewer than three are left.
        """
        product = self.half1.clamp_min(0) * self.half2.clamp_min(0)
        return self._pooled(product - self.halves, self.resolved_shell + 1)

    def preference(self) -> tuple[float, float] | None:
        """Mean of FSC(model, half 1) − FSC(model, half 2), and its standard deviations.

        Over the shells from a third of the resolution on.
        """
        pooled = self._pooled(self.half1 - self.half2, max(3, self.resolved_shell // 3))
        return None if pooled is None else (pooled[0], pooled[1] / math.sqrt(2))

    def _pooled(self, difference: Tensor, first: int) -> tuple[float, float] | None:
        last = len(self.full) - 2  # the last shell holds little of what the density was made with
        if last < first + 2:
            return None
        deviation = (self._deviation() * (1 - self.halves.clamp(0, 0.95) ** 2))[first : last + 1]
        weight = deviation**-2
        total = (weight * difference[first : last + 1]).sum()
        return float(total / weight.sum()), float(total / weight.sum().sqrt())


def fit_shell(curve: Tensor) -> int:
    """Last shell before a map-model FSC is below 0.5 in two shells running (the first two hold few points)."""
    low = curve < 0.5
    both = (low[3:-1] & low[4:]).nonzero()
    return int(both[0, 0]) + 2 if len(both) else len(curve) - 1


def model_mask(model: AtomicModel, box: int, voxel_size_angstrom: float) -> Tensor:
    """Soft mask about a model: 1 up to 3 Å from the voxel of an atom, 0 from 6 Å further on: (box, box, box)."""
    index = np.rint(model.position / voxel_size_angstrom).astype(int) + box // 2
    index = index[((index >= 0) & (index < box)).all(1)]
    if not len(index):
        return torch.zeros(box, box, box)
    empty = np.ones((box, box, box), dtype=bool)
    empty[index[:, 2], index[:, 1], index[:, 0]] = False
    distance = ndimage.distance_transform_edt(empty) * voxel_size_angstrom
    edge = max(EDGE_ANGSTROM, 3 * voxel_size_angstrom)
    return cosine_edge(torch.from_numpy(distance).float() - REACH_ANGSTROM, edge)


def masked(volume: Tensor, mask: Tensor) -> Tensor:
    """Volume within a mask, less its mean there: the mask's own shape shall not correlate."""
    mean = (volume * mask).double().sum() / mask.double().sum().clamp_min(1e-9)
    return (volume - mean.float()) * mask


def model_curves(
    density: Tensor,
    mask: Tensor,
    full: Tensor,
    halves: tuple[Tensor, Tensor],
    voxel_size_angstrom: float,
) -> ModelCurves:
    """Correlate a model's density with a map and its halves inside the model's mask, in Fourier shells.

    Parameters
    ----------
    density, mask
        Of :func:`emflow.em.atoms.atom_density` and :func:`model_mask`, (n, n, n).
    full, halves
        Map and half maps, (n, n, n).

    Four transforms. The mean inside the mask is subtracted from each (RELION's curves do not do that).
    """
    n = full.shape[-1]
    index = shell_index(n)
    model, one, two = (torch.fft.rfftn(masked(v, mask)) for v in (density, *halves))
    both = torch.fft.rfftn(masked(full, mask))
    pairs = ((model, both), (model, one), (model, two), (one, two))
    with_map, with_one, with_two, halves_fsc = (fourier_correlation(a, b, index) for a, b in pairs)
    fraction = float(mask.double().square().mean())
    return ModelCurves(with_map, with_one, with_two, halves_fsc, n, voxel_size_angstrom, fraction)


@dataclass(frozen=True)
class RealSpace:
    """Agreement in real space, at a stated resolution."""

    box: float
    """Correlation over the whole box (Phenix: CC_box)."""
    mask: float
    """Correlation over the voxels within 3 Å of an atom (Phenix: CC_mask)."""
    residues: np.ndarray
    """Correlation over the voxels nearest to each residue, within 3 Å; (R,), NaN for fewer than 4 voxels."""
    contour: float
    """Density above which a voxel is counted as inside, in the low-passed map's units."""
    included: np.ndarray
    """(N,) whether the map exceeds the contour at each atom."""


def compare_in_space(
    model: AtomicModel,
    density: Tensor,
    volume: Tensor,
    voxel_size_angstrom: float,
    resolution_angstrom: float,
    contour: float | None = None,
) -> RealSpace:
    """Correlate a map with a model's density, both cut off at a resolution.

    The model's density is given the map's mean amplitude in each shell, so that neither sharpening nor B
    factors count. Correlations are about the mean (Afonine et al., Acta Cryst. D74 (2018) 814).

    Parameters
    ----------
    contour
        Contour level of the given map; by default the density that encloses the model's volume (1.21 Å³/Da).
    """
    n = volume.shape[-1]
    shells = shell_index(n)
    last = min(n // 2, max(2, round(n * voxel_size_angstrom / resolution_angstrom)))
    a, b = torch.fft.rfftn(volume), torch.fft.rfftn(density)
    power_a, power_b = (radial_average(s.abs().square(), shells) for s in (a, b))
    scale = torch.cat([(power_a / power_b.clamp_min(1e-30)).sqrt(), torch.zeros(1)]).float()
    keep = (torch.arange(n // 2 + 2) <= last).float()
    low = torch.fft.irfftn(a * keep[shells], s=(n, n, n))
    ideal = torch.fft.irfftn(b * (keep * scale)[shells], s=(n, n, n))
    x, y = low.double().numpy(), ideal.double().numpy()
    where, nearest = _near_atoms(model, n, voxel_size_angstrom)
    inside_x, inside_y = x[where], y[where]
    residues = _grouped_correlation(inside_x, inside_y, model.residue[nearest], len(model.residue_name))
    seen = low if contour is None else volume
    if contour is None:
        voxels = max(1, min(n**3, round(_VOLUME_PER_DALTON * model.mass_da / voxel_size_angstrom**3)))
        contour = float(seen.reshape(-1).kthvalue(n**3 - voxels + 1).values)
    index = (model.position / voxel_size_angstrom + n // 2)[:, ::-1].T
    at_atoms = ndimage.map_coordinates(seen.numpy(), index, order=1, mode="constant", cval=-np.inf)
    return RealSpace(
        _correlation(x.ravel(), y.ravel()),
        _correlation(inside_x, inside_y),
        residues,
        contour,
        np.nan_to_num(at_atoms, nan=-np.inf) > contour,
    )


def _near_atoms(model: AtomicModel, n: int, voxel: float) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
    """Voxels (z, y, x) within 3 Å of an atom, and the atom that each is nearest to."""
    near = model_mask(model, n, voxel).numpy() > 0
    z, y, x = np.nonzero(near)
    points = (np.stack([x, y, z], 1) - n // 2) * voxel
    distance, atom = KDTree(model.position).query(points, distance_upper_bound=REACH_ANGSTROM)
    kept = np.isfinite(distance)
    return (z[kept], y[kept], x[kept]), atom[kept]


def _correlation(x: np.ndarray, y: np.ndarray) -> float:
    x, y = x - x.mean(), y - y.mean()
    norm = math.sqrt(float((x * x).sum() * (y * y).sum()))
    return float((x * y).sum() / norm) if norm > 0 else 0.0


def _grouped_correlation(x: np.ndarray, y: np.ndarray, group: np.ndarray, groups: int) -> np.ndarray:
    """Correlation about the mean within each group; NaN for fewer than four members."""

    def total(values: np.ndarray | None = None) -> np.ndarray:
        return np.bincount(group, values, minlength=groups)

    count = np.maximum(total(), 1)
    x, y = x - (total(x) / count)[group], y - (total(y) / count)[group]
    norm = np.sqrt(total(x * x) * total(y * y))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where((count >= 4) & (norm > 0), total(x * y) / norm, np.nan)
