"""Particle images as the verbs take them: read in batches, transformed, with their CTF and noise."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import zip_longest
from typing import Protocol

import torch
from torch import Tensor

from emflow.device import free_memory_bytes
from emflow.em.batches import in_batches
from emflow.em.search import WeightedImages
from emflow.em.slices import HalfPlane, complex_product

BATCH = 512
"""Images that are read and transformed at a time, at most."""
_BATCH_PIXELS = 1 << 21
"""Pixels of a batch on a CPU (128 boxes of 128 px, 8 MB); a GPU takes 64 times as many, if its memory allows."""
_PIXEL_BYTES = 48
"""Per pixel of a batch: the image, its transform, the CTF, and both again weighted and shifted."""


class Spectra(Protocol):
    """Fourier pixels of N images, kept ready in memory or on disk."""

    @property
    def scale(self) -> float:
        """What they were divided by."""

    def read(self, rows: Tensor, count: int) -> Tensor:
        """First ``count`` half-plane pixels of some images, (B, count, 2), float16, on the CPU."""


@dataclass(frozen=True)
class ImageSet:
    """N particle images, on disk or wherever ``read`` finds them."""

    read: Callable[[Tensor], Tensor]
    """Rows (B,), on the CPU → images (B, box, box), protein bright, background mean 0 and deviation 1."""
    ctf: Callable[[Tensor, Tensor, Tensor], Tensor]
    """Rows (B,) and frequencies fy, fx (M,) in 1/ångström → CTF (B, M)."""
    box: int
    """Side, in pixels; even."""
    pixel_size_angstrom: float
    half: Tensor
    """Half-set of each, 1 or 2, (N,)."""
    group: Tensor
    """Number of the optics group of each, from 0, (N,): each has its own noise."""
    device: torch.device
    aberration: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None
    """Rows (B,) and frequencies fy, fx (M,) → phases (B, M) whose exp(+iφ) mends odd aberrations; None without."""
    spectra: Spectra | None = None
    """Their transforms, where these are kept ready: then no image is read."""

    def __len__(self) -> int:
        return len(self.half)

    def rows(self, half: int) -> Tensor:
        """Rows of a half-set."""
        return torch.nonzero(self.half == half)[:, 0]

    def plane(self, band: float) -> HalfPlane:
        """Pixels of the images within a band."""
        return HalfPlane.build(self.box, band, self.device)

    @property
    def batch(self) -> int:
        """Images that are read and transformed at a time: fewer of large boxes, so that memory is bounded."""
        room = _BATCH_PIXELS
        if self.device.type == "cuda":
            room = min(64 * _BATCH_PIXELS, free_memory_bytes(self.device) // _PIXEL_BYTES)
        return max(1, min(BATCH, room // self.box**2))

    def transforms(self, rows: Tensor, plane: HalfPlane) -> tuple[Tensor, Tensor]:
        """Fourier pixels (B, 2, M) and CTF (B, M) of some images."""
        return self._transformed(self._fetch(rows, plane), rows, plane)

    def batches(self, rows: Tensor, plane: HalfPlane) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Rows, Fourier pixels and CTF, a batch at a time; the next is read while one is in use."""
        for part, fetched in read_ahead(rows.split(self.batch), lambda part: self._fetch(part, plane)):
            yield part, *self._transformed(fetched, part, plane)

    def each(
        self, rows: Tensor, plane: HalfPlane, work: Callable[[slice, Tensor, Tensor, Tensor], None], what: str
    ) -> None:
        """Call ``work`` on one batch after another, and on parts of a batch that does not fit in memory.

        Parameters
        ----------
        rows, plane
            As in :meth:`batches`.
        work
            Takes the batch's place among ``rows``, its rows, Fourier pixels and CTF. It may be called again on a part:
            see :func:`emflow.em.batches.in_batches`.
        what
            The images, for the log.
        """
        start = 0
        for part, fetched in read_ahead(rows.split(self.batch), lambda part: self._fetch(part, plane)):

            def on_piece(
                here: slice, start: int = start, part: Tensor = part, fetched: Tensor = fetched
            ) -> None:
                place = slice(start + here.start, start + here.stop)
                work(place, part[here], *self._transformed(fetched[here], part[here], plane))

            in_batches(on_piece, len(part), len(part), what)
            start += len(part)

    def _fetch(self, rows: Tensor, plane: HalfPlane) -> Tensor:
        """What the disk has of some images: pixels, or Fourier pixels of half precision."""
        return self.read(rows) if self.spectra is None else self.spectra.read(rows, len(plane))

    def _transformed(self, fetched: Tensor, rows: Tensor, plane: HalfPlane) -> tuple[Tensor, Tensor]:
        extent = self.box * self.pixel_size_angstrom
        fetched = fetched.to(self.device)
        if self.spectra is None:
            pixels = plane.transform(fetched)
        else:
            pixels = (fetched.float() * self.spectra.scale).transpose(1, 2).contiguous()
        return self.mended(pixels, rows, plane), self.ctf(rows, plane.ky / extent, plane.kx / extent)

    def mended(self, pixels: Tensor, rows: Tensor, plane: HalfPlane) -> Tensor:
        """Fourier pixels (B, 2, M) without their odd aberrations."""
        if self.aberration is None:
            return pixels
        extent = self.box * self.pixel_size_angstrom
        phase = self.aberration(rows, plane.ky / extent, plane.kx / extent)
        return complex_product(pixels, torch.stack([torch.cos(phase), torch.sin(phase)], 1))


