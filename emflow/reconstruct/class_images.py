"""A half-set's images as classification reads them: posed, weighted by their noise, in folds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from emflow.em.fourier import good_size, resample
from emflow.em.images import ImageSet
from emflow.em.masks import soft_sphere
from emflow.em.search import WeightedImages
from emflow.reconstruct.images import weigh

CACHED_BYTES = 1 << 30
"""Weighted images are kept in memory up to this size; beyond it every pass reads them again."""


@dataclass(frozen=True)
class Posed:
    """What a half-set's particles are taken to be: where they look from, and how noisy they are."""

    rows: Tensor
    """Rows of the image set, (n,)."""
    rotations: Tensor
    """Candidate poses A, (n, O, 3, 3), on the CPU: one, or those that a pseudo-symmetry makes alike."""
    shifts_px: Tensor
    """Shifts (x, y) that centre the particles, (n, 2), on the CPU."""
    noise: Tensor
    """Noise power per optics group and shell, (G, S)."""
    fold: Tensor
    """Fold of each particle, from 0, (n,): it is compared only with maps of the other folds."""
    folds: int

    def __len__(self) -> int:
        return len(self.rows)

    def places(self, fold: int) -> Tensor:
        """Places of a fold's particles within the half-set."""
        return torch.nonzero(self.fold == fold)[:, 0]


class Specimen:
    """What is known of the particle, whatever the class: its sphere, its symmetry, where classes may differ."""

    def __init__(
        self, images: ImageSet, diameter_angstrom: float, symmetry: str, mask: Tensor | None = None
    ) -> None:
        """``mask`` is a soft mask in the images' box: outside of it all classes share one map."""
        self.images, self.symmetry, self.solvent_mask = images, symmetry, True
        self.diameter_px = diameter_angstrom / images.pixel_size_angstrom
        self.mask = None if mask is None else mask.to(images.device)

    def box(self, band: float) -> int:
        """Side of the box, of the images' extent, that holds a band."""
        return min(self.images.box, good_size(2 * (band + 3)))

    def sphere(self, box: int) -> Tensor:
        """Soft sphere of the particle on a grid of ``box`` voxels a side."""
        radius = 0.55 * self.diameter_px * box / self.images.box
        return soft_sphere(box, radius, max(3.0, radius / 8), device=self.images.device)

    def focus(self, box: int) -> Tensor | None:
        """The mask on a grid of ``box`` voxels a side."""
        if self.mask is None or box == self.images.box:
            return self.mask
        return resample(self.mask, 1.0, box, self.images.box / box).clamp(0, 1)


class Weighted:
    """A half-set's images within a band, centred and weighted by their noise; kept in memory if they fit."""

    def __init__(self, images: ImageSet, posed: Posed, band: float) -> None:
        """Nothing is read yet."""
        self.images, self.posed, self.plane = images, posed, images.plane(band)
        small = 12 * len(posed) * len(self.plane) <= CACHED_BYTES
        self._kept: list[tuple[int, Tensor, WeightedImages]] | None = [] if small else None
        self._complete = False

    def batches(self) -> Iterator[tuple[int, Tensor, WeightedImages]]:
        """Fold, places within the half-set (B,), and images, each batch of one fold."""
        if self._kept is not None and self._complete:
            yield from self._kept
            return
        if self._kept is not None:
            self._kept.clear()
        for fold in range(self.posed.folds):
            places, at = self.posed.places(fold), 0
            for rows, transforms, ctf in self.images.batches(self.posed.rows[places], self.plane):
                place = places[at : at + len(rows)]
                at += len(rows)
                noise = self.posed.noise[:, : int(self.plane.shell[-1]) + 1]
                weighted = weigh(transforms, ctf, noise, self.images.group[rows], self.plane)
                phases = self.plane.phases(self.posed.shifts_px[place].to(self.plane.kx))
                batch = weighted.moved(phases)
                if self._kept is not None:
                    self._kept.append((fold, place, batch))
                yield fold, place, batch
        self._complete = True
