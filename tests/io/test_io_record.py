"""The record of a run."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from emflow.io.record import read_json
from emflow.step import EmflowError


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


def test_figures_that_were_cut_short_are_named(tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text('{"a": 1, "b')
    with pytest.raises(EmflowError, match=r"metrics\.json: not valid JSON .* cut short"):
        read_json(tmp_path / "metrics.json")
    with pytest.raises(EmflowError, match="No such file"):
        read_json(tmp_path / "none.json")
