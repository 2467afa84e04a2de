"""A project of many micrographs without pixels, and steps that only write small files."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
STEP = """#!/bin/sh
# Writes the outputs of the job whose record is the last word, and the record.
for word; do record=$word; done
if [ -n "$EMFLOW_SCALE_STOP" ]; then exit 1; fi
while read -r path; do : > "$path"; done < "{outputs}/$record"
echo '{{}}' > "$record"
"""
RUN = """
import sys
sys.executable = {python!r}  # the Snakefile puts the emflow beside it first on PATH
from snakemake.cli import main
sys.argv[0] = "snakemake"
main(sys.argv[1:])
"""
OUTPUTS = """
import logging
from pathlib import Path
from snakemake.api import SnakemakeApi
from snakemake.settings.types import ConfigSettings, DAGSettings, OutputSettings, Quietness, ResourceSettings
quiet = {Quietness.RULES, Quietness.PROGRESS}
with SnakemakeApi(OutputSettings(dryrun=True, quiet=quiet, log_level_override=logging.ERROR)) as api:
    run = api.workflow(resource_settings=ResourceSettings(), snakefile=Path("Snakefile"),
                       config_settings=ConfigSettings(configfiles=[Path("run.yaml")]))
    run.dag(DAGSettings(force_incomplete=True)).execute_workflow(executor="dryrun")
    for job in run._workflow.dag.jobs:
        if job.output:
            path = Path("outputs") / str(job.log[0])
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(f"{name}\\n" for name in job.output))
"""
PROJECT = "large"


class Project:
    """A working folder with a project of many micrographs; config/spa.yaml as it stands."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.images = self.folder / "data" / "micrographs"
        self.results = self.folder / "results" / PROJECT
        self.images.mkdir(parents=True, exist_ok=True)
        for name in ("Snakefile", "workflow", "profiles", "envs", "slurm", "config"):
            if not (self.folder / name).is_symlink():
                (self.folder / name).symlink_to(ROOT / name)
        config = yaml.safe_load((ROOT / "config" / "spa.yaml").read_text()) | {"project": PROJECT}
        config["input"] = {"micrographs": "data/micrographs"}
        (self.folder / "run.yaml").write_text(yaml.safe_dump(config))
        beside = self.folder / "fake"
        beside.mkdir(exist_ok=True)
        (beside / "emflow").write_text(STEP.format(outputs=self.folder / "outputs"))
        (beside / "emflow").chmod(0o755)
        (beside / "run.py").write_text(RUN.format(python=str(beside / "python")))

    def add(self, count: int) -> None:
        """Put so many empty micrographs more into the folder."""
        there = len(list(self.images.iterdir()))
        for number in range(there + 1, there + count + 1):
            (self.images / f"mic_{number:06d}.mrc").touch()

    def snakemake(self, *words: str) -> list[str]:
        """The command of the project, with steps that only write small files."""
        return [
            sys.executable, str(self.folder / "fake" / "run.py"), "--profile", "profiles/local", "--cores", "2",
            "--configfile", "run.yaml", *words,
        ]  # fmt: skip

    def outputs_command(self) -> list[str]:
        """Command that writes down which outputs each job has, for the steps that only write small files."""
        return [sys.executable, "-c", OUTPUTS]

    def undo(self, keep: int) -> None:
        """Make it a project where only the first shards were worked on: no pooled result, no later shard."""
        for path in [*self.results.rglob("*")]:
            number = re.search(r"shard_(\d+)\.", path.name)
            listed = path.parent == self.results / "session" and number
            early = number and int(number[1]) <= keep and "recentered" not in path.parts
            if path.is_file() and not listed and not early and path.name != "settings.yaml":
                path.unlink()

    def keep(self, name: str) -> None:
        """Store the state of results and of what Snakemake knows about them."""
        for part in ("results", ".snakemake"):
            shutil.copytree(self.folder / part, self.folder / "kept" / name / part)

    def restore(self, name: str) -> None:
        """Bring a stored state back, with its times; a state that was never stored is nothing made yet."""
        for part in ("results", ".snakemake"):
            shutil.rmtree(self.folder / part, ignore_errors=True)
            if (self.folder / "kept" / name).exists():
                shutil.copytree(self.folder / "kept" / name / part, self.folder / part)


def counts(said: str) -> dict[str, int]:
    """Jobs of a dry run by rule; the target itself left out."""
    block = said.split("Job stats:")[-1].split("total")[0] if "Job stats:" in said else ""
    found = re.findall(r"^(\w+) +(\d+)", block, flags=re.MULTILINE)
    return {rule: int(count) for rule, count in found if rule not in ("job", "all")}
