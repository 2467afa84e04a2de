"""A first map from nothing: expectation maximisation over all poses, from random starts.

Each half-set is on its own: its particles, its random starts, its map. From a map of random poses, every
iteration draws some particles, weighs all orientations and shifts of each by their likelihood (Sigworth,
J. Struct. Biol. 122, 328, 1998), and makes the next map from these alone. The small draws make the map
noisy enough to leave false minima, as stochastic gradient descent does (Punjani et al., Nat. Methods 14,
290, 2017), while the full sum over poses needs no step size. Then all particles settle it; the start with
the highest likelihood climbs to finer grids and higher bands. :mod:`emflow.reconstruct.starts` says how many
starts there are.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from emflow.device import generator
from emflow.em.grids import local_rotations, orientation_grid, shift_grid
from emflow.em.images import ImageSet, noise_spectra
from emflow.em.masks import soft_sphere
from emflow.em.poses import quaternion_to_matrix
from emflow.em.search import (
    Expectation,
    References,
    WeightedImages,
    expect,
    likeliest_shifts,
    search_globally,
    search_locally,
)
from emflow.em.slices import HalfPlane, volume_spectrum
from emflow.em.symmetry import symmetry_operators
from emflow.em.wiener import Accumulator
from emflow.reconstruct.config import ReconstructAbinitio
from emflow.reconstruct.images import load_weighted, weigh

log = logging.getLogger("emflow")

SETTLE_ITERATIONS = 3
CENTRE_ITERATIONS = 12
FIRST_BAND_DIAMETERS = 5.0
"""The first band resolves the diameter over this, times the cube root of the symmetry's order."""
CLIMB = ((1.3, 3), (1.6, 3), (2.0, 2))
"""Bands after the first, in its multiples, and their iterations on all particles."""
SPACING = 1.57
"""Spacing of orientations in units of resolution/diameter: denser grids were tried and find no more."""
SHIFT_STEP = 0.25
"""Finest step of shifts, in units of the resolution."""
PRIOR_SSNR = 10.0
"""Signal-to-noise ratio that is assumed of the map in every shell."""


@dataclass(frozen=True)
class Stage:
    """One grid at one band."""

    plane: HalfPlane
    rotations: Tensor
    shifts_px: Tensor


@dataclass(frozen=True)
class HalfMap:
    """What one half-set came to."""

    rows: Tensor
    """Rows of the particles."""
    rotations: Tensor
    """A, (n, 3, 3), on the CPU."""
    shifts_px: Tensor
    """Shifts that centre the particles, (n, 2), on the CPU."""
    volume: Tensor
    """The map that the poses belong to, within the last band and the sphere."""
    noise: Tensor
    """Noise spectra (G, S) to Nyquist."""
    evidence: list[float]
    """Log-likelihood per particle of each start, after it has settled."""
    chosen: int
    trace: list[float]
    """Log-likelihood per particle along the chosen start's iterations."""


@dataclass(frozen=True)
class Start:
    """The end of one random start."""

    volume: Tensor
    shifts_px: Tensor
    """Likeliest shift of each particle that shaped the map, (m, 2)."""
    trace: list[float]
    """Log-likelihood per particle along the iterations; the last, over all particles, is its evidence."""


