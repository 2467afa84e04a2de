"""What the pick room writes: coordinates with their probabilities, and masks of contamination."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.nn import functional

from emflow.io.micrographs import Micrographs
from emflow.io.mrc import write_mrc
from emflow.pick.apply import Picks

PARTICLE_COLUMNS = [
    "rlnMicrographName",
    "rlnCoordinateX",
    "rlnCoordinateY",
    "rlnAutopickFigureOfMerit",
    "emflowPickScore",
    "emflowMicrographId",
    "emflowParticleId",
]
MICROGRAPH_COLUMNS = [
    "emflowPickCount",
    "emflowPickThreshold",
    "emflowPickExpectedFalse",
    "emflowMaskedFraction",
    "emflowPickThresholdFrom",
]
MASK_BINNING = 4
"""Pixels of the image on which picking works to one of a mask image, along each axis."""


def as_result(picks: Picks) -> dict[str, Any]:
    """Text of the picks, as it goes into the STAR tables and the journal."""
    values = [picks.xy_px[:, 0], picks.xy_px[:, 1], picks.probability, picks.score]
    formats = ("{:.2f}", "{:.2f}", "{:.4f}", "{:.3f}")
    return {
        "picks": [
            [text.format(v) for text, v in zip(formats, row, strict=True)]
            for row in zip(*values, strict=True)
        ],
        "micrograph": [
            str(len(picks.score)),
            f"{picks.threshold:.3f}",
            f"{float((1 - picks.probability).sum()):.2f}",
            f"{float(picks.mask.mean()):.4f}",
            picks.threshold_from,
        ],
    }


def pick_tables(images: Micrographs, results: dict[int, dict[str, Any]]) -> dict[str, pd.DataFrame]:
    """Blocks micrographs and particles of the pick table, from the results by row."""
    rows = sorted(results)
    columns = pd.DataFrame(
        [results[row]["micrograph"] for row in rows], columns=pd.Index(MICROGRAPH_COLUMNS), dtype=object
    )
    names = images.table[["rlnMicrographName", "emflowMicrographId"]].iloc[rows].reset_index(drop=True)
    particles = [
        [images.name(row), *pick, images.identity(row), particle_id(images.identity(row), pick[0], pick[1])]
        for row in rows
        for pick in results[row]["picks"]
    ]
    table = pd.DataFrame(particles, columns=pd.Index(PARTICLE_COLUMNS), dtype=object)
    if "rlnOpticsGroup" in images.table:
        group = dict(zip(images.table["emflowMicrographId"], images.table["rlnOpticsGroup"], strict=True))
        table.insert(1, "rlnOpticsGroup", [group[i] for i in table["emflowMicrographId"]])
    return {"micrographs": pd.concat([names, columns], axis=1), "particles": table}


def particle_id(micrograph_id: str, x: str, y: str) -> str:
    """Identity of a particle: its micrograph's, and the rounded coordinate."""
    return f"{micrograph_id}-{round(float(x))}-{round(float(y))}"


def write_mask(path: Path, mask: np.ndarray, pixel_size: float, shape: torch.Size) -> None:
    """Write a mask as a small image; none where nothing is masked, and none is left from an earlier run."""
    if not mask.any():
        path.unlink(missing_ok=True)
        return
    size = (math.ceil(mask.shape[0] / MASK_BINNING), math.ceil(mask.shape[1] / MASK_BINNING))
    small = functional.adaptive_max_pool2d(torch.from_numpy(mask).float()[None, None], size)[0, 0]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_mrc(path, small.numpy(), pixel_size * shape[1] / size[1])
