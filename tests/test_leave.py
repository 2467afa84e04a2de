"""A step that is told to stop (SIGTERM) leaves in order, whatever it is busy with."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from emflow import leave

STEP = """
import ctypes, signal, sys, time
from pathlib import Path
from emflow import leave
from emflow.io.atomic import atomic_path
leave.GRACE_S = 0.3
def python():
    while True:
        sum(range(10000))
def kernel():
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])  # another thread takes it: the call goes on
    ctypes.CDLL(None).pause()
def stubborn():
    while True:
        try:
            time.sleep(60)
        except BaseException:
            pass
with leave.on_sigterm():
    with atomic_path(Path("out.star")) as temporary:
        temporary.write_text("half")
        print("ready", flush=True)
        BUSY()
"""


@pytest.mark.parametrize("busy", ["python", "kernel", "stubborn"])
def test_it_leaves_with_its_code_and_a_line_and_without_half_written_files(tmp_path: Path, busy: str) -> None:
    words = [sys.executable, "-c", STEP.replace("BUSY", busy)]
    with subprocess.Popen(
        words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        assert len(os.listdir(tmp_path)) == 1
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=120)[1]
    assert process.returncode == leave.EXIT_CODE == 143
    assert said.count("told to stop") == 1
    assert "Traceback" not in said
    assert os.listdir(tmp_path) == []


def test_a_block_that_holds_it_off_ends_in_its_own_way_and_leaves_then(tmp_path: Path) -> None:
    code = """
import os, signal
from emflow import leave
with leave.on_sigterm():
    with leave.held_off():
        for step in range(100):
            if step == 5:
                os.kill(os.getpid(), signal.SIGTERM)
            if leave.asked():
                break
        print("saved after", step, flush=True)
    print("never")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 143
    assert done.stdout == "saved after 5\n"


def test_what_was_set_before_holds_again_afterwards() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with leave.on_sigterm():
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before
    assert not leave.asked()


def test_a_command_is_told_so_too(tmp_path: Path) -> None:
    """The handler is there in every step's command."""
    code = """
import os, signal, sys
import emflow.session.command as command
from emflow.cli import main
command.load_micrographs = lambda *_: os.kill(os.getpid(), signal.SIGTERM)
main(["session", "check", "raw", "out.star"])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 143, done.stderr
    assert "emflow: told to stop" in done.stderr
