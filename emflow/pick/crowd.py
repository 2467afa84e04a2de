"""Particles close to each other: what the score of one owes to the side lobes of its neighbours."""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import coo_matrix, identity
from scipy.sparse.linalg import spsolve
from scipy.spatial import cKDTree
from torch import Tensor
from torch.nn import functional

from emflow.pick.filters import correlate

RIDGE = 1e-3
"""Added to the overlap matrix's unit diagonal, so that it can always be solved."""


class Crowd:
    """Templates at known places, all fitted to the score map at once.

    A matched filter answers to a particle with the template's autocorrelation, whose rings overlap those of the
    neighbours: gaps in a crowd look like particles, and the noise seems large. With all amplitudes fitted by
    least squares, each peak can be scored as if it stood alone.
    """

    def __init__(self, kernel: Tensor, places: Tensor) -> None:
        """Take a template (k, k) and different places (n, 2) as y, x."""
        half = kernel.shape[0] // 2
        own = correlate(functional.pad(kernel, (half,) * 4), kernel)
        self._response = own / own.amax().clamp_min(1e-12)
        self._half = 2 * half
        self._places = places
        self._amplitude = torch.zeros(len(places), device=kernel.device)

    def fit(self, score: Tensor) -> Tensor:
        """Fit the amplitudes to a score map (y, x); return the part of it that the templates explain."""
        if len(self._places) == 0:
            return torch.zeros_like(score)
        y, x = self._places.unbind(1)
        amplitude = spsolve(self._overlaps(), score[y, x].double().cpu().numpy())
        self._amplitude = torch.from_numpy(np.atleast_1d(amplitude)).to(score)
        seeds = torch.zeros_like(score)
        seeds[y, x] = self._amplitude
        return correlate(seeds, self._response)

    def own(self, places: Tensor) -> Tensor:
        """Part of the explained score at places (m, 2) that comes from the template there, if there is one."""
        found = torch.zeros(len(places), device=self._amplitude.device)
        if len(self._places) == 0 or len(places) == 0:
            return found
        distance, nearest = cKDTree(self._places.cpu().numpy()).query(places.cpu().numpy())
        index = torch.from_numpy(nearest).to(self._places.device)
        near = torch.from_numpy(distance < self._half / 4).to(found.device)
        value = self._amplitude[index] * self._at(places - self._places[index])
        return torch.where(near, value, found)

    def _at(self, offset: Tensor) -> Tensor:
        y, x = (offset + self._half).unbind(1)
        inside = (offset.abs() <= self._half).all(1)
        last = 2 * self._half
        return torch.where(inside, self._response[y.clamp(0, last), x.clamp(0, last)], 0.0)

    def _overlaps(self) -> coo_matrix:
        """Response of each place to the template at each other, sparse."""
        places, n = self._places, len(self._places)
        pairs = cKDTree(places.cpu().numpy()).query_pairs(self._half * 2**0.5, output_type="ndarray")
        first, second = torch.from_numpy(pairs.astype(np.int64)).to(places.device).unbind(1)
        value = self._at(places[first] - places[second]).double().cpu().numpy()
        half = coo_matrix((value, (pairs[:, 0], pairs[:, 1])), shape=(n, n))
        return (half + half.T + (1 + RIDGE) * identity(n)).tocsc()
