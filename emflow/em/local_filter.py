"""Filters that differ from voxel to voxel: a bank of them is run over the whole map and blended."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from emflow.em.bands import enlarge, radial_frequency
from emflow.em.masks import cosine_edge


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


def blend_bands(
    volumes: Sequence[Tensor], gains: Sequence[tuple[float, Tensor]], voxel_size_angstrom: float
) -> list[Tensor]:
    """Filter maps by a transfer function that differs from voxel to voxel.

    Between the frequencies at which it is given it runs straight in the logarithm of the frequency; before the
    first and beyond the last it is constant. Equal gains everywhere change a map by just that factor.

    Parameters
    ----------
    volumes
        Maps (n, n, n), all filtered alike.
    gains
        Frequencies in 1/Å, ascending, and the gain there at each point of a grid (g, g, g) over the box.
    voxel_size_angstrom
        Voxel size.
    """
    n = volumes[0].shape[-1]
    device = volumes[0].device
    spectra = [torch.fft.rfftn(volume) for volume in volumes]
    place = radial_frequency(n, n * voxel_size_angstrom, device)
    place.clamp_min_(0.5 / (n * voxel_size_angstrom)).log_()
    centres = [math.log(frequency) for frequency, _ in gains]
    out = [torch.zeros_like(volume) for volume in volumes]
    for k, (_, gain) in enumerate(gains):
        if not bool(gain.any()):
            continue
        here, share = enlarge(gain, n), _share(place, centres, k)
        for spectrum, total in zip(spectra, out, strict=True):
            total.addcmul_(torch.fft.irfftn(spectrum * share, s=(n, n, n)), here)
    return out


def _share(place: Tensor, centres: list[float], k: int) -> Tensor:
    """Weight of the k-th centre at each place: 1 there, falling straight to 0 at its neighbours."""
    share = torch.ones_like(place)
    if k > 0:
        share = ((place - centres[k - 1]) / (centres[k] - centres[k - 1])).clamp_(0, 1)
    if k + 1 < len(centres):
        share = share.minimum(((centres[k + 1] - place) / (centres[k + 1] - centres[k])).clamp_(0, 1))
    return share
