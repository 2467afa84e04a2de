"""What a refinement begins with: first maps, or its own previous result where particles were added."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from emflow.io.kept import Kept, why_anew
from emflow.io.particles import Particles
from emflow.io.record import lineage_of
from emflow.io.star import floats
from emflow.reconstruct.config import ReconstructRefine
from emflow.reconstruct.inputs import read_previous
from emflow.reconstruct.warm import Previous

log = logging.getLogger("emflow")

KEPT_FILES = ("particles.star", "metrics.json")
PICK_REACH = 0.15
"""How far off its box's centre a particle may be that was cut out centred on its pick, in diameters."""


@dataclass(frozen=True)
class Origin:
    """What a refinement begins with."""

    folder: Path
    """Of the first maps, or of the earlier refinement."""
    previous: Previous | None
    """What that refinement knew; None: all particles are searched."""
    key: str
    """Identity of the kept result that it goes on from; empty for another beginning."""
    anew_particles: int
    """Particles when the poses were last found from nothing."""
    why: str
    """In words, for the record."""


def find_origin(
    start: Path, kept: Kept | None, source: Particles, half: Tensor, cfg: ReconstructRefine
) -> Origin:
    """Decide what to begin with.

    The kept previous result, if it was made under the same settings, knew at least half of the particles of each
    half-set, and not more than half of all have come since poses were last found from nothing; else ``start``.

    Raises
    ------
    EmflowError
        If a particle or a micrograph is in the other half-set than it was.
    """
    everything = len(source)
    if not cfg.warm_start:
        return Origin(start, None, "", everything, "from the first map: warm_start is off")
    kept_before = kept.previous() if kept is not None else None
    if kept_before is None:
        previous = _enough(read_previous(start, source, cfg.symmetry), half, start)
        if previous is None:
            return Origin(start, None, "", everything, "from the first map: there is no previous result")
        return Origin(start, previous, "", previous.particles, f"from the refinement in {start}")
    folder, made = kept_before
    refused = why_anew(made, lineage_of("reconstruct.refine") or "", everything)
    previous = None if refused else _enough(read_previous(folder, source, cfg.symmetry), half, folder)
    if previous is None:
        why = refused or "the previous result knew too few of these particles"
        log.info("refining from the first map: %s", why)
        return Origin(start, None, "", everything, f"from the first map: {why}")
    return Origin(
        folder, previous, made.key, made.anew_particles, f"from the previous result ({folder.name})"
    )


def _enough(previous: Previous | None, half: Tensor, folder: Path) -> Previous | None:
    if previous is None or previous.enough(half):
        return previous
    log.info("%s knew too few of these particles: all are searched", folder)
    return None


def reach_of(source: Particles, cfg: ReconstructRefine) -> float:
    """How far off the centre a global search looks, in diameters: further where boxes are centred on picks."""
    later = "emflowPoseKnown" in source.table and bool((source.table["emflowPoseKnown"] == "0").any())
    return max(cfg.shift_fraction, PICK_REACH) if later else cfg.shift_fraction


def ctf_reach(source: Particles, chosen: np.ndarray) -> float | None:
    """Median resolution of the CTF fits of some particles' micrographs, in ångström; None where nothing says."""
    if "rlnCtfMaxResolution" not in source.table or not chosen.any():
        return None
    values = floats(source.table[chosen], "rlnCtfMaxResolution")
    return float(np.median(values)) if np.isfinite(values).all() else None
