"""What a command costs."""

from __future__ import annotations

import os
import resource
import subprocess
import sys


def run(*words: str) -> float:
    """Run a command of emflow on one thread; return its CPU-seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-m", "emflow.cli", *words], check=True, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
