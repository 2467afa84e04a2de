"""Latent heterogeneity beside cryoDRGN and recovar: four simulated conditions, the same measures, cost and memory.

    python benchmarks/heterogeneity.py FOLDER [hinge composition faint imprecise] [--methods emflow cryodrgn recovar]
        [--peers ENVIRONMENTS] [--cpu 600] [--seeds 0 1 2] [--write]

hinge         a domain turns through 60°, SNR 0.1, true poses
composition   five compositions, SNR 0.1, true poses
faint         the same at SNR 0.01
imprecise     the hinge with each pose turned by 2° (root mean square) about a random axis

Each of 5 000 particles at 64 px. `emflow` runs with three seeds and, for the curve of quality against time, with only
the first bands' passes. The peers run once each, at 32 px, on one thread, until they end or have used --cpu
seconds; ENVIRONMENTS holds `cryodrgn/bin/cryodrgn` and `recovar/bin/python`. Volumes are compared within one
mask to shell 15 (`coarse`, what 32 px hold) and, for emflow, to shell 31 (`fine`). What FOLDER holds is not run
again. --write keeps the figures in benchmarks/results.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from running import latent_peers
from running.cost import run
from running.latent_measures import Truth, asked_for, judge_intervals, judge_latents, judge_volumes
from running.latent_peers import Limits
from running.watched import Cost, watched

from emflow.device import generator
from emflow.em.masks import lowpass, solvent_mask
from emflow.em.poses import euler_to_matrix, matrix_to_euler, rotation_vector_to_matrix
from emflow.heterogeneity.config import HeterogeneityFit
from emflow.io.mrc import read_header, read_mrc, write_mrc
from emflow.io.star import floats, read_star, write_star

HINGE = ["--n-angles", "1", "--n-domains", "2", "--angle-range-deg", "60", "--n-state-volumes", "50"]
COMPOSITION = ["--n-compositions", "5"]
CONDITIONS: dict[str, tuple[list[str], float, float]] = {
    "hinge": (HINGE, 0.1, 0.0),
    "composition": (COMPOSITION, 0.1, 0.0),
    "faint": (COMPOSITION, 0.01, 0.0),
    "imprecise": (HINGE, 0.1, 2.0),
}
"""What is simulated, SNR, and error of the poses in degrees."""
PARTICLES, BOX = 5000, 64
BANDS = {"coarse": 15, "fine": 31}
RESULTS = Path(__file__).parent / "results" / "heterogeneity.json"


def prepare(folder: Path, condition: str) -> None:
    """Make the stack and the mask, once."""
    if (folder / "maps" / "mask.mrc").exists():
        return
    words, snr, error_deg = CONDITIONS[condition]
    sizes = ["--n-particles", str(PARTICLES), "--box-px", str(BOX), "--snr", str(snr), "--seed", "0"]
    run("simulate", "particles", str(folder), *sizes, *words)
    if error_deg:
        turn_poses(folder / "particles.star", error_deg)
    voxel = read_header(folder / "truth" / "volume.mrc").voxel_size_angstrom
    mean = torch.from_numpy(read_mrc(folder / "truth" / "volume.mrc"))
    mask = solvent_mask(lowpass(mean, voxel, 12.0), voxel, dilate_angstrom=8.0, edge_angstrom=15.0)
    write_mrc(folder / "maps" / "mask.mrc", mask.mask.numpy(), voxel)


def turn_poses(star: Path, error_deg: float) -> None:
    """Turn each pose about a random axis, by so much in the root mean square."""
    blocks = read_star(star)
    table = blocks["particles"]
    names = ["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]
    rotations = euler_to_matrix(torch.from_numpy(np.stack([floats(table, name) for name in names], 1)))
    vectors = torch.randn(len(table), 3, generator=generator(0, 9), dtype=torch.float64)
    turned = rotation_vector_to_matrix(np.deg2rad(error_deg) / 3**0.5 * vectors) @ rotations
    for name, column in zip(names, matrix_to_euler(turned).T.tolist(), strict=True):
        table[name] = [f"{value:.5f}" for value in column]
    write_star(star, blocks)


def decoded(folder: Path, truth: Truth) -> Cost:
    """Have the volumes that are judged decoded."""
    if (done := latent_peers.kept(folder / "decoded.json")) is not None:
        return done
    latent = Found.read(folder).learnt
    if not latent.shape[1]:
        return Cost()
    np.savetxt(folder / "points.csv", asked_for(truth, latent), delimiter=",")
    words = ["heterogeneity", "decode", str(folder / "fit"), str(folder / "kernel"), "--method", "kernel"]
    words += ["--latents", str(folder / "points.csv"), "--mask", str(truth.folder / "maps" / "mask.mrc")]
    command = [sys.executable, "-m", "emflow.cli", *words, "--extrapolate"]
    cost = watched(command, folder / "log.txt", (folder, "none"))
    if cost.code:
        raise RuntimeError(f"decode ended with {cost.code}; see {folder / 'log.txt'}")
    return latent_peers.keep(folder / "decoded.json", cost)


def ours(folder: Path, seed: int, bands: int) -> Cost:
    """Fit and analyse, with the passes of the first bands only."""
    out = folder / f"emflow_{seed}_{bands}"
    done = latent_peers.kept(out / "cost.json")
    if done is not None:
        return done
    passes = [str(n if place < bands else 0) for place, n in enumerate(HeterogeneityFit().iterations)]
    words = ["heterogeneity", "fit", str(folder / "particles.star"), str(folder / "maps"), str(out / "fit")]
    cost = Cost()
    for command in (
        [*words, "--seed", str(seed), "--iterations", *passes],
        ["heterogeneity", "analyze", str(out / "fit"), str(out / "analyze")],
    ):
        part = watched([sys.executable, "-m", "emflow.cli", *command], out / "log.txt", (out, "none"))
        if part.code:
            raise RuntimeError(f"{command[:2]} ended with {part.code}; see {out / 'log.txt'}")
        cost.cpu_s += part.cpu_s
        cost.peak_mb = max(cost.peak_mb, part.peak_mb)
    return latent_peers.keep(out / "cost.json", cost)


@dataclass(frozen=True)
class Found:
    """A fit of ours."""

    latent: np.ndarray
    """(N, K)."""
    learnt: np.ndarray
    """The same under the learnt prior, as analyze writes them: what is judged, (N, K)."""
    deviation: np.ndarray
    """(N, K)."""
    volumes: torch.Tensor
    """(K + 1, n, n, n)."""

    @staticmethod
    def read(folder: Path) -> Found:
        """Read the folder of a fit and its analysis."""
        table = read_star(folder / "analyze" / "latents.star")["particles"]
        count = sum(name.startswith("emflowLatentDeviation") for name in table)
        latent, learnt, deviation = (
            np.array([floats(table, f"{name}{k + 1}") for k in range(count)]).reshape(count, -1).T
            for name in ("emflowLatent", "emflowLatentLearnt", "emflowLatentDeviation")
        )
        paths = [folder / "fit" / "mean.mrc", *sorted((folder / "fit").glob("component_*.mrc"))]
        return Found(
            latent, learnt, deviation, torch.stack([torch.from_numpy(read_mrc(p).copy()) for p in paths])
        )

    def judge(self, truth: Truth, folder: Path) -> dict[str, float]:
        """All measures; distances between coordinates are those of the volumes, which decode has made in ``folder``."""
        if not self.latent.shape[1]:
            return {"components": 0}
        sizes = self.volumes[1:].flatten(1).norm(dim=1)
        latent = self.learnt * sizes.numpy()
        out = {"components": latent.shape[1]} | judge_latents(truth, latent)
        plain = judge_latents(truth, self.latent * sizes.numpy())
        out |= {f"plain_{name}": value for name, value in plain.items()}
        if truth.angle is None:
            out["inside_90"] = judge_intervals(truth, self.latent, self.deviation, self.volumes)
        out["functions"] = json.loads((folder / "kernel" / "metrics.json").read_text())["functions_kept"]
        paths = sorted((folder / "kernel").glob("volume_[0-9][0-9][0-9].mrc"))
        volumes = torch.stack([torch.from_numpy(read_mrc(path).copy()) for path in paths])
        out |= judge_volumes(truth, latent, lambda _: volumes, BANDS)

        def linear(points: np.ndarray) -> torch.Tensor:
            return self.volumes[0] + torch.tensordot(
                torch.from_numpy(points).float() / sizes, self.volumes[1:], 1
            )

        figures = judge_volumes(truth, latent, linear, BANDS)
        out |= {f"linear_{name}": value for name, value in figures.items()}
        return {name: v for name, v in out.items() if not name.startswith("linear_true_mean")}


def rows_of(folder: Path, condition: str, given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One row per method, seed and checkpoint."""
    truth, limits = Truth.read(folder), Limits(given.cpu, given.memory_gb * 1024)
    about: dict[str, Any] = {"condition": condition}
    if "emflow" in given.methods:
        whole = len(HeterogeneityFit().iterations)
        curve = range(1, whole) if given.curve else ()
        for seed, bands in [*((s, whole) for s in given.seeds), *((given.seeds[0], b) for b in curve)]:
            cost = ours(folder, seed, bands)
            out = folder / f"emflow_{seed}_{bands}"
            more = decoded(out, truth)
            whole_cost = Cost(cost.cpu_s + more.cpu_s, max(cost.peak_mb, more.peak_mb))
            told = {"method": "emflow", "seed": seed, "checkpoint": bands}
            figures = {"decode_cpu_s": round(more.cpu_s, 1)} | Found.read(out).judge(truth, out)
            yield about | told | spent(whole_cost) | figures
    coarse = {"coarse": BANDS["coarse"]}
    if "cryodrgn" in given.methods:
        program = given.peers / "cryodrgn" / "bin" / "cryodrgn"
        cost = latent_peers.cryodrgn(program, folder, limits)
        epochs = latent_peers.cryodrgn_epochs(folder, cost)
        for epoch in chosen_epochs(list(epochs)):
            latent, decode = latent_peers.cryodrgn_found(program, folder, epoch)
            figures = judge_latents(truth, latent) | judge_volumes(truth, latent, decode, coarse)
            told = {"method": "cryodrgn", "seed": 0, "checkpoint": epoch, "components": latent.shape[1]}
            yield about | told | spent(cost) | {"cpu_s": epochs[epoch]} | figures
    if "recovar" in given.methods:
        python = given.peers / "recovar" / "bin" / "python"
        cost = latent_peers.recovar(python, folder, limits)
        told = {"method": "recovar", "seed": 0, "checkpoint": 1}
        if cost.stopped or cost.code:
            yield about | told | spent(cost) | {"stopped": cost.stopped or f"exit code {cost.code}"}
            return
        latent, decode = latent_peers.recovar_found(folder)
        figures = judge_latents(truth, latent) | judge_volumes(truth, latent, decode, coarse)
        yield about | told | {"components": latent.shape[1]} | spent(cost) | figures


