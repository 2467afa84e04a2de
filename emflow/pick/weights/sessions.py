"""Simulated sessions from which the general picker learns, and others by which it is calibrated."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

FIRST_SEED = 20000
"""Seeds below are left to tests, examples, judging and other networks."""
TRAINING, CALIBRATION = range(42), range(42, 54)
"""Sessions by their number."""
MICROGRAPHS, SIDE_PX = 3, 512
COPIES = {"C1": 1, "C2": 2, "C3": 3, "D2": 4, "C7": 7, "D4": 8, "C12": 12, "T": 12, "D7": 14, "O": 24}


def session_flags(index: int) -> list[str]:
    """Draw one session: another specimen, microscope, noise, crowd and contamination each time.

    The diameter spans 26 to 40 pixels, so that no time is spent on detail that the picker does not look at.
    """
    rng = random.Random(FIRST_SEED + index)
    symmetry = rng.choice([*["C1"] * 8, *list(COPIES)[1:]])
    copies = COPIES[symmetry]
    if copies == 1:
        diameter = 80 * 5 ** rng.random()
        mass = 0.055 * diameter**1.65 * rng.uniform(0.6, 1.4)
    else:
        whole = 100 * 25 ** rng.random()
        mass, diameter = whole / copies, 19 * (1.3 if copies > 4 else 1.15) * (whole / 1.25) ** (1 / 3)
        diameter = min(max(diameter, 80), 400)
    pixel = diameter / rng.uniform(26, 40)
    across = SIDE_PX * pixel / diameter
    low = rng.uniform(0.5, 2.2)
    values: dict[str, object] = {
        "seed": FIRST_SEED + index,
        "n-micrographs": MICROGRAPHS - (index % 3 == 2),
        "n-noise-micrographs": int(index % 3 == 2),
        "micrograph-size-px": SIDE_PX,
        "pixel-size-angstrom": round(pixel, 2),
        "particles-per-micrograph": round(across**2 * 0.05 * 14 ** rng.random()),
        "min-distance": round(rng.uniform(0.55, 1.3), 2),
        "snr": round(0.035 * 35 ** rng.random(), 4),
        "ice-noise": round(rng.uniform(0.0, 0.5), 2),
        "ice-texture": rng.choice(["white", "fields"]),
        "ice-crystals-per-micrograph": round(rng.choice([0, rng.uniform(0, 1.5)]), 2),
        "gold-beads-per-micrograph": round(rng.choice([0, rng.uniform(0, 3)]), 2),
        "defocus-min-um": round(low, 2),
        "defocus-max-um": round(low + rng.uniform(0.3, 1.8), 2),
        "dose-e-per-a2": round(rng.uniform(0, 60)),
        "envelope-b-factor-angstrom2": round(rng.uniform(30, 250)),
        "broken-fraction": round(rng.choice([0, rng.uniform(0, 0.3)]), 2),
        "n-carbon-micrographs": rng.randint(0, 2),
        "aggregates-per-micrograph": round(rng.uniform(0, 2), 2),
        "mass-kda": round(max(mass, 8), 1),
        "n-domains": rng.randint(1, 10) if copies == 1 else rng.randint(1, 3),
        "symmetry": symmetry,
        "voltage-kv": rng.choice([200, 300]),
        "n-state-volumes": 1,
    }
    if copies == 1:
        values["diameter-angstrom"] = round(diameter)
    return ["--keep-clean", *(word for key, value in values.items() for word in (f"--{key}", str(value)))]


def simulate(folder: Path) -> None:
    """Simulate the sessions that are not there yet."""
    missing = [
        index
        for index in (*TRAINING, *CALIBRATION)
        if not (place(folder, index) / "truth" / "facts.json").exists()
    ]
    run(["simulate", "session", str(place(folder, index)), *session_flags(index)] for index in missing)


def place(folder: Path, index: int) -> Path:
    """Folder of a session."""
    return folder / f"session_{index:03d}"


def run(commands: Iterable[Sequence[str]]) -> None:
    """Run emflow commands in one process of their own: starting one for each would take longer than the work."""
    code = "import json, sys; from emflow.cli import main; [main(json.loads(line)) for line in sys.stdin]"
    lines = "".join(json.dumps(list(words)) + "\n" for words in commands)
    subprocess.run([sys.executable, "-c", code], input=lines, text=True, check=True)


if __name__ == "__main__":
    simulate(Path(sys.argv[1]))
