"""How good is denoising on a simulated session, against the raw image and the best Gaussian low-pass?

    python benchmarks/denoise_quick.py [SESSION] [--weights MODEL] [--figure FILE.png]

SESSION is a folder of ``emflow simulate session --keep-clean``; without one the demo's session is simulated.

Signal-to-noise ratio (dB): target t is the noise-free image (particles and junk with CTF, no camera noise, no
ice). Image and target are high-passed at 600 Å (Gaussian, half the amplitude there). The image is x = a·t + b + e
with the best a and b, and the ratio is a²·var(t)/var(e), over the whole micrograph: with the correlation r of the
two, r²/(1 − r²). (The other fit, t by x, gives 1/(1 − r²), never below 0 dB; it stands under "fitted", inside.)
Micrographs without carbon or aggregates only. "inside" is the same within half a diameter of the particles'
centres, a and b found there. Gaussian low-passes have their half amplitude at the length given.
"""

from __future__ import annotations

import argparse
import math
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from emflow.denoise.apply import denoise
from emflow.denoise.inputs import load_model
from emflow.io.mrc import read_mrc
from emflow.io.star import floats, read_star
from emflow.simulate.score_denoise import footprint, snr_db

HIGH_PASS_ANGSTROM = 600.0
LOW_PASS_ANGSTROM = (15, 20, 25, 30, 40, 50, 60, 80, 100, 130, 170)


def gain(shape: tuple[int, int], pixel: float, length: float) -> np.ndarray:
    """Gaussian low-pass on the grid of rfft2 with half the amplitude at a length in ångström."""
    fy, fx = np.fft.fftfreq(shape[0], pixel)[:, None], np.fft.rfftfreq(shape[1], pixel)[None]
    return np.exp(-math.log(2) * (fy**2 + fx**2) * length**2)


def filtered(image: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Image times a weight in Fourier space."""
    return np.fft.irfft2(np.fft.rfft2(image) * weight, s=image.shape)


def snr_of(image: np.ndarray, target: np.ndarray) -> float:
    """SNR in dB of the pixels given, as `emflow simulate score` has it."""
    return snr_db(torch.from_numpy(image), torch.from_numpy(target))


def frc(a: np.ndarray, b: np.ndarray, pixel: float, length: float) -> float:
    """Fourier ring correlation of two images in a band of ±15 % around 1/length."""
    fy, fx = np.fft.fftfreq(a.shape[0], pixel)[:, None], np.fft.rfftfreq(a.shape[1], pixel)[None]
    s = np.hypot(fy, fx) * length
    ring = (s > 0.85) & (s < 1.15)
    p, q = np.fft.rfft2(a)[ring], np.fft.rfft2(b)[ring]
    return float((p * q.conj()).real.sum() / math.sqrt((abs(p) ** 2).sum() * (abs(q) ** 2).sum()))


def measure(session: Path, weights: str | None, figure: Path | None) -> None:
    """Measure every clean micrograph of a session and print the table of means."""
    network, scale, _ = load_model(weights, torch.device("cpu"))
    truth = read_star(session / "truth" / "particles.star")
    pixel = float(floats(truth["optics"], "rlnMicrographPixelSize")[0])
    diameter = _number(session, "diameter_angstrom")
    figures: dict[str, list[list[float]]] = {}
    cpu, pixels = 0.0, 0
    for path in sorted((session / "micrographs").glob("*.mrc")):
        if read_mrc(session / "truth" / "masks" / path.name).any():
            continue
        raw, clean = read_mrc(path), read_mrc(session / "truth" / "clean" / path.name)
        started = time.process_time()
        image = denoise(torch.from_numpy(raw), pixel, network, scale, 1024, bright=False).image.numpy()
        cpu, pixels = cpu + time.process_time() - started, pixels + raw.size
        here = truth["particles"]
        here = here[here["rlnMicrographName"] == f"micrographs/{path.name}"]
        if not len(here):
            print(f"{path.name}: noise alone; denoised/raw variance {image.var() / raw.var():.2g}")
            continue
        centres = np.column_stack([floats(here, "rlnCoordinateX"), floats(here, "rlnCoordinateY")])
        inside = footprint(raw.shape, centres, 0.5 * diameter / pixel).numpy()
        high = 1 - gain(raw.shape, pixel, HIGH_PASS_ANGSTROM)
        target = filtered(clean, high)
        tested = {"raw": filtered(raw, high), "emflow": filtered(image, high)}
        for length in LOW_PASS_ANGSTROM:
            tested[f"Gaussian {length} Å"] = filtered(raw, high * gain(raw.shape, pixel, length))
        for name, x in tested.items():
            whole, within = snr_of(x, target), snr_of(x[inside], target[inside])
            row = [whole, within, 10 * math.log10(1 + 10 ** (within / 10))]
            row += [frc(x, target, pixel, length) for length in (60, 40, 30, 20)]
            figures.setdefault(name, []).append(row)
        if figure is not None:
            draw(figure, raw, image, clean, pixel)
            figure = None
    if not figures:
        sys.exit(
            f"{session}: no micrograph without carbon, aggregates or other junk; nothing can be measured."
        )
    print(f"{'':<16}{'SNR dB':>8}{'inside':>8}{'fitted':>8}{'FRC 60':>8}{'40':>7}{'30':>7}{'20 Å':>7}")
    for name, rows in figures.items():
        mean = np.mean(rows, axis=0)
        print(
            f"{name:<16}{mean[0]:>8.2f}{mean[1]:>8.2f}{mean[2]:>8.2f}"
            + "".join(f"{v:>7.3f}" for v in mean[3:])
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{1e6 * cpu / pixels:.2f} CPU-s per megapixel (the first call's setting up included), peak {peak:.0f} MB"
    )


def draw(path: Path, raw: np.ndarray, image: np.ndarray, clean: np.ndarray, pixel: float) -> None:
    """Raw, low-passed, denoised and noise-free side by side."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    high = 1 - gain(raw.shape, pixel, 2000.0)
    low = filtered(raw, gain(raw.shape, pixel, 40.0) * high)
    shown = {"raw": raw, "Gaussian 40 Å": low, "emflow": filtered(image, high), "noise-free": clean}
    _, axes = plt.subplots(1, 4, figsize=(20, 5.4), layout="constrained")
    for axis, (name, x) in zip(axes, shown.items(), strict=True):
        lowest, highest = np.percentile(x, [0.5, 99.5])
        axis.imshow(x, cmap="gray", vmin=lowest, vmax=highest)
        axis.set_title(name)
        axis.axis("off")
    path.parent.mkdir(parents=True, exist_ok=True)
    plt.savefig(path, dpi=80, metadata={"Software": None})


def _number(session: Path, name: str) -> float:
    import json

    return float(json.loads((session / "truth" / "facts.json").read_text(encoding="utf-8"))[name])


def main() -> None:
    """Read the arguments; simulate the demo's session if none is given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("session", type=Path, nargs="?")
    parser.add_argument("--weights")
    parser.add_argument("--figure", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        if given.session is None:
            words = ["simulate", "session", folder, "--config", "config/demo.yaml", "--keep-clean"]
            subprocess.run([sys.executable, "-m", "emflow.cli", *words], check=True)
        measure(given.session or Path(folder), given.weights, given.figure)


if __name__ == "__main__":
    main()
