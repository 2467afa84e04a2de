"""Particle tables: which particle lies where, and what it keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

import numpy as np
import pandas as pd

from emflow.extract.boxes import Box

CTF_COLUMNS = (
    "rlnDefocusU",
    "rlnDefocusV",
    "rlnDefocusAngle",
    "rlnPhaseShift",
    "rlnCtfMaxResolution",
    "rlnCtfFigureOfMerit",
)
POSE_COLUMNS = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi", "rlnOriginXAngst", "rlnOriginYAngst")
POSE_KNOWN = "emflowPoseKnown"
FIRST_COLUMNS = (
    "rlnImageName",
    "rlnMicrographName",
    "rlnCoordinateX",
    "rlnCoordinateY",
    "rlnOpticsGroup",
    *CTF_COLUMNS,
    "rlnRandomSubset",
    "rlnAutopickFigureOfMerit",
    "emflowParticleId",
    "emflowMicrographId",
)
"""Columns of a particle table, in this order; further ones follow as they came."""
MICROGRAPH_COLUMNS = (
    "rlnMicrographName",
    "emflowMicrographId",
    "emflowExtracted",
    "emflowDroppedOutside",
    "emflowDroppedFlat",
)


def match_micrographs(particles: pd.DataFrame, micrographs: pd.DataFrame) -> np.ndarray:
    """Row of each particle's micrograph, −1 where it is not in ``micrographs``.

    By emflowMicrographId where the particles have one, else by the file's base name without suffix.
    """
    if "emflowMicrographId" in particles:
        keys = micrographs["emflowMicrographId"].tolist()
        wanted = particles["emflowMicrographId"].tolist()
    else:
        keys = [PurePath(str(name)).stem for name in micrographs["rlnMicrographName"]]
        wanted = [PurePath(str(name)).stem for name in particles["rlnMicrographName"]]
    row_of = {key: row for row, key in enumerate(keys)}
    return np.array([row_of.get(key, -1) for key in wanted], dtype=np.int64)


def with_later(posed: pd.DataFrame, picked: pd.DataFrame) -> pd.DataFrame:
    """Add to particles with poses those of micrographs that are not among theirs, centred on their picks.

    Where there are any, emflowPoseKnown tells them (0) from the others (1); their angles and origins are 0.
    """
    if not len(picked) or "emflowMicrographId" not in posed:
        return posed
    later = picked[~picked["emflowMicrographId"].isin(set(posed["emflowMicrographId"]))]
    if not len(later):
        return posed
    poses = [name for name in POSE_COLUMNS if name in posed]
    later = later.assign(**dict.fromkeys(poses, "0"), **{POSE_KNOWN: "0"})
    both = pd.concat([posed.assign(**{POSE_KNOWN: "1"}), later], ignore_index=True).astype(object)
    return both.where(both.notna(), "None")


def describe(
    particles: pd.DataFrame, micrographs: pd.DataFrame, rows: np.ndarray, prefer: str
) -> pd.DataFrame:
    """Give particles what is known of their micrographs (name, id, optics group, CTF, half-set), and an id.

    Parameters
    ----------
    particles
        Particles, all of which have a micrograph.
    micrographs
        Micrographs.
    rows
        Each particle's row in ``micrographs``.
    prefer
        Whose CTF and half-set win where both have them: ``micrographs`` (picks) or ``particles`` (refined).
    """
    taken = micrographs.iloc[rows].reset_index(drop=True)
    out = particles.reset_index(drop=True).copy()
    for name in ("rlnMicrographName", "emflowMicrographId", "rlnOpticsGroup"):
        if name in taken:
            out[name] = taken[name]
    # U, V and angle belong together: they are taken from one side or the other, never mixed.
    theirs = prefer == "particles" and "rlnDefocusU" in out
    for name in CTF_COLUMNS:
        if name in taken and not theirs:
            out[name] = taken[name]
    if "rlnRandomSubset" in taken and not (prefer == "particles" and "rlnRandomSubset" in out):
        out["rlnRandomSubset"] = taken["rlnRandomSubset"]
    if "rlnPhaseShift" not in out:
        out["rlnPhaseShift"] = "0"
    if "emflowParticleId" not in out:
        places = [np.rint(out[f"rlnCoordinate{axis}"].astype(float)).astype(int) for axis in "XY"]
        ids = zip(out["emflowMicrographId"], *places, strict=True)
        out["emflowParticleId"] = [f"{micrograph}-{x}-{y}" for micrograph, x, y in ids]
    return out


def in_order(particles: pd.DataFrame) -> pd.DataFrame:
    """Put the known columns first; the particles of an empty table have them, too."""
    if not len(particles):
        extra = [name for name in particles if name not in FIRST_COLUMNS]
        return pd.DataFrame(columns=pd.Index([*FIRST_COLUMNS, *extra]), dtype=object)
    first = [name for name in FIRST_COLUMNS if name in particles]
    order = [*first, *(name for name in particles if name not in first)]
    return (particles if list(particles) == order else particles[order]).astype(object)


def particle_optics(
    optics: pd.DataFrame, boxes: Mapping[str, Box], original: Mapping[str, float]
) -> pd.DataFrame:
    """Optics groups of particle images: pixel size and side as stored, the micrograph's pixel size beside them.

    Parameters
    ----------
    optics
        Optics groups of the micrographs.
    boxes, original
        Box and micrograph pixel size (Å) of each optics group, by its number as text.
    """
    groups = optics["rlnOpticsGroup"].astype(str)
    out = optics[groups.isin(list(boxes))].reset_index(drop=True)
    names: Sequence[str] = out["rlnOpticsGroup"].astype(str).tolist()
    columns: dict[str, list[Any]] = {
        "rlnMicrographOriginalPixelSize": [f"{original[g]:.9g}" for g in names],
        "rlnImagePixelSize": [f"{boxes[g].pixel_size_angstrom:.9g}" for g in names],
        "rlnImageSize": [str(boxes[g].size_px) for g in names],
        "rlnImageDimensionality": ["2"] * len(names),
        "rlnCtfDataAreCtfPremultiplied": ["0"] * len(names),
    }
    out = out.drop(columns=[name for name in ("rlnMicrographPixelSize", *columns) if name in out])
    return out.assign(**columns).astype(object)
