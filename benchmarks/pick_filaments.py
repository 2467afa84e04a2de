"""How `pick filaments` does on micrographs with filaments at known places, and on what has none.

    python benchmarks/pick_filaments.py [--seeds 3] [--write]

Filaments (straight and gently bent, two strands of subunits, some crossing) are seen through a CTF in ice and white noise,
at several ratios of signal to noise: variance of the filaments over that of the noise, at 3 Å a pixel. --write keeps the
figures in benchmarks/results/pick_filaments.json.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree

from emflow import __version__
from emflow.pick.config_filaments import PickFilaments
from emflow.pick.filaments import Found, pick_filaments

PIXEL, SIDE = 3.0, 1024
RESULTS = Path(__file__).parent / "results" / "pick_filaments.json"


def curve(
    start: tuple[float, float], direction_deg: float, length_px: float, bend_deg: float = 0.0
) -> np.ndarray:
    """Axis (n, 4: x, y and unit direction) in pixels, every half pixel, which turns by ``bend_deg`` in all."""
    along = np.arange(0, length_px, 0.5)
    angle = np.radians(direction_deg + bend_deg * (along / length_px - 0.5))
    direction = np.column_stack([np.cos(angle), np.sin(angle)])
    return np.hstack([np.array(start) + 0.5 * np.cumsum(direction, axis=0), direction])


def drawn(seed: int, count: int = 4, side: int = SIDE) -> list[np.ndarray]:
    """Axes at random places, at least 120 pixels of two of them apart unless they cross steeply."""
    rng = np.random.default_rng([seed, 3])
    axes: list[np.ndarray] = []
    while len(axes) < count:
        length, bend = rng.uniform(0.4, 0.8) * side, rng.uniform(-25, 25)
        axis = curve(tuple(rng.uniform(0, side, 2)), rng.uniform(0, 360), length, bend)
        if axis[:, :2].min() < 40 or axis[:, :2].max() > side - 40:
            continue
        steep = []
        for other in axes:
            apart, near = cKDTree(other[:, :2]).query(axis[:, :2])
            close = apart < 60
            cosine = np.abs((axis[close, 2:] * other[near[close], 2:]).sum(1))
            steep.append(not close.any() or cosine.max() < math.cos(math.radians(35)))
        if all(steep):
            axes.append(axis)
    return axes


def density(axes: list[np.ndarray], width_px: float, rise_px: float, side: int = SIDE) -> np.ndarray:
    """Projected filaments (y, x): a cylinder's cross section, subunits in two strands along it."""
    image = np.zeros((side, side))
    for axis in axes:
        low = np.floor(axis[:, 1::-1].min(0) - width_px).astype(int).clip(0)
        high = np.ceil(axis[:, 1::-1].max(0) + width_px).astype(int).clip(0, side)
        y, x = (a.ravel() for a in np.mgrid[low[0] : high[0], low[1] : high[1]])
        apart, near = cKDTree(axis[:, :2]).query(np.column_stack([x, y]), distance_upper_bound=width_px)
        y, x, near = (a[np.isfinite(apart)] for a in (y, x, near))
        dx, dy = x - axis[near, 0], y - axis[near, 1]
        beyond = np.abs(dx * axis[near, 2] + dy * axis[near, 3]) > 1
        across = dy * axis[near, 2] - dx * axis[near, 3]
        body = np.sqrt(np.clip(1 - (2 * across / width_px) ** 2, 0, None))
        phase = math.pi * near / rise_px + math.pi * (across > 0)
        image[y, x] += np.where(beyond, 0, body * (1 + 0.6 * np.cos(phase)))
    return image


def disks(seed: int, count: int, diameter_px: float, side: int = SIDE) -> np.ndarray:
    """Balls at random places that do not overlap: shape (side, side)."""
    rng = np.random.default_rng([seed, 4])
    y, x = np.mgrid[:side, :side]
    image, places = np.zeros((side, side)), np.zeros((0, 2))
    while len(places) < count:
        place = rng.uniform(30, side - 30, 2)
        if len(places) == 0 or np.hypot(*(places - place).T).min() > 1.05 * diameter_px:
            places = np.vstack([places, place])
            square = 1 - ((x - place[0]) ** 2 + (y - place[1]) ** 2) / (0.5 * diameter_px) ** 2
            image += np.sqrt(square.clip(0))
    return image


def carbon(seed: int, side: int = SIDE) -> np.ndarray:
    """Grainy film with a round edge of 7500 Å radius: shape (side, side)."""
    y, x = np.mgrid[:side, :side]
    film = gaussian_filter((np.hypot(x + 2500 - 0.5 * side, y - 0.4 * side) > 2500).astype(float), 2)
    grain = gaussian_filter(np.random.default_rng([seed, 5]).normal(size=(side, side)), 3)
    return np.asarray(film * (1 + 0.3 * grain / grain.std()))


