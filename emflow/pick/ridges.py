"""Ridges of a micrograph: where a long piece of a filament fits, in which direction, and how well noise would."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d, map_coordinates
from torch import Tensor
from torch.nn import functional

from emflow.pick.filters import matched_filter
from emflow.pick.scene import Scene

PIECES = 3
"""Parts of a template along the axis, of which the middle one must fit: one particle is no filament."""
FLANK = 0.5
"""Width of the template's flank on either side, in filament widths."""
RIM = 0.15
"""Deviation of the Gaussian below which the rims are, in filament widths."""
REACH = 1.5
"""How far from the axis a profile goes, in filament widths."""
CHUNK = 6
"""Directions worked on at once."""


@dataclass(frozen=True)
class Ridges:
    """Of each pixel (y, x): the score of the best direction in deviations of the noise, and that direction."""

    score: np.ndarray
    angle: np.ndarray
    """Direction of the axis from x to y, in radians, 0 to π."""
    inverted: np.ndarray
    """Best score of the inverted image: what noise alone gives."""


def box_profile(width: float, size: float, rims: bool = False) -> np.ndarray:
    """Cross section of a filament, less its flanks: values at whole pixels from the axis, sum 0.

    Parameters
    ----------
    width
        Of the filament, in pixels.
    size
        Width of the bright middle, in filament widths.
    rims
        Take off what is smooth.
    """
    axis = np.abs(_axis(width))
    soft = 0.06 * width
    inner = 1 / (1 + np.exp(np.clip((axis - 0.5 * size * width) / soft, -40, 40)))
    outer = 1 / (1 + np.exp(np.clip((axis - (0.5 * size + FLANK) * width) / soft, -40, 40))) - inner
    profile = inner - outer * inner.sum() / outer.sum()
    if rims:
        profile = profile - gaussian_filter1d(profile, RIM * width, mode="constant")
        profile -= profile.mean()
    return np.asarray(profile)


def learnt_profile(image: np.ndarray, curves: list[np.ndarray], width: float) -> np.ndarray:
    """Mean cross section of an image (y, x) along curves (n, 4: x, y and unit direction), made even, of sum 0."""
    across = profiles(image, np.concatenate(curves), _axis(width)).mean(0)
    even = 0.5 * (across + across[::-1])
    even *= np.cos(0.5 * math.pi * np.clip(np.abs(_axis(width)) / (REACH * width), 0, 1))
    return np.asarray(even - even.mean())


def profiles(image: np.ndarray, curve: np.ndarray, across: np.ndarray) -> np.ndarray:
    """Sample an image (y, x) across a curve (n, 4: x, y and unit direction): shape (n, len(across))."""
    x = curve[:, :1] - curve[:, 3:] * across
    y = curve[:, 1:2] + curve[:, 2:3] * across
    return np.asarray(map_coordinates(image, [y, x], order=1, mode="nearest"))


def _axis(width: float) -> np.ndarray:
    half = math.ceil(REACH * width)
    return np.arange(-half, half + 1, dtype=np.float64)


def search(scene: Scene, profile: np.ndarray, template_px: float, orientations: int) -> tuple[Ridges, Tensor]:
    """Score of an elongated template at each pixel, over all directions.

    The template is made of pieces in a row. A pixel's score is the whole template's, but not more than the
    middle one of the pieces' scores would make of it; so one bright spot scores nothing, and the score falls
    to a half where a filament ends.

    Parameters
    ----------
    scene
        Whitened micrograph; its background tells the noise.
    profile
        Cross section at whole pixels from the axis.
    template_px
        Length of the template in pixels.
    orientations
        Directions, over half a turn.

    Returns
    -------
    The ridges, and one template (k, k) for the noise's smoothness.
    """
    piece = template_px / PIECES
    turns = np.arange(orientations) * (math.pi / orientations)
    best = torch.full_like(scene.white, -torch.inf)
    worst = best.clone()
    angle = torch.zeros_like(best)
    quiet = scene.allowed & (scene.background > 0.5)
    for start in range(0, orientations, CHUNK):
        some = turns[start : start + CHUNK]
        kernels = torch.stack([_kernel(profile, piece, float(turn)) for turn in some]).to(scene.white)
        raw = matched_filter(scene.white, scene.weight, kernels)
        for turn, one in zip(some, _standard(raw, quiet), strict=True):
            step = (round(piece * math.sin(turn)), round(piece * math.cos(turn)))
            parts = torch.stack([_moved(one, step), one, _moved(one, (-step[0], -step[1]))])
            whole = _standard(parts.sum(0)[None], quiet)[0]
            middle = parts.median(0).values * math.sqrt(PIECES)
            score = torch.minimum(whole, middle)
            better = score > best
            best, angle = torch.where(better, score, best), torch.where(better, float(turn), angle)
            worst = torch.maximum(worst, torch.minimum(-whole, -middle))
    best, worst = (torch.where(scene.allowed, score, -torch.inf).clamp_min(0) for score in (best, worst))
    whole_kernel = _kernel(profile, template_px, 0.0)
    return Ridges(*(a.double().cpu().numpy() for a in (best, angle, worst))), whole_kernel


def _standard(raw: Tensor, quiet: Tensor) -> Tensor:
    """Scores (n, y, x) in robust deviations of the background."""
    values = raw[:, quiet]
    middle = values.median(1).values[:, None]
    deviation = 1.4826 * (values - middle).abs().median(1).values[:, None]
    return (raw - middle[..., None]) / deviation[..., None].clamp_min(1e-6)


def _moved(image: Tensor, step: tuple[int, int]) -> Tensor:
    """Shift by whole pixels (y, x); zeros come in."""
    (dy, dx), (height, width) = step, image.shape
    padded = functional.pad(image, (abs(dx), abs(dx), abs(dy), abs(dy)))
    return padded[abs(dy) + dy : abs(dy) + dy + height, abs(dx) + dx : abs(dx) + dx + width]


def _kernel(profile: np.ndarray, length: float, turn: float) -> Tensor:
    """Template (k, k) with a cross section, soft at its ends; of sum 0 and norm 1."""
    reach = len(profile) // 2
    half = math.ceil(math.hypot(reach, 0.5 * length + 2))
    axis = np.arange(-half, half + 1, dtype=np.float64)
    along = axis[None] * math.cos(turn) + axis[:, None] * math.sin(turn)
    across = axis[:, None] * math.cos(turn) - axis[None] * math.sin(turn)
    ends = np.clip(0.5 + (0.5 * length - np.abs(along)) / 4, 0, 1)
    kernel = np.interp(across, np.arange(-reach, reach + 1), profile, left=0, right=0) * ends
    kernel -= ends * (np.abs(across) <= reach) * kernel.sum() / (ends * (np.abs(across) <= reach)).sum()
    return torch.from_numpy(kernel / np.linalg.norm(kernel)).float()
