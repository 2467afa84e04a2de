"""Train the general model that emflow ships, from nothing but simulated sessions.

    python -m emflow.denoise.weights.make_general FOLDER

simulates the sessions of :data:`FIRST` and :data:`SECOND` below FOLDER (what is there is kept), trains on the
first into FOLDER/first and goes on from there on the second, which are wider, into FOLDER/model. It writes
``general.safetensors`` with its manifest to FOLDER, from where the two are copied here by hand. About 25 CPU-minutes.
"""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from emflow.io.simulated import write_sessions

FIRST_SEED = 1000
"""Seeds below are left to tests, examples and judging."""
FIRST = range(22)
"""Sessions by their number, white ice."""
SECOND = range(22, 40)
"""Sessions with ice of either kind that is for training, more symmetries, crystals and beads."""
MICROGRAPHS = 3
_COMMON = (
    *("--target", "clean", "--contrast", "dark", "--max-micrographs", "1000"),
    *("--batch", "6", "--crop-px", "128"),
)
_FIRST = ("--steps", "2000", "--learning-rate", "2e-3", "--seed", "1")
_SECOND = ("--steps", "1500", "--learning-rate", "1e-3", "--seed", "2")


def session_flags(index: int) -> list[str]:
    """Draw one session: another specimen, microscope, noise, crowd and contamination each time."""
    rng = random.Random(FIRST_SEED + index)
    pixel = rng.choice([2.0, 2.5, 3.0, 3.5, 4.0, 5.0])
    symmetry = rng.choice(["C1", "C1", "C1", "C2", "C3", "D2", "D4", "O"])
    copies = {"C1": 1, "C2": 2, "C3": 3, "D2": 4, "D4": 8, "O": 24}[symmetry]
    diameter = rng.uniform(100, 320)
    mass = 0.055 * diameter**1.65 * rng.uniform(0.7, 1.3) if copies == 1 else rng.uniform(80, 2000) / copies
    low = rng.uniform(0.5, 2.2)
    size = 2 * round(2600 / pixel / 2)
    per_area = rng.uniform(0.25, 1.0) * (size * pixel / 320) ** 2
    values: dict[str, Any] = {
        "seed": FIRST_SEED + index,
        "n-micrographs": MICROGRAPHS - (index % 4 == 3),
        "n-noise-micrographs": int(index % 4 == 3),
        "micrograph-size-px": size,
        "pixel-size-angstrom": pixel,
        "particles-per-micrograph": round(per_area * (320 / diameter) ** (2 if copies == 1 else 0)),
        "min-distance": round(rng.uniform(0.6, 1.3), 2),
        "snr": round(0.02 * 15 ** rng.random(), 4),
        "ice-noise": round(rng.uniform(0.0, 0.4), 2),
        "defocus-min-um": round(low, 2),
        "defocus-max-um": round(low + rng.uniform(0.3, 1.5), 2),
        "envelope-b-factor-angstrom2": round(rng.uniform(30, 250)),
        "n-carbon-micrographs": int(rng.random() < 0.5),
        "aggregates-per-micrograph": round(rng.uniform(0, 1.5), 2),
        "mass-kda": round(mass, 1),
        "n-domains": rng.randint(2, 10) if copies == 1 else rng.randint(1, 3),
        "symmetry": symmetry,
        "voltage-kv": rng.choice([200, 300]),
    }
    if copies == 1:
        values["diameter-angstrom"] = round(diameter)
    if index >= SECOND.start:
        values |= _wider(values, rng)
    return ["--keep-clean", *(word for key, value in values.items() for word in (f"--{key}", str(value)))]


def _wider(values: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """What the second sessions have otherwise: textured ice, contamination, shells and rings."""
    wider: dict[str, Any] = {
        "ice-texture": rng.choice(["white", "fields", "fields"]),
        "ice-noise": round(0.02 * 15 ** rng.random(), 3),
        "ice-crystals-per-micrograph": rng.choice([0, 0, 0.7]),
        "gold-beads-per-micrograph": rng.choice([0, 0, 2]),
    }
    if rng.random() < 0.35:
        symmetry = rng.choice(["I", "T", "C7", "D7"])
        copies = {"I": 60, "T": 12, "C7": 7, "D7": 14}[symmetry]
        wider |= {"symmetry": symmetry, "mass-kda": round(rng.uniform(300, 2500) / copies, 1), "n-domains": 1}
        values.pop("diameter-angstrom", None)
    return wider


def main(folder: Path) -> None:
    """Simulate what is missing, then train."""
    simulate(folder, [*FIRST, *SECOND])
    begin = "scratch"
    for name, sessions, how in (
        ("first", FIRST, _FIRST),
        ("model", SECOND, _SECOND),
    ):
        table = folder / f"{name}.star"
        write_sessions(table, [folder / f"session_{index:03d}" for index in sessions])
        if not (folder / name / "model.json").exists():
            train("train", str(table), str(folder / name), "--start", begin, *_COMMON, *how)
        begin = str(folder / name / "model.safetensors")
    ship(folder / "model" / "model.safetensors", folder, len(FIRST) + len(SECOND), "make_general")


def simulate(folder: Path, sessions: Iterable[int]) -> None:
    """Simulate sessions by their number, if they are not there."""
    for index in sessions:
        out = folder / f"session_{index:03d}"
        if not (out / "truth" / "facts.json").exists():
            _run("simulate", "session", str(out), *session_flags(index))


def train(*words: str) -> None:
    """Run a training command of the room."""
    _run("denoise", *words)


def ship(model: Path, folder: Path, sessions: int, recipe: str) -> None:
    """Copy trained weights under the name that emflow ships, with the manifest that it ships."""
    name = recipe.removeprefix("make_")
    shutil.copyfile(model, folder / f"{name}.safetensors")
    manifest = json.loads(model.with_suffix(".json").read_text(encoding="utf-8"))
    manifest |= {
        "file": f"{name}.safetensors",
        "licence": "BSD-3-Clause",
        "recipe": [f"python -m emflow.denoise.weights.{recipe} FOLDER"],
        "trained_on": f"{sessions} sessions simulated by emflow, seeds from {FIRST_SEED}; no other data",
    }
    text = json.dumps(manifest, indent=1).replace(str(folder), "FOLDER") + "\n"
    (folder / f"{name}.json").write_text(text, encoding="utf-8")


def _run(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "emflow.cli", *words], check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
