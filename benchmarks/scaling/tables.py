"""Memory of the pooled steps that read the tables of all shards."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from scaling.cost import cost
from scaling.planning import command

PARTICLES = [
    "rlnImageName",
    "rlnMicrographName",
    "rlnCoordinateX",
    "rlnCoordinateY",
    "rlnOpticsGroup",
    "rlnDefocusU",
    "rlnDefocusV",
    "rlnDefocusAngle",
    "rlnPhaseShift",
    "rlnCtfMaxResolution",
    "rlnCtfFigureOfMerit",
    "rlnRandomSubset",
    "rlnAutopickFigureOfMerit",
    "emflowParticleId",
    "emflowMicrographId",
    "emflowPickScore",
]
OPTICS = {
    "rlnOpticsGroup": "1", "rlnOpticsGroupName": "opticsGroup1", "rlnMicrographOriginalPixelSize": "1.1",
    "rlnVoltage": "300.0", "rlnSphericalAberration": "2.7", "rlnAmplitudeContrast": "0.07",
    "rlnImagePixelSize": "2.2", "rlnImageSize": "128",
}  # fmt: skip
MICROGRAPHS = [
    "rlnMicrographName",
    "emflowMicrographId",
    "emflowExtracted",
    "emflowDroppedOutside",
    "emflowDroppedFlat",
]
OF_SHARD = 10_000
"""Particles of a shard: 100 micrographs with 100 each."""


def _block(name: str, columns: list[str], rows: list[str]) -> str:
    named = "\n".join(f"_{column} #{place}" for place, column in enumerate(columns, start=1))
    return f"\ndata_{name}\n\nloop_\n{named}\n" + "\n".join(rows) + "\n\n"


def make(folder: Path, shards: int) -> list[Path]:
    """Tables as `extract run` writes them; those that are there are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"shard_{shard:05d}.star" for shard in range(1, shards + 1)]
    for shard, path in enumerate(paths, start=1):
        if path.exists():
            continue
        draw = random.Random(shard)
        rows, micrographs = [], []
        for micrograph in range(100):
            name = f"data/micrographs/mic_{shard:05d}_{micrograph:03d}.mrc"
            identity, defocus = f"{draw.getrandbits(48):012x}", draw.uniform(8e3, 25e3)
            micrographs.append(f"{name} {identity} 100 3 0")
            ctf = f"{defocus:.2f} {defocus - 300:.2f} {draw.uniform(-90, 90):.3f} 0 {draw.uniform(3, 6):.3f} 0.87"
            for _ in range(OF_SHARD // 100):
                x, y = draw.randrange(5760), draw.randrange(4092)
                image = f"{len(rows) + 1:06d}@results/large/extract/shard_{shard:05d}.mrcs"
                rows.append(
                    f"{image} {name} {x} {y} 1 {ctf} {micrograph % 2 + 1} {draw.random():.4f} {identity}-{x}-{y} "
                    f"{identity} {draw.uniform(5, 20):.3f}"
                )
        text = _block("optics", list(OPTICS), [" ".join(OPTICS.values())]) + _block(
            "particles", PARTICLES, rows
        )
        path.write_text(text + _block("micrographs", MICROGRAPHS, micrographs))
    return paths


def extract_join(folder: Path, particles: int) -> dict[str, Any]:
    """`emflow extract join` over so many particles."""
    paths = make(folder / "extract", particles // OF_SHARD)
    record = folder / "record.json"
    words = [*map(str, paths), str(folder / "joined" / "particles.star"), "--record", str(record)]
    took = cost(command("emflow", "extract", "join", *words), folder)
    assert took.code == 0, took.said[-3000:]
    metrics = json.loads((folder / "joined" / "metrics.json").read_text())
    return {"particles": metrics["particles"], "cpu_s": took.cpu_s, "peak_memory_mb": took.peak_mb}


def session_join(folder: Path, micrographs: int) -> dict[str, Any]:
    """`emflow session join` over so many micrographs, with all the columns that the steps give them."""
    select = folder / "select"
    select.mkdir(parents=True, exist_ok=True)
    columns = {
        "rlnMicrographName": "data/micrographs/{name}.mrc", "rlnOpticsGroup": "1", "emflowMicrographId": "{id}",
        "emflowShard": "{shard}", "emflowSize": "67109888", "emflowMtimeNs": "17953{number:014d}",
        "rlnRandomSubset": "{half}", "emflowContrast": "dark", "rlnImageSizeX": "4096", "rlnImageSizeY": "4096",
        "emflowMean": "0.{number:09d}", "emflowStd": "1.{number:09d}", "emflowDigest": "{id}{id}",
        "emflowHeaderPixelSize": "1.1", "rlnDefocusU": "1{number:05d}.25", "rlnDefocusV": "1{number:05d}.11",
        "rlnDefocusAngle": "-41.{number:03d}", "rlnCtfMaxResolution": "3.{number:03d}", "emflowPickCount": "100",
        "emflowAccepted": "1", "emflowStep": "None", "emflowReason": "None", "emflowExpected": "None",
    }  # fmt: skip
    optics = {name: value for name, value in OPTICS.items() if "Image" not in name}
    optics["rlnMicrographPixelSize"] = optics.pop("rlnMicrographOriginalPixelSize")
    paths = []
    for shard in range(1, micrographs // 100 + 1):
        rows = []
        for place in range(100):
            number = shard * 100 + place
            facts = {
                "name": f"mic_{number:06d}",
                "id": f"{number:012x}",
                "shard": shard,
                "half": place % 2 + 1,
            }
            rows.append(" ".join(columns.values()).format(number=number, **facts))
        paths.append(select / f"shard_{shard:05d}.star")
        text = _block("optics", list(optics), [" ".join(optics.values())])
        paths[-1].write_text(text + _block("micrographs", list(columns), rows))
    took = cost(command("emflow", "session", "join", *map(str, paths), str(folder / "session")), folder)
    assert took.code == 0, took.said[-3000:]
    metrics = json.loads((folder / "session" / "metrics.json").read_text())
    assert metrics["accepted"] == micrographs, metrics
    return {"micrographs": micrographs, "cpu_s": took.cpu_s, "peak_memory_mb": took.peak_mb}
