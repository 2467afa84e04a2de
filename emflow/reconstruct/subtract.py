"""Particle subtraction: take the projection of what lies outside a mask from each image.

Bai et al., eLife 4, e11182 (2015). The map is that of the particle's own half-set.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from emflow.em.fsc import first_below, fsc, shell_index
from emflow.em.images import ImageSet
from emflow.em.masks import soft_sphere
from emflow.em.slices import HalfPlane, Spectrum, complex_product, volume_spectrum

PADDING = 3
"""Of the subtracted map: finer than in searches, since what interpolation leaves stays in the images."""


@dataclass(frozen=True)
class Outside:
    """The part of each half's map that is subtracted."""

    spectra: tuple[Spectrum, Spectrum]
    """Outside of the mask."""
    whole: tuple[Spectrum, Spectrum]
    """All of the map: what contrast is fitted with."""
    plane: HalfPlane
    centre_px: Tensor
    """Centre of mass of the mask (x, y, z) from the box's centre, (3,)."""


@dataclass(frozen=True)
class Subtracted:
    """A batch of images without the outside."""

    images: Tensor
    """(B, side, side)."""
    shifts_px: Tensor
    """Shifts that centre the new images, (B, 2)."""
    scale: Tensor
    """Contrast of the map in each image, (B,)."""


def wiener_halves(half1: Tensor, half2: Tensor) -> tuple[Tensor, Tensor]:
    """Each half map weighted by the FSC of the two, its best linear estimate, up to where that falls below 0.143.

    The FSC is taken within the inscribed sphere. Half maps without noise stay as they are.
    """
    n = half1.shape[-1]
    sphere = soft_sphere(n, 0.42 * n, 0.06 * n, device=half1.device)
    curve = fsc(half1 * sphere, half2 * sphere)
    shell = first_below(curve, 0.143)
    weight = curve.clamp(0, 1)
    weight[0] = 1
    weight[len(curve) if shell is None else shell :] = 0
    padded = torch.nn.functional.pad(weight, (0, 1)).float()[shell_index(n, device=half1.device)]
    one, two = (torch.fft.irfftn(torch.fft.rfftn(half) * padded, s=(n, n, n)) for half in (half1, half2))
    return one, two


def outside_of(mask: Tensor, halves: tuple[Tensor, Tensor], images: ImageSet) -> Outside:
    """Prepare the subtraction: mask and half maps in the images' box, axes (z, y, x)."""
    plane = images.plane(images.box / 2)
    band = float(plane.radius[-1])
    line = torch.arange(images.box, dtype=torch.float32) - images.box // 2
    total = mask.sum().clamp(min=1e-12)
    moments = [(mask.sum(axes) * line).sum() / total for axes in ((0, 1), (0, 2), (1, 2))]
    spectra = [volume_spectrum((half * (1 - mask)).to(images.device), band, PADDING) for half in halves]
    whole = [volume_spectrum(half.to(images.device), band, PADDING) for half in halves]
    return Outside((spectra[0], spectra[1]), (whole[0], whole[1]), plane, torch.stack(moments))


