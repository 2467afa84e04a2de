"""Peak memory of vem restore for 1, 3 and 10 units of volume, along the axis and across it.

    python benchmarks/vem_memory.py FOLDER [--repeats 3] [--write]

The volumes are noise about smooth structure in float32: no part is empty. The network has its first weights; its size
and its cost are those of a trained one. Each run is a process of its own; its peak is the record's (VmHWM). That differs
by some per cent from run to run: medians. Runs that FOLDER holds are not repeated. --write keeps the figures in
benchmarks/results/vem_memory.json.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import torch
from scipy.ndimage import gaussian_filter

from emflow.vem import command
from emflow.vem.config import VemTrain

UNITS = (1, 3, 10)
# a unit holds a block with all that it sees on either side: a larger volume has none that sees more
SHAPES = {"along the axis": (64, 64, 64), "across": (18, 64, 192)}
GROWS = {"along the axis": 0, "across": 2}
SETTINGS = ["--voxel-nm", "40", "10", "10", "--block-slices", "16", "--block-px", "64"]
RESULTS = Path(__file__).parent / "results" / "vem_memory.json"


def volume(shape: tuple[int, ...]) -> np.ndarray:
    """Structure and noise."""
    rng = np.random.default_rng(1)
    smooth = gaussian_filter(rng.standard_normal(shape).astype(np.float32), (1.5, 5, 5))
    return (smooth / smooth.std() + 0.2 * rng.standard_normal(shape)).astype(np.float32)


def measure(folder: Path, direction: str, units: int) -> dict[str, Any]:
    """Restore a volume in a process of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    shape = list(SHAPES[direction])
    shape[GROWS[direction]] *= units
    tifffile.imwrite(folder / "in.tif", volume(tuple(shape)), bigtiff=True)
    if not (folder / "model").exists():
        cfg = VemTrain(voxel_nm=(40, 10, 10), steps=1, batch=1, held_out=False, max_slices=16, max_side_px=64)
        command.train(folder / "in.tif", folder / "model", cfg=cfg)
    words = ["in.tif", "model", "r.zarr", "e.zarr", "--mask", "m.zarr", "--record", "record.json"]
    words = [sys.executable, "-m", "emflow.cli", "vem", "restore", *words, "--threads", "1", *SETTINGS]
    subprocess.run(words, cwd=folder, check=True)
    record = json.loads((folder / "record.json").read_text())
    return {
        "direction": direction,
        "units": units,
        "input_mb": round(4 * int(np.prod(shape)) / 2**20, 1),
        "restored_mb": round(4 * record["voxels_filled"] / 2**20, 1),
        "blocks": record["blocks"],
        "peak_memory_mb": record["peak_memory_mb"],
        "cpu_s": record["cpu_s"],
    }


def main() -> None:
    """Measure what is not yet there; print the growth."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for direction in SHAPES:
        for units in UNITS:
            peaks = []
            for repeat in range(given.repeats):
                place = given.folder.resolve() / f"{direction.replace(' ', '_')}_{units}"
                kept = place / f"row_{repeat}.json"
                if not kept.exists():
                    for image in place.glob("*.zarr"):
                        shutil.rmtree(image)
                    row = measure(place, direction, units)
                    kept.write_text(json.dumps(row))
                row = json.loads(kept.read_text())
                peaks.append(row["peak_memory_mb"])
            middle = statistics.median(peaks)
            first = next((r["peak_memory_mb"] for r in rows if r["direction"] == direction), middle)
            rows.append(
                {**row, "peak_memory_mb": middle, "peaks_mb": peaks, "growth": round(middle / first - 1, 4)}
            )
            print(json.dumps(rows[-1]), flush=True)
    if given.write:
        content = {
            "command": "python benchmarks/vem_memory.py FOLDER --write",
            "torch": torch.__version__,
            "most_growth": max(row["growth"] for row in rows),
            "rows": rows,
        }
        RESULTS.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
