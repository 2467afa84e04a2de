"""The verb decode: volumes at given coordinates, how far those lie from the data, what the halves agree on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from emflow.em.fsc import fsc, resolution_at, shell_index
from emflow.em.masks import local_mean
from emflow.heterogeneity.agree import local_weights
from emflow.step import EmflowError

_NEAR_FRACTION = 0.01
_NEAR_LEAST = 5
_USUAL_PERCENTILE = 99.0
_BLOCK = 4096


def parse_point(text: str) -> list[float]:
    """Numbers with commas between."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise EmflowError(
            f'"{text}" is no point; expected numbers with commas between, such as 0.5,-1.'
        ) from None


@dataclass(frozen=True)
class Reach:
    """How far from the particles a point of latent space lies."""

    tree: cKDTree
    scale: np.ndarray
    """Of each coordinate: distances are those between volumes, (K,)."""
    neighbours: int
    usual: float
    """Distance to the last of its neighbours that 99 of 100 particles stay below."""

    @staticmethod
    def build(latent: np.ndarray, sizes: np.ndarray) -> Reach:
        """Measure the particles (N, K); ``sizes`` are the norms of the components, (K,)."""
        scale = sizes / max(float(sizes.max()), 1e-30)
        tree = cKDTree(latent * scale)
        count = min(len(latent) - 1, max(_NEAR_LEAST, round(_NEAR_FRACTION * len(latent))))
        probe = latent[:: max(1, len(latent) // _BLOCK)] * scale
        far = tree.query(probe, k=[count + 1])[0][:, 0]  # the first neighbour of a particle is itself
        return Reach(tree, scale, count, float(np.percentile(far, _USUAL_PERCENTILE)))

    def of(self, points: np.ndarray) -> np.ndarray:
        """Distance of points (P, K) to the particles, as a multiple of the usual one: (P,)."""
        far = self.tree.query(points * self.scale, k=[max(1, self.neighbours)])[0][:, 0]
        return np.asarray(far / max(self.usual, 1e-30))


def complete(points: np.ndarray, latent: np.ndarray) -> np.ndarray:
    """Give points of fewer coordinates (P, D) the others of the particles nearby: (P, K).

    The nearest twentieth of the particles (N, K) in the given coordinates, their mean in the others.
    """
    given = points.shape[1]
    if given == latent.shape[1]:
        return points
    near = max(1, len(latent) // 20)
    nearest = cKDTree(latent[:, :given]).query(points, k=range(1, near + 1))[1]
    return np.concatenate([points, latent[nearest][:, :, given:].mean(1)], axis=1)


def half_components(volumes: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Components of each half along the principal coordinates, unfiltered.

    A fit keeps the halves' components on their common axes. The turn T to the principal ones is that of least
    squares, P ≈ T·A; A·Aᵀ is taken between the halves, so that their noise does not shrink it.

    Parameters
    ----------
    volumes
        V0 and the principal components, (K+1, n, n, n).
    first, second
        V0 and the axes of each half, (K+1, n, n, n).

    Returns
    -------
    The same for each half: its own V0, and its axes turned.
    """
    if len(volumes) == 1:
        return first, second
    p, a, b = (v[1:].flatten(1).double() for v in (volumes, first, second))
    cross = (a @ b.T + b @ a.T) / 2
    values, vectors = torch.linalg.eigh(cross)
    inverse = vectors @ torch.diag(1 / values.clamp(min=1e-3 * float(values.abs().max()))) @ vectors.T
    turn = p @ (a + b).T / 2 @ inverse
    turned = [torch.cat([v[:1], (turn @ own).to(v).view_as(v[1:])]) for v, own in ((first, a), (second, b))]
    return turned[0], turned[1]


@dataclass(frozen=True)
class Decoded:
    """One volume, and how much of its change from the mean the halves share."""

    volume: Tensor
    """V(z), filtered, (n, n, n)."""
    confidence: Tensor
    """Wiener weight of the change from the mean about each voxel, 0 to 1, (n, n, n)."""
    agreed: float
    """Mean confidence, weighted by the power of the change."""
    halves: tuple[Tensor, Tensor]
    """Each half's own V(z), unfiltered."""
    resolution_angstrom: float | None
    """Where the halves' changes cease to agree (FSC 0.143); None where they never do, or nothing changes."""


def decode_at(
    volumes: Tensor, halves: tuple[Tensor, Tensor], point: np.ndarray, voxel_angstrom: float, band: float
) -> Decoded:
    """V(z) = V0 + Σ z_k V_k with its local confidence.

    The halves' changes Σ z_k V_k are weighted by shell with F/(1 + F)·2, F their own FSC, then compared in a
    Gaussian window of 1.5 finest details about each voxel; the confidence is 2F/(1 + F) of that, times s/(s + e), s the
    local power of their mean and e the mean square error of the whole map: where nothing changes it is low.

    Parameters
    ----------
    volumes, halves
        V0 and components on the principal coordinates, (K+1, n, n, n) each.
    point
        z, (K,).
    band
        Finest frequency index of the fit.
    """
    z = torch.from_numpy(np.asarray(point, dtype=np.float32)).to(volumes)
    whole = volumes[0] + torch.tensordot(z, volumes[1:], 1)
    changes = torch.stack([torch.tensordot(z, half[1:], 1) for half in halves])
    n = volumes.shape[-1]
    if not len(z) or float(changes.abs().max()) == 0.0:
        return Decoded(whole, torch.zeros_like(whole), 0.0, (halves[0][0], halves[1][0]), None)
    curve = fsc(changes[:1], changes[1:])[0]
    index = shell_index(n, device=volumes.device)
    shell_weight = torch.cat([2 * curve.clamp(0, 1) / (1 + curve.clamp(0, 1)), curve.new_zeros(1)])
    shell_weight[int(band) + 1 :] = 0
    filtered = torch.fft.irfftn(
        torch.fft.rfftn(changes, dim=(-3, -2, -1)) * shell_weight.to(changes)[index],
        s=(n,) * 3,
        dim=(-3, -2, -1),
    )
    width = 1.5 * n / (2 * band)
    confidence = local_weights(filtered[:1], filtered[1:], width)[0]
    # where nothing changes, even ringing agrees: a change below the map's usual error is none to be sure of
    size = local_mean(filtered.mean(0).square(), 2 * round(width) + 1)
    confidence *= size / (size + (filtered[0] - filtered[1]).square().mean() / 4).clamp(min=1e-30)
    found = resolution_at(curve[: int(band) + 2], 0.143, n, voxel_angstrom)
    own = (halves[0][0] + changes[0], halves[1][0] + changes[1])
    power = filtered.square().sum(0)
    agreed = float((confidence * power).sum() / power.sum().clamp(min=1e-30))
    return Decoded(whole, confidence, agreed, own, found)
