"""Refinement in two halves that share nothing but the particle table and the frame.

Each half starts from its own first map. An iteration finds the poses of a half's particles against that
half's map (globally at first, then from the last pose, in growing bands), reconstructs it from poses drawn
within their uncertainty, and updates its noise. The FSC between the raw half maps then regularises both
(Scheres 2012, J. Struct. Biol. 180, 519) and sets the band of the next iteration. No map, mask or noise
estimate of one half reaches the other.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from emflow.device import generator
from emflow.em.frames import align_nearby
from emflow.em.fsc import first_below, fsc
from emflow.em.grids import local_rotations, orientation_grid, shift_grid
from emflow.em.images import ImageSet, noise_spectra, shell_means, spread
from emflow.em.masks import soft_sphere, solvent_mask
from emflow.em.pose_fit import FIELDS, FittedPoses, climb, fit_poses
from emflow.em.poses import angular_distance_deg, quaternion_to_matrix
from emflow.em.search import References, WeightedImages, search_globally, search_locally
from emflow.em.slices import HalfPlane, Spectrum, complex_product, volume_spectrum
from emflow.em.symmetry import symmetry_operators
from emflow.em.volume_align import align_poses
from emflow.em.wiener import Accumulator, fsc_to_ssnr
from emflow.nn.ranks import Ranks
from emflow.reconstruct.config import ReconstructRefine
from emflow.reconstruct.images import weigh
from emflow.reconstruct.merge import accumulate
from emflow.reconstruct.nonuniform import regularise_locally

log = logging.getLogger("emflow")

SPACING = 1.57
"""Spacing of the global grid in units of resolution/diameter."""
STEPS = 4
"""Steps to the maximum of a particle's likelihood, in one iteration."""
DRAWS = 4
"""Poses drawn from each particle's posterior for the map."""
STILL = 0.25
"""Poses that move by less than this part of their own uncertainty stand still."""
SHIFTS_PER_DIAMETER = 30.0
"""Coarsest grid of shifts: a quarter of the detail that the global search uses."""
FIRST_BAND_DIAMETERS = 8.0
"""The global search uses detail down to the diameter over this, times the cube root of the symmetry's order."""


@dataclass
class HalfState:
    """What one half knows after an iteration."""

    rows: Tensor
    volume: Tensor
    """Reference: regularised and masked, (n, n, n)."""
    noise: Tensor
    """(G, S) to Nyquist."""
    poses: FittedPoses
    """Of its particles, on the CPU."""


@dataclass
class State:
    """Both halves, and the way so far: all that a checkpoint holds."""

    halves: tuple[HalfState, HalfState]
    fsc: Tensor
    """FSC of the raw half maps, as it is inside the particle; (S,), float64, on the CPU."""
    filling: float = 1.0
    """Part of the sphere that the particle fills, by the halves' own masks."""
    iteration: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    finished: bool = False


