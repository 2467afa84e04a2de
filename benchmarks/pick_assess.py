"""How often `pick assess` names a planted fault, and how often it calls a clean micrograph bad.

    python benchmarks/pick_assess.py FOLDER [--write]

FOLDER gets simulated sessions (what it holds is not made again); each fault is planted into each of their micrographs.
With EMFLOW_TEST_DATA, the real micrographs are judged too. --write keeps benchmarks/results/pick_assess.json.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from emflow import __version__
from emflow.io.image import read_image
from emflow.pick.assess import assess
from emflow.pick.config import PickAssess
from emflow.pick.judge import judge

RESULT = Path(__file__).parent / "results" / "pick_assess.json"
COMMON = (
    "--n-micrographs 4 --n-noise-micrographs 1 --micrograph-size-px 1024 --n-carbon-micrographs 0 "
    "--aggregates-per-micrograph 0.3 --keep-clean --device cpu --threads 1"
)
SESSIONS = {
    "a": "--pixel-size-angstrom 1.5 --diameter-angstrom 130 --mass-kda 440 --seed 801 --snr 0.06 "
    "--particles-per-micrograph 60",
    "b": "--pixel-size-angstrom 1.2 --diameter-angstrom 180 --mass-kda 700 --seed 802 --snr 0.1 "
    "--particles-per-micrograph 25 --ice-texture grains",
    "c": "--pixel-size-angstrom 3 --diameter-angstrom 250 --mass-kda 2000 --seed 803 --snr 0.05 "
    "--particles-per-micrograph 60 --ice-texture fields",
}
WORDS = {
    "white noise": "empty",
    "drift": "drift",
    "ring": "ice",
    "lattice": "ice",
    "bar": "opaque",
    "gradient": "gradient",
}
"""Beginning of a fault's name → what its reason must say."""
REAL = {"apoferritin": (1.5, 130.0), "ribosome": (5.36, 285.0)}


def faults(image: np.ndarray, clean: np.ndarray, pixel: float) -> Iterator[tuple[str, np.ndarray]]:
    """The micrograph as it is, and with one fault each."""
    rng = np.random.default_rng(5)
    noise, deviation = image - clean, float((image - clean).std())
    y, x = np.mgrid[: image.shape[0], : image.shape[1]] / image.shape[0]
    fy, fx = np.fft.fftfreq(image.shape[0], pixel)[:, None], np.fft.rfftfreq(image.shape[1], pixel)[None]

    def passed(part: np.ndarray) -> np.ndarray:
        """Only a part of the electrons."""
        return image * part + deviation * np.sqrt(part * (1 - part)) * rng.normal(size=image.shape)

    yield "clean", image
    yield "white noise", image.mean() + deviation * rng.normal(size=image.shape)
    for angstrom in (10, 20, 40):
        blur = np.sinc(angstrom * (fx * math.cos(0.7) + fy * math.sin(0.7)))
        yield f"drift of {angstrom} Å", noise + np.fft.irfft2(np.fft.rfft2(clean) * blur, s=clean.shape)
    for part in (0.2, 0.5):
        yield f"bar that passes {part:.0%}", passed(np.where(x + 0.3 * y > 0.9, part, 1.0))
    for part in (0.3, 0.5):
        yield f"gradient of {part:.0%}", passed(1 - part * x)
    if pixel < 1.57:
        s, spacings = np.hypot(fy, fx), (3.9, 3.67, 3.44)
        rings = sum(np.exp(-0.5 * ((s - 1 / d) / 0.004) ** 2) for d in spacings)
        powder = np.fft.irfft2(np.fft.rfft2(rng.normal(size=image.shape)) * rings, s=image.shape)
        for part in (0.1, 0.2, 0.3):
            yield f"ring of {part:g} deviations", image + part * deviation * powder / powder.std()
        turns = [0.3 + k * math.pi / 3 for k in range(3)]
        lattice = sum(
            np.cos(2 * math.pi * pixel * image.shape[0] / d * (x * math.cos(t) + y * math.sin(t)))
            for d, t in zip(spacings, turns, strict=True)
        )
        crystal = lattice * (np.hypot(x - 0.5, y - 0.5) < 0.25)
        yield "lattice of 0.1 deviations on a fifth", image + 0.1 * deviation * crystal


def reasons(image: np.ndarray, pixel: float, diameter: float) -> list[str]:
    """What speaks against it; the CTF and the session's thickness are left out."""
    signs = assess(torch.from_numpy(image.astype(np.float32)), pixel, True, diameter)
    return [one.reason for one in judge(signs, math.nan, None, PickAssess())]


def main() -> None:
    """Make what is missing, judge, print."""
    torch.set_num_threads(1)
    folder = Path(next(a for a in sys.argv[1:] if a != "--write"))
    tally: dict[str, dict[str, int]] = {}
    bad: dict[str, list[str]] = {}
    begin = time.process_time()
    for name, words in SESSIONS.items():
        session = folder / name
        if not (session / "truth" / "facts.json").exists():
            simulate = [sys.executable, "-m", "emflow.cli", "simulate", "session", str(session)]
            subprocess.run([*simulate, *COMMON.split(), *words.split()], check=True)
        facts = json.loads((session / "truth" / "facts.json").read_text(encoding="utf-8"))
        pixel, diameter = facts["pixel_size_angstrom"], facts["diameter_angstrom"]
        for path in sorted((session / "micrographs").glob("*.mrc"))[:4]:  # the fifth is empty ice
            image, clean = read_image(path), read_image(session / "truth" / "clean" / path.name)
            for fault, planted in faults(image, clean, pixel):
                found = reasons(planted, pixel, diameter)
                word = next((w for key, w in WORDS.items() if fault.startswith(key)), "")
                row = tally.setdefault(fault, {"micrographs": 0, "named": 0, "called_bad": 0})
                row["micrographs"] += 1
                row["named"] += any(bool(word) and word in reason for reason in found)
                row["called_bad"] += bool(found)
    if "EMFLOW_TEST_DATA" in os.environ:
        for name, (pixel, diameter) in REAL.items():
            paths = sorted((Path(os.environ["EMFLOW_TEST_DATA"]) / name).glob("*.tif"))
            judged = {path.stem: reasons(read_image(path), pixel, diameter) for path in paths}
            tally[f"real, {name}"] = {
                "micrographs": len(paths),
                "called_bad": sum(map(bool, judged.values())),
            }
            bad |= {stem: found for stem, found in judged.items() if found}
    content: dict[str, Any] = {
        "emflow": __version__,
        "command": "python benchmarks/pick_assess.py FOLDER --write",
        "cpu_s": round(time.process_time() - begin, 1),
        "faults": tally,
        "real_called_bad": bad,
    }
    print(json.dumps(content, indent=1, ensure_ascii=False))
    if "--write" in sys.argv:
        RESULT.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
