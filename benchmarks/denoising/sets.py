"""Simulated micrographs for judging denoisers; frozen before anything was tuned on what they show.

Nothing here is shared with ``emflow simulate``, from which the general model learned, but the formula of the CTF:

=============  ==========================  ===========================  =============================
set            shells, 3.5 Å pixels        barrels, 2.2 Å pixels        coils, 1.4 Å pixels
=============  ==========================  ===========================  =============================
specimen       60 lobes on an icosahedral  stacked rings of lobes,      a compact chain of beads in a
               shell, some of them filled  end and side views           flat belt of detergent
ice            cells of different          lognormal 1/f texture        scattered unfolded chains
               thickness, heavy tails
noise          deposits of uneven energy   counts, stripes of rows and  counts that interpolation has
               spread by the detector      columns, hot pixels          correlated
junk           lone fragments              strands like DNA             lone belts
contamination  drops with a rim            gold beads                   angular flakes
=============  ==========================  ===========================  =============================

Junk is part of the noise-free image, as in PEERS' measure; contamination is left out of all figures.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt, gaussian_filter
from scipy.spatial import KDTree
from scipy.spatial.transform import Rotation
from scipy.special import expit

from emflow.em.optics import Ctf, ctf_values, rfft_frequencies

SIZE = 1024
MARGIN = 192  # of the scene beyond the image, pixels
WIDE = SIZE + 2 * MARGIN
INNER = (slice(MARGIN, MARGIN + SIZE),) * 2
MICROGRAPHS = 2
SEEDS = (1, 2, 3)
_DOSE = 40.0  # electrons per Å²


@dataclass(frozen=True)
class Kind:
    """Facts of a set."""

    number: int
    pixel: float
    voltage_kv: float
    cs_mm: float
    snr: tuple[float, float]
    """Variance of a particle in a box of 1.5 diameters over that of the noise, drawn for each seed."""
    ice: tuple[float, float]
    """Part of the noise's variance that is ice."""
    defocus_um: tuple[float, float]


SETS = {
    "shells": Kind(1, 3.5, 300, 2.7, (0.04, 0.10), (0.03, 0.12), (1.0, 2.6)),
    "barrels": Kind(2, 2.2, 200, 1.4, (0.03, 0.08), (0.03, 0.12), (0.8, 2.0)),
    "coils": Kind(3, 1.4, 300, 2.7, (0.02, 0.06), (0.03, 0.12), (0.6, 1.8)),
}


@dataclass(frozen=True)
class Scene:
    """One micrograph with its truth, (SIZE, SIZE) each."""

    raw: np.ndarray
    clean: np.ndarray
    inside: np.ndarray
    """Within half a diameter of a particle's centre."""
    kept: np.ndarray
    """What is measured: all but contamination and its surroundings."""


@dataclass(frozen=True)
class Beads:
    """Gaussian blobs: positions (N, 3) in ångström, weights (N,)."""

    at: np.ndarray
    weight: np.ndarray