def micrograph(
    body: np.ndarray, snr: float, seed: int, defocus_um: float = 1.5, film: np.ndarray | float = 0.0
) -> np.ndarray:
    """Dark density (y, x) through a CTF in ice and white noise; a film adds as it is, in deviations of white noise."""
    rng = np.random.default_rng(seed)
    fy, fx = np.fft.fftfreq(body.shape[0], PIXEL)[:, None], np.fft.rfftfreq(body.shape[1], PIXEL)[None]
    s = np.hypot(fy, fx)
    ctf = np.sin(math.pi * 0.0197 * defocus_um * 1e4 * s**2 + 0.07) * np.exp(-30 * s**2)

    def filtered(image: np.ndarray, transfer: np.ndarray) -> np.ndarray:
        return np.asarray(np.fft.irfft2(np.fft.rfft2(image) * transfer, s=image.shape))

    seen = filtered(body, ctf)
    ice = filtered(rng.normal(size=body.shape), ctf / (1 + (60 * s) ** 2) + 0.3 * np.exp(-((400 * s) ** 2)))
    noise = rng.normal(size=body.shape) + 0.6 * ice / ice.std()
    if (body > 0).any():
        noise = noise + seen / seen[body > 0].std() * math.sqrt(snr) * noise.std()
    return np.asarray(-noise - film, dtype=np.float32)


def compare(found: Found, axes: list[np.ndarray], tolerance_px: float) -> dict[str, float]:
    """Recall and precision of length, and errors of axis and direction of what is within a tolerance."""
    truth = np.concatenate(axes)
    tree = cKDTree(truth[:, :2])
    lines = [one.axis_px for one in found.filaments]
    if not lines:
        return {"recall": 0.0, "precision": math.nan, "axis_angstrom": math.nan, "direction_deg": math.nan}
    seen = cKDTree(np.concatenate(lines)).query(truth[:, :2])[0] < tolerance_px
    apart = tree.query(np.concatenate(lines))[0]
    good = apart < tolerance_px
    segments = np.concatenate([one.segments_px for one in found.filaments])
    psi = np.concatenate([one.psi_deg for one in found.filaments])
    off, near = tree.query(segments)
    true = -np.degrees(np.arctan2(truth[near, 3], truth[near, 2]))
    turn = (psi - true + 90) % 180 - 90  # a filament has no sense of direction
    return {
        "recall": float(seen.mean()),
        "precision": float(good.mean()),
        "axis_angstrom": float(np.sqrt((apart[good] ** 2).mean()) * PIXEL),
        "direction_deg": float(np.sqrt((turn[off < tolerance_px] ** 2).mean())),
    }


def main() -> None:
    """Measure and print; keep the figures if asked to."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--write", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    rows, spent = [], 0.0

    def find(image: np.ndarray, width: float) -> Found:
        nonlocal spent
        begun = time.process_time()
        found = pick_filaments(
            torch.from_numpy(image), PIXEL, True, PickFilaments(filament_width_angstrom=width)
        )
        spent += time.process_time() - begun
        return found

    for width in (70.0, 100.0, 250.0):
        bodies = [drawn(seed) for seed in range(asked.seeds)]
        for snr in (1.0, 0.3, 0.1):
            told = []
            for seed, axes in enumerate(bodies):
                image = micrograph(density(axes, width / PIXEL, 16), snr, seed)
                told.append(compare(find(image, width), axes, 0.5 * width / PIXEL))
            some = [t for t in told if t["recall"] > 0]
            row = {
                name: round(float(np.mean([t[name] for t in some])), 3) if some else None for name in told[0]
            }
            row["recall"] = round(float(np.mean([t["recall"] for t in told])), 3)
            rows.append({"width_angstrom": width, "snr": snr, **row})
            print(rows[-1], flush=True)
    empty = np.zeros((SIDE, SIDE))
    nothing = {
        "noise": lambda seed: micrograph(empty, 1, seed),
        "carbon": lambda seed: micrograph(empty, 1, seed, film=(0.5 + seed) * carbon(seed)),
        "balls of 1 width": lambda seed: micrograph(disks(seed, 100, 100 / PIXEL), 0.3, seed),
        "balls of 1.4 widths": lambda seed: micrograph(disks(seed, 100, 140 / PIXEL), 0.3, seed),
        "balls of 2 widths": lambda seed: micrograph(disks(seed, 60, 200 / PIXEL), 0.3, seed),
    }
    for name, make in nothing.items():
        false = [len(find(make(seed), 100.0).filaments) for seed in range(asked.seeds)]
        rows.append({"without": name, "filaments": false})
        print(rows[-1], flush=True)
    runs = asked.seeds * (9 + len(nothing))
    cost = spent / runs / (SIDE * SIDE / 1e6)
    print(f"{cost:.2f} CPU-seconds a megapixel")
    if asked.write:
        kept = {
            "command": f"python benchmarks/pick_filaments.py --seeds {asked.seeds} --write",
            "version": __version__,
            "cpu_s_per_megapixel": round(cost, 2),
            "rows": rows,
        }
        RESULTS.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
