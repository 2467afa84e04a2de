"""A small project's results, written as the steps write them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from emflow.io.mrc import write_mrc
from emflow.io.record import verdict, write_metrics, write_verdicts
from emflow.io.star import write_star

COUNT, SIDE, PIXEL, BOX = 8, 96, 4.0, 16
NASTY = '<img src=x onerror="alert(1)">&'


def micrographs_table() -> pd.DataFrame:
    rows = np.arange(COUNT)
    return pd.DataFrame(
        {
            "rlnMicrographName": [f"micrographs/m{i}.mrc" for i in rows],
            "rlnOpticsGroup": 1,
            "emflowMicrographId": [f"id{i}" for i in rows],
            "rlnRandomSubset": rows % 2 + 1,
            "rlnDefocusU": 10000.0 + 1000 * rows,
            "rlnDefocusV": 9900.0 + 1000 * rows,
            "rlnCtfMaxResolution": 5.0 + rows,
            "emflowPickCount": 10,
            "emflowMaskedFraction": 0.0,
        },
        dtype=object,
    )


def optics() -> pd.DataFrame:
    return pd.DataFrame(
        {"rlnOpticsGroup": ["1"], "rlnMicrographPixelSize": [PIXEL], "rlnImagePixelSize": [PIXEL]}
    )


def write_project(root: Path) -> Path:
    """Write micrographs and results/toy with every part; paths in tables are relative to ``root``."""
    rng = np.random.default_rng(0)
    results = root / "results" / "toy"
    table = micrographs_table()
    for name in table["rlnMicrographName"]:
        write_mrc(root / name, rng.normal(size=(SIDE, SIDE)), PIXEL)
    (results).mkdir(parents=True)
    sample = {"pixel_size_angstrom": PIXEL, "diameter_angstrom": 40.0, "symmetry": "C1", "voltage_kv": 300.0}
    (results / "settings.yaml").write_text(json.dumps({"project": "toy", "sample": sample}))
    write_star(
        results / "session" / "shard_00001.star", {"optics": optics(), "micrographs": table.iloc[:, :3]}
    )
    quality = table.assign(emflowAccepted=[1] * 6 + [0, 0], emflowReason=["None"] * 6 + ["too few rings"] * 2)
    write_star(results / "session" / "quality.star", {"optics": optics(), "micrographs": quality})
    aside = pd.DataFrame(
        {
            "rlnMicrographName": [NASTY, "micrographs/cut.mrc"],
            "emflowMicrographId": ["x", "y"],
            "emflowReason": ["truncated file", "holds NaN"],
            "emflowExpected": ["96 × 96 px", "None"],
        }
    )
    write_star(results / "session" / "set_aside.star", {"set_aside": aside})
    write_metrics(results / "session" / "metrics.json", {"micrographs": 8, "accepted": 6})
    write_verdicts(
        results / "session" / "verdicts.json",
        [verdict("Are the files good?", "warn", f"2 are not: {NASTY}", "Look.")],
    )
    write_star(results / "ctf" / "shard_00001.star", {"optics": optics(), "micrographs": table})
    frequency = np.linspace(0.02, 0.12, 32)
    wave = np.sin(1e3 * frequency**2) ** 2
    profiles = [
        pd.DataFrame(
            {
                "emflowMicrographId": f"id{i}",
                "emflowFrequency": frequency,
                "emflowSpectrum": wave + 0.1 * rng.normal(size=32),
                "emflowCtfFit": wave,
                "emflowCtfCorrelation": 0.9,
            }
        )
        for i in range(COUNT)
    ]
    write_star(results / "ctf" / "shard_00001.profiles.star", {"profiles": pd.concat(profiles)})
    picks = pd.DataFrame(
        {
            "rlnMicrographName": np.repeat(table["rlnMicrographName"], 10),
            "emflowMicrographId": np.repeat(table["emflowMicrographId"], 10),
            "rlnCoordinateX": rng.uniform(8, 88, 80),
            "rlnCoordinateY": rng.uniform(8, 88, 80),
        }
    )
    write_star(results / "pick" / "shard_00001.star", {"particles": picks, "micrographs": table.iloc[:, 1:3]})
    write_mrc(results / "pick" / "masks" / "id0.mrc", np.eye(24), PIXEL * 4)
    write_mrc(results / "pick" / "masks" / "id1.mrc", np.zeros((24, 24)), PIXEL * 4)
    images = rng.normal(size=(50, BOX, BOX))
    write_mrc(results / "extract" / "shard_00001.mrcs", images, PIXEL)
    particles = picks.iloc[:50].assign(
        rlnImageName=[f"{i + 1:06d}@results/toy/extract/shard_00001.mrcs" for i in range(50)]
    )
    for name in ("shard_00001.star", "particles.star", "recentered/particles.star"):
        write_star(results / "extract" / name, {"optics": optics(), "particles": particles})
    write_metrics(results / "extract" / "metrics.json", {"particles": 50, "dropped_outside": 7})
    centre = np.indices((BOX,) * 3) - BOX // 2
    ball = np.exp(-(centre**2).sum(0) / 18.0)
    for step in ("abinitio", "refine"):
        folder = results / "reconstruct" / step
        write_mrc(folder / "map.mrc", ball, PIXEL)
        write_mrc(folder / "mask.mrc", (ball > 0.3).astype(float), PIXEL)
        write_star(folder / "particles.star", {"particles": particles.iloc[:45]})
        write_metrics(folder / "metrics.json", {"resolution_angstrom": 20.0})
        write_verdicts(folder / "verdicts.json", [verdict("Do two starts agree?", "pass", "They do.")])
    fsc = pd.DataFrame({"rlnResolution": frequency, "rlnFourierShellCorrelationCorrected": 1 - 8 * frequency})
    write_star(results / "validate" / "fsc.star", {"fsc": fsc})
    write_metrics(results / "validate" / "metrics.json", {"resolution_angstrom": 21.25})
    write_verdicts(results / "validate" / "verdicts.json", [verdict("Resolution?", "fail", "No.", "Do not.")])
    write_metrics(
        results / "simulate" / "metrics.json",
        {"pick_f1": 0.91, "refine_pose_error_median_deg": 7.0, "unheard_of_um": 3.0},
    )
    (results / "simulate" / "facts.json").write_text(json.dumps({"snr_in_box": 0.08, "n_particles": 60}))
    record = {"step": "ctf.fit", "cpu_s": 12.5, "wall_s": 13.0, "peak_memory_mb": 300.0, "settings": {"patch_size": 512},
              "libraries": {"torch": "2.13.0"}, "emflow": "0.1.0", "device": "auto"}  # fmt: skip
    (results / "records" / "ctf.fit").mkdir(parents=True)
    (results / "records" / "ctf.fit" / "shard_00001.json").write_text(json.dumps(record))
    return results


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Results of a whole toy project, relative to the working folder as in a run."""
    write_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    return Path("results/toy")
