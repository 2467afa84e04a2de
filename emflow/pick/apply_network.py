"""Pick the particles of one micrograph with the general picker network."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from emflow.pick.apply import Picks, require_micrograph, working_diameter
from emflow.pick.calibration import Calibration, count_taken
from emflow.pick.config import PickApply
from emflow.pick.contamination import grow
from emflow.pick.mixture import fit_mixture
from emflow.pick.network import DIAMETER_PX, Maps, PickerNetwork, heat_map
from emflow.pick.normalise import resize
from emflow.pick.peaks import local_maxima, suppress

LEAST_LOG_ODDS = -9.0
"""Peaks below are no candidates."""
SURE, DOUBTFUL, MARGIN = 0.7, 0.3, 0.1
"""Masked is what is contamination with more than the second probability and joined to what has the first, grown by the
third in diameters."""
LEAST_CLEAN = 0.02
"""Lowest factor by which contamination makes a centre less probable."""
BY_CANDIDATES, BY_LOWEST, BY_SHIPPED = "candidates", "lowest", "shipped"
"""What a micrograph's threshold is from, as emflowPickThresholdFrom says it."""
NEAR_LOWEST = 1.5
"""Where the best candidates have more false ones than the rate allows: so many times their part is allowed."""


@dataclass(frozen=True)
class Picker:
    """The network with what its scores mean."""

    network: PickerNetwork
    calibration: Calibration
    sha256: str


@dataclass(frozen=True)
class Candidates:
    """Peaks of the network's map, best first."""

    xy_px: np.ndarray
    """(n, 2) as x, y in pixels of the micrograph."""
    score: np.ndarray
    """Log-odds of a centre, summed over the peak."""
    mask: np.ndarray
    """True on contamination, at the working scale."""


def pick_with_network(
    image: Tensor, pixel_size_angstrom: float, dark: bool, cfg: PickApply, picker: Picker
) -> Picks:
    """Find the particles of one micrograph with the network.

    Parameters
    ----------
    image
        Micrograph (y, x), any scale.
    pixel_size_angstrom
        Its pixel size, in ångström.
    dark
        Whether protein is dark.

    Raises
    ------
    EmflowError
        As :func:`emflow.pick.apply.pick_micrograph`.
    """
    found = candidates(image, pixel_size_angstrom, dark, cfg, picker.network)
    chance, n, by = judge(found.score, picker.calibration, cfg)
    threshold = float(found.score[n - 1]) if n else float(np.max(found.score, initial=0.0)) + 1e-6
    return Picks(found.xy_px[:n], found.score[:n], chance[:n], threshold, found.mask, np.zeros(0), by)


def judge(score: np.ndarray, calibration: Calibration, cfg: PickApply) -> tuple[np.ndarray, int, str]:
    """Probability of each candidate, how many are taken, and by what.

    By the candidates' own distribution where particles stand out in it (:func:`emflow.pick.mixture.fit_mixture`), by
    what was counted on simulated sessions elsewhere. Where particles stand out, and yet something else scores as they do,
    no threshold may have the rate that is asked for: then it is :data:`NEAR_LOWEST` times the lowest there is.

    Parameters
    ----------
    score
        All candidates (n,), best first.

    Returns
    -------
    Probabilities (n,), the number taken, :data:`BY_CANDIDATES`, :data:`BY_LOWEST` or :data:`BY_SHIPPED`.
    """
    mixture = fit_mixture(score)
    rate, by = cfg.false_discovery_rate, BY_SHIPPED
    if mixture.believed:
        chance = mixture.probabilities(score)
        lowest = NEAR_LOWEST * float(1 - chance[0])
        rate, by = (lowest, BY_LOWEST) if lowest > rate else (rate, BY_CANDIDATES)
    else:
        chance = calibration.probabilities(score)
    return chance, count_taken(chance, rate, cfg.min_probability), by


