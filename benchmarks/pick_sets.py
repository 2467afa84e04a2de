"""Three sets of micrographs for judging pickers, of other kinds than those that our picker learns from.

Specimens are analytic shapes (a hollow shell, a barrel, a thin branched chain), where training has packed domains; the
ice is of discs in clusters (``grains``), where training has white ice and Gaussian fields; contamination is frost of
straight facets, a grid bar with strings, rings and dust, where training has arcs of carbon, convex crystals,
beads, aggregates and painted patches. All numbers were written down before the network was trained, and stay.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from emflow.io.mrc import read_mrc, write_mrc
from emflow.io.star import floats, read_star

SIDE, PIXEL, MICROGRAPHS = 1024, 3.0, 2
SEEDS = (71, 72, 73)
"""No training session has a seed below 20000."""


@dataclass(frozen=True)
class Set:
    """One set: specimen, crowd, noise and kind of contamination."""

    shape: str
    dirt: str
    particles: int
    snr: float
    min_distance: float
    defocus_um: tuple[float, float]
    ice_noise: float


SETS = {
    "shell": Set("shell", "frost", 90, 0.12, 0.8, (1.0, 2.4), 0.08),
    "barrel": Set("barrel", "bar", 60, 0.12, 0.75, (0.8, 2.0), 0.06),
    "chain": Set("chain", "rings", 110, 0.07, 0.9, (1.4, 3.0), 0.15),
}


def atoms_of(shape: str, seed: int) -> np.ndarray:
    """Points (n, 3) in Å that fill a shape, of a size that differs from seed to seed."""
    rng = np.random.default_rng([seed, 1])
    if shape == "shell":
        outer = rng.uniform(75, 100)
        points = rng.uniform(-outer, outer, (40000, 3))
        radius = np.linalg.norm(points, axis=1)
        return points[(radius < outer) & (radius > 0.68 * outer)]
    if shape == "barrel":
        radius, height = rng.uniform(55, 70), rng.uniform(190, 240)
        points = rng.uniform(-1, 1, (40000, 3)) * [radius, radius, height / 2]
        across = np.hypot(points[:, 0], points[:, 1])
        grooves = np.abs(np.mod(points[:, 2] + height / 2, height / 4) - height / 8) < height / 10
        return points[(across < radius) & (across > 0.35 * radius) & grooves]
    arms = []
    for _ in range(4):
        step = ndimage.gaussian_filter1d(rng.normal(size=(60, 3)), 8, axis=0)
        walk = np.cumsum(2.2 * step / np.linalg.norm(step, axis=1, keepdims=True), axis=0)
        arms.append(np.repeat(walk, 40, axis=0) + rng.normal(0, 9, (2400, 3)))
    return np.concatenate(arms)


def write_pdb(path: Path, points: np.ndarray) -> None:
    """Write points as carbon atoms."""
    lines = [
        f"ATOM  {i % 99999 + 1:5d}  CA  ALA A{i % 9999 + 1:4d}    {x:8.3f}{y:8.3f}{z:8.3f}  1.00  0.00           C"
        for i, (x, y, z) in enumerate(points - points.mean(0))
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([*lines, "END"]) + "\n", encoding="utf-8")


def dirt_of(kind: str, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Factor on the counts (SIDE, SIDE) and where it is contamination."""
    y, x = np.mgrid[:SIDE, :SIDE].astype(float)
    if kind == "frost":  # polycrystalline: cells about random points, some of them frozen, each of one grey
        points = rng.uniform(0, SIDE, (160, 2))
        centre = rng.uniform(0.2, 0.8, 2) * SIDE
        cell = cKDTree(points).query(np.stack([y, x], -1).reshape(-1, 2))[1].reshape(SIDE, SIDE)
        frozen = np.linalg.norm(points - centre, axis=1) < rng.uniform(170, 260)
        grey = 1 - rng.uniform(0.1, 0.35, len(points)) * frozen
        factor = ndimage.gaussian_filter(grey[cell], 1.5)
        return factor, frozen[cell]
    if kind == "bar":  # a straight grid bar over one side, and strings that cross the hole
        angle, far = rng.uniform(0, 2 * math.pi), rng.uniform(0.28, 0.4) * SIDE
        along = (x - SIDE / 2) * math.cos(angle) + (y - SIDE / 2) * math.sin(angle)
        bar = along > far
        dust = ndimage.gaussian_filter(rng.normal(size=(SIDE, SIDE)), 3)
        factor = np.where(bar, 0.55 + 0.08 * dust / dust.std(), 1.0)
        strings = np.zeros((SIDE, SIDE), dtype=bool)
        for _ in range(3):
            turn = ndimage.gaussian_filter1d(rng.normal(size=900), 60) * 0.35
            path = rng.uniform(0, SIDE, 2) + 1.5 * np.cumsum(
                np.stack(
                    [np.cos(t := rng.uniform(0, 6.3) + np.cumsum(turn)), np.sin(t)], -1
                ), axis=0
            )  # fmt: skip
            inside = ((path >= 0) & (path < SIDE)).all(1)
            strings[tuple(path[inside].astype(int).T)] = True
        width = ndimage.distance_transform_edt(~strings)
        factor = factor * (1 - 0.16 * np.exp(-0.5 * (width / 5) ** 2))
        return ndimage.gaussian_filter(factor, 1), bar | (width < 12)
    factor, mask = np.ones((SIDE, SIDE)), np.zeros((SIDE, SIDE), dtype=bool)  # rings: bubbles and their rims
    for _ in range(7):
        at, radius = rng.uniform(0, SIDE, 2), rng.uniform(25, 110)
        distance = np.hypot(y - at[0], x - at[1])
        factor *= 1 + 0.12 * (distance < radius) - 0.25 * np.exp(-0.5 * ((distance - radius) / 6) ** 2)
        mask |= distance < radius + 14
    for _ in range(40):  # dust, smaller than a particle and far darker
        at, radius = rng.uniform(0, SIDE, 2), rng.uniform(3, 9)
        distance = np.hypot(y - at[0], x - at[1])
        factor *= np.where(distance < radius, 0.6, 1.0)
        mask |= distance < radius + 3
    return ndimage.gaussian_filter(factor, 1), mask


