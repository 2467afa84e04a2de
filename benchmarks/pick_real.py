"""Picks on annotated real micrographs, raw and denoised, at the automatic threshold: F1, precision, recall, CPU seconds.

    python benchmarks/pick_real.py [FOLDER]

FOLDER (or the variable EMFLOW_TEST_DATA) holds apoferritin/ and ribosome/ with micrographs (*.tif) and positions beside
them (*.csv: x, y in pixels); the result is benchmarks/results/pick_real.json.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from emflow import __version__
from emflow.denoise.apply import denoise
from emflow.denoise.inputs import load_model
from emflow.denoise.scale import Scale
from emflow.io.image import read_image
from emflow.nn.unet import UNet
from emflow.pick.apply import pick_micrograph
from emflow.pick.config import PickApply
from emflow.pick.score import match

SETS = {  # pixel size and diameter in Å, radius of a match in pixels
    "apoferritin": (1.5, 130.0, 15.0),
    "ribosome": (5.36, 285.0, 14.0),
}


def measure(
    path: Path, pixel: float, diameter: float, radius: float, denoiser: tuple[UNet, Scale] | None
) -> dict[str, float | int | str]:
    """Figures of one micrograph."""
    image = torch.from_numpy(read_image(path))
    if denoiser is not None:
        image = denoise(image, pixel, *denoiser, 1024, False).image
    begin = time.process_time()
    picks = pick_micrograph(image, pixel, True, PickApply(diameter_angstrom=diameter))
    cpu = time.process_time() - begin
    truth = np.loadtxt(path.with_suffix(".csv"), delimiter=",", skiprows=1, ndmin=2)
    hits = int((match(picks.xy_px, truth, radius) >= 0).sum())
    return {
        "micrograph": path.stem,
        "truth": len(truth),
        "picks": len(picks.xy_px),
        "precision": round(hits / max(len(picks.xy_px), 1), 4),
        "recall": round(hits / len(truth), 4),
        "f1": round(2 * hits / (len(truth) + len(picks.xy_px)), 4),
        "cpu_s": round(cpu, 2),
    }


def summary(
    rows: list[dict[str, float | int | str]], pixel: float, diameter: float, radius: float
) -> dict[str, Any]:
    """Figures of a set."""
    f1 = [float(row["f1"]) for row in rows]
    return {
        "pixel_size_angstrom": pixel,
        "diameter_angstrom": diameter,
        "radius_px": radius,
        "f1_mean": round(float(np.mean(f1)), 4),
        "f1_worst": min(f1),
        "cpu_s_median": float(np.median([float(row["cpu_s"]) for row in rows])),
        "micrographs": rows,
    }


def main() -> None:
    """Measure all sets that are there."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else os.environ.get("EMFLOW_TEST_DATA", "data"))
    torch.set_num_threads(1)
    network, scale, _ = load_model(None, torch.device("cpu"))
    results: dict[str, Any] = {"command": "python benchmarks/pick_real.py FOLDER", "emflow": __version__}
    for name, (pixel, diameter, radius) in SETS.items():
        files = sorted((folder / name).glob("*.tif"))
        if not files:
            print(f"{folder / name}: no micrographs; skipped")
            continue
        for pixels, denoiser in (("raw", None), ("denoised", (network, scale))):
            rows = [measure(path, pixel, diameter, radius, denoiser) for path in files]
            results[f"{name} {pixels}"] = summary(rows, pixel, diameter, radius)
            print(f"{name} {pixels}: F1 {results[f'{name} {pixels}']['f1_mean']} mean of {len(rows)}")
    if len(results) > 2:
        out = Path(__file__).parent / "results" / "pick_real.json"
        out.parent.mkdir(exist_ok=True)
        out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
