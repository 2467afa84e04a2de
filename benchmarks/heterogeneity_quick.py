"""Heterogeneity on simulated stacks with true poses: five compositions, a full turn, one state, pure noise.

    python benchmarks/heterogeneity_quick.py FOLDER [composition turn homogeneous noise] [--particles 5000]

Makes the stacks with `emflow simulate particles`, runs `emflow heterogeneity fit` and `analyze` on them, and
prints one JSON line per set: components kept, adjusted Rand index, error of the angle, per-image FSC area
against that of the fitted and of the true mean map, CPU-seconds, CPU-milliseconds per image and pass.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import adjusted_rand_score
from sklearn.neighbors import KNeighborsRegressor

from emflow.em.fsc import fsc
from emflow.em.masks import lowpass, solvent_mask
from emflow.heterogeneity.config import HeterogeneityFit
from emflow.io.mrc import map_mrc, read_header, read_mrc, write_mrc
from emflow.io.star import floats, integers, read_star

SETS = {
    "composition": ["--n-compositions", "5"],
    "turn": ["--n-angles", "1", "--n-domains", "2", "--n-state-volumes", "100"],
    "homogeneous": [],
    "noise": [],
}
_JUDGED = 200


def run(*words: str) -> float:
    """Run a command of emflow; return its CPU-seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-m", "emflow.cli", *words], check=True, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def prepare(kind: str, folder: Path, particles: int, box: int, snr: float) -> None:
    """Make the stack and the consensus map's mask, once."""
    if (folder / "maps" / "mask.mrc").exists():
        return
    sizes = ["--n-particles", str(particles), "--box-px", str(box), "--snr", str(snr)]
    run("simulate", "particles", str(folder), *sizes, *SETS[kind])
    if kind == "noise":
        pixels = map_mrc(folder / "particles.mrcs")
        noise = np.random.default_rng(0).standard_normal(pixels.shape, dtype=np.float32)
        write_mrc(
            folder / "particles.mrcs", noise, read_header(folder / "particles.mrcs").voxel_size_angstrom
        )
    voxel = read_header(folder / "truth" / "volume.mrc").voxel_size_angstrom
    mean = torch.from_numpy(read_mrc(folder / "truth" / "volume.mrc"))
    mask = solvent_mask(lowpass(mean, voxel, 12.0), voxel, dilate_angstrom=8.0, edge_angstrom=15.0)
    write_mrc(folder / "maps" / "mask.mrc", mask.mask.numpy(), voxel)


def score(kind: str, folder: Path) -> dict[str, float | int | str]:
    """Compare an analysis with the truth."""
    truth = read_star(folder / "truth" / "particles.star")["particles"]
    latents = read_star(folder / "analyze" / "latents.star")["particles"]
    assert truth["emflowParticleId"].tolist() == latents["emflowParticleId"].tolist()
    names = [n for n in latents if n.startswith("emflowLatent") and n[12:].isdigit()]
    verdicts = json.loads((folder / "fit" / "verdicts.json").read_text())
    out: dict[str, float | int | str] = {"components": len(names), "verdict": verdicts[0]["evidence"]}
    if not names:
        return out
    latent = np.stack([floats(latents, name) for name in names], 1)
    if kind == "composition":
        state = integers(truth, "emflowState")
        out["ari"] = adjusted_rand_score(state, integers(latents, "emflowCluster"))
        out["states"] = int(integers(latents, "emflowCluster").max())
    if kind == "turn":
        angle = np.deg2rad(floats(truth, "emflowCoordinate1"))
        circle = np.stack([np.cos(angle), np.sin(angle)], 1)
        train = np.arange(len(angle)) % 2 == 0
        near = KNeighborsRegressor(20).fit(latent[train], circle[train]).predict(latent[~train])
        error = np.angle(np.exp(1j * (np.arctan2(near[:, 1], near[:, 0]) - angle[~train])))
        out["angle_error_median_deg"] = float(np.rad2deg(np.median(np.abs(error))))
    return out | score_maps(kind, folder, truth, latent)


def score_maps(kind: str, folder: Path, truth: pd.DataFrame, latent: np.ndarray) -> dict[str, float]:
    """Mean over images of the area under the masked FSC to the image's true volume."""
    states = read_star(folder / "truth" / "states" / "states.star")["states"]
    column = "emflowCoordinate1" if kind == "turn" else "emflowState"
    known, own = floats(states, column), floats(truth, column)
    mask = torch.from_numpy(read_mrc(folder / "maps" / "mask.mrc"))
    paths = [folder / "analyze" / "mean.mrc", *sorted((folder / "analyze").glob("component_*.mrc"))]
    volumes = torch.stack([torch.from_numpy(read_mrc(path)) for path in paths])
    mean = torch.from_numpy(read_mrc(folder / "truth" / "volume.mrc"))
    areas = []
    for row in range(0, len(latent), max(1, len(latent) // _JUDGED)):
        distance = np.abs(known - own[row])
        if kind == "turn":
            distance = np.minimum(distance, 360 - distance)
        name = states["rlnReferenceImage"].iloc[int(distance.argmin())]
        target = torch.from_numpy(read_mrc(folder / "truth" / "states" / name)) * mask
        decoded = volumes[0] + torch.tensordot(torch.from_numpy(latent[row]).float(), volumes[1:], 1)
        curves = fsc(torch.stack([decoded, volumes[0], mean]) * mask, target)[:, 1:-1]
        areas.append(curves.mean(1).numpy())
    names = ("fsc_area", "fsc_area_fitted_mean", "fsc_area_true_mean")
    return dict(zip(names, np.mean(areas, 0).tolist(), strict=True))


def main() -> None:
    """Run the sets."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("sets", nargs="*", default=list(SETS))
    parser.add_argument("--particles", type=int, default=5000)
    parser.add_argument("--box", type=int, default=64)
    parser.add_argument("--snr", type=float, default=0.1)
    parser.add_argument("--components", type=int, default=8)
    given = parser.parse_args()
    torch.set_num_threads(1)
    for kind in given.sets:
        folder = given.folder / f"{kind}_{given.particles}_{given.box}_{given.snr:g}"
        prepare(kind, folder, given.particles, given.box, given.snr)
        fit = run("heterogeneity", "fit", str(folder / "particles.star"), str(folder / "maps"),
                  str(folder / "fit"), "--components", str(given.components))  # fmt: skip
        analyze = run("heterogeneity", "analyze", str(folder / "fit"), str(folder / "analyze"))
        passes = sum(HeterogeneityFit().iterations) + 3
        cost = {
            "fit_cpu_s": round(fit, 1),
            "analyze_cpu_s": round(analyze, 1),
            "cpu_ms_per_image_and_pass": round(1e3 * fit / passes / given.particles, 3),
        }
        print(json.dumps({"set": kind, **score(kind, folder), **cost}), flush=True)


if __name__ == "__main__":
    main()
