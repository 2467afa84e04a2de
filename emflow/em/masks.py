"""Masks with soft edges: spheres, and the solvent mask of a map."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

_BACKGROUND_VOXELS = 1_000_000  # voxels that the solvent's statistics are taken from, at least


def cosine_edge(distance: Tensor, edge: float) -> Tensor:
    """Return 1 where ``distance`` ≤ 0, 0 where ≥ ``edge``, half a cosine between (a step for ``edge`` 0)."""
    if edge <= 0:
        return (distance <= 0).to(distance.dtype)
    return 0.5 + 0.5 * torch.cos(math.pi * (distance / edge).clamp(0, 1))


def radius_grid(size: int, ndim: int = 3, *, device: torch.device | None = None) -> Tensor:
    """Distance from the centre n//2, in pixels, of each voxel of a cube (square for ``ndim`` 2), float32."""
    axis = (torch.arange(size, device=device, dtype=torch.float32) - size // 2).square()
    squared = axis
    for _ in range(ndim - 1):
        squared = axis.reshape(-1, *[1] * squared.ndim) + squared
    return squared.sqrt()


def soft_sphere(
    size: int, radius_px: float, edge_px: float, ndim: int = 3, *, device: torch.device | None = None
) -> Tensor:
    """Sphere (disc for ``ndim`` 2) about the centre n//2 with a cosine edge.

    Parameters
    ----------
    size
        Side of the cube, in pixels.
    radius_px
        Up to here the mask is 1.
    edge_px
        Width of the fall to 0, outside of the radius.
    """
    return cosine_edge(radius_grid(size, ndim, device=device) - radius_px, edge_px)


def spherical_part(volume: Tensor) -> Tensor:
    """Replace each voxel of a cube (n, n, n) by the mean over its sphere about n//2 (linear between radii)."""
    radius = radius_grid(volume.shape[-1], device=volume.device)
    index = radius.round().long()
    count = int(index.max()) + 2
    sums = torch.zeros(2, count, dtype=torch.float64, device=volume.device)
    sums[0].index_add_(0, index.reshape(-1), volume.double().reshape(-1))
    sums[1].index_add_(0, index.reshape(-1), torch.ones_like(volume).double().reshape(-1))
    profile = (sums[0] / sums[1].clamp_min(1)).to(volume.dtype)
    low = radius.floor().long()
    return torch.lerp(profile[low], profile[low + 1], (radius - low).to(volume.dtype))


def rotational_part(images: Tensor) -> Tensor:
    """Replace each pixel of images (k, n, n) by the mean over its circle about n//2 (linear between radii)."""
    radius = radius_grid(images.shape[-1], 2, device=images.device)
    index = radius.round().long().reshape(-1)
    sums = images.new_zeros(len(images), int(index.max()) + 2)
    sums.index_add_(1, index, images.reshape(len(images), -1))
    profile = sums / torch.bincount(index, minlength=sums.shape[1]).clamp(min=1)
    low = radius.floor().long()
    return torch.lerp(profile[:, low], profile[:, low + 1], radius - low)


def lowpass(volume: Tensor, voxel_size_angstrom: float, resolution_angstrom: float) -> Tensor:
    """Low-pass volumes (..., n, n, n) with a Gaussian that is ½ at ``resolution_angstrom`` (no ringing)."""
    n = volume.shape[-1]
    device = volume.device
    full = torch.fft.fftfreq(n, voxel_size_angstrom, device=device).square()
    half = torch.fft.rfftfreq(n, voxel_size_angstrom, device=device).square()
    falloff = math.log(2) * resolution_angstrom**2
    # the Gaussian is a product over axes: no grid of frequencies is needed
    gz, gx = torch.exp(-falloff * full).to(volume.dtype), torch.exp(-falloff * half).to(volume.dtype)
    spectrum = torch.fft.rfftn(volume, dim=(-3, -2, -1))
    for factor in (gz[:, None, None], gz[:, None], gx):
        spectrum *= factor
    return torch.fft.irfftn(spectrum, s=(n, n, n), dim=(-3, -2, -1))


@dataclass(frozen=True)
class SolventMask:
    """A mask and what it was made from."""

    mask: Tensor
    """Values 0…1, shape (n, n, n)."""
    found: bool
    """Whether the map rose above its background; otherwise the mask is the inscribed soft sphere."""
    threshold: float
    """Density of the low-passed map above which a voxel belongs to the particle."""
    core_volume_angstrom3: float
    """Volume above the threshold in the components that were kept."""
    volume_angstrom3: float
    """Volume of the mask: the sum of its values."""
    components: int
    """Connected components that were kept."""


def _grown(core: np.ndarray, dilate_px: float, edge_px: float) -> Tensor:
    """Mask that is 1 to ``dilate_px`` from a core (bool, (n, n, n)), with a cosine edge beyond."""
    reach = math.ceil(dilate_px + edge_px) + 1
    around = []
    for axis in range(3):
        filled = np.flatnonzero(core.any(axis=tuple(a for a in range(3) if a != axis)))
        around.append(slice(max(0, int(filled[0]) - reach), int(filled[-1]) + reach + 1))
    where = (around[0], around[1], around[2])
    distance = torch.from_numpy(ndimage.distance_transform_edt(~core[where])).float()
    mask = torch.zeros(core.shape)
    mask[where] = cosine_edge(distance - dilate_px, edge_px)
    return mask


def local_mean(volume: Tensor, width: int) -> Tensor:
    """Mean over cubes of odd ``width`` about each voxel of (n, n, n), of what lies within the box."""
    mean = volume[None, None]
    for axis in range(3):  # a cube's mean is that of three lines
        kernel, pad = [1, 1, 1], [0, 0, 0]
        kernel[axis], pad[axis] = width, width // 2
        mean = torch.nn.functional.avg_pool3d(mean, kernel, 1, pad, count_include_pad=False)
    return mean[0, 0]


def background(values: Tensor) -> tuple[float, float]:
    """Level and standard deviation of the solvent in densities that hold a minority of bright protein.

    Median and median absolute deviation, with what lies more than 2.5 deviations above cut away until
    nothing changes.
    """
    level, deviation = 0.0, 0.0
    for _ in range(30):
        if values.numel() == 0:
            break
        level = float(values.median())
        deviation = 1.4826 * float((values - level).abs().median())
        kept = values[values <= level + 2.5 * deviation]
        if kept.numel() == values.numel():
            break
        values = kept
    return level, deviation


def solvent_mask(
    volume: Tensor,
    voxel_size_angstrom: float,
    *,
    lowpass_angstrom: float = 15.0,
    dilate_angstrom: float = 6.0,
    edge_angstrom: float = 12.0,
    threshold_deviations: float = 4.0,
) -> SolventMask:
    """Make a soft solvent mask from a map.

    Low-pass; threshold at the larger of ``threshold_deviations`` above the solvent (robust statistics of
    the inscribed sphere) and a tenth of the way to the brightest density; keep the connected components
    of at least a tenth of the largest one's volume; grow; add a cosine edge.

    Parameters
    ----------
    volume
        Map with bright protein, shape (n, n, n).
    voxel_size_angstrom
        Voxel size.
    lowpass_angstrom, dilate_angstrom, edge_angstrom
        Low-pass before the threshold; how far the mask reaches beyond it; width of the soft edge outside.
    threshold_deviations
        Threshold above the solvent's level, in its standard deviations.

    Returns
    -------
    The mask with its threshold and volumes. ``found`` is False where nothing rises above the solvent:
    then the mask is the inscribed sphere with the same soft edge.
    """
    n = volume.shape[-1]
    inside = radius_grid(n, device=volume.device) <= n / 2 - 1
    edge_px, dilate_px = edge_angstrom / voxel_size_angstrom, dilate_angstrom / voxel_size_angstrom
    smooth = lowpass(volume, voxel_size_angstrom, lowpass_angstrom)
    values = smooth[inside]
    # a map that was masked before is flat outside: those voxels say nothing about the solvent
    # and of very many voxels an even choice says as much
    some = values[:: max(1, values.numel() // _BACKGROUND_VOXELS)]
    level, deviation = background(some[some.abs() > 1e-6 * some.abs().amax()])
    peak = float(torch.topk(values, max(1, values.numel() // 2000)).values[-1])
    del values, some
    threshold = max(level + threshold_deviations * deviation, level + 0.1 * (peak - level))
    labels, count = ndimage.label(((smooth > threshold) & inside).cpu().numpy())
    del smooth, inside
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    # a blob smaller than the low-pass can resolve is noise, not a particle
    smallest = (lowpass_angstrom / voxel_size_angstrom) ** 3 / 2
    keep = np.flatnonzero((sizes >= 0.1 * sizes.max(initial=0)) & (sizes >= smallest)) + 1
    voxel = voxel_size_angstrom**3
    if len(keep) == 0:
        mask = soft_sphere(n, n / 2 - 1 - edge_px, edge_px, device=volume.device)
        return SolventMask(mask, False, threshold, 0.0, float(mask.double().sum()) * voxel, 0)
    core = np.isin(labels, keep)
    del labels
    mask = _grown(core, dilate_px, edge_px).to(volume.device)
    # the mask ends inside the box: at its border it would cut hard
    mask = mask * soft_sphere(n, n / 2 - 1 - edge_px, edge_px, device=volume.device)
    return SolventMask(
        mask,
        True,
        threshold,
        float(core.sum()) * voxel,
        float(mask.double().sum()) * voxel,
        len(keep),
    )
