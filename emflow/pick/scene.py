"""A binned micrograph on which templates are tried, and what is known of its noise."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from emflow.pick.config import PickApply
from emflow.pick.crowd import Crowd
from emflow.pick.filters import correlate, filter_radially, gaussian_blur, matched_filter, noise_spectrum
from emflow.pick.normalise import normalise_locally, remove_trend
from emflow.pick.peaks import highest_near, local_maxima, refine, suppress
from emflow.pick.significance import Noise, probabilities, roughness, tail_scale, threshold

NEIGHBOURHOOD, SIDE_LOBES = 0.6, 1.0
"""Radii around a pick that are not background, and that its template's side lobes reach, in diameters."""
LOWEST_RING = 2
"""First ring of the spectrum that particles may stand out in: a period of two diameters."""
FEW = 5
"""Fewer picks than this have no usual score."""
SCALE, WINDOW = 0.15, 0.35
"""Deviations of the Gaussians for the power at particle scale and the window of its mean, in diameters."""
SMALLEST_BACKGROUND = 0.02
"""Part of the image that must be background for the noise to be taken from there alone."""


@dataclass(frozen=True)
class Peaks:
    """Peaks of a score map, best first: pixels (y, x), positions (x, y) in the micrograph, heights."""

    place: Tensor
    xy_px: np.ndarray
    height: np.ndarray

    def take(self, chosen: np.ndarray) -> Peaks:
        """Some of the peaks, by a boolean array."""
        return Peaks(
            self.place[torch.from_numpy(chosen).to(self.place.device)],
            self.xy_px[chosen],
            self.height[chosen],
        )

    def rescored(self, height: np.ndarray) -> Peaks:
        """The same places with other heights, again highest first."""
        order = np.argsort(-height, kind="stable")
        return Peaks(
            self.place[torch.from_numpy(order).to(self.place.device)], self.xy_px[order], height[order]
        )


@dataclass(frozen=True)
class Found:
    """What a template found: all peaks, those above the threshold, and the noise they stand against."""

    peaks: Peaks
    chance: np.ndarray
    noise: Noise
    threshold: float

    def excess(self, spread: float) -> float:
        """How well the template fits: squared heights above what noise would reach once, summed over what is accepted.

        Squared, so that one peak on each particle counts for more than two beside its centre; the accepted only, so
        that one ice crystal does not outvote a hundred particles.
        """
        height = self.good(spread).height
        return float((np.maximum(height - self.noise.level(1.0), 0) ** 2).sum())

    def accepted(self, spread: float) -> np.ndarray:
        """Which peaks are taken: above the threshold, and within a factor of the median of these.

        In one micrograph, particles of one kind score alike: what scores far more is contamination, what scores far less
        are fragments and the rings of crowded neighbours.
        """
        low, high = self.limits(spread)
        return (self.peaks.height >= low) & (self.peaks.height <= high)

    def limits(self, spread: float) -> tuple[float, float]:
        """Lowest and highest score that is taken; see :meth:`accepted`."""
        above = self.peaks.height[self.peaks.height >= self.threshold]
        if len(above) < FEW:
            return self.threshold, math.inf
        middle = float(np.median(above))
        return max(self.threshold, middle / spread), middle * spread

    def good(self, spread: float) -> Peaks:
        """The accepted peaks."""
        return self.peaks.take(self.accepted(spread))