def read_ahead(parts: Sequence[Tensor], read: Callable[[Tensor], Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """Each part and what ``read`` gives for it; the next is read in another thread while one is in use."""
    parts = [part for part in parts if len(part)]
    with ThreadPoolExecutor(1) as reader:
        coming = reader.submit(read, parts[0]) if parts else None
        for part, following in zip_longest(parts, parts[1:]):
            assert coming is not None
            here = coming.result()
            coming = None if following is None else reader.submit(read, following)
            yield part, here


def weigh(transforms: Tensor, ctf: Tensor, noise: Tensor, group: Tensor, plane: HalfPlane) -> WeightedImages:
    """Weigh images by the noise (G, S) of their groups; the zero frequency, which normalisation sets, counts nothing."""
    inverse = 1 / noise[:, plane.shell].clamp(min=1e-20)
    inverse[:, plane.shell == 0] = 0
    return WeightedImages.make(transforms, ctf, inverse[group.to(noise.device)])


def noise_spectra(images: ImageSet, rows: Tensor, plane: HalfPlane) -> Tensor:
    """Mean power per optics group and shell, (G, S): the noise, as long as it outweighs the signal.

    A group without images among ``rows`` gets the mean of the others.
    """
    groups = int(images.group.max()) + 1 if len(images) else 1
    shells = int(plane.shell[-1]) + 1
    sums = torch.zeros(groups, shells, dtype=torch.float64, device=images.device)
    counts = torch.zeros(groups, dtype=torch.float64, device=images.device)

    def add(place: slice, part: Tensor, transforms: Tensor, ctf: Tensor) -> None:
        group = images.group[part].to(images.device)
        power = shell_means(transforms.square().sum(1), plane).double()
        ones = torch.ones_like(group, dtype=torch.float64)
        sums.index_add_(0, group, power)
        counts.index_add_(0, group, ones)

    images.each(rows, plane, add, "images whose power is measured")
    return spread(sums, counts)


def spread(sums: Tensor, counts: Tensor) -> Tensor:
    """Means of sums (G, S) over counts (G,); groups without a count take the common mean."""
    common = sums.sum(0) / counts.sum().clamp(min=1)
    own = sums / counts.clamp(min=1)[:, None]
    return torch.where(counts[:, None] > 0, own, common).float()


def typical_spectra(power: Tensor, group: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Noise per optics group and shell from spectra of single images, whatever a minority of them holds.

    The median over images, divided by that of a mean over n complex pixels of white noise, (1 − 1/(9n))³
    (Wilson and Hilferty, PNAS 17, 684, 1931).

    Parameters
    ----------
    power
        Per image and shell, (N, S).
    group
        Of each image, from 0, (N,).
    pixels
        Half pixels of each shell, (S,).

    Returns
    -------
    Spectra (G, S), a group without images taking the median of all; images of each group, (G,).
    """
    groups = int(group.max()) + 1
    common = power.median(0).values
    own = [power[group == g].median(0).values if bool((group == g).any()) else common for g in range(groups)]
    shrink = (1 - 1 / (9 * pixels.clamp(min=1).to(power))) ** 3
    return torch.stack(own) / shrink, torch.bincount(group, minlength=groups)


def shell_means(values: Tensor, plane: HalfPlane) -> Tensor:
    """Means of (B, M) over shells: (B, S)."""
    shells = int(plane.shell[-1]) + 1
    sums = values.new_zeros(len(values), shells).index_add_(1, plane.shell, values)
    return sums / torch.bincount(plane.shell, minlength=shells)
