"""Columns of any project's particle table as numbers: missing ones are None, what is no number is NaN."""

from __future__ import annotations

import numpy as np
import pandas as pd


def numbers(table: pd.DataFrame, column: str) -> np.ndarray | None:
    """Return a column of text as float64, NaN where it holds no number below 10¹²; None if it is missing."""
    if column not in table:
        return None
    values = pd.to_numeric(table[column], errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    return np.where(np.abs(values) < 1e12, values, np.nan)


def micrograph_of(table: pd.DataFrame) -> pd.Series | None:
    """Return the column that tells the micrograph."""
    name = next((c for c in ("emflowMicrographId", "rlnMicrographName") if c in table), None)
    return None if name is None else table[name].astype(str)


def of_optics(table: pd.DataFrame, optics: pd.DataFrame | None, *columns: str) -> np.ndarray | None:
    """Give each particle the first of these columns that is known: its own, or that of its optics group.

    Returns
    -------
    Array (n,), NaN where the group is not listed; None if no column is known.
    """
    for column in columns:
        own = numbers(table, column)
        if own is not None and np.isfinite(own).any():
            return own
        values = None if optics is None else numbers(optics, column)
        if values is None or optics is None or not np.isfinite(values).any():
            continue
        if "rlnOpticsGroup" in table and "rlnOpticsGroup" in optics:
            groups = pd.Series(values, index=optics["rlnOpticsGroup"].astype(str))
            groups = groups[~groups.index.duplicated()]
            return groups.reindex(table["rlnOpticsGroup"].astype(str)).to_numpy(dtype=np.float64)
        return np.full(len(table), values[np.isfinite(values)][0])
    return None


def image_pixel(table: pd.DataFrame, optics: pd.DataFrame | None) -> np.ndarray | None:
    """Pixel size of the particle images, in ångström, (n,)."""
    return _first(of_optics(table, optics, "rlnImagePixelSize"), _detector_pixel(table))


def micrograph_pixel(table: pd.DataFrame, optics: pd.DataFrame | None) -> np.ndarray | None:
    """Pixel size that the coordinates count in, in ångström, (n,)."""
    names = ("rlnMicrographPixelSize", "rlnMicrographOriginalPixelSize", "rlnImagePixelSize")
    return _first(of_optics(table, optics, *names), _detector_pixel(table))


def _first(*values: np.ndarray | None) -> np.ndarray | None:
    return next((value for value in values if value is not None), None)


def _detector_pixel(table: pd.DataFrame) -> np.ndarray | None:
    """RELION 3.0: detector pixel (µm) over magnification."""
    detector, magnification = numbers(table, "rlnDetectorPixelSize"), numbers(table, "rlnMagnification")
    if detector is None or magnification is None:
        return None
    return detector * 1e4 / np.where(magnification > 0, magnification, np.nan)


def shifts_angstrom(table: pd.DataFrame, optics: pd.DataFrame | None) -> np.ndarray | None:
    """rlnOriginX/Y in ångström, (n, 2); None if there are none."""
    found = [numbers(table, f"rlnOrigin{axis}Angst") for axis in "XY"]
    if found[0] is None or found[1] is None:
        pixel = image_pixel(table, optics)
        found = [numbers(table, f"rlnOrigin{axis}") for axis in "XY"]
        if pixel is None or found[0] is None or found[1] is None:
            return None
        found = [values * pixel for values in found if values is not None]
    return np.stack([values for values in found if values is not None], 1)


def centres_angstrom(table: pd.DataFrame, optics: pd.DataFrame | None) -> np.ndarray | None:
    """Where the particles sit in their micrographs, in ångström, (n, 2): the coordinate minus the origin."""
    x, y, pixel = (*(numbers(table, f"rlnCoordinate{a}") for a in "XY"), micrograph_pixel(table, optics))
    if x is None or y is None or pixel is None:
        return None
    centres = np.stack([x, y], 1) * pixel[:, None]
    shifts = shifts_angstrom(table, optics)
    return centres if shifts is None else centres - np.nan_to_num(shifts)
