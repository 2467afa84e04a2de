"""Segmentation beside a plain U-Net, and what restoration is worth to it.

    python benchmarks/vem_segment.py FOLDER [isbi fibsem] [--seeds 0] [--folds 0 1 2 3] [--write] [--picture PNG]

isbi: the four labelled slices of the ISBI 2012 challenge (EMFLOW_TEST_DATA names the folder that holds
isbi2012/0?_image.tif), four-fold: learn from three slices, without their last 128 rows, choose thresholds on those
rows, score the fourth slice. The plain U-Net has the same size, crops, steps, batches and optimiser; its crops are
turned and flipped only. Its segments are connected components below a threshold, grown until they touch.

fibsem: the real FIB-SEM crop of Drosophila medulla (fibsem_medulla, CC-BY), every 4th or 6th slice kept. A model learns
from labelled xy slices of the first 60 columns and segments every second xz plane of the last 60: of the true volume,
and of those that were filled by nearest slices, linear interpolation and vem restore, which learns from the kept slices
alone. --picture draws one plane of each.

Trainings and rows that FOLDER holds are not repeated. --write keeps the figures in benchmarks/results/vem_segment.json.
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
from torch import Tensor

from emflow.io.volume import open_volume
from emflow.nn.unet import count_parameters
from emflow.vem.choose import calibration_error, choose_cut, choose_threshold, mean_agreement
from emflow.vem.config import VemTrain, VemTrainMembranes
from emflow.vem.gaps import between
from emflow.vem.membrane import MembraneNetwork, calibrate, targets, train_network
from emflow.vem.model import Filler
from emflow.vem.restore import fill_block
from emflow.vem.train import residual_spread, train_filler
from emflow.vem.watershed import components, segments

Row = dict[str, Any]
RESULTS = Path(__file__).parent / "results" / "vem_segment.json"
CPU = torch.device("cpu")
LEAST_PIXELS = 20
PLAIN = {"augment": False, "affinities": False, "turns": False}
FIBSEM_STEPS = 400
EVERY_PLANE = 2
WAYS = ("straight", "turned")
SCORES = ("rand", "rand_split", "rand_merge", "info", "info_split", "info_merge")


def data(name: str) -> np.ndarray:
    """A volume of the real data."""
    return open_volume(Path(os.environ.get("EMFLOW_TEST_DATA", "data")) / name).read()


def isbi() -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Images and segments."""
    folder = Path(os.environ.get("EMFLOW_TEST_DATA", "data")) / "isbi2012"
    pairs = [[open_slice(folder / f"0{i}_{what}.tif") for what in ("image", "label")] for i in range(4)]
    return [image.astype(np.float32) for image, _ in pairs], [targets(label) for _, label in pairs]


def open_slice(path: Path) -> np.ndarray:
    """One slice."""
    import tifffile

    return tifffile.imread(path)


def learn(
    images: list[np.ndarray], labels: list[np.ndarray], cfg: VemTrainMembranes
) -> tuple[MembraneNetwork, float]:
    """Train on slices in units of their deviation; the CPU seconds it took."""
    start = time.process_time()
    network = train_network(
        [torch.from_numpy(image) for image in images], [torch.from_numpy(label) for label in labels], cfg, CPU
    )
    return network, time.process_time() - start


def isbi_logits(kept: Path, fold: int, seed: int, steps: int, plain: bool) -> Any:
    """Logits of the held-out rows and of the test slice, straight and averaged over turns."""
    if not kept.exists():
        images, labels = isbi()
        learned = [i for i in range(4) if i != fold]
        mean = np.mean([images[i].mean() for i in learned])
        deviation = np.sqrt(np.mean([np.square(images[i] - mean).mean() for i in learned]))
        units = [((image - mean) / deviation).astype(np.float32) for image in images]
        cfg = VemTrainMembranes(seed=seed, steps=steps, **(PLAIN if plain else {}))
        network, cost = learn([units[i][:384] for i in learned], [labels[i][:384] for i in learned], cfg)
        found: dict[str, Any] = {"train_cpu_s": cost, "parameters": count_parameters(network.network)}
        for way in WAYS[:1] if plain else WAYS:
            network.turns = way == "turned"
            margin = network.network.margin
            held = [
                network.whole_logits(torch.from_numpy(units[i][384 - margin :]))[margin:] for i in learned
            ]
            start = time.process_time()
            found[f"test_{way}"] = network.whole_logits(torch.from_numpy(units[fold])).numpy()
            found[f"apply_cpu_s_{way}"] = time.process_time() - start
            found[f"held_{way}"] = torch.stack(held).numpy()
        np.savez(kept, **found)
    return np.load(kept)


