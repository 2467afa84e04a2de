"""Smooth functions of the coordinates beyond linear ones: principal components of a Gaussian kernel.

Volumes along a large motion are no linear function of few coordinates. What images leave unexplained by the linear
model is regressed on these functions (:mod:`emflow.heterogeneity.kernel_fit`): kernel regression (Nadaraya 1964;
for volumes: recovar, Gilles and Singer 2025) in the kernel's own basis, smooth functions first
(Schölkopf, Smola and Müller, Neural Comput. 10 (1998) 1299).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_LANDMARKS = 300
_FITTED = 20_000
"""Particles, at most, that the functions are made from."""
_BLOCK = 2000
_NEIGHBOURS = 30
"""The kernel is at least so wide that one landmark in this many lies within it."""
_LEAST = 1e-6
"""Of the largest eigenvalue: what is smaller is rounding."""
_PARTICLES = 20
"""Particles for each function, at least."""
_LEAST_DEVIATION = 1e-3


@dataclass(frozen=True)
class Functions:
    """J functions of z, uncorrelated with 1, z and one another, of mean 0 and variance 1 over the particles."""

    scale: np.ndarray
    """Deviation of the images' noise in each coordinate, (K,): distances are in these units."""
    landmarks: np.ndarray
    """(L, K), in these units."""
    width: float
    """Of the kernel, in these units."""
    turn: np.ndarray
    """From the kernel's values to the functions, (L, J)."""
    affine: np.ndarray
    """What is taken off: from (1, z) to the functions, (K + 1, J)."""

    @staticmethod
    def build(
        latent: np.ndarray, deviation: np.ndarray, count: int, width: float, seed: int = 0
    ) -> Functions:
        """Find the ``count`` functions of most variance, the smoothest as a rule.

        Parameters
        ----------
        latent, deviation
            Posterior means and deviations, (N, K).
        width
            Of the kernel, in the root mean square deviation of each coordinate: what an image cannot tell is no
            difference. Where that is narrower than the distance between neighbours, their distance.
        """
        scale = np.sqrt((deviation**2).mean(0)).clip(_LEAST_DEVIATION)
        points = latent[:: max(1, -(-len(latent) // _FITTED))]
        drawn = np.random.default_rng(seed).permutation(len(points))[:_LANDMARKS]
        landmarks = points[drawn] / scale
        far = np.sort(np.sqrt(_squares(landmarks, landmarks)), axis=1)
        width = max(width, float(np.median(far[:, min(len(far) - 1, -(-len(far) // _NEIGHBOURS))])))
        plain = Functions(scale, landmarks, width, np.eye(len(landmarks)), np.zeros((1, 1)))
        values, vectors = np.linalg.eigh(plain._kernel(points[drawn]))
        told = values > _LEAST * values[-1]
        basis = vectors[:, told] / np.sqrt(values[told])
        raw, ones = plain._kernel(points) @ basis, _affine(points)
        line = np.linalg.lstsq(ones, raw, rcond=None)[0]
        rest = raw - ones @ line
        power, axes = np.linalg.eigh(rest.T @ rest / len(rest))
        power, axes = power[::-1], axes[:, ::-1]
        most = min(count, len(latent) // _PARTICLES, int((power > _LEAST * max(power[0], 1e-30)).sum()))
        axes = axes[:, :most] / np.sqrt(power[:most])
        return Functions(scale, landmarks, width, basis @ axes, line @ axes)

    @property
    def count(self) -> int:
        """J."""
        return self.turn.shape[1]

    def of(self, points: np.ndarray) -> np.ndarray:
        """Values at points (P, K): (P, J)."""
        parts = [points[first : first + _BLOCK] for first in range(0, len(points), _BLOCK)]
        values = [self._kernel(part) @ self.turn - _affine(part) @ self.affine for part in parts]
        return np.concatenate(values) if values else np.zeros((0, self.count))

    def _kernel(self, points: np.ndarray) -> np.ndarray:
        return np.asarray(np.exp(-_squares(points / self.scale, self.landmarks) / (2 * self.width**2)))


def _affine(points: np.ndarray) -> np.ndarray:
    return np.concatenate([np.ones((len(points), 1)), points], 1)


def _squares(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Squared distances, (P, L)."""
    product = (first**2).sum(1)[:, None] + (second**2).sum(1) - 2 * first @ second.T
    return np.asarray(product.clip(0))
