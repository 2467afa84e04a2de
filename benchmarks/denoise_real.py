"""Real micrographs before and after, and how large the error is that independent pixels tell.

    python benchmarks/denoise_real.py DATA [--write | --picture]

DATA holds ``apoferritin/*.tif`` (EMPIAR-10146, 1.5 Å pixels, as distributed with AutoCryoPicker) and ``ribosome/*.tif``
(EMPIAR-10028, 5.36 Å, via CryoPPP). Of apoferritin every other pixel is restored, as on a chessboard, and the rest bears
witness (:func:`emflow.denoise.trust.interleaved`), and the other way round: for the image m that is made of one half, the
halves x and y and the unknown signal s, E|m − s|² = ⟨m²⟩ − 2⟨m·y⟩ + ⟨x·y⟩. What neighbouring pixels share, noise that the
detector spreads and structure of the ice, counts as signal. --write keeps the figures in
benchmarks/results/denoise_real.json and the pictures in docs/images/denoise-real.png.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from denoise_restorer import save_grey
from denoising.measure import filtered, gain

from emflow import __version__
from emflow.denoise.inputs import GENERAL, GENERAL_RESTORER, load_model, load_restorer
from emflow.denoise.restorer import Sampling, restore, sample_errors
from emflow.denoise.scale import to_scale
from emflow.denoise.trust import interleaved
from emflow.io.image import read_image
from emflow.nn.tiles import run_tiled

HERE = Path(__file__).parent
CPU = torch.device("cpu")
SHOWN = {"apoferritin": (7, 1.5, 800), "ribosome": (0, 5.36, 400)}
"""Number of the micrograph, pixel in ångström, side of the part that is shown."""
ASKED = (1, 4, 7, 10)


def errors(path: Path, pixel: float) -> dict[str, float]:
    """Error of the regression, of the samples' mean and of one sample, and the deviation that the samples tell."""
    network, scale, model = load_model(None, CPU)
    restorer, widening, _ = load_restorer(None, model, CPU)
    halves = [
        to_scale(half, pixel, scale).z for half in interleaved(torch.from_numpy(read_image(path)).float())
    ]
    squares = dict.fromkeys(("regression", "mean", "sample", "deviation"), 0.0)
    for seen, witness in (halves, halves[::-1]):
        mean = run_tiled(network, seen, 1024)
        moments, first = sample_errors(restorer, seen, mean, Sampling(8, 4, 0, widening), 1024)
        for name, found in (("regression", mean), ("mean", mean + moments.mean()), ("sample", mean + first)):
            squares[name] += float((found**2 - 2 * found * witness + seen * witness).mean()) / 2
        squares["deviation"] += float(moments.deviation().square().mean()) / 2
    return squares


def picture(data: Path, out: Path) -> None:
    """Raw, low-passed, regression, mean, sample and deviation of a part of one micrograph of each."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    network, scale, model = load_model(None, CPU)
    restorer, widening, _ = load_restorer(None, model, CPU)
    _, axes = plt.subplots(2, 6, figsize=(15, 5.3), layout="constrained")
    for row, (name, (number, pixel, side)) in zip(axes, SHOWN.items(), strict=True):
        raw = read_image(sorted((data / name).glob("*.tif"))[number]).astype(np.float32)[:side, :side]
        image = torch.from_numpy(raw)
        scaled = to_scale(image, pixel, scale)
        found = restore(image, pixel, (network, restorer, scale), Sampling(8, 4, 0, widening), 1024, False)
        high = 1 - gain(raw.shape, pixel, 1500.0)
        shown = {
            f"{name}: raw": raw,
            "low-passed at 40 Å": filtered(raw, gain(raw.shape, pixel, 40.0)),
            "regression": scaled.restore(run_tiled(network, scaled.z, 1024)).numpy(),
            "mean of 8 samples": found.image.numpy(),
            "one sample": found.sample.numpy(),
        }
        reach = float(np.quantile(abs(filtered(shown["one sample"], high)), 0.995))
        for axis, (title, values) in zip(row, shown.items(), strict=False):
            part = filtered(values, high)
            own = float(np.quantile(abs(part), 0.995)) if "raw" in title or "low" in title else reach
            axis.imshow(part[::2, ::2] if side > 500 else part, cmap="gray", vmin=-own, vmax=own)
            axis.set_title(title, fontsize=9)
        deviation = found.deviation.numpy()
        row[5].imshow(deviation, cmap="gray", vmin=0, vmax=float(np.quantile(deviation, 0.995)))
        row[5].set_title("deviation", fontsize=9)
        for axis in row:
            axis.axis("off")
    save_grey(out)


def main() -> None:
    """Measure and print; write if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--picture", action="store_true", help="draw the pictures alone")
    given = parser.parse_args()
    torch.set_num_threads(1)
    drawn = HERE.parent / "docs" / "images" / "denoise-real.png"
    if given.picture:
        picture(given.data, drawn)
        return
    paths = sorted((given.data / "apoferritin").glob("*.tif"))
    rows = [{"micrograph": paths[n].stem} | errors(paths[n], SHOWN["apoferritin"][1]) for n in ASKED]
    means = {
        name: float(np.mean([float(row[name]) for row in rows])) for name in rows[0] if name != "micrograph"
    }
    found = {f"error_{name}": means[name] ** 0.5 for name in ("regression", "mean", "sample")}
    found |= {
        "deviation": means["deviation"] ** 0.5,
        "error_over_deviation": (means["mean"] / means["deviation"]) ** 0.5,
    }
    for name, value in found.items():
        print(f"{name:<22} {value:.3f}")
    if given.write:
        content = {
            "command": "python benchmarks/denoise_real.py DATA --write",
            "emflow": __version__,
            "weights": hashlib.sha256(GENERAL.read_bytes()).hexdigest(),
            "restorer": hashlib.sha256(GENERAL_RESTORER.read_bytes()).hexdigest(),
            "micrographs": [row["micrograph"] for row in rows],
            "apoferritin": {name: round(value, 4) for name, value in found.items()},
        }
        (HERE / "results" / "denoise_real.json").write_text(json.dumps(content, indent=1) + "\n")
        picture(given.data, drawn)


if __name__ == "__main__":
    main()
