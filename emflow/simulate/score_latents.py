"""Latent heterogeneity against the truth: clusters, coordinates, volumes decoded for single images."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import rankdata
from sklearn.metrics import adjusted_rand_score
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from emflow.em.fsc import fsc
from emflow.em.masks import solvent_mask
from emflow.em.volume_align import Alignment, align_volume, apply_alignment
from emflow.simulate.scoring import Metrics

FIGURES = (
    "heterogeneity_particles",
    "heterogeneity_true_states",
    "heterogeneity_clusters",
    "heterogeneity_state_ari",
    "heterogeneity_coordinate1_rank_correlation",
    "heterogeneity_coordinate1_error_median_deg",
    "heterogeneity_coordinate1_error_by_chance_deg",
    "heterogeneity_coordinate2_rank_correlation",
    "heterogeneity_coordinate2_error_median_deg",
    "heterogeneity_coordinate2_error_by_chance_deg",
    "heterogeneity_fsc_area",
    "heterogeneity_mean_fsc_area",
    "heterogeneity_fsc_area_gain",
)
_NEIGHBOURS = 15
_NEIGHBOURHOODS = 20000  # particles, at most, whose neighbours are looked for
_IMAGES = 50
_VOXELS = 300_000_000  # of true volumes in memory: fewer images where the box is large
_FULL_TURN_DEG = 350.0


@dataclass(frozen=True)
class Latents:
    """What a project found, of particles that lie on a true one; and what is true of these."""

    latent: np.ndarray
    """(N, K)."""
    cluster: np.ndarray | None
    """(N,); None where no states were looked for."""
    state: np.ndarray
    """True states, (N,)."""
    coordinate_deg: np.ndarray
    """True angles, (N, A)."""
    range_deg: tuple[float, ...]
    """Whole range of each angle, (A,)."""
    volumes: Tensor | None
    """Mean and components, (K + 1, n, n, n)."""
    true_volume: Callable[[int], Tensor] | None
    """The true volume of particle i, on the grid of ``volumes``."""
    starts: tuple[Alignment, ...] = ()
    """Alignments of the found volumes to the true ones to try first, such as the poses'."""
    voxel_angstrom: float = 1.0


def score_latents(found: Latents | None) -> Metrics:
    """Adjusted Rand index, rank correlations, errors of the coordinates, FSC areas; null where unknown."""
    metrics: Metrics = dict.fromkeys(FIGURES)
    if found is None:
        return metrics
    metrics["heterogeneity_particles"] = len(found.state)
    metrics["heterogeneity_true_states"] = len(np.unique(found.state))
    if found.cluster is not None:
        metrics["heterogeneity_clusters"] = len(np.unique(found.cluster))
        if len(np.unique(found.state)) > 1:
            metrics["heterogeneity_state_ari"] = float(adjusted_rand_score(found.state, found.cluster))
    for number, width in enumerate(found.range_deg):
        name, angle = f"heterogeneity_coordinate{number + 1}", found.coordinate_deg[:, number]
        metrics[f"{name}_error_by_chance_deg"] = 0.25 * width  # a uniform coordinate guessed at its middle
        if width >= _FULL_TURN_DEG:
            metrics[f"{name}_error_by_chance_deg"] = 90.0
        if found.latent.shape[1] and len(angle) > 4 * _NEIGHBOURS:
            metrics[f"{name}_rank_correlation"] = _best_rank_correlation(found.latent, angle, number)
            metrics[f"{name}_error_median_deg"] = float(np.median(coordinate_error(found.latent, angle)))
    if found.volumes is not None and found.true_volume is not None and len(found.state):
        areas = fsc_areas(found)
        metrics["heterogeneity_fsc_area"], metrics["heterogeneity_mean_fsc_area"] = areas
        metrics["heterogeneity_fsc_area_gain"] = areas[0] - areas[1]
    return metrics


def _best_rank_correlation(latent: np.ndarray, angle: np.ndarray, number: int) -> float | None:
    """Spearman's correlation without its sign: the first latent coordinate's for the first angle; for a further
    angle that of the latent coordinate that tells most of it, which is a choice made in its favour."""
    columns = latent.T[:1] if number == 0 else latent.T
    ranks = rankdata(angle)
    found = [
        abs(np.corrcoef(rankdata(column), ranks)[0, 1]) for column in columns if column.std() and ranks.std()
    ]
    return float(max(found)) if found else None


def coordinate_error(latent: np.ndarray, angle_deg: np.ndarray) -> np.ndarray:
    """Error of the angle when it is told from the latents alone, in degrees, (N,)
    (of every k-th particle where there are more than 20 000).

    Particles of even and odd number are told from the others': mean direction of the 15 nearest in the latents
    (each scaled to deviation 1). So it says how much the latents hold, whatever their shape, and knows that
    −180° is 180°.
    """
    step = math.ceil(len(latent) / _NEIGHBOURHOODS)
    latent, angle_deg = latent[::step], angle_deg[::step]
    scaled = latent / latent.std(0).clip(1e-12)
    direction = np.exp(1j * np.deg2rad(angle_deg))
    told = np.empty(len(latent), dtype=complex)
    even = np.arange(len(latent)) % 2 == 0
    for known, asked in ((even, ~even), (~even, even)):
        # not scipy's KDTree: it hangs or crashes on many equal points where denormals are flushed
        tree = NearestNeighbors(n_neighbors=_NEIGHBOURS, algorithm="brute").fit(scaled[known])
        near = tree.kneighbors(scaled[asked], return_distance=False)
        told[asked] = direction[known][near].mean(1)
    return np.abs(np.rad2deg(np.angle(direction * told.conj())))


def fsc_areas(found: Latents) -> tuple[float, float]:
    """FSC between the volume decoded for an image and its true one, averaged over shells and (up to) 50 images.

    The found mean is aligned to the mean of the images' true volumes, and the components with it; one soft
    mask, around all that moves, is on all volumes.

    Returns
    -------
    The area for the decoded volumes and, for comparison, that of the found mean map.
    """
    assert found.volumes is not None
    assert found.true_volume is not None
    n = found.volumes.shape[-1]
    images = min(_IMAGES, len(found.state), max(5, _VOXELS // n**3))
    rows = np.unique(np.linspace(0, len(found.state) - 1, images).astype(int))
    true = [found.true_volume(int(row)) for row in rows]
    if not bool((found.volumes[0] - found.volumes[0].mean()).abs().max() > 0):
        return 0.0, 0.0
    best = align_volume(found.volumes[0], torch.stack(true).mean(0), starts=found.starts)
    aligned = torch.stack([apply_alignment(volume, best) for volume in found.volumes])
    mask = solvent_mask(torch.stack(true).amax(0), found.voxel_angstrom).mask
    band = slice(1, n // 2)
    areas = []
    for row, truth in zip(rows, true, strict=True):
        weights = torch.from_numpy(np.append(1.0, found.latent[row])).to(aligned)
        decoded = torch.tensordot(weights, aligned, 1)
        curves = fsc(torch.stack([decoded, aligned[0]]) * mask, truth * mask)
        areas.append(curves[:, band].mean(1).tolist())
    decoded_area, mean_area = np.mean(areas, axis=0)
    return float(decoded_area), float(mean_area)
