"""Shifts between slices by correlation, and which of them are faults and which the specimen's own course."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.ndimage import median_filter
from scipy.signal import savgol_filter
from scipy.sparse import coo_array, csr_array
from scipy.sparse.linalg import spsolve
from scipy.stats import t as student
from torch import Tensor

FINEST_PX, COARSEST_PX = 1.5, 24.0
"""Deviations of the Gaussians that bound the band: detail finer or coarser says little of a shift."""
SMALLEST_PX = 256
"""In smaller fields a few structures that move decide; no slice is shifted for them."""
_RIVAL = 0.7
"""A peak is ambiguous if another is as high as this part of it."""
_LEAST = 0.05
"""Correlation beyond chance below which a peak tells nothing."""
_SURE = 3.0
"""A shift counts that exceeds so many times its standard error."""
_TAIL = 0.00135
"""Probability beyond that, of a normal distribution."""


@dataclass(frozen=True)
class Pair:
    """How two slices lie to one another."""

    below: int
    above: int
    shift: tuple[float, float]
    """Where the content of the upper one lies, along y and x, in pixels, beside the lower one's."""
    correlation: float
    """Of the two, there, within a band of middling detail, beyond what it is by chance elsewhere."""
    error_px: float
    """Standard error of the shift: parts of the field move differently where the specimen does."""


