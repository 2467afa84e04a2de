"""Read what the reconstruction commands take: particles with their images, and first maps."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from emflow.io.mrc import read_header, read_mrc
from emflow.io.particles import Particles, load_half_sets
from emflow.io.star import integers
from emflow.step import EmflowError, SpecimenSize

log = logging.getLogger("emflow")

FEWEST = 50
"""Particles below which no map is tried."""


def read_particles(star: Path) -> Particles:
    """Load particles for a reconstruction, each with its half-set (:func:`emflow.io.particles.load_half_sets`)."""
    return load_half_sets(star)


def too_few(particles: Particles) -> bool:
    """Whether there are too few particles for a map."""
    if len(particles) < FEWEST:
        return True
    halves = integers(particles.table, "rlnRandomSubset")
    return min((halves == 1).sum(), (halves == 2).sum()) < FEWEST // 4


def diameter_of(cfg: SpecimenSize, box: int, pixel_size_angstrom: float) -> float:
    """Diameter of the particle: as given, else two thirds of the box; never more than the box holds."""
    extent = box * pixel_size_angstrom
    if cfg.diameter_angstrom is None:
        log.warning(
            "sample.diameter_angstrom is not set: taking two thirds of the box, %.0f Å", extent * 2 / 3
        )
        return extent * 2 / 3
    if cfg.diameter_angstrom > extent:
        raise EmflowError(
            f"sample.diameter_angstrom is {cfg.diameter_angstrom:g}, but the boxes are only {extent:.0f} Å wide. "
            "Extract with a larger box (extract.run.box_size_px), or correct the diameter."
        )
    return cfg.diameter_angstrom


def read_halves(folder: Path) -> tuple[tuple[Tensor, Tensor], float]:
    """Half maps of a first reconstruction, and their voxel size in ångström."""
    volumes = []
    voxels = []
    for name in ("half1.mrc", "half2.mrc"):
        path = folder / name
        volume = read_mrc(path)
        if volume.ndim != 3 or len(set(volume.shape)) != 1 or volume.shape[0] % 2:
            raise EmflowError(f"{path}: has shape {volume.shape}; expected an even cube.")
        volumes.append(torch.from_numpy(volume))
        voxels.append(read_header(path).voxel_size_angstrom)
    if volumes[0].shape != volumes[1].shape or not np.isclose(voxels[0], voxels[1], rtol=1e-3):
        raise EmflowError(f"{folder}: half1.mrc and half2.mrc differ in box or voxel size.")
    return (volumes[0], volumes[1]), voxels[0]


def independent_starts(folder: Path) -> bool:
    """Whether a folder's half maps are known to come from separate random starts: emflow's ab initio says so."""
    try:
        rows = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return False
    return isinstance(rows, dict) and "half2_inverted" in rows
