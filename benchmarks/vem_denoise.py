"""2-D denoising and super-resolution from one registered pair, beside filters and blind-spot networks.

    python benchmarks/vem_denoise.py FOLDER [--splits left right top bottom] [--steps 200] [--write] [--picture]

The pair of SEM images of brain is EMDiffuse's (C. Lu et al., Nat. Commun. 2024; MIT licence); EMFLOW_TEST_DATA names the
folder that holds sem_brain_pair/noisy.tif and clean.tif, 576² each. One half is learned from (``--splits``), the other
is the test. Figures are against the clean test half, laid onto the noisy one by emflow's registration (psnr_db; it gains
all methods alike), and against the file as it is (psnr_given_db); psnr_matched_db is after a linear fit of intensities
on the learned half, for methods that know no clean image. Blind-spot networks learn from both noisy halves. Super-
resolution: halves of the clean image, and of the noisy one, reduced by means of 2 × 2 pixels stand in for images at low
magnification. What stands under ``more`` is measured on the first
two splits only. Runs that FOLDER holds are not repeated. --write keeps the figures in
benchmarks/results/vem_denoise.json, --picture writes docs/images/vem-2d.png.
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

import imagecodecs
import numpy as np
import tifffile
import torch
from scipy.ndimage import gaussian_filter
from skimage.restoration import denoise_nl_means
from volume import n2v

from emflow.vem.command import denoise, train_images
from emflow.vem.config_images import VemDenoise, VemTrainImages
from emflow.vem.denoiser import oriented
from emflow.vem.inputs_images import enlarged
from emflow.vem.register import register
from emflow.vem.score import ssim

Row = dict[str, Any]
Split = dict[str, np.ndarray]
HERE = Path(__file__).parent
GAUSSIANS = (0.6, 0.8, 1.0, 1.2, 1.5)
NL_MEANS = (0.4, 0.6, 0.8, 1.0)
TASKS = {
    "denoise": (
        "raw",
        "Gaussian",
        "non-local means",
        "N2V-style",
        "emflow, shipped weights",
        "emflow, fine-tuned",
    ),
    "super-resolve noisy": ("bicubic", "emflow, fine-tuned"),
    "super-resolve clean": ("bicubic", "emflow, fine-tuned"),
    "denoise, more": ("emflow, noisy alone", "emflow, from scratch", "N2V-style, 3 × 3 hidden"),
}


def split_of(name: str, task: str) -> Split:
    """Halves of the pair: learned from, and tested on."""
    folder = Path(os.environ.get("EMFLOW_TEST_DATA", "data")) / "sem_brain_pair"
    out = {}
    for kind in ("noisy", "clean"):
        image = tifffile.imread(folder / f"{kind}.tif")
        half = len(image) // 2
        if name in ("left", "right"):
            image = image.T
        first, second = (image[:half], image[half:])[:: 1 if name in ("left", "top") else -1]
        for use, part in (("learned", first), ("test", second)):
            out[f"{use}_{kind}"] = np.ascontiguousarray(part.T if name in ("left", "right") else part)
    if task.startswith("super"):
        for use in ("learned", "test"):
            fine = out[f"{use}_{task.split()[1]}"].astype(np.float32)
            out[f"{use}_noisy"] = fine.reshape(fine.shape[0] // 2, 2, fine.shape[1] // 2, 2).mean((1, 3))
    return out


def filtered(split: Split, choices: dict[float, Callable[[np.ndarray], np.ndarray]]) -> tuple[Split, Row]:
    """The filter that is best on the learned half."""
    clean = split["learned_clean"].astype(float)
    errors = {p: ((f(split["learned_noisy"]) - clean) ** 2).mean() for p, f in choices.items()}
    best = min(errors, key=lambda p: errors[p])
    return {use: choices[best](split[f"{use}_noisy"]) for use in ("learned", "test")}, {"setting": best}


def nl_means(image: np.ndarray, strength: float) -> np.ndarray:
    """Non-local means, its noise taken as 8 grey values, as the pair's is."""
    found = denoise_nl_means(
        image.astype(np.float32), patch_size=5, patch_distance=6, h=strength * 8.0, sigma=8.0, fast_mode=True
    )
    return np.asarray(found)


