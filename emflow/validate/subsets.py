"""Half maps from parts of the particles: every image is inserted once, into one of four quarters of its half.

Sums of quarters give the maps without a quarter (for cross-validation) and, with the states of a quarter
while it fills, maps from a sixteenth to all of the particles (for resolution against number).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from operator import add

import torch
from torch import Tensor

from emflow.device import generator
from emflow.em.batches import in_batches
from emflow.em.fourier import good_size
from emflow.em.images import ImageSet, noise_spectra
from emflow.em.search import WeightedImages
from emflow.em.slices import HalfPlane, complex_product
from emflow.em.wiener import Accumulator

QUARTERS = 4
_CHECKPOINTS = (0.25, 0.5, 1.0)
"""Parts of a quarter after which its map is looked at."""
_NOISE_IMAGES = 1000
"""Images of which the noise's spectrum is taken."""


@dataclass(frozen=True)
class Posed:
    """Images with poses."""

    images: ImageSet
    rotations: Tensor
    """A, (N, 3, 3)."""
    shifts_px: Tensor
    """Shifts (x, y) that centre the particles, (N, 2)."""
    symmetry: str

    def centred(self, rows: Tensor, plane: HalfPlane) -> tuple[Tensor, Tensor]:
        """Fourier pixels (B, 2, M) of images with the particle moved to the centre, and their CTF (B, M)."""
        transforms, ctf = self.images.transforms(rows, plane)
        phases = plane.phases(self.shifts_px[rows].to(self.images.device))
        return complex_product(transforms, phases), ctf


@dataclass(frozen=True)
class Quarters:
    """The sums of each half's quarters."""

    rows: tuple[list[Tensor], list[Tensor]]
    """Rows of the quarters of half 1 and of half 2, drawn at random."""
    sums: tuple[list[Accumulator], list[Accumulator]]
    noise: Tensor
    """Noise power per optics group and shell, (G, S), signal included."""
    plane: HalfPlane
    voxel_size_angstrom: float
    """Of the maps: they fill the images' box with fewer voxels, as many as the band needs."""

    @property
    def box(self) -> int:
        """Side of the maps, in voxels."""
        return self.sums[0][0].box

    def whole(self, half: int) -> Tensor:
        """Map of all particles of a half (1 or 2)."""
        return reduce(add, self.sums[half - 1]).solve()

    def without(self, half: int, quarter: int) -> Tensor:
        """Map of a half without the particles of one quarter."""
        return reduce(add, [s for number, s in enumerate(self.sums[half - 1]) if number != quarter]).solve()


def band_box(box: int, band: float) -> int:
    """Side of the smallest map, of a size good for an FFT, that holds a band of a box's frequencies."""
    return min(box, good_size(2 * band + 4))


def noise_rows(count: int) -> Tensor:
    """Rows, evenly spread, that tell the noise."""
    return torch.linspace(0, count - 1, min(count, _NOISE_IMAGES)).long()


def accumulate_quarters(
    posed: Posed, band: float, seed: int, look: Callable[[int, Accumulator, Accumulator], None]
) -> Quarters:
    """Insert every image once.

    Parameters
    ----------
    posed
        The particles; each half has at least 16.
    band
        Highest frequency index (of the images' box) that is inserted.
    seed
        Of the order in which the particles of a half are taken.
    look
        Called with a number of particles and the sums of half 1 and half 2 that they make, for 1/16 (four times),
        1/8 (four), 1/4 (four), 1/2 (twice) and all of them. Draws of one size share no particle.

    Returns
    -------
    The quarters. Memory: nine grids of (4·band + 3)³ times 12 bytes, whatever the number of images.
    """
    images = posed.images
    plane = images.plane(band)
    noise = noise_spectra(images, noise_rows(len(images)), plane)
    parts = []
    for half in (1, 2):
        rows = images.rows(half)
        order = torch.randperm(len(rows), generator=generator(seed, half))
        parts.append(list(rows[order].tensor_split(QUARTERS)))
    side = band_box(images.box, band)
    sums: tuple[list[Accumulator], list[Accumulator]] = ([], [])
    for quarter in range(QUARTERS):
        pair = [Accumulator(side, band, 2, posed.symmetry, images.device) for _ in sums]
        done = [0, 0]
        for part in _CHECKPOINTS:
            for half in (0, 1):
                rows = parts[half][quarter]
                end = round(part * len(rows))
                insert(posed, rows[done[half] : end], noise, plane, pair[half])
                done[half] = end
            look(sum(done), pair[0], pair[1])
        for half in (0, 1):
            sums[half].append(pair[half])
        if quarter % 2:
            count = sum(len(parts[half][q]) for half in (0, 1) for q in (quarter - 1, quarter))
            look(count, *(own[-2] + own[-1] for own in sums))
    look(sum(len(rows) for half in parts for rows in half), *(reduce(add, own) for own in sums))
    voxel = images.box * images.pixel_size_angstrom / side
    return Quarters((parts[0], parts[1]), sums, noise, plane, voxel)


def insert(posed: Posed, rows: Tensor, noise: Tensor, plane: HalfPlane, sums: Accumulator) -> None:
    """Add images to a reconstruction, weighted by the noise (G, S) of their groups."""
    inverse = 1 / noise[:, plane.shell].clamp(min=1e-20)
    images = posed.images
    for part in rows.sort().values.split(256):

        def add_some(here: slice, part: Tensor = part) -> None:
            own = part[here]
            centred, ctf = posed.centred(own, plane)
            weighted = WeightedImages.make(centred, ctf, inverse[images.group[own].to(images.device)])
            sums.add(weighted.data, weighted.power, posed.rotations[own].to(images.device), plane)

        in_batches(add_some, len(part), len(part), "images in a map")
