"""Noise as a function of place and seed alone: blocks and families of planes that share a voxel share its noise."""

from __future__ import annotations

import torch
from torch import Tensor

_STEP = -7046029254386353131
_FIRST, _SECOND = -4658895280553007687, -7723592293110705685
"""The numbers of SplitMix64 (G. Steele et al., OOPSLA 2014), as signed integers."""

_SLAB = 8
"""Slices that are made at once: whole numbers take eight times the noise's memory on the way."""

Origin = tuple[int, int, int]


def white(seed: int, origin: Origin, shape: tuple[int, int, int]) -> Tensor:
    """Standard normal noise of the voxels from ``origin`` on.

    It is drawn on the CPU, so that a GPU sees the same numbers.

    Parameters
    ----------
    origin
        Place of the first voxel in the whole volume, z, y, x; may be negative.

    Returns
    -------
    (Z, Y, X), float32.
    """
    out = torch.empty(shape)
    for first in range(0, shape[0], _SLAB):
        part = out[first : first + _SLAB]
        bits = _mixed(torch.tensor(seed, dtype=torch.int64))
        for begin, length in zip((origin[0] + first, *origin[1:]), part.shape, strict=True):
            bits = _mixed(bits[..., None] + torch.arange(begin, begin + length) * _STEP)
        part[:] = torch.special.ndtri((_shifted(bits, 11).double() + 0.5) / 2.0**53)
    return out


def coloured(seed: int, origin: Origin, shape: tuple[int, int, int], kernel: Tensor) -> Tensor:
    """White noise convolved with a kernel of odd sides; (Z, Y, X)."""
    reach = [(side - 1) // 2 for side in kernel.shape]
    wide = [n + 2 * r for n, r in zip(shape, reach, strict=True)]
    z, y, x = (first - r for first, r in zip(origin, reach, strict=True))
    noise = white(seed, (z, y, x), (wide[0], wide[1], wide[2]))
    product = torch.fft.rfftn(noise) * torch.fft.rfftn(kernel.cpu(), s=wide)
    found = torch.fft.irfftn(product, s=wide)
    return found[tuple(slice(2 * r, 2 * r + n) for r, n in zip(reach, shape, strict=True))]


def _mixed(bits: Tensor) -> Tensor:
    """SplitMix64's finaliser."""
    bits = bits + _STEP
    bits = (bits ^ _shifted(bits, 30)) * _FIRST
    bits = (bits ^ _shifted(bits, 27)) * _SECOND
    return bits ^ _shifted(bits, 31)


def _shifted(bits: Tensor, by: int) -> Tensor:
    """Shift right, zeros following."""
    return (bits >> by) & ((1 << (64 - by)) - 1)