def blind(split: Split, steps: int, seed: int, reach: int) -> tuple[Split, Row]:
    """A blind-spot network on both noisy halves."""
    halves = {use: split[f"{use}_noisy"].astype(np.float32) for use in ("learned", "test")}
    mean, deviation = halves["learned"].mean(), halves["learned"].std()
    units = {use: torch.from_numpy((image - mean) / deviation) for use, image in halves.items()}
    start = time.process_time()
    network = n2v.learn(list(units.values()), 2 * steps, seed, reach)
    cost = time.process_time() - start
    found = {
        use: oriented(network, image, 1024, 1)[0].numpy() * deviation + mean for use, image in units.items()
    }
    return found, {"train_cpu_s": cost, "steps": 2 * steps}


def emflow(split: Split, method: str, place: tuple[Path, str], cfg: VemTrainImages) -> tuple[Split, Row]:
    """The verbs, on files."""
    folder, name = place
    work = folder / "work" / f"{name}_{method.replace(' ', '_')}"
    work.mkdir(parents=True, exist_ok=True)
    for key, image in split.items():
        tifffile.imwrite(work / f"{key}.tif", image.astype(np.float32))
    start, about = time.process_time(), {}
    if method == "emflow, noisy alone":
        for use in ("learned", "test"):
            (work / "noisy").mkdir(exist_ok=True)
            tifffile.imwrite(work / "noisy" / f"{use}.tif", split[f"{use}_noisy"].astype(np.float32))
        train_images(work / "noisy", work / "model", cfg=cfg)
    elif method != "emflow, shipped weights":
        train_images(work / "learned_noisy.tif", work / "model", clean=work / "learned_clean.tif", cfg=cfg)
        figures = json.loads((work / "model" / "metrics.json").read_text())
        about = {
            f"model_{k}": figures[k]
            for k in ("held_out_psnr_db", "held_out_psnr_gaussian_db", "matched_share")
        }
        about |= {"local_displacement_px": figures["local_displacement_px"], "shift_px": figures["shift_px"]}
    learned = time.process_time()
    weights = None if method == "emflow, shipped weights" else str(work / "model")
    found = {}
    for use in ("learned", "test"):
        denoise(work / f"{use}_noisy.tif", work / use, cfg=VemDenoise(weights=weights))
        found[use] = tifffile.imread(work / use / "denoised" / f"{use}_noisy.tif")
    about |= {
        "train_cpu_s": learned - start,
        "apply_cpu_s": time.process_time() - learned,
        "steps": cfg.steps,
    }
    return found, about | {"error": tifffile.imread(work / "test" / "error" / "test_noisy.tif")}


def restored(split: Split, method: str, place: tuple[Path, str], steps: int, seed: int) -> tuple[Split, Row]:
    """Both halves by one method, and what it cost."""
    factor = len(split["learned_clean"]) // len(split["learned_noisy"])
    plain = {use: enlarged(split[f"{use}_noisy"], factor) for use in ("learned", "test")}
    if method in ("raw", "bicubic"):
        return plain, {}
    if method == "Gaussian":
        choices = {s: (lambda image, s=s: gaussian_filter(image.astype(np.float32), s)) for s in GAUSSIANS}
        return filtered(split, choices)
    if method == "non-local means":
        return filtered(split, {s: (lambda image, s=s: nl_means(image, s)) for s in NL_MEANS})
    if method.startswith("N2V"):
        return blind(split, steps, seed, int("3 × 3" in method))
    start = "scratch" if method == "emflow, from scratch" else "general"
    cfg = VemTrainImages(steps=2 * steps if start == "scratch" else steps, start=start, seed=seed)
    return emflow(split, method, place, cfg)


