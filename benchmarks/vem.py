"""Restoration of anisotropic volumes beside interpolation and a CARE-style U-Net, against the truth.

    python benchmarks/vem.py FOLDER [fibsem labyrinth bundle] [--factors 6 4] [--seeds 0 1 2] [--write]

fibsem: the real FIB-SEM crop of Drosophila medulla (neuroproof examples, Janelia, CC-BY; EMFLOW_TEST_DATA names the
folder that holds fibsem_medulla/raw.tif), isotropic, of which every 4th or 6th slice is kept; nothing that emflow
ships has seen it. labyrinth, bundle: simulated (benchmarks/volume), by generators unlike emflow's own; another volume
for each seed. All methods are given the kept slices alone; "emflow, shipped" begins with the shipped weights, "emflow,
untrained" takes them as they are. Figures are of the missing slices only (PSNR) and of xz planes (SSIM, axial
resolution by the Fourier correlation at 0.5, power beyond half of Nyquist as a part of the truth's). Runs that FOLDER
holds are not repeated. --write keeps the figures of the runs that there are in benchmarks/results/vem.json.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.interpolate import CubicSpline
from torch import Tensor
from volume import bundle, care, labyrinth

import emflow
from emflow.io.volume import open_volume
from emflow.nn.unet import count_parameters, on_device
from emflow.vem.config import VemTrain
from emflow.vem.gaps import between
from emflow.vem.heldout import hold_out
from emflow.vem.inputs import first_weights
from emflow.vem.model import Filler
from emflow.vem.restore import fill_block
from emflow.vem.score import axial_resolution, axial_spectra, high_frequency_power, psnr, ssim
from emflow.vem.train import interval_factor, residual_spread, train_filler

Row = dict[str, Any]
RESULTS = Path(__file__).parent / "results" / "vem.json"
CPU = torch.device("cpu")


def volume(name: str, seed: int) -> Tensor:
    """Isotropic truth as float32."""
    if name == "fibsem":
        at = Path(os.environ.get("EMFLOW_TEST_DATA", "data")) / "fibsem_medulla" / "raw.tif"
        return torch.from_numpy(open_volume(at).read().astype(np.float32))
    return torch.from_numpy({"labyrinth": labyrinth, "bundle": bundle}[name].make(seed).astype(np.float32))


def scored(filled: Tensor, truth: Tensor, factor: int) -> Row:
    """Figures of filled gaps (L, factor − 1, H, W) against the truth (L·factor + 1, H, W)."""
    whole = truth.clone()
    gaps = whole[:-1].unflatten(0, (-1, factor))
    target = truth[:-1].unflatten(0, (-1, factor))[:, 1:]
    gaps[:, 1:] = filled
    frequency, correlation, power = axial_spectra(whole.permute(1, 0, 2), truth.permute(1, 0, 2))
    return {
        "psnr_db": round(psnr(filled, target, 255.0), 3),
        "ssim_xz": round(ssim(whole.permute(1, 0, 2), truth.permute(1, 0, 2), 255.0), 4),
        "axial_resolution_voxels": round(axial_resolution(frequency, correlation), 2),
        "high_frequency_power": round(high_frequency_power(frequency, power), 3),
    }


def linear(slices: Tensor, factor: int, seed: int, steps: int) -> tuple[Tensor, Row]:
    """Linear interpolation."""
    return between(slices.permute(1, 0, 2), factor).permute(1, 2, 0, 3), {}


def cubic(slices: Tensor, factor: int, seed: int, steps: int) -> tuple[Tensor, Row]:
    """Cubic spline along the axis."""
    spline = CubicSpline(np.arange(len(slices)), slices.numpy(), axis=0)
    at = np.arange(len(slices) - 1)[:, None] + np.arange(1, factor) / factor
    return torch.from_numpy(spline(at).astype(np.float32)), {}


def careful(slices: Tensor, factor: int, seed: int, steps: int) -> tuple[Tensor, Row]:
    """CARE-style U-Net."""
    mean, deviation = slices.mean(), slices.std()
    start = time.process_time()
    # half of the steps, which cost about what all of emflow's do
    network = care.learn((slices - mean) / deviation, factor, steps // 2, seed)
    learned = time.process_time()
    filled = care.fill(network, (slices - mean) / deviation, factor) * deviation + mean
    cost = {"train_cpu_s": learned - start, "apply_cpu_s": time.process_time() - learned}
    return filled, {**cost, "parameters": count_parameters(network)}


def ours(slices: Tensor, factor: int, seed: int, steps: int, start: str = "scratch") -> tuple[Tensor, Row]:
    """Emflow, with its interval, as `emflow vem train` and `vem restore` do it."""
    mean, deviation = float(slices.mean()), float(slices.std())
    units = (slices - mean) / deviation
    cfg = VemTrain(steps=steps, seed=seed, start=start)
    unseen = torch.arange(len(units)) % 8 == 4
    begun = time.process_time()
    filler = _begin(factor, cfg)
    filler.spread = residual_spread(units[~unseen], factor, cfg)
    filler.network = train_filler(filler, units[~unseen], cfg, CPU)
    learned = time.process_time()
    quantile = interval_factor(filler, units[unseen], cfg, CPU)
    told = hold_out(units, _begin(2 * factor, cfg), cfg, CPU)
    tested = time.process_time()
    filled, scale = fill_block(filler, units)
    about: Row = {
        "train_cpu_s": learned - begun,
        "held_out_cpu_s": tested - learned,
        "apply_cpu_s": time.process_time() - tested,
        "parameters": count_parameters(filler.network),
        "held_out_gain_db": told.psnr_db - told.psnr_linear_db,
    }
    about["half_width"] = scale * (quantile * told.widening * deviation)
    about["half_width_xy"] = scale * (quantile * deviation)
    return filled * deviation + mean, about


def _begin(factor: int, cfg: VemTrain) -> Filler:
    network = on_device(first_weights(cfg.start, factor, cfg.seed)[0], CPU)
    return Filler(network, factor, 0.0, 1.0, 1.0, orientations=cfg.orientations)


METHODS: dict[str, Callable[[Tensor, int, int, int], tuple[Tensor, Row]]] = {
    "linear": linear,
    "cubic": cubic,
    "CARE-style U-Net": careful,
    "emflow": ours,
    "emflow, shipped": partial(ours, start="general"),
    "emflow, untrained": lambda slices, factor, seed, _: ours(slices, factor, seed, 0, "general"),
}


def measure(name: str, factor: int, seed: int, method: str, steps: int) -> Row:
    """One row."""
    truth = volume(name, seed)
    truth = truth[: (len(truth) - 1) // factor * factor + 1]
    filled, about = METHODS[method](truth[::factor].contiguous(), factor, seed, steps)
    target = truth[:-1].unflatten(0, (-1, factor))[:, 1:]
    for key in ("half_width", "half_width_xy"):
        if key in about:
            inside = (filled - target).abs() <= about.pop(key)
            about["coverage" + key.removeprefix("half_width")] = round(float(inside.float().mean()), 4)
    if "apply_cpu_s" in about:
        about["apply_cpu_s_per_mvoxel"] = about.pop("apply_cpu_s") / filled.numel() * 1e6
    row = {"volume": name, "factor": factor, "seed": seed, "method": method, "steps": steps}
    return {**row, **scored(filled, truth, factor), **about}


def medians(rows: list[Row]) -> list[Row]:
    """Median over the seeds."""
    out = []
    for place in dict.fromkeys((r["volume"], r["factor"], r["method"]) for r in rows):
        group = [r for r in rows if (r["volume"], r["factor"], r["method"]) == place]
        numbers = [key for key, value in group[0].items() if isinstance(value, float)]
        middle = {key: round(statistics.median(r[key] for r in group), 4) for key in numbers}
        out.append(
            {"volume": place[0], "factor": place[1], "method": place[2], "seeds": len(group), **middle}
        )
    return out


def main() -> None:
    """Measure what is asked for and not yet there; print the medians."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("volumes", nargs="*", default=["fibsem", "labyrinth", "bundle"])
    parser.add_argument("--factors", type=int, nargs="+", default=[6, 4])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    for factor, name, seed, method in product(given.factors, given.volumes, given.seeds, given.methods):
        kept = given.folder / f"{name}_{factor}_{method.replace(' ', '_')}_{given.steps}_{seed}.json"
        if not kept.exists():
            row = measure(name, factor, seed, method, given.steps)
            kept.write_text(json.dumps(row))
            print(json.dumps(row), file=sys.stderr)
    rows = [json.loads(kept.read_text()) for kept in sorted(given.folder.glob(f"*_{given.steps}_?.json"))]
    table = medians(rows)
    for row in table:
        print(json.dumps(row))
    if given.write:
        content = {
            "command": "python benchmarks/vem.py FOLDER --write",
            "torch": torch.__version__,
            "emflow": emflow.__version__,
            "medians": table,
            "rows": rows,
        }
        RESULTS.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