def make(name: str, seed: int, index: int) -> Scene:
    """Make one micrograph of a set: the same bytes for the same arguments."""
    kind = SETS[name]
    of_seed, rng = (np.random.default_rng([kind.number, seed, n]) for n in (0, 1 + index))
    bodies, blur, diameter = SPECIMENS[name](of_seed)
    low, high = np.log(kind.snr)
    snr, ice_part = float(np.exp(of_seed.uniform(low, high))), of_seed.uniform(*kind.ice)
    wanted = SIZE**2 * (kind.pixel / diameter) ** 2 * of_seed.uniform(0.35, 0.8) * (WIDE / SIZE) ** 2
    foreign, foreign_mask = CONTAMINATION[name](kind, rng)
    centres = _centres(round(wanted), 0.85 * diameter / kind.pixel, foreign_mask, rng)
    transfer = _transfer(kind, rng)
    turns = _views(name, len(centres), rng)
    which = rng.integers(len(bodies), size=len(centres))
    scene = _project([bodies[i] for i in which], turns, centres, blur, kind.pixel)
    dose = _DOSE * kind.pixel**2
    noise, signal = CAMERA[name](np.full((WIDE, WIDE), dose), dose * _filtered(scene, transfer), rng)
    noise = noise.clip(*np.percentile(noise, [0.01, 99.99])).var()  # the camera's alone
    square = np.abs(np.indices((WIDE, WIDE))[:, None] - centres.T[::-1, :8, None, None]).max(0)
    boxes = [signal[s <= 0.75 * diameter / kind.pixel].var() for s in square]
    junk = JUNK[name](kind, bodies, blur, rng)
    clean = _filtered(scene + junk, transfer) * np.sqrt(snr * noise / (1 - ice_part) / np.mean(boxes))
    ice = _filtered(ICE[name](kind, rng), transfer)
    ice *= np.sqrt(noise * ice_part / (1 - ice_part)) / (dose * ice.std())
    counts = dose * np.exp(foreign)
    raw, clean = CAMERA[name](counts * (1 + clean + ice), counts * clean, rng)
    free = np.ones((WIDE, WIDE), dtype=bool)
    middle = centres.round().astype(int)
    free[middle[:, 1], middle[:, 0]] = False
    inside = distance_transform_edt(free) <= 0.5 * diameter / kind.pixel
    kept = distance_transform_edt(~foreign_mask) > 100 / kind.pixel if foreign_mask.any() else ~foreign_mask
    parts = (raw, clean, inside & kept, kept)
    return Scene(*(part[INNER] for part in parts))


