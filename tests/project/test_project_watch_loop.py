"""The watcher's loop, with fast commands in the place of snakemake, the counting and the report."""

from __future__ import annotations

import fcntl
import gc
import itertools
import json
import logging
import os
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from emflow.config import load_settings
from emflow.io.mrc import write_mrc
from emflow.project.lock import claim
from emflow.project.watch.child import Child, Commands
from emflow.project.watch.command import watch, watching
from emflow.project.watch.ready import FOLDER
from emflow.project.watch.watcher import Watcher
from emflow.step import EmflowError

FIGURES = r"""
n=$(grep -c . results/p/watch/ready.txt || true)
d=$(cat done 2>/dev/null || echo 0)
echo "{\"processed\": $d, \"accepted\": $d, \"set_aside\": 0, \"behind\": $((n - d)), \"particles\": $((100 * d))}" \
  > results/p/watch/figures.json
"""
LIVE = "grep -c . results/p/watch/ready.txt > done; echo live >> ran"
COMMANDS = Commands(
    live=["sh", "-c", LIVE],
    whole=["sh", "-c", LIVE.replace("live", "whole")],
    figures=["sh", "-c", FIGURES],
    report=["sh", "-c", "echo report >> ran"],
)


def add(*names: str) -> None:
    """Put micrographs of 2 × 2 pixels into the folder."""
    for name in names:
        write_mrc(Path("raw", name), np.eye(2), 1.0)


class Scene:
    """A folder that fills, a watcher, and a clock that only these tests move."""

    def __init__(self, commands: Commands = COMMANDS, **changes: object) -> None:
        cfg = {"look_every_s": 10, "settle_s": 20, "cycle_every_s": 0, "disk_free_gb": None, **changes}
        self.settings = load_settings({"project": "p", "input": {"micrographs": "raw"}, "watch": cfg})
        self.commands = commands
        self.now = 0.0
        Path("raw").mkdir(exist_ok=True)
        self.restart()

    def restart(self) -> None:
        self.watcher = Watcher(self.settings, self.commands, clock=lambda: self.now)

    def pass_time(self, seconds: float) -> None:
        """Turn every ten seconds; let children end in between."""
        end = self.now + seconds
        while self.now < end:
            self.now += 10
            for _ in range(4):
                self.watcher.turn()
                if self.watcher.child is not None:
                    self.watcher.child._process.wait()

    def ran(self) -> list[str]:
        """What ran since this was last asked."""
        path = Path("ran")
        ran = path.read_text().split() if path.exists() else []
        path.unlink(missing_ok=True)
        return ran

    def told(self) -> dict:
        return json.loads(Path("results/p/watch.json").read_text())


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("emflow.project.unlock.queued_jobs", list)
    monkeypatch.setattr("os.fsync", lambda _: None)  # thousands of small files, none of them dear
    return tmp_path


def test_runs_follow_what_comes_and_nothing_else(place: Path) -> None:
    scene = Scene()
    scene.pass_time(100)
    assert scene.ran() == [], "nothing to run on"
    add("a.mrc", "b.mrc")
    scene.pass_time(10)
    assert scene.told()["micrographs"]["waiting"] == 2
    scene.pass_time(90)
    assert scene.ran() == ["live", "report"]
    assert scene.told()["micrographs"]["processed"] == 2
    assert scene.told()["state"] == "watching"
    assert scene.watcher.finished()
    scene.pass_time(3 * 86400 / 100)
    assert scene.ran() == [], "a pause"
    add("c.mrc")
    scene.pass_time(100)
    assert scene.ran() == ["live", "report"]
    assert scene.told()["micrographs"]["behind"] == 0


def test_a_long_run_does_not_blind_the_watcher(place: Path) -> None:
    slow = replace(COMMANDS, live=["sh", "-c", f"while [ ! -e go ]; do sleep 0.05; done; {LIVE}"])
    scene = Scene(slow)
    add("a.mrc")
    for _ in range(20):
        scene.now += 10
        scene.watcher.turn()
        time.sleep(0.02)
    add("b.mrc", "c.mrc")
    for _ in range(4):
        scene.now += 10
        scene.watcher.turn()
    told = scene.told()
    assert told["state"] == "processing"
    assert told["running"]["what"] == "live"
    assert told["micrographs"] | {"seen": 3, "behind": 3} == told["micrographs"]
    Path("go").touch()
    scene.watcher.child._process.wait()
    scene.pass_time(100)
    assert scene.ran().count("live") == 2, "one more for those that came meanwhile"
    assert scene.told()["micrographs"]["behind"] == 0