class Correlator:
    """Correlates slices of one shape in parts, within a band: no shading, little noise; edges are tapered.

    Parameters
    ----------
    shape
        Rows, columns.
    """

    def __init__(self, shape: tuple[int, int]) -> None:
        self.shape = shape
        self._number = max(2, min(4, shape[0] // 96)), max(2, min(4, shape[1] // 96))
        self._tile = shape[0] // self._number[0], shape[1] // self._number[1]
        self._window = torch.outer(*(_tapered(n) for n in self._tile))
        fy = 2 * math.pi * torch.fft.fftfreq(self._tile[0])[:, None]
        fx = 2 * math.pi * torch.fft.rfftfreq(self._tile[1])[None]
        square = fy**2 + fx**2
        coarse = min(COARSEST_PX, min(self._tile) / 6)
        self._band = torch.exp(-square * FINEST_PX**2 / 2) * (1 - torch.exp(-square * coarse**2 / 2))

    def prepare(self, image: Tensor) -> Tensor:
        """Transforms of an image's parts (n, h, w / 2 + 1) within the band, of length 1 together."""
        (down, across), (h, w) = self._number, self._tile
        tiles = image[: down * h, : across * w].reshape(down, h, across, w).transpose(1, 2).reshape(-1, h, w)
        centred = (tiles - tiles.mean((1, 2), keepdim=True)) * self._window
        transform = torch.fft.rfft2(centred) * self._band
        length = torch.fft.irfft2(transform, s=self._tile).norm()
        return transform / length.clamp_min(1e-12)

    def compare(self, below: Tensor, above: Tensor) -> tuple[tuple[float, float], float, float]:
        """Shift (y, x) of the content of ``above`` beside ``below``, their correlation, and the shift's error.

        The highest value of the cross-correlation, added up over the parts and refined by a parabola along each axis.
        Its standard error is the jackknife's (B. Efron, 1982): how it varies as one part after the other is left out.
        """
        found = torch.fft.irfft2(above * below.conj(), s=self._tile)
        whole = found.sum(0)
        shift = _peak(whole)
        without = np.array([_peak(whole - part) for part in found])
        number = len(without)
        variance = (number - 1) / number * ((without - without.mean(0)) ** 2).sum()
        # of few parts the error itself is little known: as for Student's distribution
        few = float(student.isf(_TAIL, number - 1)) / _SURE
        error = few * math.sqrt(variance / 2)
        highest, rival = float(whole.max()), _rival(whole)
        if rival > _RIVAL * highest or highest - rival < _LEAST:
            error = max(error, min(self._tile) / 4)
        return shift, highest - rival, error


def _tapered(length: int) -> Tensor:
    """A window that rises over an eighth of the length at either end."""
    edge = torch.minimum(torch.arange(length) + 0.5, length - 0.5 - torch.arange(length))
    return 0.5 - 0.5 * torch.cos(math.pi * (edge / (length / 8)).clamp(max=1))


def _rival(found: Tensor) -> float:
    """Highest value further from the peak than an eighth of the side."""
    height, width = found.shape
    y, x = divmod(int(found.argmax()), width)
    apart = [
        torch.minimum((torch.arange(n) - at) % n, (at - torch.arange(n)) % n) > n // 8
        for at, n in ((y, height), (x, width))
    ]
    return float(found[apart[0][:, None] | apart[1][None]].max())


def _peak(found: Tensor) -> tuple[float, float]:
    height, width = found.shape
    y, x = divmod(int(found.argmax()), width)
    peak = []
    for at, line in ((y, found[:, x]), (x, found[y])):
        n = len(line)
        a, b, c = (float(line[(at + step) % n]) for step in (-1, 0, 1))
        bend = a - 2 * b + c
        part = 0.5 * (a - c) / bend if bend < 0 else 0.0
        peak.append((at + n // 2) % n - n // 2 + max(-0.5, min(0.5, part)))
    return peak[0], peak[1]


def positions(count: int, pairs: list[Pair], window: int) -> np.ndarray:
    """Places of slices (count, 2) from shifts between pairs, by least squares with Cauchy's weights.

    More pairs than slices (neighbours, and neighbours but one) outvote a pair that was found wrong; and each step
    is expected to be like its neighbours', which counts where it could not be measured well. The first slice lies
    at 0.
    """
    if not pairs:
        return np.zeros((count, 2))
    known = len(pairs)
    pairs = [*pairs, *_expected(pairs, window)]
    rows = np.arange(len(pairs)).repeat(2)
    columns = np.array([(pair.below, pair.above) for pair in pairs]).ravel()
    signs = np.tile([-1.0, 1.0], len(pairs))
    design = csr_array(coo_array((signs, (rows, columns)), shape=(len(pairs), count)))
    measured = np.array([pair.shift for pair in pairs])
    variance = np.array([max(pair.error_px, 0.1) for pair in pairs]) ** 2
    weights = np.where(np.arange(len(pairs)) < known, 1 / variance, 1e-6)
    place = np.zeros((count, 2))
    for _ in range(30):
        weighted = design.T * weights
        normal = weighted @ design + coo_array((np.full(count, 1e-9), (np.arange(count),) * 2))
        place = np.column_stack([spsolve(normal.tocsc(), weighted @ measured[:, axis]) for axis in (0, 1)])
        weights = 1 / (variance + ((measured - design @ place) ** 2).sum(1))
    return place - place[0]


def _expected(pairs: list[Pair], window: int) -> list[Pair]:
    """What steps between neighbours are expected to be: the running median, as sure as they are alike."""
    near = sorted((pair for pair in pairs if pair.above == pair.below + 1), key=lambda pair: pair.below)
    if not near:
        return []
    steps = np.array([pair.shift for pair in near])
    course = median_filter(steps, size=(min(window, len(steps)) // 2 * 2 + 1, 1), mode="nearest")
    usual = max(1.4826 * float(np.median(np.abs(steps - course))), 0.25)
    return [
        replace(pair, shift=(float(y), float(x)), error_px=usual)
        for pair, (y, x) in zip(near, course, strict=True)
    ]


def corrections(
    place: np.ndarray, error: np.ndarray, window: int, least_px: float
) -> tuple[np.ndarray, np.ndarray]:
    """Shifts to apply to slices, and the course of the specimen that is left as it is.

    A step between neighbours that departs from the running median of steps by far more than steps do, and by a pixel
    at least, is a fault of the stage or the cutting, and is undone even where it lasts. Of what remains, the line
    that fits a slice's neighbours within the window is the specimen's own course (membranes that lean, a process
    that grows sideways) and stays; only the departure from it is undone, so that small errors do not add up to a
    straightened specimen. Whatever is not three times its standard error stays, too.

    Parameters
    ----------
    place
        (n, 2), pixels.
    error
        (n - 1,) standard errors of the steps between neighbours, pixels.
    window
        Slices over which the course may turn.
    least_px
        Shifts that would be smaller are left, so that slices stay as measured.

    Returns
    -------
    Two (n, 2).
    """
    steps = np.diff(place, axis=0)
    if len(steps) < 2:
        return np.zeros_like(place), place
    size = min(window, len(steps)) // 2 * 2 + 1
    rest = steps - median_filter(steps, size=(size, 1), mode="nearest")
    usual = 1.4826 * np.median(np.abs(rest), axis=0)
    lasting = np.abs(rest) > np.maximum(np.maximum(1.0, 5 * usual), _SURE * error[:, None])
    jumps = np.concatenate([np.zeros((1, 2)), np.cumsum(np.where(lasting, rest, 0.0), axis=0)])
    jumps -= np.median(jumps, axis=0)
    smooth = place - jumps
    size = min(size, len(smooth) - 1 + len(smooth) % 2)
    small = smooth - savgol_filter(smooth, size, 1, axis=0, mode="interp")
    # a slice hangs on its better neighbour, and its line on all within the window
    around = np.minimum(np.append(error, np.inf), np.insert(error, 0, np.inf))
    around = np.maximum(around, median_filter(around, size=size, mode="nearest"))
    small[np.linalg.norm(small, axis=1) < _SURE * around] = 0
    wrong = jumps + small
    wrong[np.abs(wrong).max(1) < least_px] = 0
    return -wrong, place - wrong
