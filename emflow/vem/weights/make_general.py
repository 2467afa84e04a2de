"""Train the general gap filler that emflow ships, from nothing but simulated volumes.

    python -m emflow.vem.weights.make_general FOLDER

simulates the volumes of :data:`VOLUMES` below FOLDER (what is there is kept), trains on them into FOLDER/model, and
writes ``general.safetensors`` with its manifest to FOLDER, from where the two are copied here by hand. About 10
CPU-minutes.
"""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

FIRST_SEED = 2000
"""Seeds below are left to tests, examples and judging."""
VOLUMES = range(24)
"""Volumes by their number."""
TRAINING = ("--steps", "10000", "--batch", "12", "--seed", "1")


def volume_flags(index: int) -> list[str]:
    """Draw one isotropic volume: other cells, organelles, staining, blur and noise each time."""
    rng = random.Random(FIRST_SEED + index)

    def between(low: float, high: float) -> float:
        return round(low * (high / low) ** rng.random(), 4)

    voxel = between(5, 14)
    values = {
        "seed": FIRST_SEED + index,
        "voxel-nm": voxel,
        "z-factor": 1,
        "file-format": "tiff",
        "cell-diameter-nm": between(14, 100) * voxel,
        "alignment": round(rng.random() ** 2, 2),
        "membrane-nm": between(1.6, 5) * voxel,
        "mitochondria-per-um3": between(20, 200),
        "vesicles-per-um3": between(100, 3000),
        "microtubules": between(0.5, 8),
        "reticulum": round(rng.random(), 2),
        "nucleus-radius-nm": between(25, 60) * voxel if rng.random() < 0.2 else 0,
        "grain": between(0.3, 3),
        "blur-px": between(0.4, 1.5),
        "staining-variation": round(rng.uniform(0, 0.2), 3),
        "charging": round(rng.uniform(0, 0.1), 3),
        "curtains": round(rng.uniform(0, 0.03), 3),
        "jitter-px": round(max(0.0, rng.uniform(-0.3, 0.4)), 3),
        "slice-brightness": round(rng.uniform(0, 0.03), 3),
        "electrons-per-px": between(150, 5000),
    }
    return [word for key, value in values.items() for word in (f"--{key}", str(value))]


def main(folder: Path) -> None:
    """Simulate what is missing, then train."""
    outs = [folder / f"volume_{index:03d}" for index in VOLUMES]
    for index, out in zip(VOLUMES, outs, strict=True):
        if not (out / "truth" / "facts.json").exists():
            _run("simulate", "volume", str(out), *volume_flags(index))
    _run(
        "vem", "pretrain", *(str(out / "measured.tif") for out in outs), str(folder / "model"), *TRAINING
    )  # fmt: skip
    ship(folder / "model", folder)


def ship(model: Path, folder: Path) -> None:
    """Copy trained weights under the name that emflow ships, with the manifest that it ships."""
    shutil.copyfile(model / "model.safetensors", folder / "general.safetensors")
    manifest = json.loads((model / "model.json").read_text(encoding="utf-8"))
    manifest |= {
        "file": "general.safetensors",
        "licence": "BSD-3-Clause",
        "recipe": ["python -m emflow.vem.weights.make_general FOLDER"],
        "trained_on": f"{len(VOLUMES)} volumes simulated by emflow, seeds from {FIRST_SEED}; no other data",
    }
    (folder / "general.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


def _run(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "emflow.cli", *words], check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