def _centres(number: int, distance: float, blocked: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Centres (N, 2) x, y that keep their distance, on the whole scene."""
    tries = rng.uniform(1, WIDE - 2, (number * 40, 2))
    tries = tries[~blocked[tries[:, 1].astype(int), tries[:, 0].astype(int)]]
    near = KDTree(tries).query_ball_point(tries, distance)
    taken, kept = np.zeros(len(tries), dtype=bool), []
    for i, others in enumerate(near):
        if not taken[i] and len(kept) < number:
            kept.append(i)
            taken[others] = True
    return tries[kept]


def _transfer(kind: Kind, rng: np.random.Generator) -> np.ndarray:
    defocus, half = rng.uniform(*kind.defocus_um), rng.uniform(0, 0.04)
    values = (defocus + half, defocus - half, rng.uniform(0, 180))
    u, v, angle = (torch.tensor([value], dtype=torch.float64) for value in values)
    fy, fx = rfft_frequencies((WIDE, WIDE), kind.pixel, torch.device("cpu"))
    ctf = ctf_values(Ctf(u, v, angle, kind.voltage_kv, kind.cs_mm, 0.07), fy, fx)[0]
    envelope = torch.exp(-0.25 * rng.uniform(60, 180) * (fy**2 + fx**2))
    return (-ctf * envelope).numpy()


def _filtered(image: np.ndarray, gain: np.ndarray) -> np.ndarray:
    return np.fft.irfft2(np.fft.rfft2(image) * gain, s=image.shape)


def _views(name: str, number: int, rng: np.random.Generator) -> np.ndarray:
    turns = Rotation.random(number, random_state=rng).as_matrix()
    if name == "barrels":  # half of them stand on end or lie on their side
        tilt = np.where(rng.random(number) < 0.5, 0.0, 90.0) + rng.normal(0, 8, number)
        angles = np.column_stack([rng.uniform(0, 360, number), tilt, rng.uniform(0, 360, number)])
        preferred = Rotation.from_euler("ZYZ", angles, degrees=True).as_matrix()
        turns = np.where(rng.random(number)[:, None, None] < 0.5, preferred, turns)
    return turns


def _project(
    bodies: list[Beads], turns: np.ndarray, centres: np.ndarray, blur: float, pixel: float
) -> np.ndarray:
    """Lay all beads' projections down, shared among four pixels each, and blur them."""
    at = np.concatenate(
        [b.at @ t.T[:, :2] / pixel + c for b, t, c in zip(bodies, turns, centres, strict=True)]
    )
    return gaussian_filter(laid(at, np.concatenate([b.weight for b in bodies])), blur / pixel, mode="wrap")


def laid(at: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Image of points (N, 2) x, y, each shared among four pixels, on a torus."""
    first = np.floor(at).astype(int)
    rest = at - first
    image = np.zeros(WIDE * WIDE)
    for dy in (0, 1):
        for dx in (0, 1):
            share = (rest[:, 1] if dy else 1 - rest[:, 1]) * (rest[:, 0] if dx else 1 - rest[:, 0])
            index = (first[:, 1] + dy) % WIDE * WIDE + (first[:, 0] + dx) % WIDE
            image += np.bincount(index, weight * share, WIDE * WIDE)
    return image.reshape(WIDE, WIDE)


def _shells(rng: np.random.Generator) -> tuple[list[Beads], float, float]:
    radius = rng.uniform(75, 150)
    unit = rng.normal(size=(5, 3))
    unit = unit / np.linalg.norm(unit, axis=1, keepdims=True) * radius * rng.uniform(0.85, 1.0, (5, 1))
    shell = np.concatenate([unit @ turn.T for turn in Rotation.create_group("I").as_matrix()])
    weight = np.repeat(rng.uniform(0.5, 1.5, 5)[None], 60, 0).ravel()
    core = rng.normal(size=(400, 3)) * 0.3 * radius
    filled = Beads(np.concatenate([shell, core]), np.concatenate([weight, np.full(400, 0.3)]))
    return [Beads(shell, weight), Beads(shell, weight), filled], 8.0, 2 * radius + 20


def _barrels(rng: np.random.Generator) -> tuple[list[Beads], float, float]:
    fold, rings, radius = rng.integers(6, 9), rng.integers(3, 5), rng.uniform(38, 52)
    angle = 2 * np.pi * np.arange(fold) / fold
    lobe = rng.normal(size=(12, 3)) * (11, 11, 14)
    parts = []
    for ring in range(rings):
        height, turn = (ring - (rings - 1) / 2) * 40, rng.uniform(0, 2 * np.pi / fold)
        out = radius * (1.0 if 0 < ring < rings - 1 else 0.85)
        turns = Rotation.from_euler("z", (angle + turn)[:, None]).as_matrix()
        parts.append(np.concatenate([(lobe + (out, 0, height)) @ t.T for t in turns]))
    at = np.concatenate(parts)
    return [Beads(at, np.ones(len(at)))], 6.0, 2 * float(np.linalg.norm(at, axis=1).max())


def _coils(rng: np.random.Generator) -> tuple[list[Beads], float, float]:
    steps = rng.normal(size=(900, 3))
    chain = np.zeros((900, 3))
    for i in range(1, 900):  # pulled back to the middle, so that it is compact
        step = steps[i] / np.linalg.norm(steps[i]) * 6.0
        chain[i] = chain[i - 1] * 0.985 + step
    chain = (chain - chain.mean(0)) * (1.1, 1.1, 1.6)
    reach = np.percentile(np.linalg.norm(chain[:, :2], axis=1), 90)
    angle, out = rng.uniform(0, 2 * np.pi, 1500), reach + rng.normal(12, 7, 1500)
    belt = np.column_stack([out * np.cos(angle), out * np.sin(angle), rng.normal(0, 10, 1500)])
    at = np.concatenate([chain, belt])
    weight = np.concatenate([np.ones(900), np.full(1500, 0.25)])
    return [Beads(at, weight)], 4.0, 2 * float(np.percentile(np.linalg.norm(at, axis=1), 98))


def _field(exponent: float, pixel: float, rng: np.random.Generator) -> np.ndarray:
    """Gaussian field of deviation 1 whose amplitude falls as a power of the frequency beyond 1/500 Å."""
    fy, fx = np.fft.fftfreq(WIDE, pixel)[:, None], np.fft.rfftfreq(WIDE, pixel)[None]
    field = _filtered(rng.normal(size=(WIDE, WIDE)), (np.hypot(fy, fx) ** 2 + 500.0**-2) ** (-exponent / 2))
    return (field - field.mean()) / field.std()


def _cells(kind: Kind, rng: np.random.Generator) -> np.ndarray:
    seeds = rng.uniform(0, WIDE, (round((WIDE * kind.pixel / 500) ** 2), 2))
    grid = np.indices((WIDE, WIDE)).reshape(2, -1).T
    cell = rng.normal(size=len(seeds))[KDTree(seeds).query(grid)[1]].reshape(WIDE, WIDE)
    heavy = rng.normal(size=(WIDE, WIDE)) * gaussian_filter(rng.normal(size=(WIDE, WIDE)), 20 / kind.pixel)
    grain = gaussian_filter(rng.normal(size=(WIDE, WIDE)), 4 / kind.pixel)
    return 0.5 * gaussian_filter(cell, 15 / kind.pixel) + heavy / heavy.std() + grain / grain.std()


def _lognormal(kind: Kind, rng: np.random.Generator) -> np.ndarray:
    return np.exp(0.7 * _field(1.0, kind.pixel, rng)) + 2.0 * rng.normal(size=(WIDE, WIDE))


def _unfolded(kind: Kind, rng: np.random.Generator) -> np.ndarray:
    number = round((WIDE * kind.pixel) ** 2 / 70**2)
    start = rng.uniform(0, WIDE, (number, 1, 2))
    walk = start + np.cumsum(rng.normal(0, 6 / kind.pixel, (number, 25, 2)), axis=1)
    chains = gaussian_filter(laid(walk.reshape(-1, 2), np.ones(number * 25)), 3 / kind.pixel, mode="wrap")
    return chains / chains.std() + rng.normal(size=(WIDE, WIDE))


def _spread(mean: np.ndarray, clean: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """An integrating detector: every electron leaves an uneven energy, all of it spread over neighbours."""
    energy = rng.gamma(2.5 * rng.poisson(np.clip(mean, 0, None)).clip(min=1e-3)) / 2.5
    return gaussian_filter(energy, 0.55), gaussian_filter(clean, 0.55)


def _striped(mean: np.ndarray, clean: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    counts = rng.poisson(np.clip(mean, 0, None)).astype(float)
    stripes = rng.normal(0, 0.12, (WIDE, 1)) + rng.normal(0, 0.12, (1, WIDE))
    hot = rng.random((WIDE, WIDE)) < 2e-5
    return counts + np.sqrt(mean.mean()) * (stripes + 60.0 * hot), clean


def _interpolated(
    mean: np.ndarray, clean: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Sum of frames, each shifted by part of a pixel with bilinear weights."""
    total, shifted = np.zeros_like(mean), np.zeros_like(mean)
    for y, x in rng.uniform(0, 0.6, (8, 2)):
        frames = np.stack([rng.poisson(np.clip(mean / 8, 0, None)), clean / 8])
        frames = (1 - y) * frames + y * np.roll(frames, 1, 1)
        frames = (1 - x) * frames + x * np.roll(frames, 1, 2)
        total, shifted = total + frames[0], shifted + frames[1]
    return total, shifted


def _fragments(kind: Kind, bodies: list[Beads], blur: float, rng: np.random.Generator) -> np.ndarray:
    """Lone asymmetric pieces of a particle."""
    number = rng.poisson(0.00001 * WIDE**2)
    body = bodies[0]
    piece = np.argsort(np.linalg.norm(body.at - body.at[0], axis=1))[: len(body.at) // 8]
    part = Beads(body.at[piece] - body.at[piece].mean(0), body.weight[piece])
    turns, at = _views("", number + 1, rng), rng.uniform(0, WIDE, (number + 1, 2))
    return _project([part] * (number + 1), turns, at, blur, kind.pixel)


def _strands(kind: Kind, bodies: list[Beads], blur: float, rng: np.random.Generator) -> np.ndarray:
    number = rng.poisson(3) + 1
    bend = np.cumsum(rng.normal(0, 0.12, (number, 400)), axis=1) + rng.uniform(0, 7, (number, 1))
    path = np.cumsum(np.stack([np.cos(bend), np.sin(bend)], -1) * 4 / kind.pixel, axis=1)
    at = (path + rng.uniform(0, WIDE, (number, 1, 2))).reshape(-1, 2)
    return gaussian_filter(laid(at, np.full(len(at), 1.2)), blur / kind.pixel, mode="wrap")


def _belts(kind: Kind, bodies: list[Beads], blur: float, rng: np.random.Generator) -> np.ndarray:
    number = rng.poisson(12) + 1
    belt = Beads(bodies[0].at[900:], bodies[0].weight[900:])
    turns, at = _views("", number, rng), rng.uniform(0, WIDE, (number, 2))
    return _project([belt] * number, turns, at, blur, kind.pixel)


def _discs(
    number: int, radii: tuple[float, float], rng: np.random.Generator
) -> list[tuple[np.ndarray, float]]:
    """Distances from random centres, in pixels, with random radii; inside the image, so that some are seen."""
    grid = np.indices((WIDE, WIDE))
    out = []
    for y, x in rng.uniform(MARGIN, MARGIN + SIZE, (number, 2)):
        out.append((np.hypot(grid[0] - y, grid[1] - x), rng.uniform(*radii)))
    return out


def _drops(kind: Kind, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    dark, mask = np.zeros((WIDE, WIDE)), np.zeros((WIDE, WIDE), dtype=bool)
    for far, radius in _discs(rng.integers(2), (120 / kind.pixel, 300 / kind.pixel), rng):
        inside = expit((radius - far) / 3)
        dark += -0.25 * inside + 0.15 * np.exp(-0.5 * ((far - radius) / 6) ** 2)
        mask |= far < radius + 20
    return dark, mask


def _beads(kind: Kind, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    dark, mask = np.zeros((WIDE, WIDE)), np.zeros((WIDE, WIDE), dtype=bool)
    for far, radius in _discs(rng.integers(4), (25 / kind.pixel, 50 / kind.pixel), rng):
        dark += -1.2 * expit((radius - far) / 1.5)
        mask |= far < radius + 8
    return dark, mask


def _flakes(kind: Kind, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    dark, mask = np.zeros((WIDE, WIDE)), np.zeros((WIDE, WIDE), dtype=bool)
    grid = np.indices((WIDE, WIDE))
    for _ in range(rng.integers(2)):
        centre, radius = rng.uniform(MARGIN, MARGIN + SIZE, 2), rng.uniform(90, 180) / kind.pixel
        out = np.full((WIDE, WIDE), -np.inf)
        for angle in np.sort(rng.uniform(0, 2 * np.pi, 6)):
            along = (grid[0] - centre[0]) * np.sin(angle) + (grid[1] - centre[1]) * np.cos(angle)
            out = np.maximum(out, along)
        out = np.maximum(out, 0.6 * np.hypot(grid[0] - centre[0], grid[1] - centre[1]))
        dark += -0.3 * expit((radius - out) / 2)
        mask |= out < radius + 10
    return dark, mask


SPECIMENS = {"shells": _shells, "barrels": _barrels, "coils": _coils}
ICE = {"shells": _cells, "barrels": _lognormal, "coils": _unfolded}
CAMERA = {"shells": _spread, "barrels": _striped, "coils": _interpolated}
JUNK = {"shells": _fragments, "barrels": _strands, "coils": _belts}
CONTAMINATION = {"shells": _drops, "barrels": _beads, "coils": _flakes}