class Scene:
    """A micrograph at the working pixel, protein bright; whitened by the spectrum of its background."""

    def __init__(
        self, image: Tensor, mask: np.ndarray, shape: tuple[int, int], diameter: float, cfg: PickApply
    ) -> None:
        """Take the binned image, its contamination, the micrograph's own shape, and the diameter in binned pixels."""
        self.weight = torch.from_numpy(~mask).to(image)
        self.image, self.diameter, self.cfg = remove_trend(image, self.weight), diameter, cfg
        self.scale = np.array([shape[1] / image.shape[1], shape[0] / image.shape[0]])
        edge = math.ceil(cfg.edge_distance * diameter)
        inner = torch.zeros_like(self.weight, dtype=torch.bool)
        inner[edge : image.shape[0] - edge, edge : image.shape[1] - edge] = True
        self.allowed = inner & (self.weight > 0)
        self.background = self.far = self._quiet_half()
        self.picks = torch.zeros((0, 2), dtype=torch.long, device=image.device)
        self.whiten()

    def whiten(self) -> None:
        """Normalise and whiten by the background as it is known now."""
        sigma = self.cfg.normalise_diameters * self.diameter
        flat = normalise_locally(self.image, self.weight, self.background, sigma)
        rings = 2 * math.ceil(self.diameter)
        spectrum = noise_spectrum(flat, self.background, rings)
        # Waves longer than three diameters are ice, wherever they are. Normalising took some of them away, which
        # whitening must not bring back.
        everywhere = noise_spectrum(flat, self.weight, rings)[:LOWEST_RING]
        spectrum[:LOWEST_RING] = everywhere.clamp_min(float(spectrum[LOWEST_RING]))
        self.transfer = spectrum.clamp_min(1e-6).rsqrt()
        self.white = filter_radially(flat, self.transfer) * self.weight

    def exclude(self, picks: Peaks) -> None:
        """Take the surroundings of picks out of the background."""
        self.picks = picks.place
        self.background = self._without(picks, NEIGHBOURHOOD)
        self.far = self._without(picks, SIDE_LOBES)

    def find(self, kernel: Tensor, trials: int = 1) -> Found:
        """Correlate with a template (k, k); peaks at the minimum distance, threshold by false-discovery rate.

        ``trials`` is the number of templates of which this one is the best: noise had as many chances.
        """
        raw = matched_filter(self.white, self.weight, kernel)
        crowd = Crowd(kernel, self.picks)
        lobes = crowd.fit(raw)
        values = (raw - lobes)[self.allowed & (self.background > 0.5)]
        middle, deviation = _robust(values)
        rough = roughness(kernel.cpu().numpy())
        far = self.allowed & (self.far > 0.5)
        inverted = self.peaks((middle - raw + lobes) / deviation, far)
        tails = tail_scale(inverted.height, Noise(rough, float(far.sum())))
        room = self.allowed & (self.background > 0.5)
        noise = Noise(rough, trials * float(room.sum()), tails)
        peaks = self.peaks((raw - middle) / deviation, self.allowed)
        alone = (raw - lobes)[peaks.place[:, 0], peaks.place[:, 1]] + crowd.own(peaks.place)
        peaks = peaks.rescored(((alone - middle) / deviation).double().cpu().numpy())
        chance = probabilities(peaks.height, noise)
        rate, least = self.cfg.false_discovery_rate, self.cfg.min_probability
        return Found(peaks, chance, noise, threshold(peaks.height, chance, noise, rate, least))

    def _quiet_half(self) -> Tensor:
        """The half of the image with the least power at particle scale: background, before anything is picked."""
        flat = normalise_locally(
            self.image, self.weight, self.weight, self.cfg.normalise_diameters * self.diameter
        )
        power = gaussian_blur(gaussian_blur(flat, SCALE * self.diameter) ** 2, WINDOW * self.diameter)
        valid = power[self.weight > 0]
        return self.weight * (power <= valid.median()) if valid.numel() else self.weight

    def _without(self, picks: Peaks, radius: float) -> Tensor:
        """The weight without disks around the picks."""
        seeds = torch.zeros_like(self.weight)
        seeds[picks.place[:, 0], picks.place[:, 1]] = 1
        half = math.ceil(radius * self.diameter)
        axis = torch.arange(-half, half + 1, device=seeds.device)
        disk = (axis[:, None] ** 2 + axis[None, :] ** 2 <= (radius * self.diameter) ** 2).to(seeds)
        left = self.weight * (correlate(seeds, disk) < 0.5)
        return left if left.mean() > SMALLEST_BACKGROUND else self.weight

    def move(self, peaks: Peaks, kernel: Tensor, radius: float) -> Peaks:
        """Move each peak to the highest score of a template within a radius (binned pixels); heights stay."""
        score = matched_filter(self.white, self.weight, kernel)
        place = highest_near(score, peaks.place, radius, self.allowed)
        return Peaks(place, self._positions(score, place), peaks.height)

    def apart(self, peaks: Peaks) -> np.ndarray:
        """Which peaks, taken best first, are at the minimum distance from each other."""
        chosen = np.zeros(len(peaks.xy_px), dtype=bool)
        chosen[suppress(peaks.xy_px, self.cfg.min_distance * self.diameter * float(self.scale.mean()))] = True
        return chosen

    def _positions(self, score: Tensor, place: Tensor) -> np.ndarray:
        yx = refine(score, place).double().cpu().numpy()
        return np.round((yx[:, ::-1] + 0.5) * self.scale - 0.5, 2)

    def peaks(self, score: Tensor, allowed: Tensor) -> Peaks:
        """Peaks above zero of a score map (y, x) at the minimum distance, best first."""
        place, height = local_maxima(score, allowed & (score > 0))
        peaks = Peaks(place, self._positions(score, place), height.double().cpu().numpy())
        return peaks.take(self.apart(peaks))


def _robust(values: Tensor) -> tuple[Tensor, Tensor]:
    """Median and robust deviation."""
    if values.numel() == 0:
        return torch.zeros(()), torch.ones(())
    middle = values.median()
    return middle, (1.4826 * (values - middle).abs().median()).clamp_min(1e-6)