class Refinement:
    """The iterations."""

    def __init__(
        self, images: ImageSet, diameter_angstrom: float, cfg: ReconstructRefine, ranks: Ranks = Ranks()
    ) -> None:
        """Prepare what does not change; ``ranks`` are the processes that the particles are divided among."""
        self.images, self.cfg, self.device, self.ranks = images, cfg, images.device, ranks
        self.diameter_px = diameter_angstrom / images.pixel_size_angstrom
        order = len(symmetry_operators(cfg.symmetry))
        self.plane = images.plane(images.box / 2)
        self.nyquist = float(self.plane.radius[-1])
        first = FIRST_BAND_DIAMETERS * order ** (1 / 3) * images.box / self.diameter_px
        self.first_band = min(first, self.nyquist)
        self.sphere = soft_sphere(
            images.box, 0.55 * self.diameter_px, max(4.0, self.diameter_px / 16), device=self.device
        )
        self._latest: tuple[tuple[HalfState, HalfState], list[Tensor]] | None = None

    def spacing_deg(self, band: float) -> float:
        """Spacing of orientations that a band asks for."""
        return math.degrees(SPACING * self.images.box / band / self.diameter_px)

    def begin(self, volumes: tuple[Tensor, Tensor], curve: Tensor) -> State:
        """State before the first iteration: each half's first map, and their FSC."""
        halves = []
        for number, volume in enumerate(volumes, start=1):
            rows = self.images.rows(number)
            halves.append(
                HalfState(
                    rows,
                    volume.to(self.device) * self.sphere,
                    noise_spectra(self.images, rows, self.plane),
                    FittedPoses.unknown(len(rows)),
                )
            )
        return State((halves[0], halves[1]), curve)

    def run(self, state: State, keep: Callable[[State], None] = lambda state: None) -> State:
        """Iterate until nothing improves; ``keep`` is called after every iteration."""
        while not state.finished:
            state = self.as_first(self.iterate(state))
            if self.ranks.first:
                keep(state)
        return state

    def as_first(self, state: State) -> State:
        """What the first process has reached, so that all go on from the same bits."""
        if self.ranks.count == 1:
            return state
        says = self.ranks.first_says
        for half in state.halves:
            half.volume, half.noise = says(half.volume), says(half.noise)
            half.poses = FittedPoses(*(says(getattr(half.poses, name)) for name in FIELDS))
        numbers = [state.filling, state.iteration, state.history, state.finished]
        filling, iteration, history, finished = json.loads(self.ranks.first_tells(json.dumps(numbers)))
        return State(state.halves, says(state.fsc), filling, iteration, history, finished)

    def raw_halves(self, state: State) -> list[Tensor]:
        """Raw half maps of a state's poses, kept from the iteration that found them."""
        if self._latest is None or self._latest[0] is not state.halves:
            self._latest = state.halves, [self.accumulate(half).solve() for half in state.halves]
        return self._latest[1]

    def iterate(self, state: State) -> State:
        """One iteration of both halves."""
        band = self.band(state)
        everywhere = state.iteration < self.cfg.global_iterations
        found = []
        for number, half in enumerate(state.halves):
            random = generator(self.cfg.seed, number + 1, state.iteration)
            poses = self.find_poses(half, band, everywhere, random)
            found.append(poses)
        sums = [self.accumulate(half) for half, _ in found]
        raw = [s.solve() for s in sums]
        curve = self.compare(raw, state.filling)
        references = self.regularise(sums, raw, curve)
        moved = self.bring_back(found[1][0], [volume for volume, _ in references])
        # what follows from sums alone is worked out by every process; where rounding might part them, the first counts
        moved = self.ranks.first_tells(str(int(moved))) == "1"
        if moved:
            sums[1] = self.accumulate(found[1][0])
            raw[1] = sums[1].solve()
            curve = self.compare(raw, state.filling)
            references = self.regularise(sums, raw, curve)
        for (half, _), (reference, _) in zip(found, references, strict=True):
            half.volume = reference
        filling = max(share for _, share in references)
        change = [c for _, c in found]
        entry = {
            "iteration": state.iteration + 1,
            "band": band,
            "shell": self.last_shell(curve),
            "pose_change_deg": float(torch.cat(change).median()),
            "pose_sigma_deg": float(torch.cat([half.poses.rotation_sigma_deg for half, _ in found]).median()),
            "realigned": float(moved),
        }
        history = [*state.history, entry]
        log.info(
            "iteration %d: %s, band %.1f Å, FSC 0.143 at %.2f Å, poses moved by %.2f° of ±%.2f°",
            entry["iteration"],
            "global" if everywhere else "local",
            self.extent / band,
            self.extent / max(entry["shell"], 1),
            entry["pose_change_deg"],
            entry["pose_sigma_deg"],
        )
        new = State((found[0][0], found[1][0]), curve, filling, state.iteration + 1, history)
        new.finished = self.converged(new)
        self._latest = new.halves, raw
        return new

    @property
    def extent(self) -> float:
        """Side of the box, in ångström: shell i stands at extent/i."""
        return self.images.box * self.images.pixel_size_angstrom

    def last_shell(self, curve: Tensor) -> int:
        """Last shell before the FSC first falls below 0.143."""
        shell = first_below(curve, 0.143)
        return (len(curve) if shell is None else shell) - 1

    def band(self, state: State) -> float:
        """Band of the next iteration: a little beyond where the halves agree, never by leaps."""
        agreed = self.last_shell(state.fsc)
        limit = 1.6 * state.history[-1]["band"] if state.history else 1.5 * self.first_band
        return min(max(agreed + 2.0, 0.6 * self.first_band), limit, self.nyquist)

    def find_poses(
        self, half: HalfState, band: float, everywhere: bool, random: torch.Generator
    ) -> tuple[HalfState, Tensor]:
        """Poses of a half's particles against its own map; also its new noise. Second: by how much they moved."""
        plane = self.plane.within(band)
        spectrum = volume_spectrum(half.volume, band)
        coarse = self.plane.within(min(self.first_band, band))
        references = None
        if everywhere:
            spacing = self.spacing_deg(float(coarse.radius[-1]))
            q = torch.randn(1, 4, generator=random)
            grid = quaternion_to_matrix(q / q.norm())[0] @ orientation_grid(spacing, self.cfg.symmetry)
            references = References.make(spectrum, grid.to(self.device), coarse)
        groups = half.noise.shape[0]
        sums = torch.zeros(half.noise.shape, dtype=torch.float64, device=self.device)
        counts = torch.zeros(groups, dtype=torch.float64, device=self.device)
        mine = self.ranks.share(len(half.rows))
        out: list[FittedPoses] = []
        normal = torch.randn(len(half.rows), 1, 5, generator=random)

        def find(place: slice, part: Tensor, transforms: Tensor, ctf: Tensor) -> None:
            here = slice(mine.start + place.start, mine.start + place.stop)
            group = self.images.group[part]
            weighted = weigh(transforms, ctf, half.noise, group, self.plane)
            inside = weighted.within(len(plane))
            if references is not None:
                found = self._search(weighted, spectrum, references, coarse, plane)
            else:
                last = half.poses[here].to(self.device)
                found = fit_poses(inside, spectrum, plane, last.rotations, last.shifts_px, STEPS)
            drawn = found.spread_out(normal[here], 1)
            power = self._residual(transforms, ctf, drawn, spectrum, band).double()
            group = group.to(self.device)
            ones = torch.ones_like(group, dtype=torch.float64)
            found = found.to(torch.device("cpu"))
            sums.index_add_(0, group, power)
            counts.index_add_(0, group, ones)
            out.append(found)

        self.images.each(half.rows[mine], self.plane, find, "images whose poses are refined")
        sums, counts = self.ranks.add([sums, counts])
        found = self._of_all(out, len(half.rows))
        group_operators = symmetry_operators(self.cfg.symmetry).float()
        change = angular_distance_deg(
            found.rotations[:, None], half.poses.rotations[:, None] @ group_operators
        ).amin(1)
        new = HalfState(half.rows, half.volume, spread(sums, counts), found)
        return new, change

    def _of_all(self, own: list[FittedPoses], count: int) -> FittedPoses:
        """Poses of all particles of a half, from those that each process has found."""
        mine = self.ranks.share(count)
        whole = [getattr(FittedPoses.unknown(count), name).zero_() for name in FIELDS]
        if own:
            for tensor, name in zip(whole, FIELDS, strict=True):
                tensor[mine] = getattr(FittedPoses.cat(own), name)
        return FittedPoses(*self.ranks.add(whole))

    def _search(
        self,
        weighted: WeightedImages,
        spectrum: Spectrum,
        references: References,
        coarse: HalfPlane,
        plane: HalfPlane,
    ) -> FittedPoses:
        """Poses from nothing: a grid at low resolution, its best halved once, the best of these climbed."""
        reach = self.cfg.shift_fraction * self.diameter_px
        shifts = shift_grid(reach, min(reach / 3, self.diameter_px / SHIFTS_PER_DIAMETER)).to(self.device)
        near = weighted.within(len(coarse))
        poses = search_globally(near, references, coarse, shifts, 8)
        step = self.spacing_deg(float(coarse.radius[-1])) / 2
        move = math.radians(step) * self.diameter_px / 4
        turns = local_rotations(step).to(self.device)
        poses = search_locally(
            near, spectrum, coarse, poses, turns, shift_grid(move, move).to(self.device), 4
        )
        return climb(weighted.within(len(plane)), spectrum, plane, poses, STEPS)

    def _residual(
        self, transforms: Tensor, ctf: Tensor, drawn: tuple[Tensor, Tensor], spectrum: Spectrum, band: float
    ) -> Tensor:
        """Power per shell of what a pose leaves unexplained, (B, S).

        The pose is one drawn from the posterior: the most likely one explains some of the noise as well.
        """
        inside = self.plane.within(band)
        n = len(inside)
        rotations, shifts = drawn
        predicted = spectrum.slices(rotations[:, 0], inside) * ctf[:, None, :n]
        left = transforms.clone()
        left[:, :, :n] -= complex_product(predicted, inside.phases(-shifts[:, 0]))
        return shell_means(left.square().sum(1), self.plane)

    def accumulate(self, half: HalfState) -> Accumulator:
        """Sums of a half's images at poses drawn from their posteriors, to Nyquist."""
        random = generator(self.cfg.seed, 4, int(self.images.half[half.rows[:1]].sum()))
        rotations, shifts = half.poses.drawn(DRAWS, random)
        mine = self.ranks.share(len(half.rows))
        sums = accumulate(
            self.images,
            half.rows[mine],
            rotations[mine],
            shifts[mine],
            half.noise,
            self.plane,
            self.cfg.symmetry,
        )
        (sums.sums,) = self.ranks.add([sums.sums])
        return sums

    def compare(self, raw: list[Tensor], filling: float) -> Tensor:
        """FSC of the raw half maps within the sphere, carried over to the part of it that is particle.

        The sphere holds all of the signal and 1/filling times the particle's noise: with the SSNR raised by
        that factor F becomes F/(F + filling·(1 − F)). No mask touches the maps, so none can raise the FSC.
        """
        curve = fsc(raw[0] * self.sphere, raw[1] * self.sphere).cpu()
        return torch.where(curve > 0, curve / (curve + filling * (1 - curve)), curve)

    def regularise(
        self, sums: list[Accumulator], raw: list[Tensor], curve: Tensor
    ) -> list[tuple[Tensor, float]]:
        """Reference of each half, filtered and within its own mask; the part of the sphere that it fills."""
        shell = self.last_shell(curve)
        cut = curve.clone()
        cut[min(shell + 3, len(cut)) :] = 0
        ssnr = fsc_to_ssnr(cut).float().to(self.device)
        first, second = (half.solve(ssnr) * self.sphere for half in sums)
        masks = [self.solvent(volume, shell) for volume in (first, second)]
        if self.cfg.regularisation == "local":
            pair = (first, second), (raw[0], raw[1])
            found = regularise_locally(*pair, self.sphere, self.images.pixel_size_angstrom)
            first, second = (volume * self.sphere for volume in found)
        references = []
        for volume, mask in zip((first, second), masks, strict=True):
            if mask is None:
                references.append((volume, 1.0))
            else:
                references.append((volume * mask, min(1.0, float(mask.sum() / self.sphere.sum()))))
        return references

    def solvent(self, volume: Tensor, shell: int) -> Tensor | None:
        """Solvent mask of a half's own map; None while it shows too little, or none is asked for."""
        if shell < 1.5 * self.first_band or not self.cfg.solvent_mask:
            return None
        lowpass = max(12.0, 1.5 * self.extent / shell)
        found = solvent_mask(volume, self.images.pixel_size_angstrom, lowpass_angstrom=lowpass)
        return found.mask if found.found else None

    def bring_back(self, half2: HalfState, references: list[Tensor]) -> bool:
        """Undo a drift of half 2's frame against half 1's; whether there was one worth mending."""
        band = max(8, min(24, self.images.box // 2 - 3))
        alignment = align_nearby(references[1], references[0], self.cfg.symmetry, band)
        if alignment is None:
            return False
        angle = float(angular_distance_deg(alignment.rotation, torch.eye(3).double()))
        if angle < 0.1 and float(alignment.shift.norm()) < 0.05:
            return False
        half2.poses = half2.poses.at(*align_poses(half2.poses.rotations, half2.poses.shifts_px, alignment))
        return True

    def converged(self, state: State) -> bool:
        """Whether a local iteration has brought no finer shell and moved hardly any pose, or there were enough."""
        if state.iteration >= self.cfg.max_iterations:
            return True
        shells = [entry["shell"] for entry in state.history]
        last = state.history[-1]
        still = last["pose_change_deg"] < STILL * last["pose_sigma_deg"]
        stuck = len(shells) > 3 and max(shells[-2:]) <= max(shells[:-2])
        finer = len(shells) < 2 or last["shell"] > shells[-2]
        return state.iteration > self.cfg.global_iterations and not finer and (still or stuck)
