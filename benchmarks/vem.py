"""Restoration of anisotropic volumes beside interpolation and a CARE-style U-Net, against the truth.

    python benchmarks/vem.py FOLDER [fibsem sheets] [--factors 4 6] [--seeds 0 1 2] [--steps 500] [--write]

fibsem: the real FIB-SEM crop of Drosophila medulla (neuroproof examples, Janelia, CC-BY; EMFLOW_TEST_DATA names the
folder that holds fibsem_medulla/raw.tif), isotropic, of which every 4th or 6th slice is kept. sheets: simulated
sheets about bodies. All methods learn from the kept slices alone. Figures are of the missing slices only (PSNR) and
of xz planes (SSIM, axial resolution by the Fourier correlation at 0.5, power beyond half of Nyquist as a part of the
truth's). Runs that FOLDER holds are not repeated. --write keeps the figures in benchmarks/results/vem.json.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.interpolate import CubicSpline
from scipy.ndimage import gaussian_filter
from torch import Tensor
from volume import care

from emflow.io.volume import open_volume
from emflow.nn.unet import count_parameters
from emflow.vem.config import VemTrain
from emflow.vem.gaps import between
from emflow.vem.heldout import hold_out
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
    rng = np.random.default_rng(100 + seed)
    field = gaussian_filter(rng.standard_normal((112, 128, 128)), 6, mode="wrap")
    field /= field.std()
    sheets = np.exp(-((field / 0.2) ** 2)) + np.exp(-(((field - 1.3) / 0.15) ** 2))
    bodies = gaussian_filter(rng.standard_normal(field.shape), 2, mode="wrap")
    noise = 5 * rng.standard_normal(field.shape)
    return torch.from_numpy(
        (170 - 90 * sheets + 150 * bodies * (field > 0.5) + noise).clip(0, 255).astype(np.float32)
    )


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
    network = care.learn((slices - mean) / deviation, factor, steps, seed)
    learned = time.process_time()
    filled = care.fill(network, (slices - mean) / deviation, factor) * deviation + mean
    cost = {"train_cpu_s": learned - start, "apply_cpu_s": time.process_time() - learned}
    return filled, {**cost, "parameters": count_parameters(network)}


def ours(slices: Tensor, factor: int, seed: int, steps: int) -> tuple[Tensor, Row]:
    """Emflow, with its interval."""
    mean, deviation = float(slices.mean()), float(slices.std())
    units = (slices - mean) / deviation
    cfg = VemTrain(steps=steps, seed=seed)
    unseen = torch.arange(len(units)) % 8 == 4
    start = time.process_time()
    filler = _begin(factor, cfg)
    filler.spread = residual_spread(units[~unseen], factor, cfg)
    filler.network = train_filler(filler, units[~unseen], cfg, CPU)
    learned = time.process_time()
    quantile = interval_factor(filler, units[unseen], cfg, CPU)
    told = hold_out(units, _begin(2 * factor, cfg), cfg, CPU)
    tested = time.process_time()
    filled, scale = fill_block(filler, units)
    about: Row = {
        "train_cpu_s": learned - start,
        "held_out_cpu_s": tested - learned,
        "apply_cpu_s": time.process_time() - tested,
        "parameters": count_parameters(filler.network),
        "held_out_gain_db": told.psnr_db - told.psnr_linear_db,
    }
    about["half_width"] = scale * (quantile * told.widening * deviation)
    about["half_width_xy"] = scale * (quantile * deviation)
    return filled * deviation + mean, about


def _begin(factor: int, cfg: VemTrain) -> Filler:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(cfg.seed)
        return Filler.begin(factor, 0.0, 1.0, 1.0)


METHODS: dict[str, Callable[[Tensor, int, int, int], tuple[Tensor, Row]]] = {
    "linear": linear,
    "cubic": cubic,
    "CARE-style U-Net": careful,
    "emflow": ours,
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
    parser.add_argument("volumes", nargs="*", default=["fibsem", "sheets"])
    parser.add_argument("--factors", type=int, nargs="+", default=[4, 6])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    rows = []
    for name in given.volumes:
        for factor in given.factors:
            for method in METHODS:
                for seed in given.seeds:
                    kept = (
                        given.folder / f"{name}_{factor}_{method.replace(' ', '_')}_{given.steps}_{seed}.json"
                    )
                    if not kept.exists():
                        kept.write_text(json.dumps(measure(name, factor, seed, method, given.steps)))
                    rows.append(json.loads(kept.read_text()))
                    print(json.dumps(rows[-1]), file=sys.stderr)
    table = medians(rows)
    for row in table:
        print(json.dumps(row))
    if given.write:
        command = "python " + " ".join(["benchmarks/vem.py", "FOLDER", *sys.argv[2:]])
        content = {"command": command, "torch": torch.__version__, "medians": table, "rows": rows}
        RESULTS.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