def candidates(
    image: Tensor,
    pixel_size_angstrom: float,
    dark: bool,
    cfg: PickApply,
    network: PickerNetwork,
    known: np.ndarray | None = None,
) -> Candidates:
    """Everything that could be a particle, with its score.

    Looked at twice: the contamination that is found first counts no more in the normalisation, and centres on it are as
    much less probable as it is sure. Nothing is picked on contamination that is known.

    Parameters
    ----------
    known
        True where contamination is known to be (the micrograph's shape); then none is looked for.
    """
    require_micrograph(image)
    factor = working_diameter(image.shape, pixel_size_angstrom, cfg) / DIAMETER_PX
    small = resize(-image if dark else image, factor)
    weight = torch.ones_like(small)
    first: Maps | None = None
    if known is not None:
        weight = 1 - (resize(torch.from_numpy(known).to(small), factor) > 0.3).to(small)
    elif cfg.mask_contamination:
        first = heat_map(network, small, weight)
        weight = 1 - torch.from_numpy(contaminated(first.dirt.cpu().numpy())).to(small)
    maps = heat_map(network, small, weight) if first is None or bool((weight == 0).any()) else first
    edge = math.ceil(cfg.edge_distance * DIAMETER_PX)
    allowed = torch.zeros_like(weight, dtype=torch.bool)
    allowed[edge : small.shape[0] - edge, edge : small.shape[1] - edge] = True
    if first is None:
        allowed &= weight > 0
    else:
        maps = discounted(first, maps, weight == 0)
    scale = np.array([image.shape[1] / small.shape[1], image.shape[0] / small.shape[0]])
    xy, score = _peaks(maps, allowed, scale, cfg.min_distance * DIAMETER_PX * float(scale.mean()))
    return Candidates(xy, score, weight.cpu().numpy() == 0)


def discounted(first: Maps, second: Maps, masked: Tensor) -> Maps:
    """Probabilities of centres times those of no contamination; what was masked keeps what the first look said.

    So a particle that was masked with its surroundings is not lost, and what is surely contamination is not picked.
    """
    clean = (1 - first.dirt).clamp_min(LEAST_CLEAN)
    chance = torch.sigmoid(torch.where(masked, first.centre, second.centre)) * clean
    offset = torch.where(masked, first.offset, second.offset)
    return Maps(torch.logit(chance.clamp(1e-7, 1 - 1e-6)), first.dirt, offset)


def contaminated(dirt: np.ndarray) -> np.ndarray:
    """Mask (y, x) of contamination by its probability, with hysteresis."""
    regions, n = ndimage.label(dirt > DOUBTFUL)
    sure = np.asarray(ndimage.maximum(dirt, regions, np.arange(n + 1))) > SURE
    sure[0] = False
    return grow(sure[regions], MARGIN * DIAMETER_PX)


def _peaks(
    maps: Maps, allowed: Tensor, scale: np.ndarray, min_distance_px: float
) -> tuple[np.ndarray, np.ndarray]:
    """Positions in the micrograph and scores, best first, none nearer to another than the distance.

    What a particle's place is uncertain by spreads its probability over several pixels: the score is the log-odds of
    their sum, the position the mean of where they point to.
    """
    chance = torch.sigmoid(maps.centre)
    stack = torch.stack([chance, chance * maps.offset[0], chance * maps.offset[1]])[:, None]
    window = functional.avg_pool2d(stack, 5, stride=1, padding=2, divisor_override=1)[:, 0]
    total = window[0].clamp_min(1e-12)
    place, height = local_maxima(torch.log(total), allowed & (maps.centre > LEAST_LOG_ODDS))
    y, x = place.unbind(1)
    yx = place + window[1:, y, x].T / total[y, x][:, None]
    xy = np.round((yx.double().cpu().numpy()[:, ::-1] + 0.5) * scale - 0.5, 2)
    kept = suppress(xy, min_distance_px)
    return xy[kept], height.double().cpu().numpy()[kept]
