"""Cut particles out of one micrograph and normalise them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from emflow.em.fourier import fourier_resize
from emflow.extract.boxes import Box

PIXELS_AT_ONCE = 2**24


@dataclass(frozen=True)
class Cut:
    """Particle images of a micrograph.

    Attributes
    ----------
    images
        Shape (k, n, n), float32: protein bright, background mean 0 and deviation 1.
    kept
        Shape (m,), bool: which of the m positions gave an image.
    outside, flat
        How many were dropped because too much of the box lies outside, or because the background has no noise.
    """

    images: Tensor
    kept: Tensor
    outside: int
    flat: int


def cut_particles(micrograph: Tensor, centres: Tensor, box: Box, invert: bool, max_outside: float) -> Cut:
    """Cut out, bin and normalise particles as RELION does.

    Window [c − N/2, c + N/2) around each integer centre, edges repeated; Fourier crop; a plane fitted
    outside the background radius subtracted; mean 0 and deviation 1 there; inverted last.

    Parameters
    ----------
    micrograph
        Shape (ny, nx).
    centres
        Shape (m, 2), integer (y, x) in pixels.
    box
        Sizes.
    invert
        True when protein is dark in the micrograph.
    max_outside
        Largest part of a box that may lie outside.
    """
    kept = outside_fraction(micrograph.shape, centres, box.cut_px) <= max_outside
    outside = int((~kept).sum())
    # The offset carries no information but costs digits. Sum in double: exact enough for any counts.
    micrograph = micrograph - micrograph.double().mean().to(micrograph.dtype)
    chosen = centres[kept]
    images = micrograph.new_empty(len(chosen), box.size_px, box.size_px)
    sound = torch.ones(len(chosen), dtype=torch.bool, device=micrograph.device)
    step = max(1, PIXELS_AT_ONCE // box.cut_px**2)
    for first in range(0, len(chosen), step):
        part = slice(first, first + step)
        cut = fourier_resize(windows(micrograph, chosen[part], box.cut_px), box.size_px)
        images[part], sound[part] = normalise(cut, box.background_radius_px)
    if invert:
        images = images.neg_()
    if not bool(sound.all()):
        kept = kept.clone()
        kept[kept.nonzero()[:, 0][~sound]] = False
        images = images[sound]
    return Cut(images, kept, outside, int((~sound).sum()))


def outside_fraction(shape: torch.Size, centres: Tensor, side: int) -> Tensor:
    """Part of each box that lies outside an image of shape (ny, nx): shape (m,)."""
    size = torch.tensor(shape, device=centres.device)
    low = (centres - side // 2).clamp(min=0)
    high = torch.minimum(centres - side // 2 + side, size)
    return 1 - (high - low).clamp(min=0).prod(-1) / side**2


def windows(micrograph: Tensor, centres: Tensor, side: int) -> Tensor:
    """Gather the windows [c − N/2, c + N/2): shape (k, N, N); beyond the edge its pixels are repeated."""
    reach = torch.arange(side, device=micrograph.device) - side // 2
    ny, nx = micrograph.shape
    y = (centres[:, :1] + reach).clamp(0, ny - 1)
    x = (centres[:, 1:] + reach).clamp(0, nx - 1)
    return micrograph[y[:, :, None], x[:, None, :]]


def normalise(images: Tensor, radius: float) -> tuple[Tensor, Tensor]:
    """Subtract the background's plane and divide by its standard deviation.

    The plane is fitted by least squares to the pixels further than ``radius`` (pixels) from the centre n//2.

    Returns
    -------
    images (k, n, n), and for each whether its background has any noise (else the image is 0).
    """
    n = images.shape[-1]
    axis = torch.arange(n, device=images.device, dtype=images.dtype) - n // 2
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    background = (y * y + x * x > radius * radius).flatten()
    plane = torch.stack([torch.ones_like(x), y / n, x / n], -1).reshape(-1, 3)
    inverse = torch.linalg.pinv(plane[background].double()).to(images)
    pixels = images.flatten(1)
    size = pixels.abs().amax(1, keepdim=True)
    pixels = pixels - (pixels[:, background] @ inverse.T) @ plane.T
    rest = pixels[:, background]
    deviation = rest.square().mean(1, keepdim=True).sqrt()
    sound = deviation > 1e-6 * size
    scaled = torch.where(sound, pixels / deviation.clamp(min=1e-30), torch.zeros_like(pixels))
    return scaled.reshape(images.shape), sound[:, 0]
