"""Picking after training on few labels, beside the template picker: AUPRC and F1 on micrographs without labels.

    python benchmarks/pick_labels.py FOLDER [--write]

Simulates two sessions below FOLDER (once), labels 20, 50 and 200 particles of the first half of their micrographs, drawn at
random, trains (`pick train`) and picks in the other half; likewise on real apoferritin (EMFLOW_TEST_DATA), where labels come
from two micrographs and ten are picked in. What FOLDER holds is not run again. --write keeps the figures in
benchmarks/results/pick_labels.json.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from emflow import __version__
from emflow.io.coordinates import NAME, X, Y, read_coordinates, stems_of
from emflow.pick.inputs import read_positions
from emflow.pick.measures import score_picks
from emflow.pick.score import Positions

LABELS = (50, 20, 200)
COMMON = "--pixel-size-angstrom 2 --n-micrographs 8 --micrograph-size-px 1024 --device cpu"
SESSIONS = {
    "simulated, easy": f"{COMMON} --seed 41 --diameter-angstrom 180 --snr 0.05",
    "simulated, hard": f"{COMMON} --seed 42 --diameter-angstrom 150 --mass-kda 250 --snr 0.02 --particles-per-micrograph 60 "
    "--aggregates-per-micrograph 2 --ice-crystals-per-micrograph 1 --gold-beads-per-micrograph 2 --ice-texture fields "
    "--n-carbon-micrographs 2 --n-noise-micrographs 1",
}
SIZES = {
    "simulated, easy": (2.0, 180.0, 45.0),
    "simulated, hard": (2.0, 150.0, 37.5),
    "apoferritin": (1.5, 130.0, 15.0),
}
"""Pixel size and diameter in ångström, radius in pixels."""
ALL = "--false-discovery-rate 0.95 --min-probability 0"
RESULT = Path(__file__).parent / "results" / "pick_labels.json"


def emflow(words: str, *paths: Path | str) -> float:
    """Run a command of one thread; return its CPU seconds."""
    room, verb, *rest = words.split()
    before = os.times()
    subprocess.run(
        [sys.executable, "-m", "emflow.cli", room, verb, *map(str, paths), *rest],
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
    )
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def images_of(name: str, folder: Path) -> tuple[list[Path], Path, int]:
    """Micrographs, their truth, and how many of them are labelled."""
    if name == "apoferritin":
        source = Path(os.environ["EMFLOW_TEST_DATA"]) / "apoferritin"
        return sorted(source.glob("*.tif")), source, 2
    session = folder / name.replace(", ", "_")
    if not (session / "truth" / "particles.star").exists():
        emflow(f"simulate session {SESSIONS[name]}", session)
    images = sorted((session / "micrographs").glob("*.mrc"))
    return images, session / "truth" / "particles.star", len(images) // 2


def within(found: Positions, names: set[str]) -> Positions:
    """The positions of some micrographs."""
    chosen = np.array([n in names for n in found.micrograph], dtype=bool)
    figure = None if found.figure is None else found.figure[chosen]
    return Positions(
        found.micrograph[chosen], found.xy_px[chosen], found.merit[chosen], frozenset(names), figure
    )


def figures(all_picks: Path, picks: Path, truth: Path, names: set[str], radius: float) -> dict[str, Any]:
    """AUPRC and the best F1 of all peaks, F1 at the automatic threshold."""
    known = within(read_positions(truth), names)
    whole = score_picks(within(read_positions(all_picks), names), known, radius)
    taken = score_picks(within(read_positions(picks), names), known, radius)
    chosen = {"auprc": whole["average_precision"], "f1_best_threshold": whole["f1_best_threshold"]}
    chosen |= {k: taken[k] for k in ("f1", "precision", "recall", "false_promised")}
    return {k: None if v is None else round(v, 3) for k, v in chosen.items()}


def write_labels(target: Path, truth: Path, names: list[str], count: int, seed: int) -> None:
    """Draw labels among the particles of some micrographs."""
    table = read_coordinates(truth).table
    table = table[np.isin(stems_of(table[NAME]), names)].reset_index(drop=True)
    chosen = np.random.default_rng(seed).permutation(len(table))[:count]
    target.parent.mkdir(parents=True, exist_ok=True)
    columns = {"micrograph": table[NAME], "x": table[X], "y": table[Y]}
    pd.DataFrame(columns).iloc[np.sort(chosen)].to_csv(target, index=False)


def run(name: str, labels: int, folder: Path) -> dict[str, Any]:
    """One row: labels 0 is the template picker."""
    images, truth, half = images_of(name, folder)
    pixel, diameter, radius = SIZES[name]
    place = folder / f"{name.replace(', ', '_')}_{labels}"
    judged = {p.stem for p in images[half:]}
    facts = f"--pixel-size-angstrom {pixel} --diameter-angstrom {diameter} --contrast dark --device cpu"
    source, row = f"{images[0].parent}/*{images[0].suffix}", {"set": name, "labels": labels}
    weights = ""
    if labels:
        write_labels(place / "labels.csv", truth, [p.stem for p in images[:half]], labels, labels)
        row["train_cpu_s"] = round(
            emflow(f"pick train {facts}", source, place / "labels.csv", place / "model"), 1
        )
        weights = f" --weights {place / 'model'}"
    emflow(f"pick apply {facts} {ALL} --score-spread 1000{weights}", source, place / "all.star")
    row["apply_cpu_s"] = round(emflow(f"pick apply {facts}{weights}", source, place / "picks.star"), 1)
    return row | figures(place / "all.star", place / "picks.star", truth, judged, radius)


def main() -> None:
    """Run what is missing, print the table."""
    folder = Path(next(a for a in sys.argv[1:] if a != "--write"))
    sets = [*(["apoferritin"] if "EMFLOW_TEST_DATA" in os.environ else []), *SESSIONS]
    rows = []
    for labels in (0, *LABELS):
        for name in reversed(sets):
            kept = folder / f"{name.replace(', ', '_')}_{labels}" / "row.json"
            if not kept.exists():
                row = run(name, labels, folder)
                kept.write_text(json.dumps(row))
            rows.append(json.loads(kept.read_text()))
            print(rows[-1], flush=True)
            if "--write" in sys.argv:
                content = {
                    "emflow": __version__,
                    "command": "python benchmarks/pick_labels.py FOLDER --write",
                }
                content |= {"date": time.strftime("%Y-%m-%d"), "rows": rows}
                RESULT.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
