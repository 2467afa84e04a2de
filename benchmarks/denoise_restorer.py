"""What samples of a micrograph are worth beside the regression: figures by evaluations and by samples.

    python benchmarks/denoise_restorer.py FOLDER [--seeds 1 2 3] [--session SESSION] [--write] [--picture FILE.png]

The micrographs are the frozen ones of benchmarks/denoising/sets.py, as in benchmarks/denoise.py (FOLDER may be the
same; what it holds is not made again), and so are the measures. SNR takes an image up to scale and offset; all else
compares the image as it is with the noise-free one, in the raw micrograph's units: power is Σ|x|²/Σ|t|² in a ring of
±15 % about 1/60, 1/40, 1/30 and 1/20 Å; at the working scale, contamination left out, error over deviation is the ratio
of root mean squares (1 where the deviation is right), "within" the part of pixels whose error is at most the deviation
(0.68 for a Gaussian), "tells" the same ratio of errors' squares between the fifth of pixels with the largest deviation
and that with the least. CPU seconds are of this process, for a megapixel of the raw micrograph.

SESSION is a folder of ``emflow simulate session --config config/demo.yaml --keep-clean``: micrographs of the kind that was
learned from, of another specimen and seed; the first three without contamination are measured, too.

Samples are told by their evaluations and number; seed 1 has all rows, the others regression, and 8 samples of 4.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from denoise import scenes_of
from denoising import sets
from denoising.measure import HIGH_PASS_ANGSTROM, RINGS_ANGSTROM, filtered, gain, measure_of
from PIL import Image

from emflow import __version__
from emflow.denoise.inputs import GENERAL, GENERAL_RESTORER, load_model, load_restorer
from emflow.denoise.restorer import Moments, Sampling, sample_errors
from emflow.denoise.scale import Scaled, to_scale
from emflow.io.mrc import read_mrc
from emflow.io.star import floats, read_star
from emflow.nn.tiles import run_tiled
from emflow.simulate.score_denoise import footprint

HERE = Path(__file__).parent
PLANS = ((0, 8), (1, 8), (2, 8), (4, 2), (4, 4), (4, 8), (4, 16), (8, 8))
"""Evaluations and samples."""
USUAL = (4, 8)
SESSION = "of the training's kind"
Row = dict[str, Any]


def power(image: np.ndarray, truth: np.ndarray, pixel: float) -> dict[str, float]:
    """Power of an image over that of the truth in rings."""
    fy, fx = np.fft.fftfreq(image.shape[0], pixel)[:, None], np.fft.rfftfreq(image.shape[1], pixel)[None]
    s = np.hypot(fy, fx)
    found = {}
    for length in RINGS_ANGSTROM:
        ring = (s * length > 0.85) & (s * length < 1.15)
        p, q = ((abs(np.fft.rfft2(x)[ring]) ** 2).sum() for x in (image, truth))
        found[f"power_{length}"] = float(p / q)
    return found


def calibration(error: np.ndarray, deviation: np.ndarray) -> dict[str, float]:
    """Whether deviations tell the size of errors, and where they are large; 1-D arrays."""
    order = deviation.argsort()
    fifth = len(order) // 5
    low, high = (float((error[part] ** 2).mean()) for part in (order[:fifth], order[-fifth:]))
    return {
        "error_over_deviation": float(np.sqrt((error**2).mean() / (deviation**2).mean())),
        "within": float((abs(error) <= deviation).mean()),
        "tells": high / low,
    }


def rows_of_scene(scene: sets.Scene, pixel: float, plans: tuple[tuple[int, int], ...]) -> Iterator[Row]:
    """Figures of one micrograph: the regression, then for each plan the samples' mean and one of them."""
    network, scale, model = load_model(None, torch.device("cpu"))
    restorer, widening, _ = load_restorer(None, model, torch.device("cpu"))
    raw = torch.from_numpy(scene.raw)
    measure, area = measure_of(scene, pixel), scene.raw.size / 1e6
    a = float((scene.raw * (scene.clean - scene.clean.mean())).sum() / scene.clean.var() / scene.clean.size)
    truth = a * scene.clean
    high = 1 - gain(scene.raw.shape, pixel, HIGH_PASS_ANGSTROM)
    shown_truth = filtered(np.where(scene.kept, truth, truth[scene.kept].mean()), high)
    started = time.process_time()
    scaled = to_scale(raw, pixel, scale)
    mean = run_tiled(network, scaled.z, 1024)
    cost = time.process_time() - started
    small_truth = scaled.like(torch.from_numpy(truth.astype(np.float32)), scale)
    kept = torch.nn.functional.interpolate(
        torch.from_numpy(scene.kept.astype(np.float32))[None, None], size=tuple(scaled.z.shape)
    )[0, 0].numpy().astype(bool)  # fmt: skip

    def figures(z: torch.Tensor, cpu_s: float, **about: Any) -> Row:
        image = scaled.restore(z).numpy()
        shown = filtered(np.where(scene.kept, image, image[scene.kept].mean()), high)
        return (
            about | measure(image) | power(shown, shown_truth, pixel) | {"cpu_s_per_megapixel": cpu_s / area}
        )

    yield figures(mean, cost, what="regression", evaluations=0, samples=0)
    for evaluations, samples in plans:
        started = time.process_time()
        how = Sampling(samples, evaluations, 1, widening)
        moments, first = sample_errors(restorer, scaled.z, mean, how, 1024)
        spent = cost + time.process_time() - started
        about = {"evaluations": evaluations, "samples": samples}
        error = (small_truth - mean - moments.mean()).numpy()[kept]
        yield figures(mean + moments.mean(), spent, what="mean", **about) | calibration(
            error, _deviation(moments, scaled)[kept]
        )
        if samples == USUAL[1]:
            yield figures(mean + first, cost + (spent - cost) / samples, what="sample", **about)