def chosen_epochs(epochs: list[int]) -> list[int]:
    """The last epoch and every fourth before it."""
    return epochs[::-1][::4][::-1]


def spent(cost: Cost) -> dict[str, float]:
    """Cost as columns."""
    return {"cpu_s": round(cost.cpu_s, 1), "peak_mb": round(cost.peak_mb)}


def keep(rows: list[dict[str, Any]]) -> None:
    """Put rows among those kept, in place of older ones of the same run."""
    identity = ("condition", "method", "seed", "checkpoint")
    old = json.loads(RESULTS.read_text())["results"] if RESULTS.is_file() else []
    new = {tuple(row[name] for name in identity) for row in rows}
    old = [row for row in old if tuple(row[name] for name in identity) not in new]
    order = sorted([*old, *rows], key=lambda row: [str(row[name]).zfill(3) for name in identity])
    about = {
        "command": "python benchmarks/heterogeneity.py FOLDER [CONDITION ...] --peers ENVIRONMENTS --write",
        "versions": {"cryodrgn": "4.3.1", "recovar": "1.0.5, its CPU projector mended (recovar_on_cpu.py)"},
        "note": "5 000 particles; peers at 32 px, one thread; checkpoint: bands done (emflow), epoch (cryodrgn)",
        "results": order,
    }
    RESULTS.write_text(json.dumps(about, indent=1) + "\n")


def main() -> None:
    """Run the conditions."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("conditions", nargs="*", default=list(CONDITIONS))
    parser.add_argument("--methods", nargs="+", default=["emflow", "cryodrgn", "recovar"])
    parser.add_argument("--peers", type=Path, default=Path("environments"))
    parser.add_argument("--cpu", type=float, default=600.0, help="CPU-seconds that a peer may use")
    parser.add_argument("--memory-gb", type=float, default=9.0, help="memory that a peer may use")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--curve", action=argparse.BooleanOptionalAction, default=True, help="first bands too"
    )
    parser.add_argument("--write", action="store_true", help="add to benchmarks/results")
    given = parser.parse_args()
    torch.set_num_threads(1)
    for condition in given.conditions:
        folder = given.folder.resolve() / condition
        prepare(folder, condition)
        for row in rows_of(folder, condition, given):
            rounded = {k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}
            print(json.dumps(rounded), flush=True)
            if given.write:
                keep([rounded])


if __name__ == "__main__":
    main()
