"""Read what the classification commands take: a classification, a person's labels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from emflow.classify.measure import Columns
from emflow.io.mrc import read_header, read_mrc
from emflow.io.star import floats, integers, read_star, read_table
from emflow.step import EmflowError

FEWEST = 50
"""Particles below which no classes are made."""
CLASS_COLUMNS = {
    "particles": "emflowClassParticles",
    "resolution_angstrom": "rlnEstimatedResolution",
    "correlation": "emflowHalfCorrelation",
    "evidence": "emflowClassEvidence",
    "off_centre": "emflowOffCentre",
    "extent": "emflowExtent",
    "edge": "emflowEdge",
}
"""Figures of a class → columns of classes.star."""
PARTICLE_COLUMNS = {
    "evidence": "emflowClassEvidence",
    "contrast": "emflowClassContrast",
    "rest_low": "emflowRestLow",
    "rest_middle": "emflowRestMiddle",
    "rest_high": "emflowRestHigh",
    "strength": "emflowSignalStrength",
    "power": "emflowLowPower",
}
"""Figures of a particle → columns of particles.star."""


@dataclass(frozen=True)
class Run:
    """A classification as it was written."""

    tables: dict[str, pd.DataFrame]
    """Of particles.star."""
    number: np.ndarray
    """Class of each particle, from 0, (N,)."""
    classes: Columns
    particles: Columns
    averages: np.ndarray
    """(K, box, box)."""
    pixel_size_angstrom: float


def read_run(folder: Path) -> Run:
    """Read the folder that ``classify run`` wrote."""
    tables = read_star(folder / "particles.star")
    table = tables["particles"]
    listed = read_table(folder / "classes.star", "classes", "rlnClassNumber", *CLASS_COLUMNS.values())
    averages = read_mrc(folder / "classes.mrcs")
    if not len(table) or "rlnClassNumber" not in table:
        number = np.zeros(len(table), dtype=np.int64)
        nothing = {name: np.zeros(len(table)) for name in PARTICLE_COLUMNS}
        return Run(tables, number, {n: np.zeros(0) for n in CLASS_COLUMNS}, nothing, averages[:0], 1.0)
    return Run(
        tables,
        integers(table, "rlnClassNumber") - 1,
        {name: _numbers(listed, column) for name, column in CLASS_COLUMNS.items()},
        {name: floats(table, column) for name, column in PARTICLE_COLUMNS.items()},
        averages.reshape(-1, *averages.shape[-2:]),
        read_header(folder / "classes.mrcs").voxel_size_angstrom,
    )


def _numbers(table: pd.DataFrame, column: str) -> np.ndarray:
    return pd.to_numeric(table[column], errors="coerce").to_numpy(dtype=np.float64)


def read_labels(path: Path, classes: int) -> dict[int, bool]:
    """A person's choices: class, from 0 → keep; none for a file that is not there.

    Raises
    ------
    EmflowError
        A class that does not exist, or a choice that is neither 0 nor 1.
    """
    if not path.is_file():
        return {}
    tables = read_star(path)
    table = next(iter(tables.values()))
    for name in ("rlnClassNumber", "emflowSelected"):
        if name not in table:
            raise EmflowError(
                f"{path}: lacks the column _{name}; expected rlnClassNumber and emflowSelected (0 or 1)."
            )
    labels = {}
    for number, choice in zip(
        integers(table, "rlnClassNumber"), integers(table, "emflowSelected"), strict=True
    ):
        if not 1 <= number <= classes:
            raise EmflowError(
                f"{path}: names class {number}; this classification has the classes 1 to {classes}."
            )
        if choice not in (0, 1):
            raise EmflowError(f"{path}: emflowSelected of class {number} is {choice}; expected 0 or 1.")
        labels[int(number) - 1] = bool(choice)
    return labels