def _deviation(moments: Moments, scaled: Scaled) -> np.ndarray:
    found = moments.deviation().numpy()
    assert found.shape == scaled.z.shape
    return np.asarray(found)


def scenes_of_session(session: Path) -> list[sets.Scene]:
    """Micrographs of a simulated session that hold particles and no contamination."""
    truth = read_star(session / "truth" / "particles.star")
    facts = json.loads((session / "truth" / "facts.json").read_text(encoding="utf-8"))
    out = []
    for path in sorted((session / "micrographs").glob("*.mrc")):
        here = truth["particles"][truth["particles"]["rlnMicrographName"] == f"micrographs/{path.name}"]
        if not len(here) or read_mrc(session / "truth" / "masks" / path.name).any():
            continue
        raw, clean = read_mrc(path), read_mrc(session / "truth" / "clean" / path.name)
        centres = np.column_stack([floats(here, "rlnCoordinateX"), floats(here, "rlnCoordinateY")])
        radius = 0.5 * facts["diameter_angstrom"] / facts["pixel_size_angstrom"]
        inside = footprint(raw.shape, centres, radius).numpy()
        out.append(sets.Scene(raw, clean, inside, np.ones(raw.shape, dtype=bool)))
    return out[:3]


def rows_of(folder: Path, name: str, seed: int, session: Path | None = None) -> list[Row]:
    """Rows of a set and seed, or of a session; kept in the folder."""
    digest = hashlib.sha256(GENERAL.read_bytes() + GENERAL_RESTORER.read_bytes()).hexdigest()[:12]
    kept = folder / "rows" / f"restorer_{digest}_{name}_{seed}{'_every' if seed == 1 else ''}.json"
    if not kept.exists():
        if session:
            scenes = scenes_of_session(session)
            facts = json.loads((session / "truth" / "facts.json").read_text(encoding="utf-8"))
            pixel = float(facts["pixel_size_angstrom"])
        else:
            scenes, pixel = scenes_of(folder, name, seed), sets.SETS[name].pixel
        rows = [
            {"set": name, "seed": seed, "micrograph": number} | row
            for number, scene in enumerate(scenes)
            for row in rows_of_scene(scene, pixel, PLANS if seed == 1 else (USUAL,))
        ]
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(rows))
    return list(json.loads(kept.read_text()))


