"""cryoDRGN 4.3.1 and recovar 1.0.5 on a simulated stack, each in an environment of its own, at 32 px on a CPU.

Both read `particles.star`. Neither is imported here, and nothing of theirs is a dependency.
"""

from __future__ import annotations

import json
import pickle
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from emflow.em.basis import rebox
from emflow.io.mrc import read_header, read_mrc, write_mrc
from running.latent_measures import Decode, Truth
from running.watched import Cost, watched

BOX = 32
"""Side at which the peers work: what a CPU affords."""
_WIDTH, _LAYERS, _ZDIM, _EPOCHS = 256, 3, 8, 60
_RECOVAR_ZDIM = 4
_RECOVAR = Path(__file__).parent / "recovar_on_cpu.py"


@dataclass(frozen=True)
class Limits:
    """What ends a peer."""

    cpu_s: float = 1e9
    memory_mb: float = 1e9


def kept(path: Path) -> Cost | None:
    """Costs of a run that is done."""
    return Cost(**json.loads(path.read_text())) if path.is_file() else None


def keep(path: Path, cost: Cost) -> Cost:
    """Note that a run is done."""
    path.write_text(json.dumps(asdict(cost), indent=1) + "\n")
    return cost


def cryodrgn(program: Path, folder: Path, limits: Limits) -> Cost:
    """Train cryoDRGN's VAE until the limit; every epoch leaves a checkpoint."""
    out = folder / "cryodrgn"
    done = kept(out / "cost.json")
    if done is not None:
        return done
    before = Cost()

    def go(*words: object, limit: Limits = Limits()) -> Cost:
        command = [str(program), *map(str, words)]
        pattern = out / "train", "z.*.pkl"
        cost = watched(command, out / "log.txt", pattern, limit.cpu_s, limit.memory_mb)
        if cost.code and not cost.stopped:
            raise RuntimeError(f"{command[:2]} ended with {cost.code}; see {out / 'log.txt'}")
        return cost

    star = folder / "particles.star"
    for words in (
        ("parse_pose_star", star, "-o", out / "poses.pkl"),
        ("parse_ctf_star", star, "-o", out / "ctf.pkl"),
        ("downsample", star, "-D", BOX, "-o", out / "small.mrcs"),
    ):
        before.cpu_s += go(*words).cpu_s
    layers = ("--enc-dim", _WIDTH, "--enc-layers", _LAYERS, "--dec-dim", _WIDTH, "--dec-layers", _LAYERS)
    inputs = ("--poses", out / "poses.pkl", "--ctf", out / "ctf.pkl", "--zdim", _ZDIM, "-n", _EPOCHS)
    cost = go(
        "train_vae", out / "small.mrcs", *inputs, *layers, "--seed", 0, "--no-amp", "-o", out / "train",
        limit=Limits(limits.cpu_s - before.cpu_s, limits.memory_mb),
    )  # fmt: skip
    cost.cpu_s += before.cpu_s
    cost.checkpoints = {name: round(at + before.cpu_s, 1) for name, at in cost.checkpoints.items()}
    return keep(out / "cost.json", cost)


def cryodrgn_epochs(folder: Path, cost: Cost) -> dict[int, float]:
    """Epoch → CPU-seconds."""
    return dict(sorted((int(name.split(".")[1]), at) for name, at in cost.checkpoints.items()))


def cryodrgn_found(program: Path, folder: Path, epoch: int) -> tuple[np.ndarray, Decode]:
    """Coordinates of an epoch, and its decoder."""
    out = folder / "cryodrgn"
    with (out / "train" / f"z.{epoch}.pkl").open("rb") as file:
        latent = pickle.load(file)

    def decode(points: np.ndarray) -> Tensor:
        made = out / f"volumes.{epoch}"
        made.mkdir(exist_ok=True)
        np.savetxt(made / "points.txt", points)
        weights = out / "train" / f"weights.{epoch}.pkl"
        words = [
            "eval_vol",
            weights,
            "-c",
            out / "train" / "config.yaml",
            "--zfile",
            made / "points.txt",
            "-o",
            made,
        ]
        ended = watched([str(program), *map(str, words)], out / "eval.txt", (made, "none"))
        if ended.code:
            raise RuntimeError(f"cryodrgn eval_vol ended with {ended.code}; see {out / 'eval.txt'}")
        return torch.stack(
            [torch.from_numpy(read_mrc(path).copy()) for path in sorted(made.glob("vol_*.mrc"))]
        )

    return np.asarray(latent, dtype=float), decode


def recovar(python: Path, folder: Path, limits: Limits) -> Cost:
    """Run recovar's pipeline until it ends or reaches the limit."""
    out = folder / "recovar"
    done = kept(out / "cost.json")
    if done is not None:
        return done
    out.mkdir(parents=True, exist_ok=True)
    mask = Truth.read(folder).mask()
    small = (rebox(mask[None], BOX)[0] * (BOX / mask.shape[-1]) ** 2).clamp(0, 1)
    voxel = read_header(folder / "maps" / "mask.mrc").voxel_size_angstrom
    write_mrc(out / "mask.mrc", small.numpy(), voxel * mask.shape[-1] / BOX)
    first = watched(
        [str(python), str(_RECOVAR), "downsample", str(folder / "particles.star"), "-D", str(BOX), "-o",
         str(out / "small")], out / "log.txt", (out, "none"),
    )  # fmt: skip
    stars = sorted((out / "small").rglob("*.star"))
    words = [
        "pipeline",
        stars[0],
        "--mask",
        out / "mask.mrc",
        "-o",
        out / "pipeline",
        "--zdim",
        _RECOVAR_ZDIM,
    ]
    words += ["--accept-cpu", "--no-downsample", "--gpu-budget-gb", 2, "--low-memory-option"]
    command = [str(python), str(_RECOVAR), *map(str, words)]
    cost = watched(command, out / "log.txt", (out, "none"), limits.cpu_s - first.cpu_s, limits.memory_mb)
    cost.cpu_s += first.cpu_s
    return keep(out / "cost.json", cost)


def recovar_found(folder: Path) -> tuple[np.ndarray, Decode]:
    """Coordinates, and volumes as the mean with recovar's principal components.

    Its kernel regression took more than 100 CPU-seconds for one volume, and is left out.
    """
    out = folder / "recovar" / "pipeline"
    latent = np.load(out / "model" / f"zdim_{_RECOVAR_ZDIM}" / "latent_coords.npy")
    names = ["mean.mrc", *(f"eigen_pos{k:04d}.mrc" for k in range(_RECOVAR_ZDIM))]
    volumes = torch.stack(
        [torch.from_numpy(read_mrc(out / "output" / "volumes" / name).copy()) for name in names]
    )

    def decode(points: np.ndarray) -> Tensor:
        return volumes[0] + torch.tensordot(torch.from_numpy(points).float(), volumes[1:], 1)

    return np.asarray(latent, dtype=float), decode
