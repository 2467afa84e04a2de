"""A folder to run the workflow in, and one finished tiny run that the tests share."""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
OFFLINE = Path(__file__).parent / "offline"
"""On PYTHONPATH, it refuses the network to every command of a workspace."""
NOT_COMPARED = ("records/", "report/", "settings.yaml")
"""Parts of a project that may differ between equal runs; so may hidden files (journals, checkpoints, the lock)."""


class Workspace:
    """A working folder as a clone has it (links to the workflow), with its own results."""

    def __init__(self, folder: Path, config: dict[str, object]) -> None:
        self.folder = folder
        self.config = config
        self.numbers = itertools.count()
        self.logs: dict[int, Path] = {}
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("Snakefile", "workflow", "profiles", "envs", "slurm", "config"):
            if not (folder / name).exists():
                (folder / name).symlink_to(ROOT / name)
        (folder / "run.yaml").write_text(yaml.safe_dump(config))

    @property
    def results(self) -> Path:
        return self.folder / "results" / str(self.config["project"])

    @property
    def network(self) -> Path:
        """What a command of this workspace asked of the network; not there if nothing did."""
        return self.folder / "network.txt"

    def copy(self, folder: Path) -> Workspace:
        """Copy everything with its times, so that nothing looks newer than it is."""
        shutil.copytree(self.folder, folder, symlinks=True)
        return Workspace(folder, self.config)

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        """Start a command of this environment here; what it says goes to a file, since a full pipe would stop it."""
        command = [str(BIN / words[0]), *words[1:]]
        environment = {key: value for key, value in os.environ.items() if not key.startswith("EMFLOW_")}
        path = [str(OFFLINE), os.environ.get("PYTHONPATH", "")]
        environment |= {"PYTHONPATH": os.pathsep.join(filter(None, path)), "OFFLINE_NOTES": str(self.network)}
        with open(self.folder / f"said-{next(self.numbers)}.txt", "wb") as log:
            process = subprocess.Popen(
                command, cwd=self.folder, env=environment, stdout=log, stderr=subprocess.STDOUT
            )
        self.logs[process.pid] = Path(log.name)
        return process

    def said(self, process: subprocess.Popen[bytes]) -> str:
        """Wait for the end of a command; return what it said."""
        process.wait()
        return self.logs[process.pid].read_text()

    def call(self, *words: str, code: int = 0) -> str:
        """Run a command here to its end; return what it said."""
        with self.start(*words) as process:
            said = self.said(process)
        assert process.returncode == code, said
        return said

    def snakemake(self, *words: str) -> tuple[str, ...]:
        """Words of the snakemake command of this project."""
        return (
            "snakemake",
            "--profile",
            "profiles/local",
            "--cores",
            "2",
            "--configfile",
            "run.yaml",
            *words,
        )

    def jobs(self, *words: str) -> dict[str, int]:
        """Jobs that a run would start, by rule; the target itself left out."""
        said = self.call(*self.snakemake("--dry-run", *words))
        block = said.split("Job stats:")[-1].split("total")[0] if "Job stats:" in said else ""
        found = re.findall(r"^(\w+) +(\d+)", block, flags=re.MULTILINE)
        return {rule: int(count) for rule, count in found if rule not in ("job", "all")}

    def wait_for(
        self, what: Callable[[], object], process: subprocess.Popen[bytes], seconds: float = 300.0
    ) -> None:
        """Wait until something is true; fail with what the process said if it ends before."""
        deadline = time.monotonic() + seconds
        while not what():
            if process.poll() is not None or time.monotonic() > deadline:
                process.kill()
                pytest.fail(f"did not happen:\n{self.said(process)[-3000:]}")
            time.sleep(0.02)

    def digests(self) -> dict[str, str]:
        """Digest of every result that must be equal between equal runs, by its path."""
        found = {}
        for path in sorted(self.results.rglob("*")):
            name = str(path.relative_to(self.results))
            hidden = any(part.startswith(".") for part in name.split("/"))
            if path.is_file() and not hidden and not name.startswith(NOT_COMPARED):
                found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        return found


def configuration() -> dict[str, object]:
    """Return the tiny example's configuration, to be changed."""
    return yaml.safe_load((ROOT / "config" / "tiny.yaml").read_text())


@pytest.fixture(scope="session")
def workspace_class() -> type[Workspace]:
    """The class itself, since tests cannot import from here."""
    return Workspace


@pytest.fixture
def tiny_configuration() -> dict[str, object]:
    """The tiny example's configuration, to be changed."""
    return configuration()


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A finished run of config/tiny.yaml; tests copy it before they change anything."""
    workspace = Workspace(tmp_path_factory.mktemp("tiny") / "work", configuration())
    workspace.call("emflow", "simulate", "session", "results/tiny-input", "--config", "run.yaml")
    workspace.call(*workspace.snakemake())
    return workspace
