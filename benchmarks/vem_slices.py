"""Gaps about absent slices, and the mask, against the truth; and shifts between slices that are known.

    python benchmarks/vem_slices.py FOLDER [--steps 300] [--write]

Every fourth slice of the real FIB-SEM crop of Drosophila medulla (neuroproof examples, Janelia, CC-BY; EMFLOW_TEST_DATA
names the folder that holds fibsem_medulla/raw.tif) is kept; of those four are then withheld by the table of slices: two
alone, and two neighbours. The network learns without them. The shifts are of simulated sheets, 40 slices of 512 x 512.
--write keeps the figures in benchmarks/results/vem_slices.json.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import torch
from scipy.ndimage import fourier_shift, gaussian_filter

from emflow.io.star import read_star, write_star
from emflow.io.volume import open_volume
from emflow.vem import command
from emflow.vem.check import check_slices
from emflow.vem.config import VemCheck, VemRestore, VemTrain

RESULTS = Path(__file__).parent / "results" / "vem_slices.json"
FACTOR, WITHHELD = 4, (5, 13, 20, 21)


def absent(folder: Path, steps: int) -> list[dict[str, Any]]:
    """Restore across withheld slices; one row for each gap, and one for all others."""
    at = Path(os.environ.get("EMFLOW_TEST_DATA", "data")) / "fibsem_medulla" / "raw.tif"
    truth = open_volume(at).read()
    truth = truth[: (len(truth) - 1) // FACTOR * FACTOR + 1]
    tifffile.imwrite(folder / "measured.tif", truth[::FACTOR])
    out = folder / "restored.zarr", folder / "error.zarr"
    if not (folder / "report" / "metrics.json").exists():
        command.check(folder / "measured.tif", folder / "check")
        tables = read_star(folder / "check" / "slices.star")
        tables["slices"].loc[list(WITHHELD), "emflowSliceUsed"] = "0"
        write_star(folder / "withheld.star", tables)
        voxel = (10.0 * FACTOR, 10.0, 10.0)
        told = {"slices": folder / "withheld.star"}
        cfg = VemTrain(voxel_nm=voxel, steps=steps)
        command.train(folder / "measured.tif", folder / "model", **told, cfg=cfg)
        command.restore(
            folder / "measured.tif", folder / "model", *out, mask=folder / "mask.zarr",
            report=folder / "report", **told, cfg=VemRestore(voxel_nm=voxel),
        )  # fmt: skip
    found, width = (open_volume(path).read().astype(np.float32) for path in out)
    mask = open_volume(folder / "mask.zarr").read()
    used = [place for place in range(len(truth[::FACTOR])) if place not in WITHHELD]
    rows: list[dict[str, object]] = []
    others: list[int] = []
    for below, above in pairwise(used):
        gap = slice(below * FACTOR + 1, above * FACTOR)
        if above - below == 1:
            others.extend(range(gap.start, gap.stop))
            continue
        part = (np.arange(1, (above - below) * FACTOR) / ((above - below) * FACTOR))[:, None, None]
        lines = truth[below * FACTOR] * (1 - part) + truth[above * FACTOR] * part
        rows.append({"absent": above - below - 1, **_figures(found[gap], width[gap], mask[gap], truth[gap])})
        rows[-1]["psnr_linear_db"] = _psnr(lines, truth[gap])
    rows.append({"absent": 0, **_figures(found[others], width[others], mask[others], truth[others])})
    return rows


def _figures(found: np.ndarray, width: np.ndarray, mask: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    return {
        "psnr_db": _psnr(found, truth),
        "coverage": round(float((np.abs(found - truth) <= width).mean()), 4),
        "half_width": round(float(width.mean()), 2),
        "share_abstained": round(float(mask.mean()), 4),
    }


def _psnr(values: np.ndarray, truth: np.ndarray) -> float:
    return round(float(10 * np.log10(255**2 / np.square(values - truth.astype(np.float32)).mean())), 3)


def shifts() -> list[dict[str, Any]]:
    """How well known shifts are undone: root mean square between neighbours, before and after."""
    rng = np.random.default_rng(7)
    field = gaussian_filter(rng.standard_normal((40, 512, 512)).astype(np.float32), (2.4, 12, 12))
    field /= field.std()
    sheets = np.exp(-((field / 0.25) ** 2)) + np.exp(-(((field - 1.3) / 0.2) ** 2))
    slices = 180 - 110 * sheets + 8 * rng.standard_normal(field.shape)
    step = np.zeros((40, 2))
    step[20:] = [7.3, -4.6]
    rows = []
    for kind, place in (("none", np.zeros((40, 2))), ("jitter", rng.normal(0, 1.5, (40, 2))), ("step", step)):
        moved = [
            torch.from_numpy(np.fft.ifft2(fourier_shift(np.fft.fft2(image), by)).real.astype(np.float32))
            for image, by in zip(slices, place, strict=True)
        ]
        start = time.process_time()
        found = check_slices(moved.__getitem__, range(40), VemCheck())
        apart = [np.sqrt((np.diff(at, axis=0) ** 2).mean()) for at in (place, place + found.slices.shifts)]
        rows.append(
            {
                "shifts": kind,
                "rms_before_px": round(float(apart[0]), 3),
                "rms_after_px": round(float(apart[1]), 3),
                "slices_moved": int(found.slices.shifts.any(1).sum()),
                "slices_refused": int((~found.slices.used).sum()),
                "check_cpu_s_per_slice": round((time.process_time() - start) / 40, 4),
            }
        )
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    start = time.process_time()
    content = {
        "command": "python " + " ".join(["benchmarks/vem_slices.py", "FOLDER", *sys.argv[2:]]),
        "torch": torch.__version__,
        "absent": absent(given.folder, given.steps),
        "shifts": shifts(),
        "cpu_s": round(time.process_time() - start, 1),
    }
    print(json.dumps(content, indent=1))
    if given.write:
        RESULTS.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