class HalfSearch:
    """The search in one half-set."""

    def __init__(
        self, images: ImageSet, half: int, diameter_angstrom: float, cfg: ReconstructAbinitio
    ) -> None:
        """Read the half-set's particles (at most ``max_particles``) in the last band."""
        self.images, self.half, self.cfg = images, half, cfg
        self.device = images.device
        self.diameter_px = diameter_angstrom / images.pixel_size_angstrom
        self.order = len(symmetry_operators(cfg.symmetry))
        extent = images.box * images.pixel_size_angstrom
        self.shape_band = FIRST_BAND_DIAMETERS * extent / diameter_angstrom
        finest = diameter_angstrom / (FIRST_BAND_DIAMETERS * self.order ** (1 / 3))
        self.band = extent / (cfg.resolution_angstrom or finest)
        self.rows = images.rows(half)
        drawn = torch.randperm(len(self.rows), generator=generator(cfg.seed, half, 0))[: cfg.max_particles]
        self.plane = images.plane(self.band * CLIMB[-1][0])
        self.reach_px = cfg.shift_fraction * self.diameter_px
        everything = images.plane(images.box / 2)
        self.noise = noise_spectra(images, self.rows[drawn.sort().values], everything)
        self.weighted = load_weighted(images, self.rows[drawn.sort().values], self.plane, self.noise)
        edge = self.diameter_px / 12
        self.mask = soft_sphere(images.box, 0.55 * self.diameter_px, edge, device=self.device)
        self.evidence: list[float] = []
        self.chosen = 0
        self.best: Start | None = None
        self.centre()

    def stage(self, band: float, reach_px: float, turn: Tensor | None = None) -> Stage:
        """Grid of orientations and shifts for a band."""
        plane = self.plane.within(min(band, float(self.plane.radius[-1])))
        rotations = orientation_grid(min(self.spacing_deg(plane), 40.0), self.cfg.symmetry)
        if turn is not None:  # the same orientations never twice: the grid leaves no mark on the map
            rotations = turn @ rotations
        shifts = shift_grid(reach_px, self.shift_step(plane, reach_px))
        return Stage(plane, rotations.to(self.device), shifts.to(self.device))

    def spacing_deg(self, plane: HalfPlane) -> float:
        """Spacing of orientations that a band asks for."""
        return math.degrees(SPACING * self.images.box / float(plane.radius[-1]) / self.diameter_px)

    def shift_step(self, plane: HalfPlane, reach_px: float) -> float:
        """Step of shifts: half of their reach, unless the band asks for a finer one."""
        return max(min(reach_px / 2, SHIFT_STEP * self.images.box / float(plane.radius[-1])), 1e-3)

    def solve(self, sums: Accumulator) -> Tensor:
        """Next map, within the sphere."""
        shells = int(self.plane.shell[-1]) + 2
        return sums.solve(torch.full((shells,), PRIOR_SSNR)) * self.mask

    def random_map(self, random: torch.Generator, band: float) -> Tensor:
        """Map within a band from random poses."""
        plane = self.plane.within(band)
        q = torch.randn(len(self.weighted), 4, generator=random)
        rotations = quaternion_to_matrix(q / q.norm(dim=1, keepdim=True)).to(self.device)
        sums = self._empty(plane)
        images = self.weighted.within(len(plane))
        sums.add(images.data, images.power, rotations, plane)
        return self.solve(sums)

    def _empty(self, plane: HalfPlane) -> Accumulator:
        band = float(plane.radius[-1])
        return Accumulator(self.images.box, band, 2, self.cfg.symmetry, self.device)

    def iterate(self, volume: Tensor, stage: Stage, images: WeightedImages) -> tuple[Tensor, Expectation]:
        """One step of expectation maximisation."""
        band = float(stage.plane.radius[-1])
        references = References.make(volume_spectrum(volume, band), stage.rotations, stage.plane)
        found = expect(images.within(len(stage.plane)), references, stage.plane.phases(stage.shifts_px))
        sums = self._empty(stage.plane)
        sums.add(found.numerator, found.denominator, stage.rotations, stage.plane)
        return self.solve(sums), found

    def centre(self) -> None:
        """Centre the particles on their shape alone: picks may sit a good part of the diameter off the centre.

        Done once, at the lowest band and over the whole range, so that the starts need to look nearby only. Where
        symmetry lets orientations show in finer detail only, the shifts of that range would be far too many.
        """
        random = generator(self.cfg.seed, self.half, 3)
        volume = self.random_map(random, self.shape_band)
        for _ in range(CENTRE_ITERATIONS):
            drawn = self._draw(random)
            stage = self.stage(self.shape_band, self.reach_px, _turn(random))
            volume, _ = self.iterate(volume, stage, self.weighted[drawn])
        for factor in (1.0, 1.5, 2.0):
            stage = self.stage(factor * self.shape_band, self.reach_px, _turn(random))
            volume, found = self.iterate(volume, stage, self.weighted)
            self.take_shifts(stage, stage.shifts_px[found.shift])

    def take_shifts(self, stage: Stage, shifts_px: Tensor) -> None:
        """Move every particle by its likeliest shift; what is left to be found is one step."""
        self.weighted = self.weighted.moved(self.plane.phases(shifts_px))
        self.reach_px = self.shift_step(stage.plane, self.reach_px)

    def explore(self) -> None:
        """Run one more random start, and keep it if it is the likeliest."""
        start = len(self.evidence)
        random = generator(self.cfg.seed, self.half, 1, start)
        volume = self.random_map(random, self.band)
        trace = []
        for _ in range(self.cfg.n_iterations):
            stage = self.stage(self.band, self.reach_px, _turn(random))
            volume, found = self.iterate(volume, stage, self.weighted[self._draw(random)])
            volume = self._recentre(volume)
            trace.append(float(found.evidence.mean()))
        for _ in range(SETTLE_ITERATIONS):
            stage = self.stage(self.band, self.reach_px, _turn(random))
            volume, found = self.iterate(volume, stage, self.weighted)
            trace.append(float(found.evidence.mean()))
        log.info("half %d, start %d: log-likelihood %.3f per particle", self.half, start + 1, trace[-1])
        self.evidence.append(trace[-1])
        if self.best is None or trace[-1] > self.best.trace[-1]:
            self.chosen, self.best = start, Start(volume, stage.shifts_px[found.shift], trace)

    def _draw(self, random: torch.Generator) -> Tensor:
        """Some particles."""
        return torch.randperm(len(self.weighted), generator=random)[: self.cfg.n_drawn].to(self.device)

    def _recentre(self, volume: Tensor) -> Tensor:
        """Move the map's weight to the centre, by whole voxels, where the symmetry leaves that free."""
        if not self.cfg.symmetry.startswith("C"):
            return volume
        weight = volume.clamp(min=0) ** 2
        line = torch.arange(self.images.box, device=self.device) - self.images.box // 2
        total = weight.sum().clamp(min=1e-20)
        centre = [float((weight.sum(dims) * line).sum() / total) for dims in ((1, 2), (0, 2), (0, 1))]
        if self.cfg.symmetry != "C1":
            centre[1] = centre[2] = 0.0
        return volume.roll([-round(c) for c in centre], (0, 1, 2))

    def climb(self, volume: Tensor, trace: list[float]) -> Tensor:
        """Higher bands and finer grids, with all particles."""
        random = generator(self.cfg.seed, self.half, 2)
        reached = 0
        for factor, iterations in CLIMB:
            pixels = len(self.plane.within(factor * self.band))
            if pixels == reached:  # the images hold no finer detail
                break
            reached = pixels
            for _ in range(iterations):
                stage = self.stage(factor * self.band, self.reach_px, _turn(random))
                volume, found = self.iterate(volume, stage, self.weighted)
                trace.append(float(found.evidence.mean()))
            self.take_shifts(stage, stage.shifts_px[found.shift])
        return volume

    def poses(self, volume: Tensor) -> tuple[Tensor, Tensor]:
        """Best pose of every particle of the half-set: rotations and shifts, on the CPU."""
        full = self.cfg.shift_fraction * self.diameter_px
        shape = self.stage(min(self.shape_band, self.band), full)
        reach = self.shift_step(shape.plane, full)
        fine = self.stage(CLIMB[-2][0] * self.band, reach)
        spectrum = volume_spectrum(volume, float(self.plane.radius[-1]))
        shapes = References.make(spectrum, shape.rotations, shape.plane)
        references = References.make(spectrum, fine.rotations, fine.plane)
        spacing, step = self.spacing_deg(fine.plane), self.shift_step(fine.plane, reach)
        rotations, shifts = [], []
        for part, transforms, ctf in self.images.batches(self.rows, self.plane):
            weighted = weigh(transforms, ctf, self.noise, self.images.group[part], self.plane)
            near = likeliest_shifts(
                weighted.within(len(shape.plane)), shapes, shape.plane.phases(shape.shifts_px)
            )
            centre = shape.shifts_px[near]
            weighted = weighted.moved(self.plane.phases(centre))
            found = search_globally(
                weighted.within(len(fine.plane)), references, fine.plane, fine.shifts_px, 8
            )
            for level, keep in ((1, 4), (2, 2), (3, 1)):
                turns = local_rotations(spacing / 2**level).to(self.device)
                moves = shift_grid(step / 2**level, step / 2**level).to(self.device)
                found = search_locally(weighted, spectrum, self.plane, found, turns, moves, keep)
            rotations.append(found.rotations[:, 0].cpu())
            shifts.append((centre + found.shifts_px[:, 0]).cpu())
        return torch.cat(rotations), torch.cat(shifts)

    def finish(self) -> HalfMap:
        """The climb of the likeliest start, and the poses; more starts may follow."""
        assert self.best is not None
        before = self.weighted, self.reach_px
        trace = list(self.best.trace)
        self.take_shifts(self.stage(self.band, self.reach_px), self.best.shifts_px)
        volume = self.climb(self.best.volume, trace)
        self.weighted, self.reach_px = before
        rotations, shifts = self.poses(volume)
        return HalfMap(
            self.rows, rotations, shifts, volume, self.noise, list(self.evidence), self.chosen, trace
        )


def _turn(random: torch.Generator) -> Tensor:
    """A random rotation."""
    q = torch.randn(1, 4, generator=random)
    return quaternion_to_matrix(q / q.norm())[0]
