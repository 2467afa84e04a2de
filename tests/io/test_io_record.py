"""The record of a run."""

import os
import subprocess
import sys

import numpy as np


def test_peak_memory_is_that_of_the_process_alone() -> None:
    held = np.ones(40_000_000)  # 320 MB: a child's getrusage begins there
    code = (
        "import numpy as np\n"
        "from emflow.io.record import peak_memory_bytes\n"
        "before = peak_memory_bytes()\n"
        "np.ones(10_000_000).sum()\n"
        "print(before, peak_memory_bytes())\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], env=os.environ, capture_output=True, text=True, check=True
    )
    before, after = map(int, run.stdout.split())
    assert before < held.nbytes
    assert after - before > 70_000_000
