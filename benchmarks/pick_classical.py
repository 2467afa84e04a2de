"""The classical ways of picking beside the template on annotated real micrographs, at the automatic threshold.

    python benchmarks/pick_classical.py FOLDER [--write]

FOLDER (or EMFLOW_TEST_DATA) holds apoferritin/ and ribosome/ as for benchmarks/pick_real.py. References are a hollow
sphere of the published radii, and a ball. --write keeps benchmarks/results/pick_classical.json.
"""

from __future__ import annotations

import json
import os
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch

from emflow import __version__
from emflow.io.image import read_image
from emflow.pick.apply import pick_micrograph
from emflow.pick.apply_classical import pick_log, pick_with_references, working_pixel
from emflow.pick.config import PickApply
from emflow.pick.references import projections
from emflow.pick.score import match

RESULT = Path(__file__).parent / "results" / "pick_classical.json"
SETS = {  # pixel size and diameter in Å, radius of a match in pixels; the reference's inner and outer radius in Å
    "apoferritin": (1.5, 130.0, 15.0, (39.5, 60.0)),
    "ribosome": (5.36, 285.0, 14.0, (0.0, 110.0)),
}


def main() -> None:
    """Pick, print, keep."""
    torch.set_num_threads(1)
    given = [a for a in sys.argv[1:] if a != "--write"]
    folder = Path(given[0] if given else os.environ["EMFLOW_TEST_DATA"])
    rows = []
    for name, (pixel, diameter, radius, (inner, outer)) in SETS.items():
        cfg, voxel = PickApply(diameter_angstrom=diameter), diameter / 60
        axis = (torch.arange(80) - 40) * voxel
        far = torch.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2)
        ball = ((far <= outer) & (far >= inner)).float()
        found: dict[str, list[tuple[float, float, float, float]]] = {}
        for path in sorted((folder / name).glob("*.tif")):
            image = torch.from_numpy(read_image(path))
            truth = np.loadtxt(path.with_suffix(".csv"), delimiter=",", skiprows=1, ndmin=2)
            references = projections(ball, voxel, working_pixel(image.shape, pixel, cfg), 43, 90.0)
            ways = {
                "template": partial(pick_micrograph, image, pixel, True, cfg),
                "log": partial(pick_log, image, pixel, True, cfg),
                "references": partial(pick_with_references, image, pixel, True, cfg, references),
            }
            for way, pick in ways.items():
                begin = time.process_time()
                picks = pick()
                cpu = time.process_time() - begin
                hits = int((match(picks.xy_px, truth, radius) >= 0).sum())
                n, m = len(picks.xy_px), len(truth)
                found.setdefault(way, []).append((hits / max(n, 1), hits / m, 2 * hits / (n + m), cpu))
        for way, values in found.items():
            precision, recall, f1, cpu = (np.array(column) for column in zip(*values, strict=True))
            rows.append(
                {
                    "set": name,
                    "method": way,
                    "micrographs": len(f1),
                    "f1_mean": round(float(f1.mean()), 3),
                    "f1_worst": round(float(f1.min()), 3),
                    "precision": round(float(precision.mean()), 3),
                    "recall": round(float(recall.mean()), 3),
                    "cpu_s": round(float(cpu.mean()), 2),
                }
            )
            print(rows[-1], flush=True)
    if "--write" in sys.argv:
        content = {"emflow": __version__, "command": "python benchmarks/pick_classical.py FOLDER --write"}
        RESULT.write_text(json.dumps({**content, "rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
