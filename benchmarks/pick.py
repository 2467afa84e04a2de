"""Pickers side by side: ours (network, template), and Topaz as it comes and with our normalisation and the true mask.

    python benchmarks/pick.py FOLDER [--topaz PATH/bin/topaz] [--seeds 71 72 73] [--data DATA] [--write]

FOLDER keeps the simulated sets (``pick_sets.py``), denoised images and every picker's candidates; what is there is not
made again. DATA (or EMFLOW_TEST_DATA) holds apoferritin/ and ribosome/ as ``pick_real.py`` has them. Topaz (topaz-em
0.3.20, resnet16_u64) runs in an environment of its own, on images in which the particle is 24 pixels wide, the scale
for which its detectors were made (some 8 Å a pixel); cost and recall are per megapixel of the whole micrograph.

A pick is true within half a diameter (apoferritin 15, ribosome 14 pixels) of a position that no better pick has. AP: area
under the precision-recall curve, as a sum over steps of recall; of the template and its picks only, so recall beyond
its threshold is lost. F1 is at the automatic threshold (Topaz: its default, −6, above which all its candidates
lie), best F1 at the best one. The truth leaves out what lies on contamination.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from pick_sets import PIXEL, SEEDS, SETS, emflow, make

from emflow import __version__
from emflow.io.image import read_image
from emflow.io.mrc import read_mrc, write_mrc
from emflow.io.star import read_star
from emflow.pick.apply import pick_micrograph
from emflow.pick.apply_network import candidates, judge
from emflow.pick.config import PickApply
from emflow.pick.inputs_network import load_general
from emflow.pick.network import DIAMETER_PX, normalise
from emflow.pick.normalise import resize
from emflow.pick.score import match

REAL = {"apoferritin": (1.5, 130.0, 15.0), "ribosome": (5.36, 285.0, 14.0)}
OURS = ("network", "network, true mask", "network, no veto", "template")
TOPAZ = ("topaz", "topaz, our normalisation, true mask")
NO_DUPLICATES_PX = 7


@dataclass(frozen=True)
class Item:
    """A micrograph with what is known of it."""

    group: str
    path: Path
    pixel: float
    diameter: float
    radius_px: float
    mask: Path | None
    denoised: Path

    @property
    def key(self) -> str:
        """Name of its results."""
        return f"{self.group}-{self.path.parent.parent.name}-{self.path.stem}"

    @property
    def factor(self) -> float:
        """Pixels to one of the scale at which the particle is 24 wide."""
        return self.diameter / self.pixel / DIAMETER_PX

    def truth(self) -> np.ndarray:
        """Positions (n, 2)."""
        return np.loadtxt(self.path.with_suffix(".csv"), delimiter=",", skiprows=1, ndmin=2)

    def true_mask(self) -> np.ndarray | None:
        """True on contamination, where it is known."""
        return None if self.mask is None else read_mrc(self.mask) > 0


def items(folder: Path, data: Path, seeds: list[int]) -> Iterator[Item]:
    """All micrographs; simulated and denoised where they are not yet."""
    for name in SETS:
        for seed in seeds:
            out = make(folder / "sets", name, seed)
            diameter = json.loads((out / "sets.json").read_text())["diameter_angstrom"]
            radius = 0.5 * diameter / PIXEL
            names = _denoised(str(out / "micrographs" / "*.mrc"), folder / "denoised" / out.name, PIXEL)
            for path in sorted((out / "micrographs").glob("*.mrc")):
                mask = out / "truth" / "masks" / path.name
                yield Item(name, path, PIXEL, diameter, radius, mask, names[path.stem])
    for name, (pixel, diameter, radius) in REAL.items():
        files = sorted((data / name).glob("*.tif"))
        names = _denoised(str(data / name / "*.tif"), folder / "denoised" / name, pixel) if files else {}
        for path in files:
            yield Item(name, path, pixel, diameter, radius, None, names[path.stem])


def _denoised(pattern: str, out: Path, pixel: float) -> dict[str, Path]:
    table = out / "denoised.star"
    if not table.exists():
        words = ("--pixel-size-angstrom", str(pixel), "--contrast", "dark")
        emflow("denoise", "apply", pattern, str(table), *words)
    rows = read_star(table)["micrographs"]
    return {
        Path(name).stem: Path(image)
        for name, image in zip(rows["rlnMicrographName"], rows["emflowDenoisedName"], strict=True)
    }


def ours(item: Item, how: str, pixels: str) -> dict[str, object]:
    """Candidates of one of our pickers: positions, scores, and how many the automatic threshold takes."""
    image = torch.from_numpy(read_image(item.path if pixels == "raw" else item.denoised)).float()
    cfg = PickApply(diameter_angstrom=item.diameter, mask_contamination=how != "network, no veto")
    picker = load_general(torch.device("cpu"))
    begin = time.process_time()
    if how == "template":
        picks = pick_micrograph(image, item.pixel, True, cfg)
        xy, score, chance, taken = picks.xy_px, picks.score, picks.probability, len(picks.score)
    else:
        known = item.true_mask() if how == "network, true mask" else None
        found = candidates(image, item.pixel, True, cfg, picker.network, known)
        xy, score = found.xy_px, found.score
        chance, taken, _ = judge(score, picker.calibration, cfg)
    cpu = time.process_time() - begin
    return {
        "xy": xy.tolist(),
        "score": score.tolist(),
        "taken": taken,
        "told_false": float((1 - chance[:taken]).sum()),
        "cpu_s": cpu,
        "pixels": image.numel(),
    }


def topaz(item: Item, how: str, program: Path, folder: Path) -> dict[str, object]:
    """Candidates of Topaz, all that lie above its default threshold."""
    work = folder / "topaz" / how.replace(" ", "_").replace(",", "")
    work.mkdir(parents=True, exist_ok=True)
    small = resize(torch.from_numpy(read_image(item.path)).float(), item.factor)
    image, mask = work / f"{item.key}.mrc", item.true_mask()
    weight = torch.ones_like(small)
    if mask is not None and how != "topaz":
        weight = 1 - (resize(torch.from_numpy(mask).float(), item.factor) > 0.3).float()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    used = []

    def run(*words: str) -> None:
        started = subprocess.Popen([str(program), *words], env=environment, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(started.pid, 0)
        if status:
            raise RuntimeError(f"topaz {' '.join(words)} ended with {status}")
        used.append(usage)

    if how == "topaz":
        write_mrc(work / "in" / image.name, small.numpy(), 8.0)
        run("normalize", str(work / "in" / image.name), "-o", str(work), "--num-workers", "0", "-d", "-1")
    else:
        write_mrc(image, normalise(small, weight).numpy(), 8.0)
    out = image.with_suffix(".txt")
    words = ["-m", "resnet16_u64", "-r", str(NO_DUPLICATES_PX), "-d", "-1", "--num-workers", "0"]
    run("extract", *words, "-o", str(out), str(image))
    rows = pd.read_csv(out, sep="\t").sort_values("score", ascending=False, kind="stable")
    place = rows[["x_coord", "y_coord"]].to_numpy()
    clean = (weight[place[:, 1], place[:, 0]] > 0).numpy() if len(rows) else np.zeros(0, dtype=bool)
    xy = ((place + 0.5) * item.factor - 0.5)[clean]
    return {
        "xy": xy.tolist(),
        "score": rows["score"].to_numpy()[clean].tolist(),
        "taken": len(xy),
        "cpu_s": sum(usage.ru_utime + usage.ru_stime for usage in used),
        "peak_mb": max(usage.ru_maxrss for usage in used) / 1024,
        "network_pixels": small.numel(),
        "pixels": int(np.prod(read_image(item.path).shape)),
    }


def summary(found: list[tuple[Item, dict]]) -> dict[str, float | int | None]:
    """Figures of one picker on one set."""
    score, hit, taken, positions = [], [], [], 0
    for item, result in found:
        truth, xy = item.truth(), np.array(result["xy"], dtype=float).reshape(-1, 2)
        hit.append(match(xy, truth, item.radius_px) >= 0)
        score.append(np.array(result["score"], dtype=float))
        taken.append(np.arange(len(xy)) < result["taken"])
        positions += len(truth)
    scores, hits, takens = (np.concatenate(parts) for parts in (score, hit, taken))
    order = np.argsort(-scores, kind="stable")
    true = np.cumsum(hits[order])
    count = np.arange(1, len(order) + 1)
    precision, f1 = true / count, 2 * true / (count + positions)
    picks, good = int(takens.sum()), int((hits & takens).sum())
    above = precision >= 0.9
    pixels = sum(r["pixels"] for _, r in found)
    told = [r["told_false"] for _, r in found if "told_false" in r]
    peaks = [r["peak_mb"] for _, r in found if "peak_mb" in r]
    sizes = [r["network_pixels"] for _, r in found if "network_pixels" in r]
    return {
        "micrographs": len(found),
        "positions": positions,
        "average_precision": round(float(precision[hits[order]].sum() / positions), 4),
        "f1": round(2 * good / (picks + positions), 4),
        "f1_best_threshold": round(float(f1.max(initial=0)), 4),
        "precision": round(good / max(picks, 1), 4),
        "recall": round(good / positions, 4),
        "false_discovery_rate": round(1 - good / max(picks, 1), 4),
        "false_discovery_rate_told": round(sum(told) / max(picks, 1), 4) if told else None,
        "recall_at_precision_0.9": round(float(true[above].max(initial=0) / positions), 4),
        "cpu_s_per_megapixel": round(1e6 * sum(r["cpu_s"] for _, r in found) / pixels, 2),
        "peak_mb": round(max(peaks)) if peaks else None,
        "network_megapixels": round(max(sizes) / 1e6, 3) if sizes else None,
    }


def main() -> None:
    """Run what is missing; print and keep the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--topaz", type=Path)
    parser.add_argument("--seeds", type=int, nargs="*", default=list(SEEDS))
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("EMFLOW_TEST_DATA", "data")))
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows: dict[str, dict[str, list]] = {}
    for item in items(given.folder, given.data, given.seeds):
        for how in (*OURS, *TOPAZ):
            for pixels in ("raw", "denoised") if how in OURS else ("raw",):
                if how == "network, true mask" and item.mask is None:
                    continue
                row = how if how in TOPAZ else f"{how} ({pixels})"
                kept = given.folder / "results" / row.replace(" ", "_") / f"{item.key}.json"
                if not kept.exists():
                    if how in TOPAZ and (given.topaz is None or (item.mask is None and how != "topaz")):
                        continue
                    result = (
                        topaz(item, how, given.topaz, given.folder)
                        if how in TOPAZ
                        else ours(item, how, pixels)
                    )
                    kept.parent.mkdir(parents=True, exist_ok=True)
                    kept.write_text(json.dumps(result))
                rows.setdefault(item.group, {}).setdefault(row, []).append(
                    (item, json.loads(kept.read_text()))
                )
    table = {group: {row: summary(found) for row, found in each.items()} for group, each in rows.items()}
    for group, each in table.items():
        print(f"\n{group:<44}  AP    F1  best    P     R   R@.9  CPU-s/Mpx  n")
        for row, f in each.items():
            names = ("average_precision", "f1", "f1_best_threshold", "precision", "recall")
            line = " ".join(f"{f[name]:.3f}" for name in (*names, "recall_at_precision_0.9"))
            print(f"{row:<44}{line} {f['cpu_s_per_megapixel']:>7} {f['micrographs']:>5}")
    if given.write:
        out = Path(__file__).parent / "results" / "pick.json"
        peak = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        facts = {"command": "python benchmarks/pick.py FOLDER --topaz TOPAZ --write", "emflow": __version__}
        out.write_text(json.dumps({**facts, "our_peak_mb": peak, "sets": table}, indent=1) + "\n")


if __name__ == "__main__":
    main()
