"""Heterogeneity on simulated stacks with true poses: compositions, a full turn, a hinge, one state, pure noise.

    python benchmarks/heterogeneity_quick.py FOLDER [composition turn hinge homogeneous noise] [--seeds 0 1]

Makes the stacks with `emflow simulate particles`, runs `emflow heterogeneity fit` and `analyze` on them, and
prints one JSON line per set and seed: components kept, adjusted Rand index, error of the angle, rank
correlation of the first coordinate, per-image FSC area against that of the fitted and of the true mean map,
CPU-seconds, CPU-milliseconds per image and pass. --write keeps them in benchmarks/results.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from running.cost import run
from running.simulated_sets import run_sets
from scipy.stats import spearmanr
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
    "hinge": ["--n-angles", "1", "--n-domains", "2", "--angle-range-deg", "60", "--n-state-volumes", "50"],
    "homogeneous": [],
    "noise": [],
}
MOVING = ("turn", "hinge")
RESULTS = Path(__file__).parent / "results" / "heterogeneity_quick.json"
_JUDGED = 200


def prepare(kind: str, folder: Path, particles: int, box: int, snr: float, seed: int) -> None:
    """Make the stack and the consensus map's mask, once."""
    if (folder / "maps" / "mask.mrc").exists():
        return
    sizes = ["--n-particles", str(particles), "--box-px", str(box), "--snr", str(snr), "--seed", str(seed)]
    run("simulate", "particles", str(folder), *sizes, *SETS[kind])
    if kind == "noise":
        pixels = map_mrc(folder / "particles.mrcs")
        noise = np.random.default_rng(seed).standard_normal(pixels.shape, dtype=np.float32)
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
    if kind == "hinge":
        told = spearmanr(latent[:, 0], floats(truth, "emflowCoordinate1")).statistic
        out["rank_correlation"] = abs(float(told))
    return out | score_maps(kind, folder, truth, latent)


def score_maps(kind: str, folder: Path, truth: pd.DataFrame, latent: np.ndarray) -> dict[str, float]:
    """Mean over images of the area under the masked FSC to the image's true volume."""
    states = read_star(folder / "truth" / "states" / "states.star")["states"]
    column = "emflowCoordinate1" if kind in MOVING else "emflowState"
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


def measure(kind: str, seed: int, given: argparse.Namespace) -> dict[str, object]:
    """Make, fit, analyse and score one set."""
    folder = given.folder / f"{kind}_{given.particles}_{given.box}_{given.snr:g}_{seed}"
    prepare(kind, folder, given.particles, given.box, given.snr, seed)
    fit = run("heterogeneity", "fit", str(folder / "particles.star"), str(folder / "maps"),
              str(folder / "fit"), "--components", str(given.components))  # fmt: skip
    analyze = run("heterogeneity", "analyze", str(folder / "fit"), str(folder / "analyze"))
    passes = sum(HeterogeneityFit().iterations)
    cost = {
        "fit_cpu_s": round(fit, 1),
        "analyze_cpu_s": round(analyze, 1),
        "cpu_ms_per_image_and_pass": round(1e3 * fit / passes / given.particles, 3),
    }
    about = {
        "set": kind,
        "seed": seed,
        "particles": given.particles,
        "box_px": given.box,
        "snr": given.snr,
        "components_tried": given.components,
        "passes": passes,
    }
    rounded = {k: round(v, 4) if isinstance(v, float) else v for k, v in score(kind, folder).items()}
    return about | rounded | cost


def keep(result: dict[str, object]) -> None:
    """Put a result among those kept, in place of an older one of the same set."""
    identity = ("set", "seed", "particles", "box_px", "snr", "components_tried")
    kept = json.loads(RESULTS.read_text())["results"] if RESULTS.is_file() else []
    kept = [row for row in kept if any(row[name] != result[name] for name in identity)]
    kept = sorted([*kept, result], key=lambda row: [str(row[name]) for name in identity])
    command = "python benchmarks/heterogeneity_quick.py FOLDER SET... --seeds 0 1 ... --write"
    about = {
        "command": command,
        "note": "true poses; half-sets alternate by micrograph; the mask is that of the true mean map; one thread",
        "results": kept,
    }
    RESULTS.write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    run_sets(__doc__, SETS, measure, keep, particles=5000, box=64, snr=0.1, components=8)
