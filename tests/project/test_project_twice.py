"""Runs that start at the same moment on one project: one works, the others say why they do not."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import yaml

from emflow.io.mrc import write_mrc
from emflow.io.star import read_star

RACE = """
import sys, time
from pathlib import Path
from emflow.project.lock import hold
from emflow.step import EmflowError
print("ready", flush=True)
at = float(sys.stdin.readline())
while time.time() < at:
    pass
try:
    hold(Path("results/demo"))
    print("held", flush=True)
except EmflowError as error:
    print(error, flush=True)
sys.stdin.read()
"""


def test_of_many_that_start_at_once_one_holds_the_project(tmp_path):
    (tmp_path / "results" / "demo").mkdir(parents=True)
    for _ in range(5):
        racers = [
            subprocess.Popen(
                [sys.executable, "-c", RACE],
                cwd=tmp_path,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in range(4)
        ]
        for racer in racers:
            assert racer.stdout.readline() == "ready\n"
        at = time.time() + 0.2
        for racer in racers:
            racer.stdin.write(f"{at}\n")
            racer.stdin.flush()
        said = [racer.stdout.readline() for racer in racers]
        for racer in racers:
            racer.communicate()
        assert said.count("held\n") == 1
        assert sum("is running this project" in line for line in said) == 3


def _add_micrograph(folder: Path, number: int) -> None:
    folder.mkdir(exist_ok=True)
    pixels = np.random.default_rng(number).normal(size=(64, 64))
    write_mrc(folder / f"m{number}.mrc", pixels, 4.0)


def test_two_snakemakes_with_two_configurations_of_one_project(workspace_class, tiny_configuration, tmp_path):
    config = {**tiny_configuration, "input": {"micrographs": "raw"}}
    workspace = workspace_class(tmp_path / "work", config)
    (workspace.folder / "other.yaml").write_text(
        yaml.safe_dump({**config, "ctf": {"fit": {"patch_size": 64}}})
    )
    words = ("snakemake", "--profile", "profiles/local", "--cores", "1", "--until", "session_check")
    for number in (1, 2):
        _add_micrograph(workspace.folder / "raw", number)
        runs = [workspace.start(*words, "--configfile", name) for name in ("run.yaml", "other.yaml")]
        said = [workspace.said(run) for run in runs]
        codes = [run.returncode for run in runs]
        assert sorted(codes) == [0, 2], said
        loser = said[codes.index(2)]
        assert f"process {runs[codes.index(0)].pid} on" in loser
        assert "is running this project" in loser
        assert "Traceback" not in loser
    assert "Nothing" in workspace.call("emflow", "unlock", "tiny"), "no lock is left"
    checked = read_star(workspace.results / "session" / "check" / "shard_00001.star")
    assert len(checked["micrographs"]) == 2