def measure(folder: Path, task: str, name: str, method: str, steps: int) -> Row:
    """One row."""
    split = split_of(name, task)
    found, about = restored(split, method, (folder, f"{task.replace(' ', '_')}_{name}"), steps, 0)
    full = split_of(name, "denoise")  # what registration sees is the same for all methods
    laid = {use: register(full[f"{use}_noisy"], full[f"{use}_clean"]) for use in ("learned", "test")}
    if task == "super-resolve clean":  # made from the clean image itself: nothing is displaced
        truth = {use: full[f"{use}_clean"].astype(np.float32) for use in laid}
        kept = {use: np.ones_like(r.matched) for use, r in laid.items()}
    else:
        truth, kept = ({use: getattr(r, part) for use, r in laid.items()} for part in ("clean", "matched"))
    fit = np.polyfit(found["learned"][kept["learned"]], truth["learned"][kept["learned"]], 1)
    test, values = truth["test"], found["test"]

    def psnr(image: np.ndarray, target: np.ndarray) -> float:
        error = (image.astype(float) - target)[kept["test"]]
        return round(float(10 * np.log10(255**2 / (error**2).mean())), 3)

    row = {"task": task, "split": name, "method": method, "psnr_db": psnr(values, test)}
    row["psnr_matched_db"] = psnr(np.polyval(fit, values), test)
    row["psnr_given_db"] = psnr(values, full["test_clean"])
    images = (
        torch.from_numpy(np.asarray(i, dtype=np.float64))[None] for i in (np.polyval(fit, values), test)
    )
    row["ssim_matched"] = round(ssim(*images, 255.0), 4)
    if "error" in about and method != "emflow, shipped weights":
        inside = np.abs(values - test)[kept["test"]] <= about["error"][kept["test"]]
        row["coverage"] = round(float(inside.mean()), 4)
    about.pop("error", None)
    return row | {key: round(float(value), 3) for key, value in about.items()}


def medians(rows: list[Row]) -> list[Row]:
    """Median over the splits."""
    out = []
    for task, method in dict.fromkeys((r["task"], r["method"]) for r in rows):
        group = [r for r in rows if (r["task"], r["method"]) == (task, method)]
        numbers = [key for key, value in group[0].items() if isinstance(value, float)]
        middle = {key: round(statistics.median(r[key] for r in group), 4) for key in numbers}
        out.append({"task": task, "method": method, "splits": len(group), **middle})
    return out


def picture(folder: Path) -> None:
    """Noisy, Gaussian, fine-tuned, half-width (eightfold) and clean, of a part of the test half."""
    split = split_of("left", "denoise")
    work = folder / "work" / "denoise_left_emflow,_fine-tuned" / "test"
    images = [
        split["test_noisy"],
        gaussian_filter(split["test_noisy"].astype(np.float32), 1.0),
        tifffile.imread(work / "denoised" / "test_noisy.tif"),
        60 + 8 * tifffile.imread(work / "error" / "test_noisy.tif"),
        split["test_clean"],
    ]
    part = np.concatenate([(image[20:212, 8:200] - 60.0) * 1.9 for image in images], axis=1).clip(0, 255)
    content = imagecodecs.png_encode(part.astype(np.uint8), level=9)
    (HERE.parent / "docs" / "images" / "vem-2d.png").write_bytes(content)


def main() -> None:
    """Measure what is asked for and not yet there; print the medians."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--splits", nargs="+", default=["left", "right", "top", "bottom"])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--picture", action="store_true")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    rows = []
    for task in given.tasks:
        for method in TASKS[task]:
            for name in given.splits[:2] if task.endswith("more") else given.splits:
                kept = given.folder / f"{task}_{name}_{method}_{given.steps}.json".replace(" ", "_")
                if not kept.exists():
                    kept.write_text(json.dumps(measure(given.folder, task, name, method, given.steps)))
                rows.append(json.loads(kept.read_text()))
                print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    table = medians(rows)
    for row in table:
        print(json.dumps(row))
    if given.write:
        command = "python " + " ".join(["benchmarks/vem_denoise.py", "FOLDER", *sys.argv[2:]])
        content = {"command": command, "torch": torch.__version__, "medians": table, "rows": rows}
        (HERE / "results" / "vem_denoise.json").write_text(json.dumps(content, indent=1) + "\n")
    if given.picture:
        picture(given.folder)


if __name__ == "__main__":
    main()
