"""What picking filaments writes: segments as picks, the filaments' ends for RELION, figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from skimage.measure import approximate_polygon

from emflow.io.coordinates import Coordinates
from emflow.io.micrographs import Micrographs
from emflow.pick.config_filaments import PickFilaments
from emflow.pick.config_tools import PickExport
from emflow.pick.filaments import Found
from emflow.pick.outputs import particle_id
from emflow.pick.outputs_export import export

SEGMENT_COLUMNS = [
    "rlnCoordinateX",
    "rlnCoordinateY",
    "rlnHelicalTubeID",
    "rlnAngleTiltPrior",
    "rlnAnglePsiPrior",
    "rlnHelicalTrackLengthAngst",
    "rlnAnglePsiFlipRatio",
    "rlnAutopickFigureOfMerit",
    "emflowPickScore",
]
FILAMENT_COLUMNS = [
    "rlnHelicalTubeID",
    "emflowFilamentLengthAngst",
    "emflowFilamentScore",
    "emflowSegmentCount",
]
MICROGRAPH_COLUMNS = [
    "emflowPickCount",
    "emflowPickThreshold",
    "emflowPickExpectedFalse",
    "emflowMaskedFraction",
    "emflowFilamentCount",
    "emflowFilamentLengthAngst",
    "emflowSegmentsLeftOut",
]
STRAIGHT = 0.1
"""Farthest that an axis is from the straight pieces that RELION's pairs make of it, in widths."""


def as_result(found: Found, width_px: float) -> dict[str, Any]:
    """Text of the filaments, as it goes into the STAR tables and the journal.

    Parameters
    ----------
    found
        Filaments of a micrograph.
    width_px
        Width of a filament in pixels of the micrograph.
    """
    segments, filaments, pairs = [], [], []
    for number, one in enumerate(found.filaments, start=1):
        tube = str(number)
        columns = (one.segments_px, one.psi_deg, one.track_angstrom, one.segment_score)
        for place, psi, track, score in zip(*columns, strict=True):
            x, y, merit = f"{place[0]:.2f}", f"{place[1]:.2f}", f"{one.score:.3f}"
            segments.append([x, y, tube, "90", f"{psi:.2f}", f"{track:.2f}", "0.5", merit, f"{score:.3f}"])
        filaments.append([tube, f"{one.length_angstrom:.1f}", f"{one.score:.3f}", str(len(one.psi_deg))])
        corners = approximate_polygon(one.axis_px, STRAIGHT * width_px)
        for ends in zip(corners[:-1], corners[1:], strict=True):
            pairs += [[f"{x:.2f}", f"{y:.2f}", tube, f"{one.score:.3f}"] for x, y in ends]
    length = sum(one.length_angstrom for one in found.filaments)
    micrograph = [
        str(len(segments)),
        f"{found.threshold:.3f}",
        f"{found.expected_false:.2f}",
        f"{float(found.mask.mean()):.4f}",
        str(len(filaments)),
        f"{length:.1f}",
        str(found.left_out),
    ]
    return {"segments": segments, "filaments": filaments, "pairs": pairs, "micrograph": micrograph}


def filament_tables(images: Micrographs, results: dict[int, dict[str, Any]]) -> dict[str, pd.DataFrame]:
    """Blocks micrographs, particles (the segments) and filaments, from the results by row."""
    rows = sorted(results)
    columns = pd.DataFrame(
        [results[row]["micrograph"] for row in rows], columns=pd.Index(MICROGRAPH_COLUMNS), dtype=object
    )
    names = images.table[["rlnMicrographName", "emflowMicrographId"]].iloc[rows].reset_index(drop=True)
    particles = _stacked(images, results, "segments", SEGMENT_COLUMNS)
    identities = particles["emflowMicrographId"]
    particles["emflowParticleId"] = [
        particle_id(*place)
        for place in zip(identities, particles["rlnCoordinateX"], particles["rlnCoordinateY"], strict=True)
    ]
    if "rlnOpticsGroup" in images.table:
        group = dict(zip(images.table["emflowMicrographId"], images.table["rlnOpticsGroup"], strict=True))
        particles.insert(1, "rlnOpticsGroup", [group[i] for i in identities])
    return {
        "micrographs": pd.concat([names, columns], axis=1),
        "particles": particles,
        "filaments": _stacked(images, results, "filaments", FILAMENT_COLUMNS),
    }


def write_pairs(folder: Path, images: Micrographs, results: dict[int, dict[str, Any]]) -> int:
    """Write starts and ends as RELION's manual picking of helices does; return the number of pairs.

    Two rows after each other are start and end of one straight piece; the pieces of a bent filament have one
    rlnHelicalTubeID, which RELION keeps. One ``NAME_manualpick.star`` a micrograph, and the list
    ``manualpick.star``.
    """
    columns = ["rlnCoordinateX", "rlnCoordinateY", "rlnHelicalTubeID", "rlnAutopickFigureOfMerit"]
    table = _stacked(images, results, "pairs", columns)
    listed = frozenset(images.name(row) for row in results)
    return export(Coordinates(table, listed), folder, PickExport(format="relion-manual")) // 2


def _stacked(
    images: Micrographs, results: dict[int, dict[str, Any]], what: str, columns: list[str]
) -> pd.DataFrame:
    rows = [
        [images.name(row), *values, images.identity(row)]
        for row in sorted(results)
        for values in results[row][what]
    ]
    names = pd.Index(["rlnMicrographName", *columns, "emflowMicrographId"])
    return pd.DataFrame(rows, columns=names, dtype=object)


def figures_of(results: dict[int, dict[str, Any]]) -> dict[str, float | int | None]:
    """Flat figures of all micrographs."""
    micrographs = np.array([r["micrograph"] for r in results.values()], dtype=float).reshape(len(results), -1)
    filaments = [f for r in results.values() for f in r["filaments"]]
    lengths = np.array([float(f[1]) for f in filaments])
    scores = np.array([float(f[2]) for f in filaments])
    return {
        "micrographs": len(results),
        "micrographs_with_filaments": int((micrographs[:, 4] > 0).sum()) if len(results) else 0,
        "filaments": len(filaments),
        "segments": int(micrographs[:, 0].sum()) if len(results) else 0,
        "segments_left_out": int(micrographs[:, 6].sum()) if len(results) else 0,
        "length_angstrom": round(float(lengths.sum()), 1),
        "median_length_angstrom": round(float(np.median(lengths)), 1) if len(filaments) else None,
        "mean_score": round(float((lengths * scores).sum() / lengths.sum()), 3) if len(filaments) else None,
        "expected_false_filaments": round(float(micrographs[:, 2].sum()), 2) if len(results) else 0.0,
    }


def chosen_rows(count: int, cfg: PickFilaments) -> frozenset[int]:
    """Rows of the micrographs that are drawn, spread over the table."""
    number = min(count, cfg.figures)
    return frozenset(
        np.unique(np.linspace(0, count - 1, number).round().astype(int)).tolist() if number else []
    )
