"""Find the filaments of one micrograph."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import map_coordinates
from torch import Tensor

from emflow.pick.apply import require_micrograph
from emflow.pick.config import PickApply
from emflow.pick.config_filaments import PickFilaments
from emflow.pick.contamination import find_contamination, grow
from emflow.pick.curves import STEP, equidistant, join, length_of, near_others, trace
from emflow.pick.normalise import shrink
from emflow.pick.ridges import box_profile, learnt_profile, profiles, search
from emflow.pick.scene import Scene
from emflow.pick.significance import Noise, roughness, tail_scale
from emflow.step import EmflowError

SHAPES = ((0.65, False), (0.95, False), (0.65, True), (0.95, True))
"""Templates that are tried first: width of the middle in filament widths, and whether little more than its rims is left,
as the CTF leaves of wide filaments."""
SEEDS = 20.0
"""Noise peaks expected above the score from which a ridge may begin: the whole filament must stand out, not a piece."""
LOW, END = 0.6, 0.5
"""Part of the threshold down to which a ridge is followed, and of its own median score where a filament ends."""
SMALLEST_WIDTH_PX = 4.0
"""Below this a filament has no width."""
AROUND, FAR, NORMALISE, EDGE = 0.8, 2.5, 3.0, 0.4
"""In filament widths: what is no background around an axis, what its template's flanks reach, the window of the local
mean, the image's border."""
DOUBLE = 1.2
"""Axes nearer than this over most of the weaker one's length are one filament's, in widths."""
BESIDE = (0.9, 1.5)
"""Where the two sides of a filament are compared, in widths from its axis."""
MASK_WIDTHS, MASK_MARGIN = 2.0, 0.5
"""Scale at which contamination is looked for, and margin by which it is grown, in widths."""


@dataclass(frozen=True)
class Filament:
    """One filament: its axis, and segments at equal distances along it."""

    axis_px: np.ndarray
    """Places (n, 2: x, y) in pixels of the micrograph."""
    length_angstrom: float
    score: float
    """Mean score along the axis, in deviations of the noise."""
    segments_px: np.ndarray
    """Segments (m, 2: x, y) that are not near another filament or contamination, in pixels of the micrograph."""
    psi_deg: np.ndarray
    """Prior of the segments' in-plane angle, as RELION defines it: minus the angle from x to y."""
    track_angstrom: np.ndarray
    """Distance of each segment from the axis's start."""
    segment_score: np.ndarray


@dataclass(frozen=True)
class Found:
    """The filaments of a micrograph, best first."""

    filaments: list[Filament]
    threshold: float
    expected_false: float
    """Filaments that noise is expected to give."""
    left_out: int
    """Segments near a crossing or contamination."""
    mask: np.ndarray


def working_width(shape: torch.Size, pixel_size_angstrom: float, cfg: PickFilaments) -> float:
    """Width of the filament in pixels of the micrograph.

    Raises
    ------
    EmflowError
        If it is not set, too few pixels, or the shortest filament does not fit into the image.
    """
    if cfg.filament_width_angstrom is None:
        raise EmflowError("The filament's width is not set: give --filament-width-angstrom.")
    width = cfg.filament_width_angstrom / pixel_size_angstrom
    if width < SMALLEST_WIDTH_PX:
        raise EmflowError(
            f"A filament of {cfg.filament_width_angstrom:g} Å spans {width:.1f} pixels of {pixel_size_angstrom:g} Å; at "
            f"least {SMALLEST_WIDTH_PX:g} are needed. Check pick.filaments.filament_width_angstrom and the pixel size."
        )
    needed = min_length(cfg) / pixel_size_angstrom
    if max(shape) < needed:
        raise EmflowError(
            f"The image is {shape[1]} x {shape[0]} pixels, the shortest filament is {needed:.0f} pixels long. Check the "
            "pixel size, pick.filaments.filament_width_angstrom and min_length_angstrom."
        )
    return width


def min_length(cfg: PickFilaments) -> float:
    """Shortest filament in ångström."""
    return cfg.min_length_angstrom or 6 * (cfg.filament_width_angstrom or 0.0)


