"""Pick without learning: blobs by the Laplacian, or what looks like references of a map or class averages."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from emflow.pick.apply import Picks, require_micrograph, working_diameter
from emflow.pick.config import PickApply
from emflow.pick.contamination import find_contamination, grow
from emflow.pick.filters import filter_radially, matched_filter
from emflow.pick.normalise import shrink
from emflow.pick.scene import Found, Scene
from emflow.pick.significance import Noise, probabilities, roughness, tail_scale, threshold
from emflow.pick.template import disks

SIZES = (0.5, 0.6, 0.7, 0.85, 1.0)
"""Diameters that the Laplacian is tried at, in longest diameters: most particles are thinner than they are long."""
SHARP = 2.0
"""Factor by which more must be found with the sharp form to be preferred."""
ENOUGH = 0.5
"""Part of the highest number that a kernel must find to be compared by how well it fits."""
ROUNDS = 3
"""Rounds of picking: what is picked is no background, and a better background shows more."""
BATCH = 32
"""References correlated at once."""
SIDE = 1.5
"""Side of a reference's box, in diameters."""


def log_kernel(diameter: float) -> Tensor:
    """Negative Laplacian of a Gaussian of σ = d/(2√2), which answers most to a disk of diameter d (pixels); (k, k).

    Lindeberg (Int. J. Comput. Vis. 30, 1998). Of sum 0 and norm 1.
    """
    sigma = diameter / (2 * math.sqrt(2))
    half = math.ceil(4 * sigma)
    axis = torch.arange(-half, half + 1, dtype=torch.float32)
    square = (axis[:, None] ** 2 + axis**2) / (2 * sigma**2)
    kernel = (1 - square) * torch.exp(-square)
    kernel = kernel - kernel.mean()
    return kernel / torch.linalg.vector_norm(kernel)


@dataclass(frozen=True)
class _Start:
    """A micrograph whose background is known."""

    scene: Scene
    found: Found
    mask: np.ndarray


def working_pixel(shape: torch.Size, pixel_size_angstrom: float, cfg: PickApply) -> float:
    """Pixel size at which a micrograph is picked, in ångström."""
    return pixel_size_angstrom * max(1.0, working_diameter(shape, pixel_size_angstrom, cfg) / cfg.diameter_px)


def pick_log(image: Tensor, pixel_size_angstrom: float, dark: bool, cfg: PickApply) -> Picks:
    """Find the particles of one micrograph as blobs, by the Laplacian at the scale that finds most.

    Besides Laplacians of Gaussians, their sharp form is tried: a soft disk less the ring around it. Where the CTF leaves
    of a particle little more than its rim, only that answers. Masked, normalised, whitened and judged as by
    :func:`emflow.pick.apply.pick_micrograph`, whose arguments and errors these are; but nothing is learnt of the
    particles.
    """
    start = _start(image, pixel_size_angstrom, dark, cfg)
    found = start.found
    taken = found.accepted(cfg.score_spread)
    level = found.limits(cfg.score_spread)[0]
    picks = found.peaks.take(taken)
    return Picks(picks.xy_px, picks.height, found.chance[taken], level, start.mask, np.zeros(0))


def pick_with_references(
    image: Tensor, pixel_size_angstrom: float, dark: bool, cfg: PickApply, references: Tensor
) -> Picks:
    """Find the particles of one micrograph that look like one of some references.

    The Laplacian finds the background first. References are filtered as the micrograph is whitened; the score is
    the best of their matched filters, in deviations of the noise. Noise had as many chances as there are references,
    which is cautious, since they are alike.

    Parameters
    ----------
    image, pixel_size_angstrom, dark
        As :func:`emflow.pick.apply.pick_micrograph`.
    references
        Shape (n, k, k), protein bright, k odd, at :func:`working_pixel`.
    """
    start = _start(image, pixel_size_angstrom, dark, cfg)
    scene = start.scene
    found = _match(scene, references)
    good = found.good(cfg.score_spread)
    if len(good.height):
        scene.exclude(good)
        scene.whiten()
        found = _match(scene, references)
    taken = found.accepted(cfg.score_spread)
    picks = found.peaks.take(taken)
    level = found.limits(cfg.score_spread)[0]
    return Picks(picks.xy_px, picks.height, found.chance[taken], level, start.mask, np.zeros(0))


