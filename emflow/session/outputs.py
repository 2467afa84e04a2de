"""The tables that the session's commands write."""

from __future__ import annotations

import logging
from typing import Any

import pandas as pd

from emflow.io.image import image_shape
from emflow.io.incoming import HALF_SUMS
from emflow.io.micrographs import SET_ASIDE_COLUMNS, Micrographs
from emflow.session.check import Fault
from emflow.step import EmflowError

log = logging.getLogger("emflow")

CONTRAST_COLUMNS = [
    "emflowContrast",
    "emflowContrastDetected",
    "emflowContrastStrength",
    "emflowContrastMicrographs",
]


def checked_table(
    images: Micrographs,
    kept: list[int],
    results: dict[int, dict[str, Any]],
    halves: list[int | None],
    used: str,
) -> pd.DataFrame:
    table = images.table.iloc[kept].reset_index(drop=True).copy()
    found = [results[row] for row in kept]
    table["rlnRandomSubset"] = [str(halves[row]) for row in kept]
    table["emflowContrast"] = used
    table["rlnImageSizeX"] = [str(r["shape"][1]) for r in found]
    table["rlnImageSizeY"] = [str(r["shape"][0]) for r in found]
    table["emflowMean"] = [f"{r['mean']:.9g}" for r in found]
    table["emflowStd"] = [f"{r['std']:.9g}" for r in found]
    table["emflowDigest"] = [r["digest"] for r in found]
    table["emflowHeaderPixelSize"] = [
        "None" if r["header_pixel"] is None else f"{r['header_pixel']:.6g}" for r in found
    ]
    for column in HALF_SUMS:
        if column in table:
            shapes = [tuple(r["shape"]) for r in found]
            table[column] = [_half_sum(n, shape) for n, shape in zip(table[column], shapes, strict=True)]
    return table.astype(object)


def _half_sum(name: str, shape: tuple[int, ...]) -> str:
    """Return the path of a half sum whose header fits the micrograph, else None (as text)."""
    if name == "None":
        return name
    try:
        found = image_shape(name)
    except EmflowError as error:
        log.warning("half sum left out: %s", error)
        return "None"
    if found != shape:
        log.warning("half sum left out: %s has shape %s; its micrograph has %s", name, found, shape)
        return "None"
    return name


def set_aside_table(images: Micrographs, faults: dict[int, Fault]) -> pd.DataFrame:
    rows = [
        [images.name(row), images.identity(row), faults[row].reason, faults[row].expected]
        for row in sorted(faults)
    ]
    table = pd.DataFrame(rows, columns=pd.Index(SET_ASIDE_COLUMNS), dtype=object)
    if "emflowShard" in images.table:
        table["emflowShard"] = images.table["emflowShard"].iloc[sorted(faults)].tolist()
    return table


def contrast_table(used: str, detected: str, strength: float, weighed: int) -> pd.DataFrame:
    """Table of one row: the contrast that is used, and how it was found (dark, bright, unknown, or set)."""
    row = [used, detected, f"{strength:.2f}", str(weighed)]
    return pd.DataFrame([row], columns=pd.Index(CONTRAST_COLUMNS), dtype=object)
