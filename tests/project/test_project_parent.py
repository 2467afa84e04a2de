"""A step dies with the run that started it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

STEP = """
import os, sys, time
from emflow.project.parent import die_with
die_with(int(sys.argv[1]))
print(os.getpid(), flush=True)
while True:
    sum(range(100000))  # busy in Python, as a step may be
"""


def _gone(pid: int, seconds: float = 20.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            with open(f"/proc/{pid}/stat") as handle:
                if handle.read().rsplit(")", 1)[1].split()[0] == "Z":
                    return True
        except FileNotFoundError:
            return True
        time.sleep(0.02)
    return False


@pytest.mark.parametrize("victim", ["run", "shell"])
def test_a_step_dies_with_its_run_and_with_its_shell(victim, tmp_path):
    step = tmp_path / "step.py"
    step.write_text(STEP)
    run = (
        "import os, subprocess, sys\n"
        f"shell = subprocess.Popen(['bash', '-c', sys.executable + ' {step} ' + str(os.getpid()) + '; echo'])\n"
        "print(shell.pid, flush=True)\nshell.wait()\n"
    )
    with subprocess.Popen([sys.executable, "-c", run], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        shell, pid = int(process.stdout.readline()), int(process.stdout.readline())
        assert not _gone(pid, 0.3)
        os.kill(process.pid if victim == "run" else shell, signal.SIGKILL)
        assert _gone(pid)
        process.kill()


def test_a_step_does_not_start_after_its_run_died():
    with subprocess.Popen(["true"]) as dead:
        dead.wait()
    code = f"from emflow.project.parent import die_with; die_with({dead.pid}); print('alive')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL
    assert done.stdout == ""


def test_a_step_leaves_in_order_where_its_shell_obeyed_first(tmp_path):
    """A batch system tells the shell and the step to stop at once; the shell is quicker, and the step not killed."""
    step = tmp_path / "step.py"
    step.write_text(
        "import os\nfrom emflow import leave\nfrom emflow.project.parent import die_with\n"
        "die_with(int(os.environ['RUN']))\n"
        "with leave.on_sigterm():\n    print(os.getpid(), flush=True)\n    while True:\n        sum(range(10000))\n"
    )
    said = tmp_path / "said.txt"
    words = ["bash", "-c", f"{sys.executable} {step} 2> {said}; echo"]
    environment = {**os.environ, "RUN": str(os.getpid())}
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment) as shell:
        assert shell.stdout is not None
        pid = int(shell.stdout.readline())
        shell.send_signal(signal.SIGTERM)
        assert _gone(pid)
    assert "told to stop" in said.read_text()
