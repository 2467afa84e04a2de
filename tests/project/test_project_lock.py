"""One run of a project at a time; a lock is removed only when nothing of its run is left."""

from __future__ import annotations

import errno
import fcntl
import json
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

NO_FLOCK = """
import errno, fcntl, os
def no_flock(handle, what):
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
fcntl.flock = no_flock
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


def _said_by_another_machine(project: Path, age_s: float) -> None:
    path = project / ".lock"
    path.write_text(json.dumps({"pid": os.getpid(), "host": "node17", "since": "yesterday", "started": "1"}))
    told = time.time() - age_s
    os.utime(path, (told, told))


def test_a_run_on_another_machine_is_seen_where_the_kernels_lock_does_not_reach(project):
    """The lock file lies on a file system whose locks hold on one machine only: nobody holds it here."""
    left = _left_by_a_killed_run()
    _said_by_another_machine(project, 40)
    assert lock.is_held(project)
    with pytest.raises(
        EmflowError, match=r"on node17, since yesterday, last sign of life 4\d s ago.* is running"
    ):
        lock.hold(project)
    with pytest.raises(EmflowError, match=r"node17.*still running.*dead 5 minutes after"):
        unlock_project("demo")
    assert left.exists()
    _said_by_another_machine(project, 400)  # it died: no sign of life any more
    assert not lock.is_held(project)
    assert unlock_project("demo") == [left]
    lock.hold(project)
    assert json.loads((project / ".lock").read_text())["pid"] == os.getpid()
    assert sorted(path.name for path in project.iterdir()) == [".lock"], "no probe is left"


def test_a_living_run_gives_signs_of_life_and_signs_off(project, monkeypatch):
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom emflow.project import lock\nlock.BEAT_S = 0.05\n"
        "lock.hold(Path('results/demo'))\nprint('held', flush=True)\nsys.stdin.read()\n"
    )
    words = [sys.executable, "-c", code]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "held\n"
        path = project / ".lock"
        os.utime(path, (0, 0))
        deadline = time.monotonic() + 30
        while path.stat().st_mtime < 1 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert path.stat().st_mtime > 1, "its time is renewed"
        process.stdin.close()
    assert path.read_text() == "", "a run that ended well says so"


def test_without_flock_the_lock_file_tells_of_a_living_run_and_of_a_dead_one(project, monkeypatch):
    def no_flock(handle: int, what: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", no_flock)
    with subprocess.Popen(
        [sys.executable, "-c", NO_FLOCK + HOLD], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        assert lock.is_held(project)
        with pytest.raises(EmflowError, match=f"process {process.pid} on .* is running this project"):
            lock.hold(project)
        process.kill()
        process.wait()
    assert not lock.is_held(project)
    lock.hold(project)


def test_a_process_that_took_over_the_number_of_a_dead_run_is_not_taken_for_it(project, other, monkeypatch):
    content = json.loads((project / ".lock").read_text())
    other.kill()
    other.wait()
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as stranger:
        (project / ".lock").write_text(json.dumps({**content, "pid": stranger.pid}))
        assert not lock.is_held(project)
        stranger.kill()
