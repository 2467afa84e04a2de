"""What the extract room writes for one shard: the stack, micrograph by micrograph, and last its table."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from emflow.extract.boxes import Box, choose_box
from emflow.extract.config import Boxes
from emflow.extract.cut import cut_particles
from emflow.extract.inputs import digest, protein_is_dark, refuse_restored
from emflow.extract.table import MICROGRAPH_COLUMNS, in_order, particle_optics
from emflow.io.attempts import Attempts
from emflow.io.image import read_image
from emflow.io.journal import result_key
from emflow.io.micrographs import SET_ASIDE_COLUMNS, Micrographs, optics_facts, require_folder
from emflow.io.stack import GrowingStack
from emflow.io.star import floats, write_star
from emflow.step import EmflowError

log = logging.getLogger("emflow")


@dataclass(frozen=True)
class Shard:
    """Particles to be cut from micrographs.

    Attributes
    ----------
    micrographs
        Micrographs with their optics.
    particles
        Particles with coordinates and all that they shall keep.
    rows
        Each particle's row in ``micrographs``.
    """

    micrographs: Micrographs
    particles: pd.DataFrame
    rows: np.ndarray
    cfg: Boxes
    device: torch.device
    limit_minutes: float
    """How long the work on one micrograph may take."""

    @cached_property
    def centres(self) -> np.ndarray:
        """Centres of the boxes (y, x), fractions dropped: shape (m, 2), int64."""
        columns = [floats(self.particles, f"rlnCoordinate{axis}") for axis in "YX"]
        return np.trunc(np.stack(columns, -1)).astype(np.int64)

    @cached_property
    def pixel_sizes(self) -> dict[str, float]:
        """Micrograph pixel size of each optics group, ångström."""
        optics = self.micrographs.optics
        groups = {str(g): optics[optics["rlnOpticsGroup"] == g] for g in optics["rlnOpticsGroup"]}
        return {g: float(optics_facts(row).pixel_size_angstrom or 0) for g, row in groups.items()}

    @cached_property
    def boxes(self) -> dict[str, Box]:
        """Box of each optics group.

        Raises
        ------
        EmflowError
            If the stored sizes differ: one stack holds images of one size.
        """
        boxes = {group: choose_box(self.cfg, pixel) for group, pixel in self.pixel_sizes.items()}
        sizes = {box.size_px for box in boxes.values()}
        if len(sizes) != 1:
            raise EmflowError(
                f"The optics groups would give images of {sorted(sizes)} px. Set box_size_px, or extract groups of "
                "different pixel size apart."
            )
        return boxes

    def group(self, row: int) -> str:
        """Optics group of a micrograph."""
        table = self.micrographs.table
        return str(table["rlnOpticsGroup"].iloc[row]) if "rlnOpticsGroup" in table else next(iter(self.boxes))

    def members(self, row: int) -> np.ndarray:
        """Particles of a micrograph."""
        return np.flatnonzero(self.rows == row)

    def key(self, row: int) -> str:
        """Digest of everything that the images of a micrograph depend on."""
        identity = self.micrographs.identity(row)
        box, dark = self.boxes[self.group(row)], protein_is_dark(self.micrographs, row, self.cfg)
        places = self.centres[self.members(row)].tolist()
        return result_key(self.cfg, identity, digest(self.micrographs, row), box, dark, places)

    def cut(self, row: int) -> tuple[np.ndarray, dict[str, Any]]:
        """Cut the particles of a micrograph: images, and which were kept; unreadable ones are set aside."""
        box = self.boxes[self.group(row)]
        members = self.members(row)
        result: dict[str, Any] = {"kept": [], "outside": 0, "flat": 0}
        images = np.zeros((0, box.size_px, box.size_px), dtype=np.float32)
        if not len(members):
            return images, result
        try:
            pixels = torch.from_numpy(read_image(self.micrographs.name(row))).to(self.device)
            if not bool(torch.isfinite(pixels).all()):
                raise EmflowError(f"{self.micrographs.name(row)}: holds NaN or infinite pixels.")
        except EmflowError as error:
            require_folder(self.micrographs, row)
            log.warning("set aside: %s", error)
            return images, {**result, "set_aside": str(error)}
        dark = protein_is_dark(self.micrographs, row, self.cfg)
        places = torch.from_numpy(self.centres[members]).to(self.device)
        cut = cut_particles(pixels, places, box, dark, self.cfg.max_outside_fraction)
        kept = cut.kept.nonzero()[:, 0].tolist()
        return cut.images.cpu().numpy(), {"kept": kept, "outside": cut.outside, "flat": cut.flat}


def _attempt(shard: Shard, row: int, key: str, attempts: Attempts) -> tuple[np.ndarray, dict[str, Any]]:
    """Cut the particles of a micrograph, unless the process died of it before."""
    name, identity = shard.micrographs.name(row), shard.micrographs.identity(row)
    if reason := attempts.given_up(identity, key):
        size = shard.boxes[shard.group(row)].size_px
        nothing = {"kept": [], "outside": 0, "flat": 0, "set_aside": f"{name}: {reason}"}
        return np.zeros((0, size, size), dtype=np.float32), nothing
    with attempts.at(name, identity, key):
        return shard.cut(row)


def _sound(result: dict[str, Any]) -> bool:
    """Whether a result is good for ever; what was set aside is tried again."""
    return "set_aside" not in result


def extract_shard(shard: Shard, out: Path) -> dict[str, int]:
    """Cut a shard's particles into ``out`` with the suffix .mrcs, then write the table ``out``.

    Micrographs whose images stand already where they belong (a killed run, a shard that grew) are not read
    again.

    Returns
    -------
    Counts, for the record.
    """
    if len(shard.particles) and "rlnDefocusU" not in shard.particles:
        raise EmflowError(
            "Neither the micrographs nor the particles have a CTF (_rlnDefocusU): run `emflow ctf fit` first."
        )
    refuse_restored(shard.micrographs)
    shape = next(iter(shard.boxes.values()))
    stack = GrowingStack(out.with_suffix(".mrcs"), shape.size_px, shape.pixel_size_angstrom)
    keys = [shard.key(row) for row in range(len(shard.micrographs))]
    results = stack.resume(keys, keep=_sound)
    attempts = Attempts(out.with_name(f".{out.stem}.journal"), shard.limit_minutes)
    for row in range(len(results), len(keys)):
        spare = stack.spare(keys[row])
        images, result = (
            spare if spare is not None and _sound(spare[1]) else _attempt(shard, row, keys[row], attempts)
        )
        stack.append(keys[row], images, result)
        results.append(result)
    stack.finish()
    order = np.concatenate(
        [np.zeros(0, dtype=np.int64)]
        + [shard.members(row)[r["kept"]] for row, r in enumerate(results) if r["kept"]]
    )
    table = shard.particles.iloc[order].reset_index(drop=True)
    table["rlnImageName"] = [f"{number:06d}@{stack.path}" for number in range(1, len(table) + 1)]
    for column, axis in enumerate("YX"):
        table[f"rlnCoordinate{axis}"] = [str(value) for value in shard.centres[order, column]]
    aside = [
        [shard.micrographs.name(row), shard.micrographs.identity(row), result["set_aside"], ""]
        for row, result in enumerate(results)
        if "set_aside" in result
    ]
    counts = [
        [
            shard.micrographs.name(row),
            shard.micrographs.identity(row),
            *(str(n) for n in (len(result["kept"]), result["outside"], result["flat"])),
        ]
        for row, result in enumerate(results)
    ]
    tables = {
        "optics": particle_optics(shard.micrographs.optics, shard.boxes, shard.pixel_sizes),
        "particles": in_order(table),
        "micrographs": pd.DataFrame(counts, columns=pd.Index(MICROGRAPH_COLUMNS), dtype=object),
        "set_aside": pd.DataFrame(aside, columns=pd.Index(SET_ASIDE_COLUMNS), dtype=object),
    }
    write_star(out, tables)
    return {"particles": len(table), "set_aside": len(aside), "box_px": shape.size_px}
