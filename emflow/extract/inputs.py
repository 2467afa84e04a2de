"""What the extract room reads: micrographs with their CTF, picks, and why it may refuse them."""

from __future__ import annotations

import logging
from pathlib import Path

import pandas as pd

from emflow.extract.config import Boxes
from emflow.io.image import MRC_SUFFIXES
from emflow.io.micrographs import Micrographs, load_micrographs
from emflow.io.mrc import read_header
from emflow.io.particles import PARTICLE_BLOCKS
from emflow.io.star import read_star
from emflow.step import EmflowError

log = logging.getLogger("emflow")


def accepted_micrographs(ctf: Path, select: Path, cfg: Boxes) -> Micrographs:
    """Micrographs of ``ctf`` that ``select`` accepts; half-sets are those of all, so that none changes its half."""
    micrographs = load_micrographs(ctf, cfg)
    table = with_halves(micrographs.table)
    chosen = load_micrographs(select, cfg).table
    if "emflowAccepted" in chosen:
        chosen = chosen[chosen["emflowAccepted"] == "1"]
    kept = table["emflowMicrographId"].isin(set(chosen["emflowMicrographId"]))
    return Micrographs(table[kept.to_numpy(dtype=bool)].reset_index(drop=True), micrographs.optics)


def with_halves(micrographs: pd.DataFrame) -> pd.DataFrame:
    """Give micrographs without half-sets alternating ones: a half belongs to a micrograph, never to a particle."""
    if "rlnRandomSubset" in micrographs:
        return micrographs
    return micrographs.assign(rlnRandomSubset=[str(1 + row % 2) for row in range(len(micrographs))])


def read_picks(picks: Path) -> pd.DataFrame:
    """Read positions from a particle STAR.

    Raises
    ------
    EmflowError
        If it has no particles, coordinates or micrograph names.
    """
    tables = read_star(picks)
    block = next((name for name in PARTICLE_BLOCKS if name in tables), None)
    if block is None:
        raise EmflowError(
            f"{picks}: has no block data_particles; it has {', '.join('data_' + b for b in tables)}."
        )
    table = tables[block]
    for name in ("rlnMicrographName", "rlnCoordinateX", "rlnCoordinateY"):
        if name not in table:
            raise EmflowError(
                f"{picks}: data_{block} lacks the column _{name}; expected positions of particles."
            )
    return table


def refuse_restored(micrographs: Micrographs) -> None:
    """Refuse micrographs that carry the mark of restored pixels.

    Raises
    ------
    EmflowError
        If a row has emflowRestored 1 or an MRC file the label.
    """
    marks = micrographs.table.get("emflowRestored", pd.Series("0", index=micrographs.table.index))
    for row in range(len(micrographs)):
        if str(marks.iloc[row]) == "1" or _labelled(micrographs.name(row)):
            raise EmflowError(
                f"{micrographs.name(row)}: its pixels were denoised or otherwise restored. Particles for a map are "
                "cut from the original micrographs, because restored noise looks like signal in both halves. "
                "Give the original micrographs; picks made on restored ones may be used with them."
            )


def _labelled(name: str) -> bool:
    if Path(name).suffix.lower() not in MRC_SUFFIXES:
        return False
    try:
        return read_header(name).restored
    except EmflowError:
        return False  # an unreadable file is set aside when its turn comes


def protein_is_dark(micrographs: Micrographs, row: int, cfg: Boxes) -> bool:
    """Whether protein is dark in a micrograph: as set, else as its table says, else yes (the usual)."""
    contrast = cfg.contrast
    if contrast == "auto" and "emflowContrast" in micrographs.table:
        contrast = str(micrographs.table["emflowContrast"].iloc[row])
    return contrast != "bright"


def digest(micrographs: Micrographs, row: int) -> str:
    """Digest of the pixels where the table has one."""
    return str(micrographs.table["emflowDigest"].iloc[row]) if "emflowDigest" in micrographs.table else ""
