"""Run a past project again in a folder of its own: same settings, same micrographs in the same shards."""

from __future__ import annotations

import copy
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from emflow.io.atomic import write_text
from emflow.io.shards import read_shards
from emflow.io.star import concat, write_star
from emflow.project.past_run import PastRun, micrographs_of, texts_of
from emflow.step import EmflowError

_WORKFLOW = ("Snakefile", "workflow", "profiles", "envs", "slurm")
_LISTS = (".star", ".txt", ".lst")
_HALVES = ("emflowEvenName", "emflowOddName")
_MAGIC = re.compile(r"[*?\[{]")


def prepare(past: PastRun, into: Path, snakefile: Path) -> Path:
    """Make the folder for a rerun; return the working folder in it.

    Relative paths of the settings mean the same files: links lead to where they are. The lists of shards are
    copied, and the micrographs are named one by one, so that those that came later stay out.

    Raises
    ------
    EmflowError
        If the folder holds something, or the run has neither a list of micrographs nor a volume.
    """
    if into.exists() and (not into.is_dir() or any(into.iterdir())):
        raise EmflowError(f"{into}: exists and is not empty. Name another folder: --into FOLDER.")
    lists = sorted((past.folder / "session").glob("shard_*.star"))
    if not lists and not past.settings["input"].get("volume"):
        raise EmflowError(
            f"{past.folder}/session: no list of micrographs (shard_00001.star …); nothing to repeat."
        )
    names = list(dict.fromkeys(_given(past)))
    work = into.joinpath(*["work"] * max(map(_climbs, names), default=0))
    project = work / "results" / past.name
    (project / "session" if lists else project).mkdir(parents=True)
    for name in _WORKFLOW:
        if (snakefile.parent / name).exists():
            (work / name).symlink_to((snakefile.parent / name).resolve())
    for name in names:
        _link(Path(os.path.normpath(past.work / name)), Path(os.path.normpath(work / name)), project, into)
    for path in lists:
        shutil.copy2(path, project / "session" / path.name)
    settings = copy.deepcopy(past.settings)
    source = settings["input"]["micrographs"]
    if source and not source.endswith(_LISTS):
        stored = read_shards(past.folder / "session")
        tables = {
            "optics": concat(shard.optics for shard in stored).drop_duplicates("rlnOpticsGroup"),
            "micrographs": concat(shard.table[["rlnMicrographName", "rlnOpticsGroup"]] for shard in stored),
        }
        write_star(work / "micrographs.star", tables)
        settings["input"]["micrographs"] = "micrographs.star"
    write_text(work / "run.yaml", yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))
    return work


def run(work: Path, rules: Sequence[str], cores: int, profile: str) -> int:
    """Run Snakemake in a working folder, up to some rules or to the end; return its exit code."""
    command = [sys.executable, "-m", "snakemake", "--profile", profile, "--cores", str(cores)]
    command += ["--configfile", "run.yaml", *(["--until", *rules] if rules else [])]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("EMFLOW_")}
    with open(work / "snakemake.log", "wb") as log:
        return subprocess.run(
            command, cwd=work, env=environment, stdout=log, stderr=subprocess.STDOUT, check=False
        ).returncode


def _given(past: PastRun) -> Iterator[str]:
    """Relative paths that the run was given: those of settings, and the folders of the micrographs."""
    for name in texts_of(past.settings):
        fixed = _fixed_part(name)
        if fixed and not os.path.isabs(fixed) and len(fixed) < 1000 and "\0" not in fixed:
            place = past.work / fixed
            if place.exists() and place.resolve() != past.work.resolve() and not _made(past, fixed):
                yield fixed
                if fixed.endswith(".safetensors"):
                    yield str(Path(fixed).with_suffix(".json"))  # the manifest beside the weights
    for row in micrographs_of(past.folder):
        for column in ("rlnMicrographName", *_HALVES):
            name = row.get(column, "None")
            if name not in ("", "None") and not os.path.isabs(name):
                yield os.path.dirname(name) or name


def _made(past: PastRun, name: str) -> bool:
    """Whether a job of the run made the file: it is made again, not linked."""
    path = os.path.normpath(name)
    return any(
        os.path.normpath(item["path"]) == path for job in past.jobs for item in job.record.get("outputs", [])
    )


def _fixed_part(name: str) -> str:
    """Path up to the first part with a wildcard: ``even/{name}.mrc`` → ``even``."""
    parts = []
    for part in name.split("/"):
        if _MAGIC.search(part):
            break
        parts.append(part)
    return "/".join(parts)


def _climbs(name: str) -> int:
    """How many folders a path goes up at most."""
    return sum(part == ".." for part in os.path.normpath(name).split("/"))


def _link(old: Path, new: Path, project: Path, into: Path) -> None:
    """Link a file or folder; where a folder of that name is there, link what is in it. Never over the project."""
    if new == project or not new.parent.resolve().is_relative_to(into.resolve()):
        return
    if not os.path.lexists(new) and not project.is_relative_to(new):
        new.parent.mkdir(parents=True, exist_ok=True)
        new.symlink_to(old.absolute())
    elif new.is_dir() and not new.is_symlink() and old.is_dir():
        for child in sorted(old.iterdir()):
            _link(child, new / child.name, project, into)
