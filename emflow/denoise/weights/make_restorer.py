"""Train the restorer that emflow ships beside its general model, from nothing but simulated sessions.

    python -m emflow.denoise.weights.make_restorer FOLDER

simulates the general model's first sessions and those of :data:`UNSEEN`, which it has not learned from, below FOLDER
(what is there is kept), and trains into FOLDER/sampler. It writes ``restorer.safetensors`` with its manifest to FOLDER,
from where the two are copied here by hand. About 12 CPU-minutes, half of them for simulating.
"""

from __future__ import annotations

import sys
from pathlib import Path

from emflow.denoise.weights.make_general import FIRST, ship, simulate, train
from emflow.io.simulated import write_sessions

UNSEEN = range(100, 112)
"""Sessions by their number, with ice and contamination as the general model's second have them."""
_HOW = (
    *("--contrast", "dark", "--max-micrographs", "1000", "--batch", "6", "--crop-px", "96"),
    *("--deviation-steps", "400", "--steps", "1600", "--seed", "3"),
)


def main(folder: Path) -> None:
    """Simulate what is missing, then train."""
    sessions = [*FIRST, *UNSEEN]
    simulate(folder, sessions)
    table = folder / "sampler.star"
    write_sessions(table, [folder / f"session_{index:03d}" for index in sessions])
    if not (folder / "sampler" / "restorer.json").exists():
        train("train-restorer", str(table), str(folder / "sampler"), *_HOW)
    ship(folder / "sampler" / "restorer.safetensors", folder, len(sessions), "make_restorer")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
