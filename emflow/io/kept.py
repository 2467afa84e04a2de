"""Results of a pooling step, kept aside so that its next run can go on from them.

Snakemake removes a step's declared outputs before a rerun. What the next run begins with is therefore kept in
hidden numbered folders beside them, hard-linked where the file system can. A folder is named after the key of
the run that made it: a run that is repeated (killed, or forced) finds its own folder, does not take it for an
earlier one, and begins where it began before. So the same history gives the same bytes.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from emflow.io.atomic import write_errors, write_text
from emflow.io.record import same_settings

_MADE = "made.json"


@dataclass(frozen=True)
class Made:
    """How a kept result came about."""

    key: str
    """Identity of settings and inputs."""
    lineage: str
    """What the settings come to, its own and those of all steps before it."""
    particles: int
    anew_particles: int
    """Particles when it last began from nothing."""


LEAST_OLD = 0.5
"""Share of the particles that must have been there when a step last began from nothing, for it to go on."""


def why_anew(made: Made, lineage: str, particles: int) -> str:
    """Say why a step does not go on from a kept result, with so many particles now; empty if it may."""
    if not same_settings(lineage, made.lineage):
        return "a setting has changed since the previous result, or a restart was asked for"
    if made.anew_particles < LEAST_OLD * particles:
        return (
            f"it last began from nothing with {made.anew_particles} particles, of now {particles}: "
            "more than half are new"
        )
    return ""


class Kept:
    """The kept results of one step; at most two are there: the last, and the one that it began with."""

    def __init__(self, folder: Path, key: str) -> None:
        """Name the folder, and the key of the run that is about to begin."""
        self.folder, self.key = folder, key

    def previous(self) -> tuple[Path, Made] | None:
        """Return the folder of the result before this run's own, and how it was made; None for a first run."""
        earlier = [path for path in self._all() if not path.name.endswith(f"-{self.key}")]
        if not earlier:
            return None
        content = json.loads((earlier[-1] / _MADE).read_text(encoding="utf-8"))
        return earlier[-1], Made(**content)

    def keep(self, files: Mapping[str, Path], made: Made) -> None:
        """Keep files of this run's result under the given names; what is older than its predecessor goes.

        Raises
        ------
        WriteError
            If the disk is full.
        """
        there = self._all()
        if there and there[-1].name.endswith(f"-{self.key}"):
            return
        number = 1 + max((int(path.name.split("-")[0]) for path in there), default=0)
        self._write(self.folder / f"{number:05d}-{self.key}", files, made)
        for path in self._all()[:-2]:
            shutil.rmtree(path)

    def _all(self) -> list[Path]:
        """Complete folders, oldest first."""
        return sorted(path.parent for path in self.folder.glob(f"[0-9]*-*/{_MADE}"))

    def _write(self, place: Path, files: Mapping[str, Path], made: Made) -> None:
        with write_errors(place):
            shutil.rmtree(place, ignore_errors=True)  # left by a kill before made.json
            place.mkdir(parents=True)
            for name, file in files.items():
                try:
                    os.link(file, place / name)
                except OSError:  # a file system without hard links
                    shutil.copyfile(file, place / name)
        write_text(place / _MADE, json.dumps(asdict(made), indent=1) + "\n")
