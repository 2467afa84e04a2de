"""Compare two STAR tables row by row, matched by identity."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from emflow.io.star import read_star
from emflow.project import tolerance

_IDENTITIES = ("emflowParticleId", "emflowMicrographId")
_ANGLES = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
_SIGMA = "emflowPoseSigmaDeg"
_PLACES = ("rlnImageName",)
"""Columns that name a place in a stack: the row's identity is compared, not where its image stands."""


def table_differences(before: Path, now: Path) -> Iterator[tuple[str, bool]]:
    """Say what differs between two tables, and whether within tolerance."""
    old, new = read_star(before), read_star(now)
    for block in sorted(old.keys() ^ new.keys()):
        yield f"block data_{block} is {'gone' if block in old else 'new'}", False
    for block in old.keys() & new.keys():
        for what, within in _block(old[block], new[block]):
            yield f"{block}: {what}" if block else what, within


def _block(old: pd.DataFrame, new: pd.DataFrame) -> Iterator[tuple[str, bool]]:
    for column in sorted(set(map(str, old)) ^ set(map(str, new))):
        yield f"column {column} is {'gone' if column in old else 'new'}", False
    key = next(
        (name for name in _IDENTITIES if all(name in t and t[name].is_unique for t in (old, new))), None
    )
    if key is None and len(old) != len(new):
        yield f"{len(old)} → {len(new)} rows", False
        return
    if key is not None:
        old, new = old.set_index(key), new.set_index(key)
        both = old.index.intersection(new.index)
        longest = max(len(old), len(new))
        share = len(both) / longest if longest else 1.0
        if share < 1:
            yield f"{len(old)} → {len(new)} rows, {len(both)} in both", share >= tolerance.ROWS.limit
        old, new = old.loc[both], new.loc[both]
    columns = [column for column in old if column in new and column not in _PLACES and len(old)]
    if set(_ANGLES) <= set(columns):
        columns = [column for column in columns if column not in _ANGLES]
        allowed = np.full(len(old), tolerance.column_tolerance("pose"))
        if _SIGMA in columns:
            allowed = np.maximum(
                allowed, pd.to_numeric(old[_SIGMA], errors="coerce").fillna(0.0).to_numpy(float)
            )
        yield from _judged("orientation", _turns_deg(old, new), allowed)
    for name in map(str, columns):
        yield from _column(name, old[name], new[name])


def _column(name: str, old: pd.Series, new: pd.Series) -> Iterator[tuple[str, bool]]:
    a, b = (pd.to_numeric(side, errors="coerce").to_numpy(float) for side in (old, new))
    words = np.isnan(a) | np.isnan(b)
    if words.any():
        same = float(np.mean([_base(x) == _base(y) for x, y in zip(old[words], new[words], strict=True)]))
        if same < 1:
            yield f"{name}: {1 - same:.1%} of its texts differ", same >= tolerance.WORDS.limit
    a, b = a[~words], b[~words]
    if not len(a) or np.array_equal(a, b):
        return
    low, high = np.percentile(a, [5, 95])
    allowed = max(tolerance.column_tolerance(name), tolerance.SPREAD.limit * (high - low))
    apart = np.abs(a - b)
    if name.startswith(("rlnAngle", "rlnDefocusAngle")):
        turn = 180.0 if name == "rlnDefocusAngle" else 360.0
        apart = np.minimum(apart % turn, turn - apart % turn)
    yield from _judged(name, apart, np.maximum(allowed, tolerance.RELATIVE.limit * np.abs(a)))


def _judged(name: str, apart: np.ndarray, allowed: np.ndarray) -> Iterator[tuple[str, bool]]:
    if not apart.any():
        return
    share = float(np.mean(apart <= allowed))
    limit = tolerance.AGREEING.limit
    yield (
        f"{name}: {share:.1%} of rows within {float(np.median(allowed)):.3g} (at least {limit:.0%}), "
        f"largest difference {float(apart.max()):.3g}",
        share >= limit,
    )


def _base(text: str) -> str:
    """Name of a file without its folder, which may be another one here; any other text as it is."""
    return text.rsplit("/", 1)[-1]


def _turns_deg(old: pd.DataFrame, new: pd.DataFrame) -> np.ndarray:
    import torch

    from emflow.em.poses import angular_distance_deg, euler_to_matrix

    sides = [
        euler_to_matrix(torch.tensor(side[list(_ANGLES)].astype(float).to_numpy(), dtype=torch.float64))
        for side in (old, new)
    ]
    turns = angular_distance_deg(*sides).numpy()
    return np.where(turns < 1e-3, 0.0, turns)  # below, arccos has no digits left
