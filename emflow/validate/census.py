"""What a particle table tells without its images: halves, doubles, poses, defoci, weights.

Works on any project's table: where columns are missing a result is None, never an error.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from emflow.validate.columns import micrograph_of, numbers
from emflow.validate.defoci import Defoci, look_at_defoci
from emflow.validate.doubles import Doubles, find_doubles
from emflow.validate.poses import Poses, look_at_poses


@dataclass(frozen=True)
class HalfSets:
    """How the particles are split into halves."""

    half1: int
    half2: int
    shared_micrographs: int
    """Micrographs with particles in both halves."""


def split_of(table: pd.DataFrame) -> HalfSets | None:
    """Count the halves of a particle table (rlnRandomSubset); None if it does not say."""
    micrograph, half = micrograph_of(table), numbers(table, "rlnRandomSubset")
    if micrograph is None or half is None or not np.isin(half, (1, 2)).any():
        return None
    known = np.isin(half, (1, 2))
    spans = pd.Series(half[known]).groupby(micrograph[known].to_numpy()).nunique()
    return HalfSets(int((half == 1).sum()), int((half == 2).sum()), int((spans > 1).sum()))


@dataclass(frozen=True)
class Weights:
    """How many particles carry the map."""

    effective: float
    """(Σw)²/Σw² (Kish) of the distinct particles: as many equal ones would weigh as much."""
    columns: tuple[str, ...]
    """Columns the weights come from; none if there are none and all count alike."""


def weigh(table: pd.DataFrame, copies: float) -> Weights:
    """Count the particles by weight: w = scale² / norm², of rlnCtfScalefactor and rlnNormCorrection.

    An image that is normalised by a larger number carries its signal with so much more noise.
    """
    weight, used = np.ones(len(table)), []
    for name, power in (("rlnNormCorrection", -2), ("rlnCtfScalefactor", 2)):
        values = numbers(table, name)
        if values is not None and (values > 1e-3).any():
            weight = weight * np.where(values > 1e-3, values, np.nan) ** power
            used.append(name)
    weight = np.nan_to_num(weight)
    distinct = max(len(table) - copies, 0.0) / len(table)
    squares = float((weight**2).sum())
    return Weights(float(weight.sum()) ** 2 / squares * distinct if squares > 0 else 0.0, tuple(used))


@dataclass(frozen=True)
class Census:
    """All that a particle table tells without its images; None is what it does not tell."""

    particles: int
    split: HalfSets | None
    doubles: Doubles | None
    poses: Poses | None
    defoci: Defoci | None
    weights: Weights

    def metrics(self) -> dict[str, float | int | None]:
        """Plain figures of all parts."""
        split, doubles, poses, defoci = self.split, self.doubles, self.poses, self.defoci
        return {
            "half1_particles": split.half1 if split else None,
            "half2_particles": split.half2 if split else None,
            "particle_copies": doubles.copies if doubles else None,
            "particle_copies_across_halves": doubles.across_halves if doubles else None,
            "median_shift_angstrom": poses.median_shift_angstrom if poses else None,
            "in_plane_bias": poses.in_plane_bias if poses else None,
            "median_defocus_um": defoci.median_angstrom / 1e4 if defoci else None,
            "defocus_outliers": int(defoci.outliers.sum()) if defoci else None,
            "effective_particles": self.weights.effective,
        }

    def flagged(self, table: pd.DataFrame) -> pd.DataFrame:
        """List the rows that something is wrong with: row (from 1), image, reasons."""
        doubles, poses, defoci = self.doubles, self.poses, self.defoci
        none = np.zeros(len(table), dtype=bool)
        marks = {
            "close to another": doubles.near if doubles and doubles.copies > 0 else none,
            "pose is no number": poses.broken if poses else none,
            "shifted by more than half the diameter": poses.far if poses else none,
            "defocus out of range": defoci.broken if defoci else none,
            "strong astigmatism": defoci.astigmatic if defoci else none,
            "defocus off its micrograph's plane": defoci.outliers if defoci else none,
        }
        rows = np.flatnonzero(np.any(list(marks.values()), axis=0))
        listed: dict[str, list[str]] = {"emflowRow": [str(row + 1) for row in rows]}
        for name in ("rlnImageName", "rlnMicrographName"):
            if name in table:
                listed[name] = table[name].astype(str).iloc[rows].tolist()
        listed["emflowReason"] = [
            "; ".join(why for why, marked in marks.items() if marked[row]) for row in rows
        ]
        return pd.DataFrame(listed, dtype=object)


def count_particles(
    table: pd.DataFrame,
    optics: pd.DataFrame | None,
    diameter_angstrom: float,
    double_distance_angstrom: float,
    symmetry: str = "C1",
) -> Census:
    """Take the census of a table of at least one particle.

    Parameters
    ----------
    table, optics
        Particles and optics groups, text columns with RELION's names.
    diameter_angstrom
        Diameter of the particle: a shift of more than half of it is too far.
    double_distance_angstrom
        Particles of one micrograph closer than this are one.
    symmetry
        Point group of the particle.
    """
    doubles = find_doubles(table, optics, double_distance_angstrom)
    return Census(
        len(table),
        split_of(table),
        doubles,
        look_at_poses(table, optics, diameter_angstrom, symmetry),
        look_at_defoci(table, optics),
        weigh(table, doubles.copies if doubles else 0.0),
    )
