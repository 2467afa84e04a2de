"""What a refinement takes is known before it starts."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from emflow.io.mrc import write_mrc
from emflow.io.star import write_star
from emflow.reconstruct.memory import announce_memory, refine_memory_bytes
from emflow.step import Execution


def noise_set(folder: Path, box: int, count: int) -> None:
    """Particles of noise, and a start of noise."""
    random = np.random.default_rng(0)
    write_mrc(folder / "p.mrcs", random.standard_normal((count, box, box), dtype=np.float32), 3.0)
    table = pd.DataFrame(
        {
            "rlnImageName": [f"{row + 1:06d}@{folder / 'p.mrcs'}" for row in range(count)],
            "rlnDefocusU": "15000",
            "rlnDefocusV": "15000",
            "rlnOpticsGroup": "1",
            "rlnRandomSubset": [str(row % 2 + 1) for row in range(count)],
        },
        dtype=object,
    )
    names = ("OpticsGroup", "ImagePixelSize", "ImageSize", "Voltage", "SphericalAberration")
    values = ["1", 3.0, box, 300, 2.7, 0.07]
    columns = pd.Index([*(f"rln{name}" for name in names), "rlnAmplitudeContrast"])
    optics = pd.DataFrame([values], columns=columns, dtype=object)
    write_star(folder / "particles.star", {"optics": optics, "particles": table})
    for half in (1, 2):
        start = 0.01 * random.standard_normal((box, box, box), dtype=np.float32)
        write_mrc(folder / "start" / f"half{half}.mrc", start, 3.0)


@pytest.mark.parametrize("box", [48, 96])
def test_the_estimate_is_the_peak(tmp_path: Path, box: int) -> None:
    noise_set(tmp_path, box, 100)
    words = ["particles.star", "start", "out", "--max-iterations", "1", "--global-iterations", "0"]
    words += ["--diameter-angstrom", str(2 * box), "--threads", "1", "--device", "cpu"]
    subprocess.run(
        [sys.executable, "-m", "emflow.cli", "reconstruct", "refine", *words, "--record", "record.json"],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=True,
    )
    peak = json.loads((tmp_path / "record.json").read_text())["peak_memory_mb"] * 2**20
    assert refine_memory_bytes(box, 100) == pytest.approx(peak, rel=0.25)


def test_too_little_memory_is_said_beforehand(caplog: pytest.LogCaptureFixture) -> None:
    cpu = torch.device("cpu")
    with caplog.at_level(logging.INFO, logger="emflow"):
        announce_memory(3 * 10**9, cpu, Execution(memory_gb=8))
        assert "About 3.0 GB" in caplog.text
        assert "too much" not in caplog.text
        announce_memory(9 * 10**9, cpu, Execution(memory_gb=8))
        assert "9.0 GB may be too much: 8.0 GB" in caplog.text
