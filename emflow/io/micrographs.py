"""Tables of micrographs: from a STAR file, a folder, a glob or one image; each with its optics."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from emflow.io.atomic import StepError
from emflow.io.attempts import Attempts
from emflow.io.journal import Journal
from emflow.io.listing import Listed, list_images, stat_file
from emflow.io.star import floats, read_star
from emflow.step import EmflowError, Execution, OpticsFacts, OutOfMemory

log = logging.getLogger("emflow")

SET_ASIDE_COLUMNS = ["rlnMicrographName", "emflowMicrographId", "emflowReason", "emflowExpected"]


@dataclass(frozen=True)
class Micrographs:
    """Micrographs with their optics groups, as text tables (STAR blocks micrographs and optics)."""

    table: pd.DataFrame
    optics: pd.DataFrame

    def __len__(self) -> int:
        return len(self.table)

    def facts(self, row: int) -> OpticsFacts:
        """Optics of one micrograph, from its optics group."""
        group = str(self.table["rlnOpticsGroup"].iloc[row]) if "rlnOpticsGroup" in self.table else "1"
        match = self.optics[self.optics["rlnOpticsGroup"].astype(str) == group]
        if len(match) != 1:
            raise EmflowError(f"Optics group {group} of {self.name(row)} is not in data_optics.")
        return optics_facts(match)

    def name(self, row: int) -> str:
        """Path of the image, as the table gives it (relative to the working folder)."""
        return str(self.table["rlnMicrographName"].iloc[row])

    def identity(self, row: int) -> str:
        """The micrograph's id."""
        return str(self.table["emflowMicrographId"].iloc[row])


def optics_facts(group: pd.DataFrame) -> OpticsFacts:
    """Facts of a one-row optics table."""
    for column in ("rlnMicrographPixelSize", "rlnMicrographOriginalPixelSize", "rlnImagePixelSize"):
        if column in group:
            pixel = float(floats(group, column)[0])
            break
    else:
        raise EmflowError("data_optics has no pixel size (_rlnMicrographPixelSize).")
    return OpticsFacts(
        pixel_size_angstrom=pixel,
        voltage_kv=float(floats(group, "rlnVoltage")[0]),
        cs_mm=float(floats(group, "rlnSphericalAberration")[0]),
        amplitude_contrast=float(floats(group, "rlnAmplitudeContrast")[0]),
    )


def optics_table(facts: OpticsFacts) -> pd.DataFrame:
    """One optics group, RELION's columns; the pixel size must be known."""
    if facts.pixel_size_angstrom is None:
        raise EmflowError(
            "The pixel size is not known: set sample.pixel_size_angstrom in the configuration "
            "(or give --pixel-size-angstrom). Image headers are not trusted for it."
        )
    return pd.DataFrame(
        {
            "rlnOpticsGroup": ["1"],
            "rlnOpticsGroupName": ["opticsGroup1"],
            "rlnMicrographPixelSize": [facts.pixel_size_angstrom],
            "rlnVoltage": [facts.voltage_kv],
            "rlnSphericalAberration": [facts.cs_mm],
            "rlnAmplitudeContrast": [facts.amplitude_contrast],
        },
        dtype=object,
    )


def micrograph_id(path: str | os.PathLike[str]) -> str:
    """Short hash of base name, size and modification time: the micrograph's identity."""
    return (stat_file(str(path)) or Listed(str(path), -1, 0)).identity


def find_images(source: str | os.PathLike[str]) -> list[Path]:
    """List the images of a folder, a glob, a text list or a single file; see :func:`list_images`."""
    return [Path(listed.name) for listed in list_images(source)]


