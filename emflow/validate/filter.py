"""A map low-passed voxel by voxel at its own local resolution."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from emflow.em.masks import cosine_edge
from emflow.validate.bands import radial_frequency


def filter_locally(
    volume: Tensor,
    resolution_angstrom: Tensor,
    mask: Tensor,
    voxel_size_angstrom: float,
    levels_per_octave: int = 5,
) -> Tensor:
    """Low-pass each voxel at its own resolution.

    A bank of low-passes, evenly spaced in the logarithm of the frequency, is run once over the whole map; each
    voxel lies between two of them and takes both, linearly. A low-pass falls as half a cosine over a tenth of
    its cut-off on either side. Nothing is sharpened or weighted.

    Parameters
    ----------
    volume
        Shape (n, n, n).
    resolution_angstrom
        Shape (n, n, n), in ångström, everywhere positive.
    mask
        Values 0…1, multiplied to the result: outside there is no resolution to filter by.
    voxel_size_angstrom
        Voxel size.
    levels_per_octave
        Low-passes per factor of two in resolution.

    Source: the idea is that of local filtering in blocfilt (Cardone, Heymann and Steven, J. Struct. Biol. 184, 226, 2013).
    """
    n = volume.shape[-1]
    level = (1 / resolution_angstrom).log2_().mul_(levels_per_octave)
    first, last = math.floor(float(level.min())), math.ceil(float(level.max()))
    spectrum = torch.fft.rfftn(volume)
    radius = radial_frequency(n, n * voxel_size_angstrom, volume.device)
    out = torch.zeros_like(volume)
    for step in range(first, last + 1):
        weight = (1 - (level - step).abs()).clamp_(0, 1)
        if not bool(weight.any()):
            continue
        cutoff = 2.0 ** (step / levels_per_octave)
        gain = cosine_edge(radius - 0.9 * cutoff, 0.2 * cutoff)
        out.addcmul_(torch.fft.irfftn(spectrum * gain, s=(n, n, n)), weight)
    return out.mul_(mask)
