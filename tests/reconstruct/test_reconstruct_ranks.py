"""A refinement in several processes is that of one, written once, and goes on from its checkpoint."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emflow.io.mrc import read_mrc, write_mrc
from emflow.io.star import floats, read_star

PIXEL = 6.0


def refine(folder: Path, out: str, gpus: int, iterations: int = 2) -> subprocess.Popen[str]:
    words = ["particles.star", "start", out, "--max-iterations", str(iterations), "--global-iterations", "1"]
    words += ["--diameter-angstrom", "120", "--device", "cpu", "--threads", str(gpus), "--gpus", str(gpus)]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("EMFLOW_")}
    return subprocess.Popen(
        [sys.executable, "-m", "emflow.cli", "reconstruct", "refine", *words, "--record", f"{out}.json"],
        cwd=folder,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def begun(make_particles: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Particles, a start of both halves, and a refinement in one process."""
    folder = tmp_path_factory.mktemp("ranks")
    made = make_particles(folder, 81, 0.3)
    for half in (1, 2):
        write_mrc(folder / "start" / f"half{half}.mrc", made.volume.numpy(), PIXEL)
    with refine(folder, "one", 1) as process:
        said = process.communicate()[1]
    assert process.returncode == 0, said
    return folder


def test_a_refinement_does_not_depend_on_the_number_of_processes(begun: Path) -> None:
    with refine(begun, "two", 2) as process:
        said = process.communicate()[1]
    assert process.returncode == 0, said
    assert said.count("iteration 2:") == 1
    one, two = begun / "one", begun / "two"
    assert {p.name for p in one.iterdir()} == {p.name for p in two.iterdir()}
    for name in ("half1.mrc", "half2.mrc", "map.mrc"):
        a, b = read_mrc(one / name), read_mrc(two / name)
        assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.9999
    for column in ("rlnAngleTilt", "rlnOriginXAngst"):
        a, b = (floats(read_star(f / "particles.star")["particles"], column) for f in (one, two))
        assert np.median(np.abs(a - b)) < 0.01
    figures = [json.loads((f / "metrics.json").read_text()) for f in (one, two)]
    names = ("resolution_whole_angstrom", "pose_sigma_median_deg")
    assert all(figures[0][name] == pytest.approx(figures[1][name], rel=0.02) for name in names)
    record = json.loads((begun / "two.json").read_text())
    assert record["ranks"] == 2
    assert record["ranks_cpu_s"] > record["cpu_s"]


def test_a_killed_refinement_goes_on_in_another_number_of_processes(begun: Path) -> None:
    state = begun / "three" / ".checkpoint" / "state.safetensors"
    with refine(begun, "three", 2, iterations=30) as process:
        deadline = time.monotonic() + 200
        while not state.exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    kept = state.read_bytes()
    time.sleep(1.5)
    assert state.read_bytes() == kept  # nobody goes on alone
    with refine(begun, "three", 1, iterations=30) as process:
        said = process.communicate()[1]
    assert process.returncode == 0, said
    assert "iteration 1:" not in said
    assert (begun / "three" / "map.mrc").exists()
