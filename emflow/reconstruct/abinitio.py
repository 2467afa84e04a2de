"""First maps from nothing: expectation maximisation over all poses, from many short random starts.

Each half-set is on its own: its particles, its random starts, its maps. From a map of random poses, every
iteration draws some particles, weighs all orientations and shifts of each by their likelihood (Sigworth,
J. Struct. Biol. 122, 328, 1998), and makes the next map from these alone. The small draws make the map
noisy enough to leave false minima, as stochastic gradient descent does (Punjani et al., Nat. Methods 14,
290, 2017), while the full sum over poses needs no step size.

What a start cannot leave is the sign of its lowest asymmetric component. That is chosen in the lowest band,
where a start is cheap; so many starts stop there, and the likeliest, judged on the same particles a little beyond
that band, go on to the first band proper. The likeliest of these climbs to finer grids and higher bands.
:mod:`emflow.reconstruct.starts` says how many starts there are.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from emflow.device import generator
from emflow.em.grids import orientation_grid, shift_grid
from emflow.em.images import ImageSet, noise_spectra
from emflow.em.masks import soft_sphere
from emflow.em.poses import quaternion_to_matrix
from emflow.em.search import Expectation, References, WeightedImages, expect, log_evidence
from emflow.em.slices import HalfPlane, volume_spectrum
from emflow.em.symmetry import symmetry_operators
from emflow.em.wiener import Accumulator
from emflow.reconstruct.config import ReconstructAbinitio
from emflow.reconstruct.images import load_weighted

log = logging.getLogger("emflow")

FIRST_BAND_DIAMETERS = 5.0
"""The first band resolves the diameter over this, times the cube root of the symmetry's order."""
LOWEST, LOWEST_DIAMETERS = 0.55, 4.0
"""Band of the starts, in first bands; but it resolves the diameter over this at least, if the first band does: below
there is shape alone."""
JUDGED = 0.75
"""Band in which starts are compared: what a false start has made up in the lowest band fails beyond it."""
ADVANCE = ((0.75, 6), (1.0, 8))
"""Bands, in first bands, and iterations on draws, of the starts that go on."""
CLIMB = ((1.3, 2), (1.6, 1))
"""Bands after the first, in its multiples, and their iterations."""
SETTLE_ITERATIONS = 1
CENTRE_SETTLE = 12
"""Iterations on draws of the likeliest in the band of the diameter over 5: fewer leave particles off their centres."""
CENTRE_STARTS, CENTRE_BAND, CENTRE_ITERATIONS = 6, 0.75, 12
"""Random starts on the particles' shape, their band in units of the diameter over 5, and their iterations."""
SAMPLE = 1000
"""Particles that settle a map, and the same ones for every start that is compared with another."""
SPACING = 1.57
"""Spacing of orientations in units of resolution/diameter: denser grids were tried and find no more."""
SHIFT_STEP = 0.25
"""Finest step of shifts, in units of the resolution."""
PRIOR_SSNR = 10.0
"""Signal-to-noise ratio that is assumed of the map in every shell."""
SMALLEST_BOX = 32


@dataclass(frozen=True)
class Stage:
    """One grid at one band."""

    plane: HalfPlane
    rotations: Tensor
    shifts_px: Tensor


@dataclass(frozen=True)
class Start:
    """Where a random start has come to."""

    number: int
    volume: Tensor
    """Its map (b, b, b) in the search's box."""
    evidence: float
    """Log-likelihood per particle of the sample."""
    trace: list[float]
    """Log-likelihood per particle along the iterations."""