def test_pooled_steps_run_on_their_own_cadence_and_after_an_interruption(place: Path) -> None:
    scene = Scene(pooled_minimum_particles=200, pooled_growth=2.0, pooled_idle_minutes=None)
    add("a.mrc")
    scene.pass_time(100)
    add("b.mrc")
    scene.pass_time(100)
    assert scene.ran() == ["live", "report", "live", "report", "whole", "report"]
    add("c.mrc")
    scene.pass_time(100)
    assert scene.ran() == ["live", "report"]
    add("d.mrc")
    scene.commands = replace(COMMANDS, whole=["sleep", "100"])
    scene.restart()
    for _ in range(400):
        scene.now += 10
        scene.watcher.turn()
        if scene.watcher.child is not None and scene.watcher.child.kind == "whole":
            break
        time.sleep(0.01)
    child = scene.watcher.child
    assert child is not None
    os.killpg(child.pid, signal.SIGKILL)  # together with the watcher, which says nothing more
    child._process.wait()
    scene.ran()
    scene.commands = COMMANDS
    scene.restart()
    scene.pass_time(100)
    assert scene.ran()[0] == "whole"
    scene.pass_time(500)
    assert scene.ran() == []


def test_a_step_that_fails_is_told_tried_again_and_holds_up_nothing(place: Path) -> None:
    fails = "echo 'Error in rule ctf_fit:'; echo live >> ran; test -e mended || exit 1;"
    scene = Scene(replace(COMMANDS, live=["sh", "-c", fails + LIVE]), stall_minutes=None)
    add("a.mrc")
    scene.pass_time(50)
    assert "ctf_fit" in scene.told()["alarms"]["a step failed"]["text"]
    assert "Error in rule" in Path("results/p/watch/failed.log").read_text()
    assert not scene.watcher.finished() or scene.watcher.failed
    assert scene.ran() == ["live", "report"]
    scene.pass_time(3600)
    assert scene.ran().count("live") in (4, 5), "again and again, ever more rarely"
    add("b.mrc")
    scene.pass_time(40)
    assert "live" in scene.ran(), "what is new does not wait for that"
    Path("mended").touch()
    scene.pass_time(8000)
    assert scene.told()["alarms"] == {}
    assert scene.told()["failed"] == {}


def test_another_run_of_the_project_is_waited_for(place: Path) -> None:
    scene = Scene()
    add("a.mrc")
    handle = claim(Path("results/p"))
    assert handle is not None
    scene.pass_time(100)
    assert scene.ran() == []
    assert scene.told()["state"].startswith(f"waiting: snakemake (process {os.getpid()}")
    fcntl.flock(handle, fcntl.LOCK_UN)
    os.close(handle)
    scene.pass_time(100)
    assert scene.ran() == ["live", "report"]


def test_the_lock_of_a_killed_run_is_cleared_away(place: Path) -> None:
    scene = Scene()
    lock = Path(".snakemake/locks/0.input.lock")
    lock.parent.mkdir(parents=True)
    lock.write_text("results/p/ctf/shard_00001.star\n")
    add("a.mrc")
    scene.pass_time(100)
    assert scene.ran() == ["live", "report"]
    assert not lock.exists()


