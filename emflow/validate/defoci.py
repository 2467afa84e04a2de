"""CTF columns of a particle table: range, astigmatism, and outliers within a micrograph."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from emflow.validate.columns import micrograph_of, numbers, of_optics


@dataclass(frozen=True)
class Defoci:
    """What the CTF columns look like."""

    median_angstrom: float
    broken: np.ndarray
    """Rows without a finite defocus between 500 and 100 000 Å, (n,) bool."""
    astigmatic: np.ndarray
    """Rows whose two defoci differ by more than 2 000 Å and 15 %, (n,) bool."""
    outliers: np.ndarray
    """Rows whose defocus lies off the plane through their micrograph's, (n,) bool."""
    facts: str
    """Voltage, spherical aberration or amplitude contrast out of range, in words; empty if there is none."""


_FACTS = {
    "rlnVoltage": (40, 1000, "kV"),
    "rlnSphericalAberration": (0, 10, "mm"),
    "rlnAmplitudeContrast": (0, 0.5, ""),
}


def look_at_defoci(table: pd.DataFrame, optics: pd.DataFrame | None) -> Defoci | None:
    """Look at the CTF columns; None without defocus."""
    u, v = numbers(table, "rlnDefocusU"), numbers(table, "rlnDefocusV")
    if u is None:
        return None
    mean = (u + (u if v is None else v)) / 2
    v = 2 * mean - u
    if not np.isfinite(mean).any():
        return None
    broken = ~((mean >= 500) & (mean <= 100_000))
    astigmatic = ~broken & (np.abs(u - v) > np.maximum(2000, 0.15 * mean))
    told = []
    for name, (low, high, unit) in _FACTS.items():
        values = of_optics(table, optics, name)
        if values is not None and (wrong := values[(values < low) | (values > high)]).size:
            told.append(f"{name} is {wrong[0]:g} {unit}".rstrip())
    micrograph = micrograph_of(table)
    outliers = np.zeros(len(table), dtype=bool)
    if micrograph is not None:
        outliers[~broken] = _off_plane(table, micrograph, mean, ~broken)
    return Defoci(float(np.nanmedian(mean)), broken, astigmatic, outliers, "; ".join(told))


def _off_plane(
    table: pd.DataFrame, micrograph: pd.Series, defocus: np.ndarray, rows: np.ndarray
) -> np.ndarray:
    """Rows whose defocus is off its micrograph's plane by more than 3 000 Å and ten median deviations.

    Ice is a few hundred ångström thick and a tilted specimen a plane, so more is a fit gone wrong. The plane is
    taken three times, each time with outliers held back (Huber weights).
    """
    codes, names = pd.factorize(micrograph[rows])
    values = defocus[rows]
    count = len(names)
    base = pd.Series(values).groupby(codes).transform("median").to_numpy()
    design = np.ones((len(values), 3))
    for column, axis in enumerate("XY", start=1):
        place = numbers(table, f"rlnCoordinate{axis}")
        place = np.zeros(len(values)) if place is None else np.nan_to_num(place[rows])
        centred = place - (np.bincount(codes, place, count) / np.bincount(codes, minlength=count))[codes]
        design[:, column] = centred / max(float(np.abs(centred).max(initial=0)), 1e-9)
    rest, weight = values - base, np.ones(len(values))
    left = rest
    for _ in range(3):
        normal, right = np.zeros((count, 3, 3)), np.zeros((count, 3))
        for i in range(3):
            right[:, i] = np.bincount(codes, weight * design[:, i] * rest, count)
            for j in range(3):
                normal[:, i, j] = np.bincount(codes, weight * design[:, i] * design[:, j], count)
        # a ridge of one particle on the slopes: a plane needs particles that span it
        normal += np.diag([1e-6, 1.0, 1.0])
        plane = np.linalg.solve(normal, right[:, :, None])[:, :, 0]
        left = rest - (design * plane[codes]).sum(1)
        weight = 1 / np.maximum(np.abs(left) / 1000, 1)
    spread = pd.Series(np.abs(left)).groupby(codes).transform("median").to_numpy()
    return np.abs(left) > np.maximum(3000, 10 * spread)