class HalfSearch:
    """The search in one half-set, on images cropped in Fourier space to the last band."""

    def __init__(
        self, images: ImageSet, half: int, diameter_angstrom: float, cfg: ReconstructAbinitio
    ) -> None:
        """Read the half-set's particles (at most ``max_particles``) in the last band, and centre them."""
        self.images, self.half, self.cfg = images, half, cfg
        self.device = images.device
        self.order = len(symmetry_operators(cfg.symmetry))
        extent = images.box * images.pixel_size_angstrom
        self.shape_band = FIRST_BAND_DIAMETERS * extent / diameter_angstrom
        finest = diameter_angstrom / (FIRST_BAND_DIAMETERS * self.order ** (1 / 3))
        self.band = extent / (cfg.resolution_angstrom or finest)
        self.lowest = min(self.band, max(LOWEST * self.band, LOWEST_DIAMETERS * extent / diameter_angstrom))
        self.judged = max(self.lowest, JUDGED * self.band)
        self.rows = images.rows(half)
        order = torch.randperm(len(self.rows), generator=generator(cfg.seed, half, 0))
        drawn = self.rows[order[: cfg.max_particles].sort().values]
        self.wide = images.plane(max(self.band, self.shape_band) * CLIMB[-1][0])
        self.noise = noise_spectra(images, drawn, images.plane(images.box / 2))
        self.weighted = load_weighted(images, drawn, self.wide, self.noise)
        room = max(SMALLEST_BOX, 8 * math.ceil((2 * float(self.wide.radius[-1]) + 6) / 8))
        self.box = min(images.box, room)
        self.scale = images.box / self.box
        """Pixels of the images per pixel of the search."""
        self.plane = replace(self.wide, box=self.box)
        self.diameter_px = diameter_angstrom / images.pixel_size_angstrom / self.scale
        self.full_reach_px = self.reach_px = cfg.shift_fraction * self.diameter_px
        self.mask = soft_sphere(self.box, 0.55 * self.diameter_px, self.diameter_px / 12, device=self.device)
        sample = torch.randperm(len(self.weighted), generator=generator(cfg.seed, half, 5))
        self.sample = sample[:SAMPLE].sort().values.to(self.device)
        self.centre()

    def stage(self, band: float, reach_px: float, random: torch.Generator | None = None) -> Stage:
        """Grid of orientations, turned at random, and shifts for a band.

        The same orientations never twice: the grid leaves no mark on the map.
        """
        plane = self.plane.within(min(band, float(self.plane.radius[-1])))
        rotations = orientation_grid(min(self.spacing_deg(plane), 40.0), self.cfg.symmetry)
        if random is not None:
            rotations = _turn(random) @ rotations
        shifts = torch.zeros(1, 2)
        if reach_px > 0:
            shifts = shift_grid(reach_px, min(reach_px, self.shift_step(plane)))
        return Stage(plane, rotations.to(self.device), shifts.to(self.device))

    def spacing_deg(self, plane: HalfPlane) -> float:
        """Spacing of orientations that a band asks for."""
        return math.degrees(SPACING * self.box / float(plane.radius[-1]) / self.diameter_px)

    def shift_step(self, plane: HalfPlane) -> float:
        """Step of shifts that a band asks for."""
        return SHIFT_STEP * self.box / float(plane.radius[-1])

    def left_px(self, plane: HalfPlane, reach_px: float) -> float:
        """Reach of what is left to be found once the likeliest shift is taken."""
        step = self.shift_step(plane)
        return step if reach_px > step else reach_px / 2

    def _solve(self, sums: Accumulator) -> Tensor:
        """Next map, within the sphere."""
        shells = int(self.plane.shell[-1]) + 2
        return sums.solve(torch.full((shells,), PRIOR_SSNR)) * self.mask

    def _empty(self, plane: HalfPlane) -> Accumulator:
        return Accumulator(self.box, float(plane.radius[-1]), 2, self.cfg.symmetry, self.device)

    def random_map(self, random: torch.Generator, band: float) -> Tensor:
        """Map within a band from random poses."""
        plane = self.plane.within(band)
        images = self.weighted[self.sample].within(len(plane))
        q = torch.randn(len(images), 4, generator=random)
        rotations = quaternion_to_matrix(q / q.norm(dim=1, keepdim=True)).to(self.device)
        sums = self._empty(plane)
        sums.add(images.data, images.power, rotations, plane)
        return self._solve(sums)

    def references(self, volume: Tensor, stage: Stage) -> References:
        """Slices of a map."""
        spectrum = volume_spectrum(volume, float(stage.plane.radius[-1]))
        return References.make(spectrum, stage.rotations, stage.plane)

    def iterate(self, volume: Tensor, stage: Stage, images: WeightedImages) -> tuple[Tensor, Expectation]:
        """One step of expectation maximisation: the next map."""
        found = expect(
            images.within(len(stage.plane)),
            self.references(volume, stage),
            stage.plane.phases(stage.shifts_px),
        )
        there = found.mass > 0
        sums = self._empty(stage.plane)
        sums.add(found.numerator[there], found.denominator[there], stage.rotations[there], stage.plane)
        return self._solve(sums), found

    def centre(self) -> None:
        """Centre the particles on their shape alone: picks may sit a good part of the diameter off the centre.

        Done once, at the lowest band and over the whole range, so that the starts need to look nearby only. Where
        symmetry lets orientations show in finer detail only, the shifts of that range would be far too many.
        """
        random = generator(self.cfg.seed, self.half, 3)
        volume = self._shape()
        for _ in range(CENTRE_SETTLE):
            stage = self.stage(self.shape_band, self.reach_px, random)
            volume, _ = self.iterate(volume, stage, self.weighted[self._draw(random)])
        for factor in (1.0, 1.5, 2.0):
            coarse = self.stage(self.shape_band, 0.0, random)
            stage = replace(self.stage(factor * self.shape_band, self.reach_px), rotations=coarse.rotations)
            volume, found = self.iterate(volume, stage, self.weighted)
            self.take_shifts(stage, found)

    def _shape(self) -> Tensor:
        """The likeliest of several coarse maps from random starts.

        A false one moves particles away from their centres, and no later start makes up for that.
        """
        band = CENTRE_BAND * self.shape_band
        found = []
        for number in range(CENTRE_STARTS):
            random = generator(self.cfg.seed, self.half, 6, number)
            volume = self.random_map(random, band)
            for _ in range(CENTRE_ITERATIONS):
                stage = self.stage(band, self.reach_px, random)
                volume, _ = self.iterate(volume, stage, self.weighted[self._draw(random)])
            found.append((self.evidence(volume, band, self.reach_px), volume))
        log.info("half %d: shape at log-likelihoods %s", self.half, ", ".join(f"{e:.2f}" for e, _ in found))
        return max(found, key=lambda one: one[0])[1]

    def take_shifts(self, stage: Stage, found: Expectation) -> None:
        """Move every particle by its likeliest shift."""
        self.weighted = self.weighted.moved(self.plane.phases(stage.shifts_px[found.shift]))
        self.reach_px = self.left_px(stage.plane, self.reach_px)

    def explore(self, number: int) -> Start:
        """A random start in the lowest band."""
        random = generator(self.cfg.seed, self.half, 1, number)
        volume = self.random_map(random, self.lowest)
        volume, trace = self._wander(volume, self.lowest, self.cfg.n_iterations, random)
        for band in (self.lowest, self.judged):
            volume, _ = self.iterate(volume, self.stage(band, 0.0, random), self.weighted[self.sample])
        evidence = self.evidence(volume, self.judged, 0.0)
        log.info("half %d, start %d: log-likelihood %.3f per particle", self.half, number + 1, evidence)
        return Start(number, volume, evidence, [*trace, evidence])

    def advance(self, start: Start) -> Start:
        """Bring a start to the first band."""
        random = generator(self.cfg.seed, self.half, 4, start.number)
        volume, trace = start.volume, list(start.trace)
        for factor, iterations in ADVANCE:
            volume, more = self._wander(volume, max(self.lowest, factor * self.band), iterations, random)
            trace += more
        for _ in range(SETTLE_ITERATIONS):
            stage = self.stage(self.band, self.reach_px / 2, random)
            volume, _ = self.iterate(volume, stage, self.weighted[self.sample])
        evidence = self.evidence(volume, self.band, self.reach_px / 2)
        log.info("half %d, start %d goes on: %.3f per particle", self.half, start.number + 1, evidence)
        return Start(start.number, volume, evidence, [*trace, evidence])

    def evidence(self, volume: Tensor, band: float, reach_px: float) -> float:
        """Log-likelihood per particle of the sample, on a grid that is the same for all starts."""
        stage = self.stage(band, reach_px)
        images = self.weighted[self.sample].within(len(stage.plane))
        phases = stage.plane.phases(stage.shifts_px)
        found = log_evidence(images, self.references(volume, stage), phases)
        return float(found.mean())

    def _wander(
        self, volume: Tensor, band: float, iterations: int, random: torch.Generator
    ) -> tuple[Tensor, list[float]]:
        """Iterations on particles drawn anew."""
        trace = []
        reach = self.reach_px / 2 if band >= self.band else 0.0
        for _ in range(iterations):
            stage = self.stage(band, reach, random)
            volume, found = self.iterate(volume, stage, self.weighted[self._draw(random)])
            volume = self._recentre(volume)
            trace.append(float(found.evidence.mean()))
        return volume, trace

    def _draw(self, random: torch.Generator) -> Tensor:
        """Some particles."""
        return torch.randperm(len(self.weighted), generator=random)[: self.cfg.n_drawn].to(self.device)

    def _recentre(self, volume: Tensor) -> Tensor:
        """Move the map's weight to the centre, by whole voxels, where the symmetry leaves that free."""
        if not self.cfg.symmetry.startswith("C"):
            return volume
        weight = volume.clamp(min=0) ** 2
        line = torch.arange(self.box, device=self.device) - self.box // 2
        total = weight.sum().clamp(min=1e-20)
        centre = [float((weight.sum(dims) * line).sum() / total) for dims in ((1, 2), (0, 2), (0, 1))]
        if self.cfg.symmetry != "C1":
            centre[1] = centre[2] = 0.0
        return volume.roll([-round(c) for c in centre], (0, 1, 2))

    def climb(self, start: Start) -> tuple[Tensor, list[float]]:
        """Higher bands and finer grids; map and trace. The particles' own shifts are as before afterwards."""
        before = self.weighted, self.reach_px
        random = generator(self.cfg.seed, self.half, 2)
        volume, trace = start.volume, list(start.trace)
        reached = 0
        for factor, iterations in ((1.0, 1), *CLIMB):
            pixels = len(self.plane.within(factor * self.band))
            if pixels == reached:  # the images hold no finer detail
                break
            reached = pixels
            for left in reversed(range(iterations)):
                stage = self.stage(factor * self.band, self.reach_px, random)
                images = self.weighted[self.sample] if left else self.weighted
                volume, found = self.iterate(volume, stage, images)
                trace.append(float(found.evidence.mean()))
            self.take_shifts(stage, found)
        self.weighted, self.reach_px = before
        return volume, trace


def _turn(random: torch.Generator) -> Tensor:
    """A random rotation."""
    q = torch.randn(1, 4, generator=random)
    return quaternion_to_matrix(q / q.norm())[0]