def isbi_rows(folder: Path, fold: int, seed: int, steps: int) -> list[Row]:
    """All methods on one fold."""
    _, labels = isbi()
    true, known = [labels[fold]], [labels[i][384:] for i in range(4) if i != fold]
    rows = []
    for plain in (True, False):
        name = "plain" if plain else "emflow"
        kept = isbi_logits(folder / f"isbi_{name}_{fold}_{seed}_{steps}.npz", fold, seed, steps, plain)
        for way in WAYS[:1] if plain else WAYS:
            held, test = torch.from_numpy(kept[f"held_{way}"]), torch.from_numpy(kept[f"test_{way}"])[None]
            slope, offset = (1.0, 0.0) if plain else calibrate(held, torch.from_numpy(np.stack(known) == 0))
            at_held, at_test = (torch.sigmoid(slope * x + offset).numpy() for x in (held, test))
            threshold, cut = (
                choose_threshold(list(at_held), known),
                choose_cut(list(at_held), known, LEAST_PIXELS),
            )
            ways: dict[str, Callable[[np.ndarray], np.ndarray]] = {
                "components, threshold 0.5": lambda p: components(p, 0.5),
                "components, threshold chosen": lambda p, t=threshold: components(p, t),
                "watershed": lambda p, c=cut: segments(p, c, LEAST_PIXELS),
            }
            about = {
                "train_cpu_s": float(kept["train_cpu_s"]),
                "apply_cpu_s": float(kept[f"apply_cpu_s_{way}"]),
                "parameters": int(kept["parameters"]),
                **membrane_figures(at_test[0], labels[fold] == 0),
            }
            for how, divide in ways.items():
                scores = mean_agreement(zip([divide(p) for p in at_test], true, strict=True))
                rows.append(
                    {
                        "set": "isbi", "network": name, "planes": way, "segments": how, "fold": fold, "seed": seed,
                        "steps": steps, **{key: round(scores[key], 4) for key in SCORES}, **about,
                    }
                )  # fmt: skip
    return rows


def membrane_figures(probability: np.ndarray, membrane: np.ndarray) -> Row:
    """Figures of the probability itself."""
    found = probability >= 0.5
    both = np.count_nonzero(found & membrane)
    likelihood = np.where(membrane, probability, 1 - probability).clip(1e-6)
    return {
        "pixel_error": round(float((found != membrane).mean()), 4),
        "dice": round(2 * both / (np.count_nonzero(found) + np.count_nonzero(membrane)), 4),
        "cross_entropy": round(float(-np.log(likelihood).mean()), 4),
        "calibration_error": round(calibration_error(probability, membrane), 4),
    }


