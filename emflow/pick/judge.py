"""From a micrograph's figures to a judgement in words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from emflow.pick.assess import Signs
from emflow.pick.config_assess import PickAssess

FEWEST = 5
"""Micrographs from which a table has a usual mean."""
COUNTED = (0.2, 5.0)
"""Variance of the noise over the mean, between which pixels are taken for counts of electrons."""


class Reason(NamedTuple):
    """One thing that speaks against a micrograph."""

    reason: str
    expected: str


def usual_mean(means: np.ndarray, deviations: np.ndarray) -> float:
    """Median of the micrographs' means (n,); nan where they are no counts of electrons, or fewer than five.

    Counts scatter by their square root: the noise's variance is near the mean. A table that was normalised
    image by image tells nothing of the ice.
    """
    if len(means) < FEWEST or not (means > 0).all():
        return math.nan
    counted = deviations**2 / means
    if not COUNTED[0] < float(np.median(counted)) < COUNTED[1]:
        return math.nan
    return float(np.median(means))


def judge(signs: Signs, usual: float, rings: bool | None, cfg: PickAssess) -> list[Reason]:
    """Everything that speaks against a micrograph; a figure that is not known speaks against none.

    Parameters
    ----------
    signs
        The micrograph's figures.
    usual
        The table's usual mean, of :func:`usual_mean`.
    rings
        Whether the CTF was fitted reliably; None: not known.
    """
    found: list[Reason] = []

    def held(wrong: bool, reason: str, expected: str) -> None:
        if wrong:
            found.append(Reason(reason, expected))

    held(
        signs.signal < cfg.min_signal,
        f"empty: at 30 to 300 Å no more than noise (power {signs.signal:.2f} of the finest detail's)",
        f"at least {cfg.min_signal:g} (pick.assess.min_signal)",
    )
    held(
        cfg.require_rings and rings is False,
        "no Thon rings: the CTF was not fitted reliably",
        "a reliable fit of the CTF (pick.assess.require_rings)",
    )
    held(
        signs.ice_ring > cfg.max_ice_ring,
        f"crystalline ice: a reflection near 3.7 Å of {signs.ice_ring:.2f} times the power beside it",
        f"at most {cfg.max_ice_ring:g} (pick.assess.max_ice_ring)",
    )
    held(
        signs.falloff > cfg.max_falloff,
        f"drift: the spectrum falls faster in one direction ({signs.falloff:.2f})",
        f"at most {cfg.max_falloff:g} (pick.assess.max_falloff); align the movie's frames",
    )
    held(
        signs.opaque > cfg.max_opaque_fraction,
        f"{signs.opaque:.0%} of the area is nearly opaque: a grid bar, or the edge of an aperture",
        f"at most {cfg.max_opaque_fraction:.0%} (pick.assess.max_opaque_fraction)",
    )
    held(
        signs.gradient > cfg.max_gradient,
        f"a strong gradient: one side has {signs.gradient:.0%} fewer electrons than another",
        f"at most {cfg.max_gradient:.0%} (pick.assess.max_gradient)",
    )
    held(
        signs.masked > cfg.max_contaminated_fraction,
        f"{signs.masked:.0%} of the area is contaminated",
        f"at most {cfg.max_contaminated_fraction:.0%} (pick.assess.max_contaminated_fraction)",
    )
    change = math.log(signs.mean / usual) if usual > 0 and signs.mean > 0 else 0.0
    what = "bright (no ice, or thin)" if change > 0 else "dim (thick ice, or little dose)"
    held(
        abs(change) > cfg.max_thickness_change,
        f"{what}: a mean of {signs.mean / usual if usual > 0 else 0:.0%} of what is usual in its table",
        f"within a factor of {math.exp(cfg.max_thickness_change):.2f} (pick.assess.max_thickness_change)",
    )
    return found


def as_text(signs: Signs, found: list[Reason]) -> dict[str, str]:
    """Columns of the quality table."""
    told: Mapping[str, float] = {
        "emflowSignal": signs.signal,
        "emflowIceRing": signs.ice_ring,
        "emflowFalloff": signs.falloff,
        "emflowGradient": signs.gradient,
        "emflowOpaqueFraction": signs.opaque,
        "emflowContaminatedFraction": signs.masked,
    }
    return {
        "emflowGood": "0" if found else "1",
        "emflowGoodReason": "; ".join(one.reason for one in found) or "None",
        "emflowGoodExpected": "; ".join(one.expected for one in found) or "None",
        **{name: "None" if math.isnan(value) else f"{value:.4f}" for name, value in told.items()},
    }
