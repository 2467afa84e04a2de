"""A few micrographs that show the range of a session."""

from __future__ import annotations

import numpy as np
import pandas as pd

from emflow.io.star import numbers_of


def choose(table: pd.DataFrame, count: int = 6) -> list[tuple[int, str]]:
    """Choose rows that show the range of a session, and say why each is shown.

    The best, middle and worst CTF fit, most and fewest picks, the largest masked area; then the next by CTF
    fit, until there are ``count``. Where nothing has been fitted, the first ones.
    """
    fit, picks, masked = (
        numbers_of(table, c) for c in ("rlnCtfMaxResolution", "emflowPickCount", "emflowMaskedFraction")
    )
    by_fit, by_picks = (np.argsort(v, kind="stable")[: np.isfinite(v).sum()].tolist() for v in (fit, picks))
    by_mask = [row for row in np.argsort(-masked, kind="stable").tolist() if masked[row] > 0]
    middle = len(by_fit) // 2
    orders = [
        (by_fit, "best CTF fit"),
        (by_fit[middle:] + by_fit[:middle][::-1], "median CTF fit"),
        (by_fit[::-1], "worst CTF fit"),
        (by_picks[::-1], "many picks"),
        (by_picks, "few picks"),
        (by_mask, "large masked area"),
        *[(by_fit or list(range(len(table))), "")] * count,
    ]
    chosen: dict[int, str] = {}
    for order, why in orders:
        row = next((row for row in order if row not in chosen), None)
        if row is not None and len(chosen) < count:
            chosen[row] = why
    return list(chosen.items())
