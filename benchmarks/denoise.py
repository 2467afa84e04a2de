"""Denoising beside Topaz-Denoise, on micrographs that were frozen before anything was tuned.

    python benchmarks/denoise.py FOLDER --topaz TOPAZ [--weights MODEL] [--write] [--picture FILE.png]

TOPAZ is the program of topaz-em 0.3.20, in an environment of its own; without it the rows that FOLDER holds are shown.
The sets are those of benchmarks/denoising/sets.py, two micrographs for each of three seeds; the measures those of
benchmarks/denoising/measure.py: target is the noise-free image, both are high-passed at 600 Å, the image is a·t + b + e
with the best a and b, and the ratio a²·var(t)/var(e). Both programs are run as users run them, on files, with one
thread, and their defaults. CPU seconds per megapixel are those of a run less those of a run on a tiny image, so
that neither pays for its start; the peak of memory holds all.

FOLDER keeps micrographs and rows; what is there is not made again. --write keeps the figures in
benchmarks/results/denoise.json.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from denoising import sets
from denoising.measure import FIGURES, best_gaussian, filtered, gain, measure_of

from emflow import __version__
from emflow.denoise.inputs import GENERAL
from emflow.io.mrc import read_mrc, write_mrc
from emflow.io.star import read_star

HERE = Path(__file__).parent
TOPAZ = ("topaz unet", "topaz unet-small")
TINY_PX = 256
Row = dict[str, Any]


def run(words: Sequence[str], log: Path) -> tuple[float, float]:
    """Run a program with one thread; its CPU seconds and its peak of memory in gigabyte."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    with log.open("wb") as said:
        pid = os.posix_spawnp(
            words[0], words, environment,
            file_actions=[(os.POSIX_SPAWN_DUP2, said.fileno(), 1), (os.POSIX_SPAWN_DUP2, said.fileno(), 2)],
        )  # fmt: skip
        _, status, used = os.wait4(pid, 0)
    if status:
        sys.exit(f"{' '.join(words)}: failed; see {log}")
    return used.ru_utime + used.ru_stime, used.ru_maxrss / 2**20


def scenes_of(folder: Path, name: str, seed: int) -> list[sets.Scene]:
    """The micrographs of a set and seed, made if they are not there."""
    out = []
    for index in range(sets.MICROGRAPHS):
        kept = folder / "scenes" / f"{name}_{seed}_{index}.npz"
        if not kept.exists():
            kept.parent.mkdir(parents=True, exist_ok=True)
            made = sets.make(name, seed, index)
            images = {"raw": made.raw.astype(np.float32), "clean": made.clean.astype(np.float32)}
            np.savez(kept, inside=made.inside, kept=made.kept, **images)
        with np.load(kept) as found:
            out.append(sets.Scene(found["raw"], found["clean"], found["inside"], found["kept"]))
    return out


def denoised(
    method: str, images: list[np.ndarray], pixel: float, work: Path, given: argparse.Namespace
) -> tuple[list[np.ndarray], float, float]:
    """Denoise by a program: the images, its CPU seconds and gigabytes."""
    shutil.rmtree(work, ignore_errors=True)
    (work / "in").mkdir(parents=True)
    names = [work / "in" / f"m{index}.mrc" for index in range(len(images))]
    for path, image in zip(names, images, strict=True):
        write_mrc(path, image, pixel)
    if method in TOPAZ:
        words = [given.topaz, "denoise", *map(str, names), "-o", str(work / "out"), "-d", "-1", "-j", "1"]
        # topaz-em 0.3.20 takes the network from --arch and ignores -m, which should name it
        cost = run([*words, "--arch", method.split()[1], "-m", method.split()[1]], work / "log")
        found = [work / "out" / path.name for path in names]
    else:
        words = [
            sys.executable,
            "-m",
            "emflow.cli",
            "denoise",
            "apply",
            str(work / "in"),
            str(work / "out.star"),
        ]
        words += ["--pixel-size-angstrom", str(pixel), "--device", "cpu", "--threads", "1"]
        cost = run([*words, *(["--weights", given.weights] if given.weights else [])], work / "log")
        table = read_star(work / "out.star")["micrographs"]  # images are named by what they hold
        made = dict(zip(table["rlnMicrographName"], table["emflowDenoisedName"], strict=True))
        found = [Path(made[str(path)]) for path in names if str(path) in made]
    if len(found) != len(names):
        sys.exit(f"{method}: {len(found)} images of {len(names)}; see {work / 'log'}")
    return [read_mrc(path) for path in found], *cost


def start_of(method: str, given: argparse.Namespace, key: str) -> float:
    """CPU seconds of a program on a tiny image."""
    kept = given.folder / "rows" / f"start_{key}.json"
    if not kept.exists():
        tiny = np.random.default_rng(0).normal(size=(TINY_PX, TINY_PX)).astype(np.float32)
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(denoised(method, [tiny], 3.0, given.folder / "work" / "start", given)[1]))
    return float(json.loads(kept.read_text()))