def load_micrographs(source: str | os.PathLike[str], facts: OpticsFacts | None = None) -> Micrographs:
    """Load micrographs from a STAR table (its optics win) or from plain images (then ``facts`` must be given).

    Raises
    ------
    EmflowError
        If nothing is found, or the pixel size is known from neither.
    """
    if str(source).endswith(".star"):
        tables = read_star(source)
        if "micrographs" not in tables:
            raise EmflowError(
                f"{source}: has no block data_micrographs; it has {', '.join('data_' + b for b in tables)}."
            )
        table = tables["micrographs"]
        if "rlnMicrographName" not in table:
            raise EmflowError(f"{source}: data_micrographs lacks the column _rlnMicrographName.")
        if "emflowMicrographId" not in table:
            table = table.assign(emflowMicrographId=[micrograph_id(p) for p in table["rlnMicrographName"]])
        optics = tables["optics"] if "optics" in tables else optics_table(facts or OpticsFacts())
        return Micrographs(table, optics)
    images = list_images(source)
    if not images:
        raise EmflowError(
            f"{source}: no MRC or TIFF image found. Give a folder, a glob in quotes, or a STAR table."
        )
    table = pd.DataFrame(
        {
            "rlnMicrographName": [image.name for image in images],
            "emflowMicrographId": [image.identity for image in images],
            "rlnOpticsGroup": "1",
        },
        dtype=object,
    )
    return Micrographs(table, optics_table(facts or OpticsFacts()))


def require_folder(micrographs: Micrographs, row: int) -> None:
    """Refuse to judge a micrograph whose whole folder went away since it was listed: a disk that is not mounted.

    Raises
    ------
    StepError
        Naming the folder.
    """
    listed = str(micrographs.table["emflowSize"].iloc[row]) if "emflowSize" in micrographs.table else "-1"
    folder = Path(micrographs.name(row)).parent
    if listed == "-1":  # nobody has seen the file
        return
    try:
        with os.scandir(folder) as entries:
            empty = next(entries, None) is None
    except OSError as error:
        why = error.strerror or "it cannot be read"
    else:
        if not empty:
            return
        why = "it is empty"
    raise StepError(
        f"{folder}: the folder of the micrographs was there when they were listed, and now is not ({why}). No "
        "micrograph is set aside for that: mount it again, then run the same command."
    )


def for_each(
    micrographs: Micrographs,
    work: Callable[[int], dict[str, Any]],
    journal: Journal,
    key: Callable[[int], str],
    limit_minutes: float = Execution().image_limit_minutes,
) -> tuple[dict[int, dict[str, Any]], pd.DataFrame]:
    """Run ``work(row)`` on every micrograph; keep what was done before; set aside what fails.

    ``work`` returns a JSON-able result. An :class:`EmflowError` sets that micrograph aside with its
    reason; the rest goes on. What raised is not kept in the journal: a file that could not be read (no
    permission, a disk that was away) is tried again. One on which the process died twice, or ran into
    ``limit_minutes``, is set aside too (:mod:`emflow.io.attempts`).

    Returns
    -------
    results by row, and the set-aside table (columns ``SET_ASIDE_COLUMNS``).

    Raises
    ------
    StepError
        If nothing can be written, or the folder of the micrographs is away: that sets none aside.
    """
    attempts = Attempts(journal.path, limit_minutes)
    names = [(micrographs.identity(row), key(row)) for row in range(len(micrographs))]
    # those on which the process died come last: nobody is given up while the step fails on all of them
    order = sorted(range(len(names)), key=lambda row: attempts.deaths(*names[row]))
    found: dict[int, dict[str, Any]] = {}
    started = told = time.monotonic()
    for done, row in enumerate(order):
        if time.monotonic() - told > 60:
            told = time.monotonic()
            left = (told - started) / max(done, 1) * (len(order) - done) / 60
            log.info("%d of %d micrographs, about %.0f minutes left", done, len(order), left)
        result = journal.get(*names[row])
        if result is None and (reason := attempts.given_up(*names[row])):
            result = {"set_aside": reason, "expected": "an image that can be worked on"}
        elif result is None:
            try:
                with attempts.at(micrographs.name(row), *names[row]):
                    result = work(row)
            except (StepError, OutOfMemory):  # of the machine, not of this micrograph
                raise
            except EmflowError as error:
                require_folder(micrographs, row)
                log.warning("set aside: %s", error)
                result = {"set_aside": str(error)}
            else:
                journal.put(*names[row], result)
        found[row] = result
    aside = [
        [micrographs.name(row), names[row][0], found[row]["set_aside"], found[row].get("expected", "")]
        for row in sorted(found)
        if "set_aside" in found[row]
    ]
    results = {row: found[row] for row in sorted(found) if "set_aside" not in found[row]}
    return results, pd.DataFrame(aside, columns=pd.Index(SET_ASIDE_COLUMNS), dtype=object)
