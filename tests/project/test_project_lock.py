"""One run of a project at a time; a lock is removed only when nothing of its run is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from emflow.project import lock
from emflow.project.unlock import queued_jobs, running_steps, unlock_project
from emflow.step import EmflowError

HOLD = """
import sys, time
from pathlib import Path
from emflow.project.lock import hold
hold(Path("results/demo"))
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(lock, "_held", {})
    (tmp_path / "results" / "demo").mkdir(parents=True)
    return Path("results/demo")


@pytest.fixture
def other(project):
    with subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def _left_by_a_killed_run() -> Path:
    path = Path(".snakemake/locks/0.output.lock")
    path.parent.mkdir(parents=True)
    path.write_text("results/demo/report/index.html\n")
    return path


def test_a_second_run_is_refused_and_told_who_is_first(project, other):
    with pytest.raises(EmflowError, match=f"process {other.pid} on .* is running this project"):
        lock.hold(project)
    with pytest.raises(EmflowError, match="still running"):
        unlock_project("demo")


def test_the_lock_goes_with_its_holder_however_it_dies(project, other):
    other.send_signal(signal.SIGKILL)
    other.wait()
    assert not lock.is_held(project)
    lock.hold(project)
    assert lock.is_held(project)


def test_what_a_killed_run_left_is_named_and_can_be_unlocked(project):
    path = _left_by_a_killed_run()
    half_written = project / "ctf" / ".shard_00001.123.partial.star"
    half_written.parent.mkdir()
    half_written.write_text("data_")
    with pytest.raises(EmflowError, match="emflow unlock demo"):
        lock.hold(project)
    assert unlock_project("demo") == [path]
    assert not path.exists()
    assert not half_written.exists()
    lock.hold(project)


def test_another_projects_lock_is_left_alone(project):
    path = _left_by_a_killed_run()
    assert unlock_project("other") == []
    assert path.exists()


def test_nothing_is_unlocked_while_a_step_still_writes(project, tmp_path):
    path = _left_by_a_killed_run()
    step = tmp_path / "emflow"
    step.write_text("import time; time.sleep(60)")
    words = [sys.executable, str(step), "ctf", "fit", "results/demo/session/check/shard_00001.star"]
    with subprocess.Popen(words) as process:
        deadline = time.monotonic() + 10
        while not running_steps("demo") and time.monotonic() < deadline:
            time.sleep(0.05)
        assert [pid for pid, _ in running_steps("demo")] == [process.pid]
        assert running_steps("other") == []
        with pytest.raises(EmflowError, match=f"kill {process.pid}"):
            unlock_project("demo", wait_s=0.0)
        assert path.exists()
        process.kill()
    assert unlock_project("demo") == [path]


def test_nothing_is_unlocked_while_jobs_are_queued(project, tmp_path, monkeypatch):
    path = _left_by_a_killed_run()
    squeue = tmp_path / "squeue"
    squeue.write_text(
        f"#!/bin/sh\necho '41|RUNNING|rule_ctf_fit_wildcards_00002|{tmp_path}'\necho '42|PENDING|rule_x|/elsewhere'\n"
    )
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert queued_jobs() == {"41": "ctf_fit 00002, running"}
    with pytest.raises(EmflowError, match=r"41 \(ctf_fit 00002, running\).*scancel 41"):
        unlock_project("demo")
    assert path.exists()
    squeue.write_text("#!/bin/sh\necho 'slurm_load_jobs error: Unable to contact' >&2\nexit 1\n")
    Path(".snakemake/slurm_logs").mkdir()
    with pytest.raises(EmflowError, match="Unable to contact"):
        unlock_project("demo")
    Path(".snakemake/slurm_logs").rmdir()
    assert unlock_project("demo") == [path], "a SLURM that is down is no matter where none was used"
