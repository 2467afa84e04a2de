"""Work that grows with the micrographs, counted on 1 250 of them: which shards are touched, which files are asked for."""

from __future__ import annotations

import builtins
import collections
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from emflow.config import load_settings
from emflow.project.chain import find_shards

MICROGRAPHS, SHARDS = 1250, 13
PER_SHARD = ("session_check", "ctf_fit", "pick_apply", "session_select", "extract_run")
CONFIG: dict[str, object] = {
    "project": "many",
    "input": {"micrographs": "data/micrographs"},
    "sample": {"pixel_size_angstrom": 1.1, "diameter_angstrom": 180},
}
STEP = """#!/bin/sh
# writes the outputs of the job whose record is the last word, and the record
for word; do record=$word; done
while read -r path; do : > "$path"; done < "{outputs}/$record"
echo '{{}}' > "$record"
"""
COUNTED = """
import collections, os, sys
import emflow.project.disk
emflow.project.disk.require_space = lambda workflow: None  # nothing of that size is written here
{prepare}
asked, stat = collections.Counter(), os.stat
def counted(path, *rest, **more):
    asked[str(path)] += 1
    return stat(path, *rest, **more)
os.stat = counted
from snakemake.cli import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    print("ENDED", end.code)
images = [count for path, count in asked.items() if path.startswith("data/micrographs/")]
print("STAT", len(images), max(images))
"""


def add(folder: Path, first: int, last: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(first, last + 1):
        (folder / f"mic_{number:05d}.mrc").touch()


def dry_jobs(said: str) -> dict[str, list[dict[str, str]]]:
    """Jobs of a dry run: rule → what is said of each."""
    jobs = collections.defaultdict(list)
    for rule, block in re.findall(r"^rule (\w+):\n((?:    .+\n)+)", said, flags=re.MULTILINE):
        jobs[rule].append(dict(re.findall(r"^    (\w+): (.+)$", block, flags=re.MULTILINE)))
    return jobs


def call(workspace, prepare: str, *words: str) -> str:
    """Run snakemake in a process that counts how often each file is asked for."""
    script = COUNTED.format(prepare=prepare)
    done = subprocess.run(
        [sys.executable, "-c", script, *workspace.snakemake(*words)[1:]],
        cwd=workspace.folder, capture_output=True, text=True, check=True,
        env={key: value for key, value in os.environ.items() if not key.startswith("EMFLOW_")},
    )  # fmt: skip
    assert "ENDED 0" in done.stdout, done.stderr[-3000:]
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def many(workspace_class, tmp_path_factory):
    """A project of many micrographs, finished by steps that only write empty files; and what its plan said."""
    workspace = workspace_class(tmp_path_factory.mktemp("many") / "work", CONFIG)
    add(workspace.folder / "data" / "micrographs", 1, MICROGRAPHS)
    planned = call(workspace, "", "--dry-run")
    beside = workspace.folder / "fake"
    for jobs in dry_jobs(planned).values():
        for job in jobs:
            if "output" in job:
                path = beside / "outputs" / job["log"]
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text("\n".join(job["output"].split(", ")) + "\n")
    (beside / "emflow").write_text(STEP.format(outputs=beside / "outputs"))
    (beside / "emflow").chmod(0o755)
    # the Snakefile puts the emflow that lies beside the Python of the run first on PATH
    call(workspace, f"sys.executable = {str(beside / 'python')!r}", "--quiet", "rules", "progress")
    return workspace, planned


def test_a_job_for_each_shard_that_depends_on_lists_and_on_no_micrograph(many):
    _, planned = many
    jobs = dry_jobs(planned)
    assert {rule: len(jobs[rule]) for rule in PER_SHARD} == dict.fromkeys(PER_SHARD, SHARDS)
    assert sum(map(len, jobs.values())) < 8 * SHARDS + 20
    inputs = [job["input"] for of_rule in jobs.values() for job in of_rule]
    assert len(inputs) > 6 * SHARDS
    assert not [name for name in inputs if "data/micrographs" in name]


def test_new_micrographs_touch_only_the_shards_that_they_join(many):
    workspace, _ = many
    folder = workspace.folder / "data" / "micrographs"
    lists = {path: path.read_bytes() for path in (workspace.results / "session").glob("shard_*.star")}
    assert len(lists) == SHARDS
    add(folder, MICROGRAPHS + 1, MICROGRAPHS + 151)  # 50 fill the last shard, 101 begin two more
    try:
        said = call(workspace, "", "--dry-run")
    finally:
        for number in range(MICROGRAPHS + 1, MICROGRAPHS + 152):
            (folder / f"mic_{number:05d}.mrc").unlink()
    jobs = dry_jobs(said)
    touched = {rule: sorted(job["wildcards"] for job in jobs[rule]) for rule in PER_SHARD}
    assert touched == dict.fromkeys(PER_SHARD, [f"shard=000{number}" for number in (13, 14, 15)])
    assert len(jobs["session_join"]) == len(jobs["report"]) == 1
    assert {path: path.read_bytes() for path in lists} == lists
    assert re.findall(r"STAT (\d+) (\d+)", said) == [(str(MICROGRAPHS + 151), "1")], (
        "one question for each file"
    )


def test_a_finished_project_is_left_alone(many):
    workspace, _ = many
    assert "Nothing to be done" in call(workspace, "", "--dry-run")


@pytest.mark.parametrize("count", [200, 400])
def test_finding_asks_for_each_file_and_reads_each_list_once(tmp_path, monkeypatch, count):
    """Twice as many micrographs, twice as many questions: with lists there and without."""
    monkeypatch.chdir(tmp_path)
    add(tmp_path / "data" / "micrographs", 1, count)
    settings = load_settings(CONFIG)
    asked: collections.Counter[str] = collections.Counter()
    read: collections.Counter[str] = collections.Counter()
    stat = os.stat

    def counted(path, *rest, **more):
        asked[str(path)] += 1
        return stat(path, *rest, **more)

    def opened(path, mode="r", **more):
        read[f"{mode} {Path(path).name}"] += 1
        return builtins.open(path, mode, **more)

    find_shards(settings)
    monkeypatch.setattr(os, "stat", counted)
    monkeypatch.setattr("emflow.io.star.open", opened, raising=False)
    find_shards(settings)
    images = {path: n for path, n in asked.items() if path.startswith("data/micrographs/")}
    assert len(images) == count
    assert set(images.values()) == {1}
    assert read == {f"r shard_{number:05d}.star": 1 for number in range(1, count // 100 + 1)}
