"""Collect the figures of the real apoferritin run: per micrograph, of the map, and what it cost.

    snakemake --profile profiles/local --configfile config/apoferritin.yaml --config input=FOLDER
    python benchmarks/apoferritin.py FOLDER

FOLDER holds the micrographs (*.tif) with positions beside them (*.csv: x, y in pixels); results/apoferritin the run. The
result is benchmarks/results/apoferritin.json.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np

from emflow.io.mrc import read_header, read_mrc
from emflow.io.star import concat, floats, read_star
from emflow.pick.inputs import read_positions
from emflow.pick.score import match

RESULTS = Path("results/apoferritin")
RADIUS_PX = 15.0


def micrographs(folder: Path) -> list[dict[str, float | str]]:
    """Defocus, extent of the Thon rings and F1 of the picks of each micrograph."""
    ctf = concat(read_star(path)["micrographs"] for path in sorted(RESULTS.glob("ctf/shard_?????.star")))
    picks = concat(read_star(path)["particles"] for path in sorted(RESULTS.glob("pick/shard_?????.star")))
    order = np.argsort(-floats(picks, "emflowPickScore"), kind="stable")
    picks = picks.iloc[order]
    xy = np.column_stack([floats(picks, "rlnCoordinateX"), floats(picks, "rlnCoordinateY")])
    rows = []
    for i, name in enumerate(ctf["rlnMicrographName"]):
        stem = Path(name).stem
        truth = read_positions(folder / f"{stem}.csv").xy_px
        own = xy[(picks["rlnMicrographName"] == name).to_numpy()]
        hits = int((match(own, truth, RADIUS_PX) >= 0).sum())
        rows.append(
            {
                "micrograph": stem,
                "defocus_um": round(
                    float(floats(ctf, "rlnDefocusU")[i] + floats(ctf, "rlnDefocusV")[i]) / 2e4, 3
                ),
                "rings_to_angstrom": round(float(floats(ctf, "rlnCtfMaxResolution")[i]), 2),
                "picks": len(own),
                "f1": round(2 * hits / (len(own) + len(truth)), 3),
            }
        )
    return rows


def shell_radii() -> list[float]:
    """Radii in ångström where the map's radial profile is at half its height, inside and outside."""
    volume = read_mrc(RESULTS / "reconstruct" / "refine" / "map.mrc")
    voxel = read_header(RESULTS / "reconstruct" / "refine" / "map.mrc").voxel_size_angstrom
    n = volume.shape[0]
    distance = np.sqrt(sum((axis - n // 2) ** 2.0 for axis in np.indices(volume.shape)))
    shell = np.round(distance).astype(int).ravel()
    profile = np.bincount(shell, volume.ravel())[: n // 2] / np.bincount(shell)[: n // 2]
    fine = np.interp(np.arange(0, n // 2 - 1, 0.05), np.arange(n // 2), profile)
    above = np.flatnonzero(fine > 0.5 * fine.max())
    return [round(0.05 * voxel * float(above[0]), 1), round(0.05 * voxel * float(above[-1]), 1)]


def main() -> None:
    """Write the figures."""
    data = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("EMFLOW_TEST_DATA", "data") + "/apoferritin"
    folder = Path(data)
    if not (folder.is_dir() and (RESULTS / "report" / "summary.json").is_file()):
        print(f"{RESULTS}, {folder}: no finished run, or no micrographs; skipped")
        return
    summary = json.loads((RESULTS / "report" / "summary.json").read_text())
    rows = micrographs(folder)
    figures = {
        "command": "snakemake --profile profiles/local --configfile config/apoferritin.yaml --config input=FOLDER",
        "cpu_s": summary["cost"]["cpu_s"],
        "peak_memory_mb": summary["cost"]["peak_memory_mb"],
        "f1_mean": round(float(np.mean([float(row["f1"]) for row in rows])), 3),
        "rings_past_4_angstrom": sum(float(row["rings_to_angstrom"]) <= 4 for row in rows),
        "shell_radii_angstrom": shell_radii(),
        "abinitio": summary["reconstruct.abinitio"],
        "refine": summary["reconstruct.refine"],
        "validate": summary["validate"],
        "extract": summary["extract"],
        "micrographs": rows,
    }
    out = Path(__file__).parent / "results" / "apoferritin.json"
    out.write_text(json.dumps(figures, indent=1) + "\n")
    print(json.dumps({k: v for k, v in figures.items() if not isinstance(v, dict)}, indent=1))


if __name__ == "__main__":
    main()