def test_a_disk_that_is_full_stops_nothing(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene()
    add("a.mrc")
    append = scene.watcher.arrivals._ready.append

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(scene.watcher.arrivals._ready, "append", full)
    monkeypatch.setattr("emflow.io.atomic.os.replace", full)
    scene.pass_time(100)
    assert scene.ran() == []
    assert "No space left" in scene.watcher.arrivals.problem
    monkeypatch.undo()
    monkeypatch.chdir(place)
    scene.watcher.arrivals._ready.append = append
    scene.pass_time(100)
    assert scene.ran() == ["live", "report"]


def test_the_second_watcher_says_who_the_first_is(place: Path) -> None:
    # the lock belongs to the open file, so that even one process cannot take it twice
    with (
        watching(Path("results/p")),
        pytest.raises(EmflowError, match=f"process {os.getpid()}.*already"),
        watching(Path("results/p")),
    ):
        pass
    with watching(Path("results/p")):
        pass


def test_a_folder_makes_or_finds_its_configuration(place: Path) -> None:
    Path("raw").mkdir()
    with pytest.raises(EmflowError, match="emflow.yaml was written"):
        watch("raw")
    assert yaml.safe_load(Path("emflow.yaml").read_text())["input"]["micrographs"] == "raw"
    with pytest.raises(EmflowError, match="is for the micrographs 'raw', not 'other'"):
        watch("other")
    with pytest.raises(EmflowError, match="No Snakefile"):
        watch("raw/")
    Path("Snakefile").touch()
    with pytest.raises(EmflowError, match=r"fill in sample\.pixel_size_angstrom and sample\.diameter"):
        watch("raw")
    assert not Path("results").exists()


FOLLOW = """
import signal, sys, time
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # tests that run under nohup pass on that it is ignored
sys.path.insert(0, {tests!r})
from test_project_watch_loop import COMMANDS, Scene, replace
from emflow.project.watch.command import follow, watching
from pathlib import Path
slow = "trap 'echo interrupted >> ran; exit 1' INT; echo begun >> ran; while true; do sleep 0.05; done"
scene = Scene(replace(COMMANDS, live=["bash", "-c", slow]), look_every_s=0.1, settle_s=0.2)
from emflow.project.watch.watcher import Watcher
with watching(Path("results/p")):
    follow(Watcher(scene.settings, scene.commands), once=False)
"""


def started(place: Path) -> subprocess.Popen[bytes]:
    text = FOLLOW.format(tests=str(Path(__file__).parent))
    return subprocess.Popen([sys.executable, "-c", text], cwd=place)


def wait_for(what: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while not what():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)


def text_of(path: str) -> str:
    return Path(path).read_text() if Path(path).exists() else ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_run_in_order(place: Path, number: int) -> None:
    add("a.mrc")
    with started(place) as process:
        wait_for(lambda: "begun" in text_of("ran"), process)
        process.send_signal(number)
        assert process.wait() == 0
    assert text_of("ran").split() == ["begun", "interrupted"]
    told = json.loads(text_of("results/p/watch.json"))
    assert told["state"] == "stopped"
    assert told["alarms"] == {}, "a run that was ended is no run that failed"
    with watching(Path("results/p")):
        pass


def test_a_run_that_does_not_listen_is_ended_all_the_same(place: Path) -> None:
    Path("results/p", FOLDER).mkdir(parents=True)
    deaf = "trap '' INT TERM; touch up; while true; do sleep 0.05; done"
    child = Child("live", ["bash", "-c", deaf], Path("results/p"), 0.0)
    wait_for(Path("up").exists, child._process)
    impatient = itertools.count()
    child.end(lambda: next(impatient))
    assert child.code() == -signal.SIGKILL


def test_after_kill_9_the_next_one_waits_for_the_orphan_and_goes_on(place: Path) -> None:
    add("a.mrc")
    with started(place) as process:
        wait_for(lambda: "begun" in text_of("ran"), process)
        orphan = json.loads(text_of("results/p/watch.json"))["running"]
        process.kill()
    with watching(Path("results/p")):
        scene = Scene()
        assert scene.watcher.arrivals.ready == 1, "nothing has to settle anew"
    if orphan is not None:
        os.killpg(orphan["process"], signal.SIGKILL)
    scene.pass_time(40)
    assert scene.ran() == ["begun", "live", "report"]


def test_memory_does_not_grow_over_200_runs(place: Path) -> None:
    """Between the 20th and the 220th run, each with a new file, no more is added than these files' own entries."""
    scene = Scene()
    files = 0

    def run(count: int) -> int:
        nonlocal files
        for _ in range(count):
            add(f"{files:05d}.mrc")
            files += 1
            scene.pass_time(30)
        gc.collect()
        # pathlib keeps every part of a path in the interpreter's table of names, whose one block grows by doubling
        kept = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(False, "*pathlib*")])
        return sum(trace.size for trace in kept.traces)

    logging.disable()
    tracemalloc.start()
    try:
        before = run(20)
        begun = scene.watcher.cycles
        grown = run(200) - before
    finally:
        tracemalloc.stop()
        logging.disable(logging.NOTSET)
    scene.pass_time(50)
    assert begun >= 19
    assert scene.watcher.cycles - begun >= 200
    assert scene.watcher.arrivals.seen == 220
    assert grown < 200 * 1000, (
        "bytes: a file's entry has about 400, the samples of the last hour a few thousand"
    )
    assert Path("results/p", FOLDER, "ready.txt").read_text().count("\n") == 220
