"""The GPU benchmark runs on a CPU, and writes no figures of a GPU that is not there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

BENCHMARK = Path(__file__).resolve().parents[1] / "benchmarks" / "gpu.py"
RESULTS = BENCHMARK.parent / "results" / "gpu.json"


def call(*words: str) -> str:
    done = subprocess.run(
        [sys.executable, str(BENCHMARK), *words], capture_output=True, text=True, check=True
    )
    return done.stdout


def test_every_measurement_is_made_and_none_is_written() -> None:
    before = RESULTS.read_bytes() if RESULTS.exists() else None
    said = call("--device", "cpu", "--small")
    lines = {
        line["measured"]: line
        for line in map(json.loads, (s for s in said.splitlines() if s.startswith("{")))
    }
    assert set(lines) == {"peak", "search", "operands", "refine", "denoise"}
    search = lines["search"]
    products = 2 * search["pixels"] * search["orientations"] * (2 * search["shifts"] + 1)
    assert search["operations_per_s"] == pytest.approx(products * search["particles_per_s"], rel=1e-2)
    assert search["share_of_peak"] == pytest.approx(
        search["operations_per_s"] / lines["peak"]["ieee"], rel=1e-2
    )
    assert lines["operands"]["same_tf32"] >= lines["operands"]["same_bf16"] > 0.5
    assert 0 < lines["operands"]["score_error_tf32"] < lines["operands"]["score_error_bf16"]
    assert "Not written" in said
    assert (RESULTS.read_bytes() if RESULTS.exists() else None) == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_nothing_is_measured() -> None:
    assert "No GPU here: nothing measured, nothing written" in call()
