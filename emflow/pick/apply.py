"""Pick the particles of one micrograph."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from emflow.pick.config import PickApply
from emflow.pick.contamination import find_contamination, grow
from emflow.pick.normalise import shrink
from emflow.pick.scene import Found, Peaks, Scene
from emflow.pick.template import SIZES, disks, learn_profile, render
from emflow.step import EmflowError

SMALLEST_DIAMETER_PX = 8
"""Below this a particle has no shape."""
LEARN_FROM, LEARN_MOST = 10, 500
"""Fewest good picks from which a template is learnt, and most that are used."""

CENTRE_REACH, CENTRE_SMOOTH, CENTRE_ROUNDS = 0.3, 0.1, 4
"""How far picks may move to the middle of their particle and how smooth that template is, both in diameters."""


@dataclass(frozen=True)
class Picks:
    """Particles of one micrograph, best first."""

    xy_px: np.ndarray
    """Centres (n, 2) as x, y in pixels of the micrograph; the first pixel's centre is 0."""
    score: np.ndarray
    """Height of the peak, in deviations of the noise."""
    probability: np.ndarray
    """Calibrated probability to be a particle rather than noise."""
    threshold: float
    """Lowest score that is taken, or that a pick would need where there is none."""
    mask: np.ndarray
    """True on contamination, at the working pixel, (y, x)."""
    profile: np.ndarray
    """The template's radial profile at the working pixel; empty if none was learnt."""
    threshold_from: str = "noise"
    """What the threshold was found by: the noise's significance, or what the network's candidates say."""


def pick_micrograph(image: Tensor, pixel_size_angstrom: float, dark: bool, cfg: PickApply) -> Picks:
    """Find the particles of one micrograph.

    Bin; mask contamination; normalise locally; whiten with the radial spectrum of the background; correlate
    with the soft disk that finds most; learn the template from the best picks and correlate again; keep the peaks
    that noise does not explain.

    Parameters
    ----------
    image
        Micrograph (y, x), any scale.
    pixel_size_angstrom
        Its pixel size, in ångström.
    dark
        Whether protein is dark.

    Raises
    ------
    EmflowError
        If the diameter is not set or does not fit the image, or the image is constant or not finite.
    """
    require_micrograph(image)
    diameter = working_diameter(image.shape, pixel_size_angstrom, cfg)
    factor = max(1.0, diameter / cfg.diameter_px)
    small = shrink(image, factor)
    small = -small if dark else small
    diameter /= factor
    shape = (image.shape[0], image.shape[1])
    mask = _contamination(small, diameter, None, cfg)
    scene = Scene(small, mask, shape, diameter, cfg)
    found, profile, size = search(scene)
    sure = found.good(cfg.score_spread).place
    if len(sure) >= LEARN_FROM:
        larger = mask | _contamination(small, diameter, sure.cpu().numpy(), cfg)
        if (larger != mask).any():  # what the particles tell was contamination must not shape the template
            mask = larger
            scene = Scene(small, mask, shape, diameter, cfg)
            found, profile, _ = search(scene, [size])
    taken = found.accepted(cfg.score_spread)
    good, chance = found.peaks.take(taken), found.chance[taken]
    if len(good.height) >= LEARN_FROM:
        good = centre(scene, good)
        apart = scene.apart(good)
        good, chance = good.take(apart), chance[apart]
    level = found.limits(cfg.score_spread)[0]
    return Picks(good.xy_px, good.height, chance, level, mask, profile)


def _contamination(
    image: Tensor, diameter: float, particles: np.ndarray | None, cfg: PickApply
) -> np.ndarray:
    if not cfg.mask_contamination:
        return np.zeros(image.shape, dtype=bool)
    mask = find_contamination(image.cpu().numpy(), diameter, cfg.mask_strength, particles)
    return grow(mask, cfg.mask_margin * diameter)


def require_micrograph(image: Tensor) -> None:
    """Raise where an image is constant or holds what is no number."""
    if not bool(torch.isfinite(image).all()) or bool((image == image[0, 0]).all()):
        raise EmflowError("The image is constant or holds values that are no numbers; expected a micrograph.")


def require_diameter(cfg: PickApply) -> float:
    """Return the particle's diameter in ångström, or raise where it is not set."""
    if cfg.diameter_angstrom is None:
        raise EmflowError(
            "The particle's diameter is not known: set sample.diameter_angstrom in the configuration "
            "(or give --diameter-angstrom), in ångström; `emflow pick size` estimates it."
        )
    return cfg.diameter_angstrom


def working_diameter(shape: torch.Size, pixel_size_angstrom: float, cfg: PickApply) -> float:
    """Diameter in pixels of the micrograph; raise where it is not set, or too small or large for the image."""
    diameter = require_diameter(cfg) / pixel_size_angstrom
    if diameter < SMALLEST_DIAMETER_PX:
        raise EmflowError(
            f"A particle of {cfg.diameter_angstrom:g} Å is {diameter:.1f} pixels wide at {pixel_size_angstrom:g} Å/px; "
            f"picking needs at least {SMALLEST_DIAMETER_PX}. Check sample.diameter_angstrom and pixel_size_angstrom."
        )
    if 2 * diameter > min(shape):
        raise EmflowError(
            f"A particle of {cfg.diameter_angstrom:g} Å is {diameter:.0f} pixels wide, the micrograph only "
            f"{shape[1]} x {shape[0]}; expected at least two diameters. "
            "Check sample.diameter_angstrom and pixel_size_angstrom."
        )
    return diameter


def search(scene: Scene, sizes: Sequence[int] = range(len(SIZES))) -> tuple[Found, np.ndarray, int]:
    """Find the particles with the best disk, then in rounds with the template learnt from the picks so far.

    Parameters
    ----------
    scene
        The micrograph.
    sizes
        Which of the disks are tried.

    Returns
    -------
    what the last template found, its profile (empty if there were too few picks to learn from), and the best disk.
    """
    cfg = scene.cfg
    kernels = disks(scene.diameter, scene.image.device)
    tried = {size: scene.find(kernels[size], len(SIZES)) for size in sizes}
    best = max(tried, key=lambda size: tried[size].excess(cfg.score_spread))
    good = tried[best].good(cfg.score_spread)
    for _ in range(2):  # a better background gives better whitening, and that a better background
        scene.exclude(good)
        scene.whiten()
        found, profile = scene.find(kernels[best], len(SIZES)), np.zeros(0)
        good = found.good(cfg.score_spread)
    for _ in range(cfg.rounds):
        if len(good.height) < LEARN_FROM:
            break
        scene.exclude(good)
        centres = good.place[:LEARN_MOST]
        learnt = learn_profile(scene.white, scene.weight, centres, math.ceil(scene.diameter))
        found, profile = scene.find(render(learnt, scene.diameter)), learnt.cpu().numpy()
        good = found.good(cfg.score_spread)
    return found, profile, best


def centre(scene: Scene, picks: Peaks) -> Peaks:
    """Move picks to the middle of their particles.

    The template that detects best may answer to the densest part of an asymmetric particle. So begin with the whole
    disk, and learn a smooth template from there: the particle fills its diameter, not the part.
    """
    radius = CENTRE_REACH * scene.diameter
    moved = scene.move(picks, disks(scene.diameter, scene.image.device)[-1], radius)
    for _ in range(CENTRE_ROUNDS):
        profile = learn_profile(
            scene.white, scene.weight, moved.place[:LEARN_MOST], math.ceil(scene.diameter)
        )
        moved = scene.move(picks, render(profile, scene.diameter, CENTRE_SMOOTH), radius)
    return moved