def _start(image: Tensor, pixel_size_angstrom: float, dark: bool, cfg: PickApply) -> _Start:
    """Find the background in rounds of picking by the Laplacian."""
    require_micrograph(image)
    diameter = working_diameter(image.shape, pixel_size_angstrom, cfg)
    factor = max(1.0, diameter / cfg.diameter_px)
    small = shrink(-image if dark else image, factor)
    diameter /= factor
    mask = np.zeros(small.shape, dtype=bool)
    if cfg.mask_contamination:
        mask = grow(
            find_contamination(small.cpu().numpy(), diameter, cfg.mask_strength), cfg.mask_margin * diameter
        )
    scene = Scene(small, mask, (image.shape[0], image.shape[1]), diameter, cfg)
    smooth = [log_kernel(size * diameter).to(small) for size in SIZES]
    kernels = [*smooth, *disks(diameter, small.device)]
    tried = [scene.find(kernel, len(kernels)) for kernel in kernels]
    # first by number, since one crystal must not outvote a hundred particles
    counts = np.array([len(found.good(cfg.score_spread).height) for found in tried], dtype=float)
    counts[len(smooth) :] /= SHARP
    fits = np.array([found.excess(cfg.score_spread) for found in tried])
    best = int(np.where(counts >= ENOUGH * counts.max(), fits, -1.0).argmax())
    found = tried[best]
    for _ in range(ROUNDS):
        scene.exclude(found.good(cfg.score_spread))
        scene.whiten()
        found = scene.find(kernels[best], len(kernels))
    return _Start(scene, found, mask)


def _match(scene: Scene, references: Tensor) -> Found:
    """Peaks of the best reference's score, with the noise they stand against."""
    best, worst, rough = _best(scene, references)
    trials, far = len(references), scene.allowed & (scene.far > 0.5)
    tails = tail_scale(scene.peaks(worst, far).height, Noise(rough, trials * float(far.sum())))
    room = scene.allowed & (scene.background > 0.5)
    noise = Noise(rough, trials * float(room.sum()), tails)
    peaks = scene.peaks(best, scene.allowed)
    chance = probabilities(peaks.height, noise)
    rate, least = scene.cfg.false_discovery_rate, scene.cfg.min_probability
    return Found(peaks, chance, noise, threshold(peaks.height, chance, noise, rate, least))


def _best(scene: Scene, references: Tensor) -> tuple[Tensor, Tensor, float]:
    """Highest score of all references at each pixel, that of the inverted image, and the roughness of the first."""
    best = torch.full_like(scene.white, -torch.inf)
    worst, rough = best.clone(), 0.0
    quiet = scene.allowed & (scene.background > 0.5)
    for part in references.split(BATCH):
        kernels = filter_radially(functional.pad(part, (8,) * 4), scene.transfer)
        kernels = kernels - kernels.mean(
            (-2, -1), keepdim=True
        )  # the longest waves are ice, and the border's
        kernels = kernels / torch.linalg.vector_norm(kernels, dim=(-2, -1), keepdim=True).clamp_min(1e-12)
        rough = rough or roughness(kernels[0].cpu().numpy())
        # matched_filter takes point-symmetric kernels: turned by half, a convolution is a correlation
        raw = matched_filter(scene.white, scene.weight, kernels.flip((-2, -1)))
        values = raw[:, quiet]
        middle = values.median(1).values[:, None, None]
        deviation = 1.4826 * (values - middle[:, 0]).abs().median(1).values[:, None, None]
        scaled = (raw - middle) / deviation.clamp_min(1e-6)
        best, worst = torch.maximum(best, scaled.amax(0)), torch.maximum(worst, (-scaled).amax(0))
    return best, worst, rough
