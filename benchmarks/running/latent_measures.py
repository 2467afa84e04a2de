"""One set of measures for latent coordinates and the volumes decoded from them, whoever made them.

The per-image and per-conformation areas under the FSC and the similarity of neighbourhoods follow CryoBench
(Jeon et al., NeurIPS 2024 Datasets and Benchmarks).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.stats import spearmanr
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from emflow.em.basis import rebox
from emflow.em.fsc import fsc, shell_index, shell_sum
from emflow.io.mrc import read_mrc
from emflow.io.star import floats, integers, read_star

Decode = Callable[[np.ndarray], Tensor]
"""Coordinates (M, K) → volumes (M, n, n, n), of any side."""
_IMAGES = 24
_CONFORMATIONS = 8
_NEIGHBOURS = 15
_FRACTION = 0.05
"""Of all particles: the neighbourhood that is compared."""


@dataclass(frozen=True)
class Truth:
    """What is true of a simulated stack."""

    folder: Path
    state: np.ndarray
    """True state of each particle, from 0: the compositions, or the volumes along the motion, (N,)."""
    angle: np.ndarray | None
    """Of a motion, in degrees, (N,)."""
    names: list[str]
    """File of each state's volume."""

    @staticmethod
    def read(folder: Path) -> Truth:
        """Read a folder of `emflow simulate particles`."""
        table = read_star(folder / "truth" / "particles.star")["particles"]
        states = read_star(folder / "truth" / "states" / "states.star")["states"]
        names = states["rlnReferenceImage"].tolist()
        if "emflowCoordinate1" in table:
            angle = floats(table, "emflowCoordinate1")
            known = floats(states, "emflowCoordinate1")
            return Truth(folder, np.abs(angle[:, None] - known).argmin(1), angle, names)
        order = {number: place for place, number in enumerate(integers(states, "emflowState").tolist())}
        return Truth(
            folder, np.array([order[s] for s in integers(table, "emflowState").tolist()]), None, names
        )

    def volume(self, state: int) -> Tensor:
        """A state's volume."""
        return torch.from_numpy(read_mrc(self.folder / "truth" / "states" / self.names[state]).copy())

    def mask(self) -> Tensor:
        """The mask that everything is judged in."""
        return torch.from_numpy(read_mrc(self.folder / "maps" / "mask.mrc").copy())

    def images(self) -> np.ndarray:
        """Rows of the images whose volumes are judged."""
        return np.linspace(0, len(self.state) - 1, _IMAGES).astype(int)

    def conformations(self) -> np.ndarray:
        """States that are judged at the mean of their images' coordinates."""
        held = np.unique(self.state)
        return held[np.linspace(0, len(held) - 1, min(len(held), _CONFORMATIONS)).astype(int)]


