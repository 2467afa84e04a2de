"""A reference that both halves begin from must not come back as a result: Einstein from noise."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from emflow.io.mrc import write_mrc
from emflow.reconstruct.command import refine
from emflow.reconstruct.config import ReconstructRefine
from tests.reconstruct.conftest import DIAMETER, PIXEL, specimen


@pytest.mark.parametrize("snr", [0.0, 0.2])
def test_only_particles_confirm_a_reference(tmp_path: Path, make_particles: Callable, snr: float) -> None:
    particles = make_particles(tmp_path, 400, snr)
    start = tmp_path / "start"
    start.mkdir()
    for name in ("half1.mrc", "half2.mrc"):  # the same map, to its last detail
        write_mrc(start / name, specimen().numpy(), PIXEL)
    cfg = ReconstructRefine(diameter_angstrom=DIAMETER, max_iterations=4, shift_fraction=0.1)
    refine(particles.star, start, tmp_path / "out", cfg=cfg)
    figures = json.loads((tmp_path / "out" / "metrics.json").read_text())
    verdicts = {v["question"]: v for v in json.loads((tmp_path / "out" / "verdicts.json").read_text())}
    agreement = verdicts["Do two independent halves agree?"]
    given = DIAMETER / 5
    if snr:
        assert agreement["verdict"] == "pass"
        assert figures["resolution_angstrom"] < 0.75 * given
    else:
        assert agreement["verdict"] == "fail"
        assert "No structure" in agreement["evidence"]
        assert figures["resolution_angstrom"] is None
    assert f"filtered to {given:.0f} Å" in verdicts["Did the two halves begin apart?"]["evidence"]
