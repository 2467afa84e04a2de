"""How large the particles are, told by the size at which the picker network is surest of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from emflow.pick.apply_network import Picker, candidates
from emflow.pick.config import PickApply

DIAMETERS = np.geomspace(60.0, 560.0, 15)
"""Diameters that are tried, in ångström."""
SURE = 0.83
"""Probability from which a candidate speaks for a diameter."""
SHOULDER = 0.6
"""Part of the highest evidence down to which neighbours belong to its peak."""
CROP = 24
"""Side of what is looked at, in diameters."""
LEAST_PX, ROOM = 14, 3
"""Fewest pixels that a diameter spans, and how often it must fit into the image."""
LEAST, ENOUGH = 4.0, 60.0
"""Evidence below which nothing is said, and at which no further micrograph is looked at."""


@dataclass(frozen=True)
class Size:
    """The particle's longest diameter, in ångström."""

    diameter_angstrom: float
    low_angstrom: float
    high_angstrom: float
    """Diameters between which the evidence is more than :data:`SHOULDER` of its highest."""


def evidence(image: Tensor, pixel_size_angstrom: float, dark: bool, picker: Picker) -> np.ndarray:
    """How surely the network finds particles at each of :data:`DIAMETERS`, in one micrograph.

    It learned particles of one size in its pixels, so it is surest where the assumed diameter is right: the log-odds of
    its candidates are summed by how far they stand above those of a probability of :data:`SURE`.

    Parameters
    ----------
    image
        Micrograph (y, x), any scale.
    pixel_size_angstrom
        Its pixel size, in ångström.
    dark
        Whether protein is dark.

    Returns
    -------
    Shape (diameters,), 0 for those that do not fit the image.
    """
    level = float(np.interp(SURE, picker.calibration.chance, picker.calibration.score))
    found = np.zeros(len(DIAMETERS))
    for i, diameter in enumerate(DIAMETERS):
        across = float(diameter) / pixel_size_angstrom
        side = int(CROP * across)
        top, left = (max(0, (n - side) // 2) for n in image.shape)
        part = image[top : top + side, left : left + side]
        if across < LEAST_PX or ROOM * across > min(image.shape):
            continue
        cfg = PickApply(diameter_angstrom=float(diameter))
        score = candidates(part, pixel_size_angstrom, dark, cfg, picker.network).score
        found[i] = np.clip(score - level, 0, None).sum() * image.numel() / part.numel()
    return found


def estimate(found: np.ndarray) -> Size | None:
    """Diameter from the evidence (diameters,); None where it has no peak inside the range.

    The peak is that of evidence times diameter: a large particle has parts, and there is room for fewer of it.
    """
    best = int((found * DIAMETERS).argmax())
    if found[best] < LEAST:
        return None
    low = high = best
    while low > 0 and found[low - 1] > SHOULDER * found[best]:
        low -= 1
    while high < len(found) - 1 and found[high + 1] > SHOULDER * found[best]:
        high += 1
    if low == 0 or high == len(found) - 1:
        return None
    part, logs = found[low - 1 : high + 2], np.log(DIAMETERS[low - 1 : high + 2])
    middle = float(np.exp((part * logs).sum() / part.sum()))
    return Size(
        round(middle, -int(np.floor(np.log10(middle))) + 1), float(DIAMETERS[low]), float(DIAMETERS[high])
    )
