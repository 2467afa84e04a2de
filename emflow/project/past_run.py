"""What a project's folder tells of its run: the jobs' records, the results, the inputs."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import yaml

from emflow.config import Settings
from emflow.step import EmflowError

LEFT_OUT = ("records/", "report/", "settings.yaml", "ro-crate-metadata.json")
"""Parts of a project that may differ between equal runs; so may hidden files (journals, checkpoints, the lock)."""
_PER_IMAGE = ("denoise/images/", "denoise/deviations/", "denoise/samples/", "motion/sums/")
_CHUNK = 1 << 22


@dataclass(frozen=True)
class Job:
    """One job: its name below records/ (``ctf.fit/shard_00001``) and what its record says."""

    name: str
    record: dict[str, Any]

    @property
    def step(self) -> str:
        """Room and verb."""
        return str(self.record["step"])

    @property
    def rule(self) -> str:
        """Kind of job: the step, and what sets jobs of one step apart (``extract.join/recentered``)."""
        folder, _, name = self.name.partition("/")
        word = name.rsplit("_", 1)[0] if name[-5:].isdigit() else name
        return folder if word in ("shard", "all") else f"{folder}/{word}"


@dataclass
class PastRun:
    """A project that has run, finished or not."""

    folder: Path
    settings: dict[str, Any]
    jobs: list[Job] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Name of the project."""
        return str(self.settings["project"])

    @cached_property
    def work(self) -> Path:
        """Working folder of the run, from which relative paths count; where the project is now, if it was moved."""
        told = next((job.record["folder"] for job in reversed(self.jobs) if job.record.get("folder")), None)
        here = self.folder.resolve()
        moved = told is None or not (Path(told) / "results" / self.name).is_dir()
        if moved and here.parent.name == "results":
            return here.parents[1]
        return Path(told) if told else here

    @cached_property
    def resolution_angstrom(self) -> float:
        """Resolution that the validation found, in ångström; 0 where it found none."""
        try:
            metrics = json.loads((self.folder / "validate" / "metrics.json").read_text(encoding="utf-8"))
            return float(metrics["resolution_angstrom"] or 0.0)
        except (OSError, ValueError, KeyError, TypeError):
            return 0.0

    def results(self) -> Iterator[str]:
        """Relative path of every result, sorted; records, report and hidden files are none."""
        for path in sorted(self.folder.rglob("*")):
            name = path.relative_to(self.folder).as_posix()
            if is_result(name) and path.is_file():
                yield name


def _order(job: Job) -> tuple[str, int, str]:
    """Place of a job among others: its start, to the second, then the time of what it wrote."""
    wrote = [int(item.get("mtime_ns", 0)) for item in job.record.get("outputs", [])]
    return str(job.record["started"]), max(wrote, default=0), job.name


def is_result(name: str) -> bool:
    """Whether a file of a project must be equal between equal runs."""
    return not name.startswith(LEFT_OUT) and not any(part.startswith(".") for part in name.split("/"))


def read_past_run(folder: Path) -> PastRun:
    """Read a project's settings and records, jobs in the order in which they started.

    Raises
    ------
    EmflowError
        If there are no settings or records, or one cannot be read.
    """
    frozen = folder / "settings.yaml"
    try:
        settings = yaml.safe_load(frozen.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise EmflowError(
            f"{frozen}: cannot be read ({error}); expected the settings that a run stores. Name a project that has run."
        ) from None
    name, allowed = (
        str((settings or {}).get("project", "")),
        Settings.model_fields["project"].metadata[0].pattern,
    )
    if not re.match(allowed, name):
        raise EmflowError(f"{frozen}: project is {name!r}; expected a name as in results/NAME.")
    jobs = []
    for path in sorted((folder / "records").rglob("*.json")):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            lacking = {"step", "started", "settings"} - record.keys()
            if lacking:
                raise ValueError(f"it lacks {', '.join(sorted(lacking))}")
            jobs.append(Job(path.relative_to(folder / "records").with_suffix("").as_posix(), record))
        except (OSError, ValueError, AttributeError) as error:
            raise EmflowError(
                f"{path}: not a step's record ({error}). Remove it; the step writes it anew with its next run."
            ) from None
    if not jobs:
        raise EmflowError(f"{folder}: has no records of steps (records/…/*.json); run the project first.")
    return PastRun(folder, settings, sorted(jobs, key=_order))


def holds_pixels(name: str) -> bool:
    """Whether a result is a stack or an image of a micrograph: large, and digested only when asked."""
    return name.endswith(".mrcs") or name.startswith(_PER_IMAGE)


def sha256_of(path: Path) -> str:
    """Digest of a file, read in pieces; once in a process, as long as its size and time stay."""
    stat = path.stat()
    return _sha256(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=100_000)
def _sha256(path: Path, size: int, mtime_ns: int) -> str:
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as handle:
        while piece := handle.read(_CHUNK):
            digest.update(piece)
    return digest.hexdigest()


def micrographs_of(folder: Path) -> Iterator[dict[str, str]]:
    """Rows of the stored lists of micrographs."""
    from emflow.io.shards import read_shards

    for shard in read_shards(folder / "session"):
        for row in shard.table.to_dict("records"):
            yield {str(key): str(value) for key, value in row.items()}


def absolute(work: Path, name: str | os.PathLike[str]) -> Path:
    """Path of a file as the run saw it."""
    return Path(os.path.normpath(work / name))


def texts_of(settings: object) -> Iterator[str]:
    """All texts in nested settings: among them are the files that they name."""
    if isinstance(settings, dict):
        for value in settings.values():
            yield from texts_of(value)
    elif isinstance(settings, list):
        for value in settings:
            yield from texts_of(value)
    elif isinstance(settings, str):
        yield settings
