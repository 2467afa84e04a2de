"""Poses of particles against the maps of all classes: everywhere at low resolution, or around the last pose."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from emflow.em.grids import local_rotations, orientation_grid, shift_grid
from emflow.em.poses import quaternion_to_matrix
from emflow.em.search import Poses, References, WeightedImages, search_globally, search_locally
from emflow.em.slices import HalfPlane, Spectrum, volume_spectrum
from emflow.em.symmetry import symmetry_operators
from emflow.reconstruct.class_images import Posed, Specimen
from emflow.reconstruct.images import weigh

SPACING = 1.57
"""Spacing of the global grid in units of resolution/diameter, as in refine."""
FINAL_STEP = 0.25
"""Last angular step, in the same units."""
FIRST_BAND_DIAMETERS = 8.0
"""The global search uses detail down to the diameter over this, times the cube root of the symmetry's order."""
CANDIDATES = 8
"""Orientations of the global grid that are followed, for each class."""


class PoseSearch:
    """How poses are searched: bands, steps and shifts, for a specimen in its box."""

    def __init__(self, specimen: Specimen, relaxed: str, shift_fraction: float) -> None:
        """``relaxed`` is the point group whose operators are all tried for every pose; C1 for none."""
        self.specimen, self.images = specimen, specimen.images
        self.operators = symmetry_operators(relaxed).float()
        self.reach_px = shift_fraction * specimen.diameter_px
        order = len(symmetry_operators(specimen.symmetry))
        widest = self.images.box / 2 - 1
        first = FIRST_BAND_DIAMETERS * order ** (1 / 3) * self.images.box / specimen.diameter_px
        self.first_band = min(first, widest)

    def spacing_deg(self, band: float) -> float:
        """Spacing of orientations that a band asks for."""
        return math.degrees(SPACING * self.images.box / band / self.specimen.diameter_px)

    def candidates(self, rotations: Tensor) -> Tensor:
        """All that a pseudo-symmetry makes of poses: (n, 3, 3) → (n, O, 3, 3)."""
        return rotations[:, None] @ self.operators

    def find(
        self, posed: Posed, maps: Tensor, prior: Tensor, band: float, random: torch.Generator | None
    ) -> Posed:
        """Poses of all particles, each against the class maps of its fold; the likeliest class' pose counts.

        Parameters
        ----------
        posed
            The half-set.
        maps
            (J, K, b, b, b); J = 1: the same for all folds.
        prior
            Fractions of the classes, (K,).
        band
            Highest frequency index that is compared.
        random
            Turns the global grid; None searches around the last pose only.
        """
        plane = self.images.plane(max(band, self.first_band))
        coarse = plane.within(self.first_band)
        rotations, shifts = posed.rotations[:, 0].clone(), posed.shifts_px.clone()
        grid = None
        if random is not None:
            turn = torch.randn(1, 4, generator=random)
            turn = quaternion_to_matrix(turn / turn.norm())[0]
            spacing = self.spacing_deg(float(coarse.radius[-1]))
            grid = turn @ orientation_grid(spacing, self.specimen.symmetry)
        for fold in range(posed.folds):
            places = posed.places(fold)
            own = maps[fold if len(maps) > 1 else 0]
            spectra = [volume_spectrum(volume, float(plane.radius[-1])) for volume in own]
            references = None
            if grid is not None:
                references = [References.make(s, grid.to(plane.kx), coarse) for s in spectra]

            def search(
                here: slice,
                rows: Tensor,
                transforms: Tensor,
                ctf: Tensor,
                places: Tensor = places,
                fold_of: tuple[list[Spectrum], list[References] | None] = (spectra, references),
            ) -> None:
                place = places[here]
                noise = posed.noise[:, : int(plane.shell[-1]) + 1]
                weighted = weigh(transforms, ctf, noise, self.images.group[rows], plane)
                last = Poses(
                    self.candidates(posed.rotations[place, 0]).to(plane.kx),
                    posed.shifts_px[place, None].expand(-1, len(self.operators), -1).to(plane.kx),
                    torch.zeros(len(place), len(self.operators), device=plane.kx.device),
                )
                found = self._likeliest_class(weighted, *fold_of, last, plane, prior)
                rotations[place], shifts[place] = found.rotations[:, 0].cpu(), found.shifts_px[:, 0].cpu()

            self.images.each(posed.rows[places], plane, search, "images whose poses are searched")
        return replace(posed, rotations=self.candidates(rotations), shifts_px=shifts)

    def _likeliest_class(
        self,
        images: WeightedImages,
        spectra: list[Spectrum],
        references: list[References] | None,
        last: Poses,
        plane: HalfPlane,
        prior: Tensor,
    ) -> Poses:
        """Best pose of each image, over all classes."""
        best: Poses | None = None
        for k, spectrum in enumerate(spectra):
            poses = self._climb(images, spectrum, None if references is None else references[k], last, plane)
            score = poses.scores + float(prior[k].clamp(min=1e-12).log())
            if best is None:
                best = Poses(poses.rotations, poses.shifts_px, score)
                continue
            better = score[:, 0] > best.scores[:, 0]
            best = Poses(
                torch.where(better[:, None, None, None], poses.rotations, best.rotations),
                torch.where(better[:, None, None], poses.shifts_px, best.shifts_px),
                torch.where(better[:, None], score, best.scores),
            )
        assert best is not None
        return best

    def _climb(
        self,
        images: WeightedImages,
        spectrum: Spectrum,
        references: References | None,
        last: Poses,
        plane: HalfPlane,
    ) -> Poses:
        """Best pose of each image against one map."""
        band = float(plane.radius[-1])
        coarse = plane.within(self.first_band)
        poses = last
        if references is not None:
            step = max(self.reach_px / 3, 0.5)
            shifts = shift_grid(self.reach_px, step).to(plane.kx)
            poses = search_globally(images.within(len(coarse)), references, coarse, shifts, CANDIDATES)
        final = self.spacing_deg(band) / SPACING * FINAL_STEP
        first = self.spacing_deg(float(coarse.radius[-1])) / 2 if references is not None else 4 * final
        count = max(2, math.ceil(math.log2(max(first / final, 1.0))) + 1)
        for i in range(count):
            share = min(1.0, 1.5 * i / (count - 1)) if references is not None else 1.0
            level = plane.within(float(coarse.radius[-1]) + (band - float(coarse.radius[-1])) * share)
            turns = local_rotations(first / 2**i).to(plane.kx)
            move = math.radians(first / 2**i) * self.specimen.diameter_px / 4
            keep = max(2, 4 - i) if i < count - 1 else 1
            moves = shift_grid(move, move).to(plane.kx)
            poses = search_locally(images.within(len(level)), spectrum, level, poses, turns, moves, keep)
        return poses