def judge_latents(truth: Truth, latent: np.ndarray) -> dict[str, float]:
    """How much of the truth the coordinates tell: nothing here looks at a volume.

    Returns
    -------
    ``correlation``: of the truth (angle, or membership of the states) with its mean over the 15 nearest images
    among the other half of all; ``neighbourhood``: part of the nearest 5 % of the images that are among the truly
    nearest 5 % (of equal state, for compositions); ``rank_correlation``: of the first principal coordinate with the
    angle; ``ari``: of as many clusters as there are compositions, the better of k-means and a mixture.
    """
    count = len(latent)
    out: dict[str, float] = {}
    discrete = truth.angle is None
    truths = np.eye(truth.state.max() + 1)[truth.state] if discrete else np.asarray(truth.angle)[:, None]
    told = np.empty(truths.shape)
    even = np.arange(count) % 2 == 0
    for known, asked in ((even, ~even), (~even, even)):
        near = NearestNeighbors(n_neighbors=_NEIGHBOURS, algorithm="brute").fit(latent[known])
        told[asked] = truths[known][near.kneighbors(latent[asked], return_distance=False)].mean(1)
    out["correlation"] = float(
        np.corrcoef((truths - truths.mean(0)).ravel(), (told - told.mean(0)).ravel())[0, 1]
    )
    nearest = NearestNeighbors(n_neighbors=round(_FRACTION * count), algorithm="brute").fit(latent)
    near = nearest.kneighbors(return_distance=False)
    if discrete:
        out["neighbourhood"] = float((truth.state[near] == truth.state[:, None]).mean())
        kinds = len(np.unique(truth.state))
        guesses = [
            KMeans(kinds, n_init=10, random_state=0).fit_predict(latent),
            GaussianMixture(kinds, n_init=5, random_state=0, reg_covar=1e-6).fit_predict(latent),
        ]
        out["ari"] = max(adjusted_rand_score(truth.state, guess) for guess in guesses)
        return out
    rank = np.argsort(np.argsort(truths[:, 0]))
    low = np.clip(rank - near.shape[1] // 2, 0, count - 1 - near.shape[1])
    inside = (rank[near] >= low[:, None]) & (rank[near] <= (low + near.shape[1])[:, None])
    out["neighbourhood"] = float(inside.mean())
    first = PCA(1).fit_transform(latent)[:, 0]
    out["rank_correlation"] = abs(float(spearmanr(first, truth.angle).statistic))
    return out


def asked_for(truth: Truth, latent: np.ndarray) -> np.ndarray:
    """Coordinates whose volumes are judged: of images, and of conformations at their images' mean."""
    means = [latent[truth.state == s].mean(0) for s in truth.conformations()]
    return np.concatenate([latent[truth.images()], means])


def judge_volumes(
    truth: Truth, latent: np.ndarray, decode: Decode, bands: dict[str, int]
) -> dict[str, float]:
    """Areas under the masked FSC to the true volumes, in each band (name → last shell).

    Returns
    -------
    ``image_area_BAND``, the mean over images decoded at their own coordinates; ``conformation_area_BAND``, over
    conformations decoded at the mean of their images' coordinates; and the image's area for the true mean map.
    """
    rows, states = truth.images(), truth.conformations()
    points = asked_for(truth, latent)
    mask = truth.mask()
    decoded = rebox(decode(points).float(), mask.shape[-1]) * mask
    mean = torch.from_numpy(read_mrc(truth.folder / "truth" / "volume.mrc").copy()) * mask
    curves, bar = [], []
    for volume, state in zip(decoded, [*truth.state[rows], *states], strict=True):
        both = fsc(torch.stack([volume, mean]), truth.volume(int(state)) * mask)
        curves.append(both[0])
        bar.append(both[1])
    out = {}
    for name, last in bands.items():
        area = torch.stack(curves)[:, 1 : last + 1].mean(1)
        true_mean = torch.stack(bar)[: len(rows), 1 : last + 1].mean()
        out[f"image_area_{name}"] = float(area[: len(rows)].mean())
        out[f"conformation_area_{name}"] = float(area[len(rows) :].mean())
        out[f"true_mean_area_{name}"] = float(true_mean)
    return out


def judge_intervals(truth: Truth, latent: np.ndarray, deviation: np.ndarray, volumes: Tensor) -> float:
    """Part of all coordinates of which the true one lies within the 90 % interval; for a linear (discrete) set.

    The true coordinates are the coefficients, by least squares within the mask, of the true volume in the
    fitted components. The true volumes lack the images' scale and envelope: both are told per shell by the means.
    """
    mask = truth.mask()
    states = torch.stack([truth.volume(state) * mask for state in range(len(truth.names))])
    share = np.bincount(truth.state, minlength=len(states)) / len(truth.state)
    mean = torch.tensordot(torch.from_numpy(share).float(), states, 1)
    index = shell_index(mask.shape[-1])
    ours, true = (torch.fft.rfftn(v) for v in (volumes[0], mean))
    gain = shell_sum((ours * true.conj()).real, index) / shell_sum(true.abs().square(), index).clamp(
        min=1e-30
    )
    gain = torch.cat([gain, gain.new_zeros(1)])[index].float()
    scaled = torch.fft.irfftn(torch.fft.rfftn(states, dim=(1, 2, 3)) * gain, s=mask.shape) * mask
    left = (scaled - volumes[0]).flatten(1).double().T
    told = torch.linalg.lstsq(volumes[1:].flatten(1).double().T, left).solution.T.numpy()
    return float((np.abs(latent - told[truth.state]) < 1.645 * deviation).mean())
