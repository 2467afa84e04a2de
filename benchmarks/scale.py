"""What a large session costs beside its science: planning, the head process, starting jobs, pooled tables.

    python benchmarks/scale.py FOLDER [PART …] [--micrographs 50000] [--write]

Makes a project of that many empty micrographs in FOLDER (with the tables, 3 GB; remove it afterwards), with the
chain of config/spa.yaml in shards of 100. Each part is kept in FOLDER as soon as it is measured, so that a run that
was stopped goes on; remove FOLDER/scale.json to measure again.

run      a whole run whose steps only write small files: CPU time of Snakemake per job, its memory
plan     dry run, `emflow plan` and the start to the first job: with nothing, half and all made
grow     a dry run with 1 000 new micrographs: jobs by rule, how often each file is asked for
repeat   memory over 200 plans, in one process and in a process for each
steps    each step on 2 and on 10 micrographs of 4096 px: what starting it costs, and in a shard of 100
session_join, join_1_000_000, …   pooled steps over all micrographs and over so many particles: CPU time, memory

--write keeps the figures in benchmarks/results. CPU-seconds, since the machine may be shared.
"""

from __future__ import annotations

import argparse
import functools
import json
import platform
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

from scaling import planning, steps, tables
from scaling.project import Project

RESULTS = Path(__file__).parent / "results" / "scale.json"
JOINED = {"join_100_000": 100_000, "join_1_000_000": 1_000_000, "join_5_000_000": 5_000_000}
PARTS = ("run", "plan", "grow", "repeat", "steps", "session_join", *JOINED)
SMALL = 1200
"""Micrographs of the project that is planned again and again."""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("folder", type=Path)
    arguments.add_argument("parts", nargs="*", default=PARTS)
    arguments.add_argument("--micrographs", type=int, default=50_000)
    arguments.add_argument("--turns", type=int, default=200)
    arguments.add_argument("--write", action="store_true")
    given = arguments.parse_args()
    given.folder = given.folder.resolve()
    kept = given.folder / "scale.json"
    given.folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {}
    project, shards = Project(given.folder / "large"), -(-given.micrographs // 100)
    project.add(given.micrographs - len(list(project.images.iterdir())))
    measures: dict[str, Callable[[], Any]] = {
        "run": lambda: planning.long_run(project),
        "plan": lambda: planning.plans(project, shards),
        "grow": lambda: planning.grow(project, shards, given.micrographs // 50),
        "repeat": lambda: planning.repeated(_small(given.folder), given.turns),
        "steps": lambda: steps.overhead(given.folder / "steps", found["run"]["cpu_s_per_job"]),
        "session_join": lambda: tables.session_join(given.folder / "tables", given.micrographs),
    }
    for part, particles in JOINED.items():
        measures[part] = functools.partial(tables.extract_join, given.folder / "tables", particles)
    for part in (part for part in PARTS if part in given.parts):
        if part not in found:
            found[part] = measures[part]()
            kept.write_text(json.dumps(found, indent=1) + "\n")
        print(json.dumps({part: found[part]}), flush=True)
    if given.write:
        versions = {name: metadata.version(name) for name in ("emflow", "snakemake", "pandas", "torch")}
        told = {
            "command": "python benchmarks/scale.py FOLDER --write",
            "micrographs": given.micrographs,
            "versions": {"python": platform.python_version(), **versions},
            "machine": "two cores of a shared machine without GPU, ten other workers; one thread",
        }
        RESULTS.write_text(json.dumps(told | found, indent=1) + "\n")


def _small(folder: Path) -> Project:
    project = Project(folder / "small")
    project.add(SMALL - len(list(project.images.iterdir())))
    return project


if __name__ == "__main__":
    main()