def key_of(method: str, given: argparse.Namespace) -> str:
    """Name of a method's files; emflow's tells its weights."""
    weights = hashlib.sha256(Path(given.weights or GENERAL).read_bytes()).hexdigest()[:12]
    return method.replace(" ", "_") + (f"_{weights}" if method == "emflow" else "")


def rows_of(method: str, name: str, seed: int, given: argparse.Namespace) -> list[Row]:
    """One row for each micrograph of a set and seed."""
    key = key_of(method, given)
    kept = given.folder / "rows" / f"{key}_{name}_{seed}.json"
    if not kept.exists():
        if method in TOPAZ and not given.topaz:
            return []
        scenes, pixel = scenes_of(given.folder, name, seed), sets.SETS[name].pixel
        measures, cost = [measure_of(scene, pixel) for scene in scenes], {}
        if method == "Gaussian, the best":
            found = [best_gaussian(s, pixel, m) for s, m in zip(scenes, measures, strict=True)]
        else:
            images = [scene.raw for scene in scenes]
            if method != "raw":
                start = start_of(method, given, key)
                work = given.folder / "work" / f"{key}_{name}_{seed}"
                images, cpu, peak = denoised(method, images, pixel, work, given)
                np.save(work.with_suffix(".npy"), images[0])  # for the picture
                shutil.rmtree(work)
                area = sum(image.size for image in images) - TINY_PX**2
                cost = {"cpu_s_per_megapixel": (cpu - start) / area * 1e6, "peak_gb": peak}
            found = [measure(image) for measure, image in zip(measures, images, strict=True)]
        about = {"method": method, "set": name, "seed": seed}
        kept.parent.mkdir(parents=True, exist_ok=True)
        rows = [about | {"micrograph": n} | row | cost for n, row in enumerate(found)]
        kept.write_text(json.dumps(rows))
    return list(json.loads(kept.read_text()))


def summary(rows: list[Row]) -> list[Row]:
    """Means of each method over each set, and over all of them."""
    out = []
    for name in (*sets.SETS, "all"):
        for method in dict.fromkeys(row["method"] for row in rows):
            group = [row for row in rows if row["method"] == method and name in (row["set"], "all")]
            if group:
                numbers = (*FIGURES, *(n for n in ("cpu_s_per_megapixel", "peak_gb") if n in group[0]))
                means = {n: round(float(np.mean([row[n] for row in group])), 4) for n in numbers}
                seeds = len({row["seed"] for row in group})
                out.append({"set": name, "method": method, "seeds": seeds, **means})
    return out


def picture(path: Path, given: argparse.Namespace) -> None:
    """Raw, low-passed, Topaz, emflow and noise-free: the first micrograph of each set."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    _, axes = plt.subplots(3, 5, figsize=(20, 12.4), layout="constrained")
    for row, (name, kind) in zip(axes, sets.SETS.items(), strict=True):
        scene = scenes_of(given.folder, name, 1)[0]
        low = filtered(scene.raw, gain(scene.raw.shape, kind.pixel, 40.0))
        shown = {"raw": scene.raw, "Gaussian 40 Å": low}
        for method in (TOPAZ[0], "emflow"):
            kept = given.folder / "work" / f"{key_of(method, given)}_{name}_1.npy"
            if kept.exists():
                shown[method] = np.load(kept)
        shown["noise-free"] = scene.clean
        for axis, (title, image) in zip(row, shown.items(), strict=False):
            part = filtered(image, 1 - gain(image.shape, kind.pixel, 2000.0))[:640, :640]
            lowest, highest = np.percentile(part, [0.5, 99.5])
            axis.imshow(part, cmap="gray", vmin=lowest, vmax=highest)
            axis.set_title(f"{name}: {title}")
            axis.axis("off")
    plt.savefig(path, dpi=50, metadata={"Software": None})


def main() -> None:
    """Measure what is asked for and not yet there; print the means."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--topaz")
    parser.add_argument("--weights")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--picture", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[Row] = []
    for method in ("raw", "Gaussian, the best", "emflow", *TOPAZ):
        for name in sets.SETS:
            for seed in sets.SEEDS:
                rows += rows_of(method, name, seed, given)
    table = summary(rows)
    for row in table:
        numbers = " ".join(f"{key} {value:.3f}" for key, value in row.items() if isinstance(value, float))
        print(f"{row['set']:<8} {row['method']:<19} {numbers}")
    if given.write:
        content = {
            "command": "python benchmarks/denoise.py FOLDER --topaz TOPAZ --write",
            "emflow": __version__,
            "weights": hashlib.sha256(Path(given.weights or GENERAL).read_bytes()).hexdigest(),
            "sets": hashlib.sha256((HERE / "denoising" / "sets.py").read_bytes()).hexdigest(),
            "topaz": "topaz-em 0.3.20, torch 2.13.0 (CPU); torchvision, which denoising does not use, an empty stand-in",
            "means": table,
            "rows": [{k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()} for row in rows],
        }
        (HERE / "results" / "denoise.json").write_text(json.dumps(content, indent=1) + "\n")
    if given.picture:
        picture(given.picture, given)


if __name__ == "__main__":
    main()