def filled(slices: Tensor, factor: int, seed: int) -> Tensor:
    """What vem restore makes of measured slices (L + 1, H, W): (L·factor + 1, H, W)."""
    mean, deviation = float(slices.mean()), float(slices.std())
    units = (slices - mean) / deviation
    cfg = VemTrain(seed=seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        filler = Filler.begin(factor, mean, deviation, 1.0)
    filler.spread = residual_spread(units, factor, cfg)
    filler.network = train_filler(filler, units, cfg, CPU)
    return woven(slices, fill_block(filler, units)[0] * deviation + mean)


def woven(slices: Tensor, gaps: Tensor) -> Tensor:
    """Measured slices with the gaps (L, factor − 1, H, W) between them."""
    return torch.cat([torch.cat([slices[:-1, None], gaps], 1).flatten(0, 1), slices[-1:]])


def versions(truth: Tensor, factor: int, seed: int, folder: Path) -> dict[str, Tensor]:
    """The true volume, and what comes of every factor-th slice of it."""
    slices = truth[::factor].contiguous()
    kept = folder / f"fibsem_restored_{factor}_{seed}.npy"
    if not kept.exists():
        np.save(kept, filled(slices, factor, seed).numpy())
    near = slices[((torch.arange(len(truth)) + factor // 2) // factor).clamp(max=len(slices) - 1)]
    return {
        "truth": truth,
        "restored": torch.from_numpy(np.load(kept)),
        "linear": woven(slices, between(slices.permute(1, 0, 2), factor).permute(1, 2, 0, 3)),
        "nearest": near,
    }


def fibsem_rows(folder: Path, seed: int) -> list[Row]:
    """All versions of the volume, segmented by one model."""
    raw, labels = (
        data("fibsem_medulla/raw.tif")[:109].astype(np.float32),
        data("fibsem_medulla/labels.tif")[:109],
    )
    mean, deviation = raw.mean(), raw.std()
    known = [targets(plane) for plane in labels[::4, :, :60]]
    images = list((raw[::4, :, :60] - mean) / deviation)
    cfg = VemTrainMembranes(seed=seed, steps=FIBSEM_STEPS, crop_px=64, batch=8, turns=False)
    network, cost = learn([image[:96] for image in images], [label[:96] for label in known], cfg)
    rest = torch.stack([network.whole_logits(torch.from_numpy(image))[96:] for image in images])
    below = [label[96:] for label in known]
    network.slope, network.offset = calibrate(rest, torch.from_numpy(np.stack(below) == 0))
    cut = choose_cut(list(network.calibrated(rest).numpy()), below, LEAST_PIXELS)
    true = labels[:, ::EVERY_PLANE, 68:].transpose(1, 0, 2)
    rows, seen = [], {}
    for factor in (4, 6):
        for name, volume in versions(torch.from_numpy(raw), factor, seed, folder).items():
            units = (volume - float(mean)) / float(deviation)
            if name != "truth" or not seen:
                planes = units[:, ::EVERY_PLANE].permute(1, 0, 2).contiguous()
                logits = torch.stack([network.whole_logits(plane)[:, 68:] for plane in planes])
                probability = network.calibrated(logits).numpy()
                found = np.stack([segments(plane, cut, LEAST_PIXELS) for plane in probability])
                seen[name] = mean_agreement(zip(found, true, strict=True))
                np.savez_compressed(folder / f"fibsem_{factor}_{name}_{seed}.npz", found=found, p=probability)
            rows.append(
                {
                    "set": "fibsem", "factor": factor, "volume": name, "seed": seed, "steps": FIBSEM_STEPS,
                    **{key: round(seen[name][key], 4) for key in SCORES}, "train_cpu_s": cost, **cut.facts(),
                }
            )  # fmt: skip
    return rows


def picture(folder: Path, out: Path, seed: int, factor: int = 6, plane: int = 30) -> None:
    """An xz plane of each version with the borders of what was found in it, beside the true segments."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.colors import ListedColormap
    from skimage.segmentation import find_boundaries

    truth = torch.from_numpy(data("fibsem_medulla/raw.tif")[:109].astype(np.float32))
    labels = data("fibsem_medulla/labels.tif")[:109, plane * EVERY_PLANE, 68:]
    shown = versions(truth, factor, seed, folder)
    figure, axes = pyplot.subplots(1, 5, figsize=(11, 4.4), layout="constrained")
    panels = [("true segments", truth, labels)]
    for name, volume in shown.items():
        kept = folder / f"fibsem_{4 if name == 'truth' else factor}_{name}_{seed}.npz"
        panels.append((name, volume, np.load(kept)["found"][plane]))
    for axis, (name, volume, found) in zip(axes, panels, strict=True):
        axis.imshow(
            volume[:, plane * EVERY_PLANE, 68:], cmap="gray", vmin=40, vmax=200, interpolation="nearest"
        )
        axis.imshow(
            np.ma.masked_equal(find_boundaries(found, mode="inner"), 0), cmap=ListedColormap(["#ff8800"])
        )
        scores = mean_agreement([(found, labels)])
        axis.set_title(f"{name}\nV_rand {scores['rand']:.2f}, V_info {scores['info']:.2f}", fontsize=9)
        axis.axis("off")
    figure.savefig(out, dpi=90)


def means(rows: list[Row]) -> list[Row]:
    """Mean over folds and seeds."""
    places = ("set", "network", "planes", "segments", "factor", "volume")
    groups: dict[tuple, list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row.get(key) for key in places), []).append(row)
    out = []
    for place, group in groups.items():
        numbers = [key for key, value in group[0].items() if isinstance(value, float)]
        named = {key: value for key, value in zip(places, place, strict=True) if value is not None}
        middle = {key: round(statistics.mean(row[key] for row in group), 4) for key in numbers}
        out.append({**named, "runs": len(group), **middle})
    return out


def main() -> None:
    """Measure what is asked for and not yet there; print the means."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("sets", nargs="*", default=["isbi", "fibsem"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument(
        "--folds", type=int, nargs="+", default=[0, 1, 2, 3], help="of isbi: the slice to test on"
    )
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--picture", type=Path, help="PNG to draw of the fibsem set")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    jobs: dict[str, Callable[[], list[Row]]] = {}
    for seed in given.seeds:
        for name in given.sets:
            if name == "isbi":
                for fold in given.folds:
                    jobs[f"isbi_{fold}_{seed}_{given.steps}"] = lambda f=fold, s=seed: isbi_rows(
                        given.folder, f, s, given.steps
                    )
            else:
                jobs[f"fibsem_{seed}"] = lambda s=seed: fibsem_rows(given.folder, s)
    rows = []
    for name, measure in jobs.items():
        kept = given.folder / f"{name}.json"
        if not kept.exists():
            kept.write_text(json.dumps(measure()))
        rows += json.loads(kept.read_text())
        print(name, file=sys.stderr, flush=True)
    if given.picture:
        picture(given.folder, given.picture, given.seeds[0])
    table = means(rows)
    for row in table:
        print(json.dumps(row))
    if given.write:
        command = "python " + " ".join(["benchmarks/vem_segment.py", "FOLDER", *sys.argv[2:]])
        content = {"command": command, "torch": torch.__version__, "means": table, "rows": rows}
        RESULTS.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
