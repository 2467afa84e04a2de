"""Sets on which the picker's mask and threshold were chosen: neither training's kinds nor those of ``pick_sets.py``.

Specimens are rings, tripods, dumb-bells, bent rods and lopsided discs; contamination is a foil with corners, drops that
overlap, wrinkles, needles and specks. ``pick_sets.py`` judges, and nothing was chosen on it; these sets may be looked at.

    python benchmarks/pick_validation.py FOLDER
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
from pick_sets import SIDE, Kinds, Set, make
from scipy import ndimage

SEEDS = (81, 82)
SETS = {
    "ring": Set("ring", "foil", 80, 0.2, 0.8, (1.0, 2.2), 0.1),
    "tripod": Set("tripod", "drops", 90, 0.08, 0.85, (1.2, 2.6), 0.1),
    "dumbbell": Set("dumbbell", "wrinkles", 70, 0.12, 0.8, (0.8, 2.0), 0.2),
    "rod": Set("rod", "needles", 60, 0.3, 0.7, (0.9, 1.8), 0.05),
    "disc": Set("disc", "specks", 130, 0.06, 0.8, (1.5, 2.8), 0.1),
    "crowd": Set("disc", "clean", 260, 0.1, 0.62, (1.0, 2.2), 0.1),
    "sparse": Set("tripod", "clean", 12, 0.15, 1.0, (1.2, 2.6), 0.1),
}


def atoms_of(shape: str, seed: int) -> np.ndarray:
    """Points (n, 3) in Å that fill a shape, of a size that differs from seed to seed."""
    rng = np.random.default_rng([seed, 3])
    if shape == "ring":
        radius, tube = rng.uniform(60, 80), rng.uniform(16, 24)
        points = rng.uniform(-110, 110, (60000, 3))
        across = np.hypot(points[:, 0], points[:, 1]) - radius
        return points[np.hypot(across, points[:, 2]) < tube]
    if shape == "tripod":
        arms = []
        for turn in (0.0, 2.1, 4.2):
            end = rng.uniform(70, 100) * np.array([math.cos(turn), math.sin(turn), rng.uniform(-0.4, 0.4)])
            arms.append(rng.random((3000, 1)) * end + rng.normal(0, rng.uniform(8, 14), (3000, 3)))
        return np.concatenate(arms)
    if shape == "dumbbell":
        apart, large, small = rng.uniform(90, 110), rng.uniform(34, 40), rng.uniform(24, 30)
        balls = [rng.normal(size=(5000, 3)) for _ in range(2)]
        one, two = (
            b / np.linalg.norm(b, axis=1, keepdims=True) * rng.random((5000, 1)) ** (1 / 3) for b in balls
        )
        link = np.linspace([0, 0, 0], [apart, 0, 0], 800) + rng.normal(0, 4, (800, 3))
        return np.concatenate([large * one, small * two[:3000] + [apart, 0, 0], link])
    if shape == "rod":
        along = rng.uniform(-1, 1, 8000)
        axis = np.stack([rng.uniform(90, 120) * along, rng.uniform(20, 40) * along**2, np.zeros(8000)], -1)
        return axis + rng.normal(0, 14, (8000, 3))
    points = rng.uniform(-1, 1, (20000, 3)) * [75, 65, 22]
    inside = (points / [75, 65, 22]) ** 2
    lump = rng.normal(0, 15, (3500, 3)) + [rng.uniform(20, 45), 0, 40]
    return np.concatenate([points[inside.sum(1) < 1], lump])


def dirt_of(kind: str, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Factor on the counts (SIDE, SIDE) and where it is contamination."""
    y, x = np.mgrid[:SIDE, :SIDE].astype(float)
    factor, mask = np.ones((SIDE, SIDE)), np.zeros((SIDE, SIDE), dtype=bool)
    if kind == "foil":  # a corner of polycrystalline foil
        at, turn = rng.uniform(0.55, 0.75, 2) * SIDE, rng.uniform(-0.5, 0.5)
        u = (x - at[0]) * math.cos(turn) + (y - at[1]) * math.sin(turn)
        v = (y - at[1]) * math.cos(turn) - (x - at[0]) * math.sin(turn)
        mask = (u > 0) | (v > 0)
        grain = sum(ndimage.gaussian_filter(rng.normal(size=(SIDE, SIDE)), s) * s for s in (1.5, 5, 14))
        factor = np.where(mask, 0.7 * (1 + 0.12 * grain / grain.std()), 1.0)
    elif kind == "drops":  # of all sizes, in heaps
        for heap in rng.uniform(0, SIDE, (6, 2)):
            for at in heap + rng.normal(0, 60, (9, 2)):
                radius = rng.uniform(8, 45)
                lens = np.sqrt(np.clip(1 - ((y - at[0]) ** 2 + (x - at[1]) ** 2) / radius**2, 0, None))
                factor *= 1 - rng.uniform(0.1, 0.3) * lens
                mask |= lens > 0
    elif kind == "wrinkles":  # straight lines that meet
        for _ in range(7):
            at, turn = rng.uniform(0, SIDE, 2), rng.uniform(0, math.pi)
            across = (x - at[0]) * math.sin(turn) - (y - at[1]) * math.cos(turn)
            along = (x - at[0]) * math.cos(turn) + (y - at[1]) * math.sin(turn) > 0
            wide = rng.uniform(3, 8)
            factor *= 1 + rng.choice([-0.2, -0.2, 0.12]) * np.exp(-0.5 * (across / wide) ** 2) * along
            mask |= (np.abs(across) < 2 * wide) & along
    elif kind == "needles":
        for _ in range(25):
            at, turn = rng.uniform(0, SIDE, 2), rng.uniform(0, math.pi)
            u = (x - at[0]) * math.cos(turn) + (y - at[1]) * math.sin(turn)
            v = (y - at[1]) * math.cos(turn) - (x - at[0]) * math.sin(turn)
            needle = np.abs(u) / rng.uniform(30, 130) + np.abs(v) / rng.uniform(4, 14) < 1
            factor = np.where(needle, factor * rng.uniform(0.6, 0.85), factor)
            mask |= needle
    elif kind == "specks":  # ragged, darker than any particle
        field = ndimage.gaussian_filter(rng.normal(size=(SIDE, SIDE)), 5)
        field += 0.7 * field.std() * ndimage.gaussian_filter(rng.normal(size=(SIDE, SIDE)), 60) * 200
        mask = field > np.quantile(field, 0.975)
        factor = np.where(mask, 0.65, 1.0)
    return ndimage.gaussian_filter(factor, 1.2), ndimage.binary_dilation(mask, iterations=3)


KINDS = Kinds(SETS, atoms_of, dirt_of)

if __name__ == "__main__":
    for each in SETS:
        for number in SEEDS:
            print(make(Path(sys.argv[1]), each, number, KINDS))