def pick_filaments(image: Tensor, pixel_size_angstrom: float, dark: bool, cfg: PickFilaments) -> Found:
    """Find the filaments of one micrograph.

    Bin; normalise and whiten by the background; correlate with an elongated template in all directions; follow the ridges;
    learn the filament's cross section from them and search again, with contamination masked that is steeper or rougher
    than the filaments are.

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
        If the width does not fit the image, or the image is constant or not finite.
    """
    require_micrograph(image)
    width = working_width(image.shape, pixel_size_angstrom, cfg)
    factor = max(1.0, width / cfg.width_px)
    small = shrink(-image if dark else image, factor).float()
    width /= factor
    shape = (image.shape[0], image.shape[1])
    work = _Search(small, shape, width, min_length(cfg) / pixel_size_angstrom / factor, cfg)
    curves = work.first()
    for _ in range(2):
        work.learn(curves)
        curves = work.curves()
    return work.result(curves, pixel_size_angstrom * factor)


class _Search:
    """A binned micrograph in which filaments are looked for."""

    def __init__(
        self, small: Tensor, shape: tuple[int, int], width: float, shortest: float, cfg: PickFilaments
    ) -> None:
        self.small, self.shape, self.width, self.shortest, self.cfg = small, shape, width, shortest, cfg
        self.profile, self.trials = box_profile(width, *SHAPES[0]), len(SHAPES)
        self.look(np.zeros(tuple(small.shape), dtype=bool))

    def look(self, mask: np.ndarray) -> None:
        """Take the image without what is masked."""
        apply = PickApply(normalise_diameters=NORMALISE, edge_distance=EDGE)
        self.mask = mask
        self.scene = Scene(self.small, mask, self.shape, self.width, apply)

    def first(self) -> list[np.ndarray]:
        """The curves of the template that finds most."""
        found = []
        for shape in SHAPES:
            self.profile = box_profile(self.width, *shape)
            curves = self.curves()
            found.append((sum(len(c) * self.score_of(c) ** 2 for c in curves), self.profile, curves))
        _, self.profile, curves = max(found, key=lambda one: one[0])
        return curves

    def learn(self, curves: list[np.ndarray]) -> None:
        """Take the mask, the background and the filament's cross section from what was found."""
        if self.cfg.mask_contamination:
            self.look(self.contamination(curves))
        curves = [c[profiles(self.mask.astype(float), c, np.zeros(1))[:, 0] == 0] for c in curves]
        curves = [c for c in curves if len(c)]
        if not curves:
            return
        places = np.concatenate(curves)
        column, row = np.rint(places[:, :2]).astype(int).T
        height, width = self.mask.shape
        axis = np.zeros(self.mask.shape, dtype=bool)
        axis[row.clip(0, height - 1), column.clip(0, width - 1)] = True
        away, far = (torch.from_numpy(~grow(axis, r * self.width)) for r in (AROUND, FAR))
        self.scene.background = self.scene.weight * away.to(self.scene.weight)
        self.scene.far = self.scene.weight * far.to(self.scene.weight)
        self.scene.whiten()
        self.profile = learnt_profile(self.scene.white.cpu().numpy(), curves, self.width)

    def contamination(self, curves: list[np.ndarray]) -> np.ndarray:
        """What is steeper or rougher than the filaments."""
        image, scale = self.small.cpu().numpy(), MASK_WIDTHS * self.width
        known = None
        if curves:
            places = np.rint(np.concatenate(curves)[:, 1::-1]).astype(int)
            known = places.clip(0, np.array(image.shape) - 1)
        mask = find_contamination(image, scale, self.cfg.mask_strength, known)
        return grow(mask, MASK_MARGIN * self.width)

    def curves(self) -> list[np.ndarray]:
        """Curves (n, 4) of the filaments as they are seen now, best first."""
        cfg, scene, width = self.cfg, self.scene, self.width
        ridges, kernel = search(scene, self.profile, cfg.template_widths * width, cfg.orientations)
        self.ridges = ridges
        trials, rough = self.trials * cfg.orientations, roughness(kernel.numpy())
        quiet = (scene.allowed & (scene.far > 0.5)).cpu().numpy()
        tails = tail_scale(_maxima(ridges.inverted, quiet), Noise(rough, trials * float(quiet.sum())))
        self.noise = Noise(rough, trials * float(scene.allowed.sum()), tails)
        self.threshold = self.noise.level(cfg.false_filaments)
        pieces = trace(ridges, LOW * self.threshold, self.noise.level(SEEDS), width)
        curves = [self.trimmed(c) for c in join(pieces, width, cfg.max_gap_widths * width)]
        curves = [
            c
            for c in curves
            if length_of(c) >= self.shortest and self.whole_score(c) >= self.threshold and self.is_line(c)
        ]
        curves.sort(key=self.score_of, reverse=True)
        kept: list[np.ndarray] = []
        for curve in curves:
            if near_others([curve, *kept], DOUBLE * width)[0].mean() < 0.5:
                kept.append(curve)
        return kept

    def along(self, curve: np.ndarray) -> np.ndarray:
        """Score at each point of a curve."""
        places = curve[:, 1], curve[:, 0]
        return np.asarray(map_coordinates(self.ridges.score, places, order=1, mode="nearest"))

    def score_of(self, curve: np.ndarray) -> float:
        """Mean score along a curve."""
        return float(self.along(curve).mean())

    def whole_score(self, curve: np.ndarray) -> float:
        """Score that a template as long as the curve has."""
        return self.score_of(curve) * math.sqrt(length_of(curve) / (self.cfg.template_widths * self.width))

    def trimmed(self, curve: np.ndarray) -> np.ndarray:
        """Without the ends where the score is below half of its median: there only half of the template is on it."""
        score = self.along(curve)
        good = np.flatnonzero(score >= max(END * np.median(score), LOW * self.threshold))
        return curve[good[0] : good[-1] + 1] if len(good) else curve[:1]

    def is_line(self, curve: np.ndarray) -> bool:
        """Whether the middle differs from both sides by more than these differ, and goes on evenly along the axis.

        Else it is an edge, or a row of particles. How much the density of pieces one width long varies beyond the
        noise is their variance less that of white noise; of it, half of what its own estimate may be wrong is allowed for.
        """
        image, width = self.scene.image.cpu().numpy(), self.width
        beside = np.linspace(BESIDE[0] * width, BESIDE[1] * width, 7)
        left, right = (profiles(image, curve, sign * beside).mean() for sign in (-1, 1))
        middle = profiles(image, curve, np.linspace(-0.3 * width, 0.3 * width, 7)).mean()
        if not middle - 0.5 * (left + right) > abs(left - right):
            return False
        reach = len(self.profile) // 2
        seen = profiles(self.scene.white.cpu().numpy(), curve, np.arange(-reach, reach + 1.0))
        valid = profiles(self.scene.weight.cpu().numpy(), curve, np.zeros(1))[:, 0] > 0.5
        density = (seen @ self.profile / np.linalg.norm(self.profile))[valid]
        points = round(width / STEP)
        pieces = density[: len(density) // points * points].reshape(-1, points).mean(1)
        if len(pieces) < 2 or pieces.mean() <= 0:
            return False
        noise = 1 / width
        unsure = 0.5 * noise * np.sqrt(2 / (len(pieces) - 1))
        varies = (pieces.var(ddof=1) - noise - unsure) / pieces.mean() ** 2
        return bool(varies <= self.cfg.max_unevenness)

    def result(self, curves: list[np.ndarray], pixel: float) -> Found:
        """The filaments with their segments, in pixels of the micrograph."""
        cfg, filaments, left_out = self.cfg, [], 0
        spacing = (cfg.spacing_angstrom or 0.5 * self.width * pixel) / pixel
        crossing = near_others(curves, cfg.crossing_widths * self.width)
        for curve, near in zip(curves, crossing, strict=True):
            segments, track = equidistant(curve, spacing)
            number = np.interp(track, np.linspace(0, length_of(curve), len(curve)), np.arange(len(curve)))
            masked = profiles(self.mask.astype(float), segments, np.zeros(1))[:, 0] > 0
            kept = ~near[np.rint(number).astype(int)] & ~masked
            left_out += int((~kept).sum())
            filaments.append(
                Filament(
                    self.in_micrograph(curve),
                    length_of(curve) * pixel,
                    self.score_of(curve),
                    self.in_micrograph(segments[kept]),
                    -np.degrees(np.arctan2(segments[kept, 3], segments[kept, 2])),
                    track[kept] * pixel,
                    self.along(segments[kept]),
                )
            )
        false = float(self.noise.expected(np.array([self.threshold]))[0])
        return Found(filaments, self.threshold, false, left_out, self.mask)

    def in_micrograph(self, places: np.ndarray) -> np.ndarray:
        """Pixels of the micrograph (n, 2: x, y)."""
        return (places[:, :2] + 0.5) * self.scene.scale - 0.5


def _maxima(score: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Local maxima of a map, where allowed."""
    from scipy.ndimage import maximum_filter

    return np.asarray(score[(maximum_filter(score, 3) == score) & where & (score > 0)])