def summary(rows: list[Row]) -> list[Row]:
    """Means over all sets, of seed 1 by plan, then of all seeds by set."""
    out = []
    keys = ("what", "evaluations", "samples")
    usual = [
        row for row in rows if row["what"] == "regression" or (row["evaluations"], row["samples"]) == USUAL
    ]
    groups = [("all, seed 1", [row for row in rows if row["seed"] == 1])]
    groups += [(name, [row for row in usual if row["set"] == name]) for name in (*sets.SETS, SESSION)]
    groups.append(("all", [row for row in usual if row["set"] in sets.SETS]))
    for label, group in groups:
        for key in dict.fromkeys(tuple(row[k] for k in keys) for row in group):
            same = [row for row in group if tuple(row[k] for k in keys) == key]
            numbers = [n for n, v in same[0].items() if isinstance(v, float)]
            means = {n: round(float(np.mean([row[n] for row in same])), 4) for n in numbers}
            out.append(
                {"group": label} | dict(zip(keys, key, strict=True)) | {"micrographs": len(same)} | means
            )
    return out


def save_grey(path: Path) -> None:
    """Save the current figure with 40 grey values: a third of the bytes."""
    import matplotlib.pyplot as plt

    figure = plt.gcf()
    figure.set_dpi(60)
    figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3]  # type: ignore[attr-defined]
    Image.fromarray(pixels).convert("L").quantize(40).save(path, optimize=True)


def picture(path: Path, folder: Path) -> None:
    """Noise-free, raw low-passed, regression, mean, sample and deviation of a part of a micrograph of each set."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    network, scale, model = load_model(None, torch.device("cpu"))
    restorer, widening, _ = load_restorer(None, model, torch.device("cpu"))
    _, axes = plt.subplots(len(sets.SETS), 6, figsize=(15, 7.6), layout="constrained")
    for row, (name, kind) in zip(axes, sets.SETS.items(), strict=True):
        scene = scenes_of(folder, name, 1)[0]
        raw = torch.from_numpy(scene.raw[:640, :640])
        scaled = to_scale(raw, kind.pixel, scale)
        mean = run_tiled(network, scaled.z, 1024)
        moments, first = sample_errors(restorer, scaled.z, mean, Sampling(*USUAL[::-1], 1, widening), 1024)
        low = to_scale(
            torch.from_numpy(filtered(scene.raw, gain(scene.raw.shape, kind.pixel, 40.0))), kind.pixel, scale
        )
        side = scaled.z.shape[0]
        truth = scaled.like(torch.from_numpy(scene.clean[:640, :640]), scale)
        truth = truth * float((truth * scaled.z).mean() / truth.square().mean())
        shown = {
            f"{name}: noise-free": truth,
            "raw, low-passed at 40 Å": low.z[:side, :side],
            "regression": mean,
            "mean of 8 samples": mean + moments.mean(),
            "one sample": mean + first,
            "deviation": moments.deviation(),
        }
        reach = float(truth.abs().quantile(0.995))
        for axis, (title, image) in zip(row, shown.items(), strict=True):
            own = float(image.abs().quantile(0.995)) if "low" in title else reach
            own = float(image.quantile(0.995)) if title == "deviation" else own
            axis.imshow(image, cmap="gray", vmin=0 if title == "deviation" else -own, vmax=own)
            axis.set_title(title, fontsize=9)
            axis.axis("off")
    save_grey(path)


def main() -> None:
    """Measure what is not yet there; print the means."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(sets.SEEDS))
    parser.add_argument("--session", type=Path)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--picture", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = [row for seed in given.seeds for name in sets.SETS for row in rows_of(given.folder, name, seed)]
    if given.session:
        rows += rows_of(given.folder, SESSION, 0, given.session)
    table = summary(rows)
    for row in table:
        numbers = " ".join(f"{key} {value:.3f}" for key, value in row.items() if isinstance(value, float))
        print(f"{row['group']:<12} {row['what']:<10} {row['evaluations']} {row['samples']:<2} {numbers}")
    if given.write:
        content = {
            "command": "python benchmarks/denoise_restorer.py FOLDER --session SESSION --write",
            "emflow": __version__,
            "weights": hashlib.sha256(GENERAL.read_bytes()).hexdigest(),
            "restorer": hashlib.sha256(GENERAL_RESTORER.read_bytes()).hexdigest(),
            "sets": hashlib.sha256((HERE / "denoising" / "sets.py").read_bytes()).hexdigest(),
            "means": table,
        }
        (HERE / "results" / "denoise_restorer.json").write_text(json.dumps(content, indent=1) + "\n")
    if given.picture:
        picture(given.picture, given.folder)


if __name__ == "__main__":
    main()