def subtract_outside(
    images: ImageSet, rows: Tensor, rotations: Tensor, shifts_px: Tensor, outside: Outside, scale: str
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Rows, images (B, n, n) and contrasts (B,), a batch at a time.

    Parameters
    ----------
    images, rows
        Which images.
    rotations, shifts_px
        Poses of all images, (N, 3, 3) and (N, 2).
    outside
        From :func:`outside_of`.
    scale
        ``none``: the map's contrast is right; ``set``: one factor for the rows of each half; ``image``: one each.
    """
    fitted = torch.ones(3)
    if scale == "set":
        sums = torch.zeros(2, 3, dtype=torch.float64)
        for part in rows.split(_BATCH):
            cross, power = _contrast(images, part, rotations, shifts_px, outside)
            sums[0].index_add_(0, images.half[part], cross.double())
            sums[1].index_add_(0, images.half[part], power.double())
        fitted = torch.where(sums[1] > 0, sums[0] / sums[1].clamp(min=1e-30), 1.0).float()
    for part in rows.split(_BATCH):
        if scale == "image":
            cross, power = _contrast(images, part, rotations, shifts_px, outside)
            factor = torch.where(power > 0, cross / power.clamp(min=1e-30), 1.0).clamp(min=0)
        else:
            factor = fitted[images.half[part]]
        predicted = _predict(images, part, rotations, shifts_px, outside.spectra, outside.plane)
        away = to_pixels(predicted * factor[:, None, None].to(predicted), outside.plane).cpu()
        yield part, images.read(part) - away, factor


_BATCH = 256


def _predict(
    images: ImageSet,
    rows: Tensor,
    rotations: Tensor,
    shifts_px: Tensor,
    spectra: tuple[Spectrum, Spectrum],
    plane: HalfPlane,
) -> Tensor:
    """Fourier pixels (B, 2, M) of maps' projections with CTF, each image by its half's map."""
    extent = images.box * images.pixel_size_angstrom
    out = torch.empty(len(rows), 2, len(plane), device=images.device)
    for number, spectrum in enumerate(spectra, start=1):
        here = torch.nonzero(images.half[rows] == number)[:, 0]
        if len(here):
            out[here.to(images.device)] = spectrum.slices(rotations[rows[here]].to(images.device), plane)
    ctf = images.ctf(rows, plane.ky / extent, plane.kx / extent)
    return complex_product(out * ctf[:, None], plane.phases(-shifts_px[rows].to(plane.kx)))


def _contrast(
    images: ImageSet, rows: Tensor, rotations: Tensor, shifts_px: Tensor, outside: Outside
) -> tuple[Tensor, Tensor]:
    """Products of images with their whole map's projections, and of these with themselves: (B,) each."""
    predicted = _predict(images, rows, rotations, shifts_px, outside.whole, outside.plane)
    predicted[..., outside.plane.radius < 0.5] = 0  # the images' mean was set by their normalisation
    observed = outside.plane.transform(images.read(rows).to(images.device))
    return (predicted * observed).sum((1, 2)).cpu(), predicted.square().sum((1, 2)).cpu()


def to_pixels(values: Tensor, plane: HalfPlane) -> Tensor:
    """Images (B, n, n) of Fourier pixels (B, 2, M): the inverse of ``HalfPlane.transform``."""
    n = plane.box
    full = torch.zeros(len(values), n, n // 2 + 1, dtype=torch.complex64, device=values.device)
    scaled = torch.complex(values[:, 0], values[:, 1]) * n
    ky, kx = plane.ky.long(), plane.kx.long()
    full[:, ky % n, kx] = scaled
    own = kx == 0  # in this column the mates are stored too
    full[:, (-ky[own]) % n, 0] = scaled[:, own].conj()
    full[:, 0, 0] = scaled[:, (kx == 0) & (ky == 0)][:, 0].real.to(full.dtype)
    return torch.fft.fftshift(torch.fft.irfft2(full, s=(n, n)), dim=(1, 2))


def centre_on(
    images: Tensor, rotations: Tensor, shifts_px: Tensor, centre_px: Tensor, side: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Cut boxes around a point of the particle, by whole pixels.

    Parameters
    ----------
    images
        (B, n, n).
    rotations, shifts_px
        Their poses.
    centre_px
        The point (x, y, z) from the particle's centre, (3,).
    side
        Of the new boxes; what lies outside of an image is 0, its background.

    Returns
    -------
    New images (B, side, side), the shifts that centre them on the point (B, 2), and which of them reach beyond
    their old image (B,).
    """
    n = images.shape[-1]
    place = (rotations @ centre_px.to(rotations))[:, :2] - shifts_px
    whole = place.round()
    corner = whole.long() + n // 2 - side // 2
    steps = torch.arange(side)
    x, y = corner[:, :1] + steps, corner[:, 1:] + steps
    inside = ((y >= 0) & (y < n))[:, :, None] & ((x >= 0) & (x < n))[:, None]
    cut = images[
        torch.arange(len(images))[:, None, None], y.clamp(0, n - 1)[:, :, None], x.clamp(0, n - 1)[:, None]
    ]
    return cut * inside, whole - place, ~inside.flatten(1).all(1)
