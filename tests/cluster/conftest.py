"""A real SLURM for the tests of the SLURM profile, and a project on it."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

HERE = Path(__file__).parent
ONE_NODE = HERE / "one-node"
NEEDED = bool(os.environ.get("EMFLOW_TEST_SLURM"))
"""Set where these tests must run (.ci/run): nothing is skipped then."""

# The finished local run that results are compared with is that of the tests of the project.
_spec = importlib.util.spec_from_file_location("project_conftest", HERE.parent / "project" / "conftest.py")
assert _spec is not None
assert _spec.loader is not None
_project = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_project)
tiny = _project.tiny
Workspace = _project.Workspace

SITE = {
    "account": "mylab",
    "extra": "--priority=1000",
    "partitions": {
        "cpu": {"max_hours": 24, "max_memory_gb": 40, "max_threads": 4},
        "gpu": {"max_hours": 12, "max_memory_gb": 24, "max_threads": 4, "gpus": 1},
    },
}


@dataclass(frozen=True)
class Job:
    """A job as SLURM accounts for it."""

    number: str
    state: str
    start: str
    end: str
    submitted: str
    partition: str
    gpus: bool
    what: str
    minutes: int
    priority: int


class Cluster:
    """What the tests ask of SLURM and do to it."""

    def ask(self, *words: str) -> list[str]:
        """Run a command of SLURM's; return the lines that it prints."""
        done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)
        return done.stdout.splitlines()

    def let_start(self, may: bool) -> None:
        """Let no queued job start, until they may again."""
        for partition in SITE["partitions"]:
            self.ask("scontrol", "update", f"PartitionName={partition}", f"State={'UP' if may else 'DOWN'}")

    def jobs(self, folder: Path) -> list[Job]:
        """All jobs, ended or not, that were submitted from a folder; those tried again count twice."""
        columns = "JobID,State,Start,End,Submit,Partition,ReqTRES,Comment,TimelimitRaw,Priority,WorkDir"
        rows = (line.split("|") for line in self.ask("sacct", "-XnPD", "--units=M", f"--format={columns}"))
        return [
            Job(*row[:6], "gres/gpu" in row[6], row[7], int(row[8] or 0), int(row[9] or 0))
            for row in rows
            if row[10] == str(folder)
        ]

    def queued(self, folder: Path, state: str = "") -> dict[str, str]:
        """Jobs of a folder that have not ended: what each is, and its number."""
        rows = (line.split("|") for line in self.ask("squeue", "--noheader", "--format=%k|%i|%T|%Z"))
        return {row[0]: row[1] for row in rows if row[3] == str(folder) and row[2].startswith(state)}


def _impossible() -> str:
    """Why there can be no SLURM here; empty where there can."""
    if os.geteuid() != 0:
        return "only root can start a SLURM of its own"
    missing = subprocess.run([ONE_NODE, "missing"], capture_output=True, text=True, check=False)
    if missing.returncode != 0:
        return "SLURM is set up on Debian only"
    if missing.stdout:
        return f"SLURM is not installed; to run these tests: sudo {ONE_NODE} install"
    return ""


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A SLURM of one node with one fake GPU, for as long as the tests need it."""
    reason = _impossible()
    if reason and not NEEDED:
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("slurm")
    claimed = {**os.environ, "ONE_NODE_CPUS": "4"}  # so that several jobs of one thread run at once
    started = subprocess.run(
        [ONE_NODE, "up", folder], capture_output=True, text=True, check=False, env=claimed
    )
    try:
        assert started.returncode == 0, reason + started.stdout + started.stderr
        yield Cluster()
    finally:
        subprocess.run([ONE_NODE, "down", folder], check=False)


class OnSlurm(Workspace):
    """A project that runs through the SLURM profile, asking often how its jobs are."""

    def snakemake(self, *words: str) -> tuple[str, ...]:
        polling = ("--slurm-init-seconds-before-status-checks", "2")
        return ("snakemake", "--profile", "slurm", "--configfile", "run.yaml", *polling, *words)


@pytest.fixture(scope="session")
def new_project(tiny: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], OnSlurm]:
    """Make a project with the input of the finished local run, a site file, and nothing done yet."""

    def make() -> OnSlurm:
        workspace = OnSlurm(tmp_path_factory.mktemp("on-slurm") / "work", tiny.config)
        inputs = Path("results") / "tiny-input"
        shutil.copytree(
            tiny.folder / inputs, workspace.folder / inputs
        )  # with their times, which identify them
        site = {**SITE, "scratch": str(workspace.folder / "scratch")}
        (workspace.folder / "site.yaml").write_text(yaml.safe_dump(site, sort_keys=False))
        return workspace

    return make


@pytest.fixture(scope="module")
def project(new_project: Callable[[], OnSlurm]) -> OnSlurm:
    """The project that the tests of a file share."""
    return new_project()