@dataclass(frozen=True)
class Kinds:
    """Sets by name, and what draws their specimens and contamination."""

    sets: Mapping[str, Set]
    atoms: Callable[[str, int], np.ndarray]
    dirt: Callable[[str, np.random.Generator], tuple[np.ndarray, np.ndarray]]


FROZEN = Kinds(SETS, atoms_of, dirt_of)


def make(folder: Path, name: str, seed: int, kinds: Kinds = FROZEN) -> Path:
    """Simulate one set with one seed, unless it is there; the folder of its session."""
    out, chosen = folder / f"{name}_{seed}", kinds.sets[name]
    if (out / "sets.json").exists():
        return out
    write_pdb(out / "specimen.pdb", kinds.atoms(chosen.shape, seed))
    low, high = chosen.defocus_um
    values = {
        "model": out / "specimen.pdb",
        "seed": seed,
        "n-micrographs": MICROGRAPHS,
        "n-carbon-micrographs": 0,
        "aggregates-per-micrograph": 0,
        "micrograph-size-px": SIDE,
        "pixel-size-angstrom": PIXEL,
        "particles-per-micrograph": chosen.particles,
        "min-distance": chosen.min_distance,
        "snr": chosen.snr,
        "ice-noise": chosen.ice_noise,
        "ice-texture": "grains",
        "defocus-min-um": low,
        "defocus-max-um": high,
    }
    words = [word for key, value in values.items() for word in (f"--{key}", str(value))]
    emflow("simulate", "session", str(out), *words)
    rows = read_star(out / "truth" / "particles.star")["particles"]
    xy = np.column_stack([floats(rows, "rlnCoordinateX"), floats(rows, "rlnCoordinateY")])
    for number, path in enumerate(sorted((out / "micrographs").glob("*.mrc"))):
        rng = np.random.default_rng([seed, 2, number])
        factor, mask = kinds.dirt(chosen.dirt, rng)
        counts = read_mrc(path) * factor
        # fewer electrons, the same counting noise for each
        noise = read_mrc(path).std() * np.sqrt(np.clip(factor * (1 - factor), 0, None))
        write_mrc(path, (counts + noise * rng.normal(size=counts.shape)).astype(np.float32), PIXEL)
        write_mrc(out / "truth" / "masks" / path.name, mask.astype(np.float32), PIXEL)
        own = xy[[Path(n).name == path.name for n in rows["rlnMicrographName"]]]
        at = own.round().astype(int).clip(0, SIDE - 1)
        np.savetxt(
            path.with_suffix(".csv"), own[~mask[at[:, 1], at[:, 0]]], "%.2f", ",", header="x,y", comments=""
        )
    facts = json.loads((out / "truth" / "facts.json").read_text(encoding="utf-8"))
    (out / "sets.json").write_text(json.dumps({"diameter_angstrom": facts["diameter_angstrom"]}))
    return out


def emflow(*words: str) -> None:
    """Run an emflow command."""
    subprocess.run([sys.executable, "-m", "emflow.cli", *words], check=True)
