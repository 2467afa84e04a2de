"""Fourier shell correlation with the conventions of RELION's postprocess.

The half-complex grid of ``rfftn`` is used as it is stored, each element counted once (so the plane
kx = 0 weighs double), a shell is floor(r + ½) of the radius in Fourier pixels, and shells run from 0
to n//2. Own code, because the library (torch-fourier-shell-correlation) shares each element between
two neighbouring shells; a test compares the two.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

_CHUNK = 1 << 20  # elements of a spectrum that are summed at a time
_SLAB = 16  # planes of a spectrum that are turned at a time


def shell_index(size: int, ndim: int = 3, *, device: torch.device | None = None) -> Tensor:
    """Return the shell, floor(r + ½), of each element of ``rfftn`` of a cube (or square, ``ndim`` 2).

    Shape (size, …, size//2 + 1), int64. Elements beyond the last shell n//2 (the corners) are all
    n//2 + 1, so that sums by shell can drop them.
    """
    radius = _radius_squared(size, ndim, device).sqrt_()
    return radius.add_(0.5).floor_().long().clamp_(max=size // 2 + 1)


def _radius_squared(size: int, ndim: int, device: torch.device | None) -> Tensor:
    """Squared radius, in Fourier pixels, of each element of ``rfftn``."""
    full = torch.fft.fftfreq(size, 1 / size, device=device).square()
    half = torch.fft.rfftfreq(size, 1 / size, device=device).square()
    squared = half
    for _ in range(ndim - 1):
        squared = full.reshape(-1, *[1] * squared.ndim) + squared
    return squared


def shell_sum(values: Tensor, index: Tensor) -> Tensor:
    """Sum real ``values`` (..., *index.shape) by shell, in float64.

    Returns
    -------
    Tensor (..., n//2 + 1) for ``index`` from :func:`shell_index`.
    """
    flat = values.reshape(-1, index.numel())
    sums = _chunked_sums((flat,), index, lambda part: part)
    return sums.reshape(*values.shape[: values.ndim - index.ndim], -1)


def _chunked_sums(flat: tuple[Tensor, ...], index: Tensor, product: Callable[..., Tensor]) -> Tensor:
    """Sum ``product`` of tensors (batch, elements) by shell; no temporary is as large as a volume."""
    shells = index.shape[0] // 2 + 1
    batch = max(len(values) for values in flat)
    out = torch.zeros(batch, shells + 1, dtype=torch.float64, device=index.device)
    where = index.reshape(-1).split(_CHUNK)
    for at, *parts in zip(where, *(values.split(_CHUNK, 1) for values in flat), strict=True):
        weights = product(*parts).double()
        if batch == 1:  # twice as fast as index_add_
            out += torch.bincount(at, weights[0], minlength=shells + 1)
        else:
            out.index_add_(1, at, weights)
    return out[:, :shells]


def shell_cross(spectrum1: Tensor, spectrum2: Tensor, index: Tensor) -> Tensor:
    """Sum Re(F₁ F₂*) of half-complex spectra (..., *index.shape) by shell: (..., n//2 + 1), float64.

    Leading axes broadcast; with one spectrum twice it is the shells' power.
    """
    lead = torch.broadcast_shapes(spectrum1.shape[: -index.ndim], spectrum2.shape[: -index.ndim])
    flat = tuple(
        spectrum.expand(*lead, *index.shape).reshape(-1, index.numel()) for spectrum in (spectrum1, spectrum2)
    )
    sums = _chunked_sums(flat, index, lambda a, b: a.real * b.real + a.imag * b.imag)
    return sums.reshape(*lead, -1)


def radial_average(values: Tensor, index: Tensor) -> Tensor:
    """Mean of real ``values`` (..., *index.shape) in each shell of :func:`shell_index`: (..., n//2 + 1), float64."""
    ones = torch.ones(index.shape, device=values.device)
    return shell_sum(values, index) / shell_sum(ones, index)


def fourier_correlation(spectrum1: Tensor, spectrum2: Tensor, index: Tensor) -> Tensor:
    """Correlate two half-complex spectra (..., *index.shape) by shell; see :func:`fsc`."""
    cross = shell_cross(spectrum1, spectrum2, index)
    return normalised(
        cross, shell_cross(spectrum1, spectrum1, index), shell_cross(spectrum2, spectrum2, index)
    )


def normalised(cross: Tensor, power1: Tensor, power2: Tensor) -> Tensor:
    """Divide a cross-spectrum by the root of both powers; 0 where one of them is empty."""
    norm = (power1 * power2).sqrt()
    return torch.where(norm > 0, cross / norm.clamp_min(torch.finfo(torch.float64).tiny), 0.0)


def fsc(volume1: Tensor, volume2: Tensor) -> Tensor:
    """Fourier shell correlation of cubes; of squares (ring correlation) with :func:`frc`.

    Parameters
    ----------
    volume1, volume2
        Real, shape (..., n, n, n), of one box; leading axes are a batch and may broadcast.

    Returns
    -------
    Tensor (..., n//2 + 1), float64: shells 0 … n//2. A shell without power in one of the two is 0.

    Raises
    ------
    ValueError
        If the boxes differ or are no cubes.

    Source: Harauz and van Heel, Optik 73, 146 (1986); binning as in RELION's postprocess.
    """
    return _correlate(volume1, volume2, 3)


def frc(image1: Tensor, image2: Tensor) -> Tensor:
    """Fourier ring correlation of squares (..., n, n), with the conventions of :func:`fsc`."""
    return _correlate(image1, image2, 2)


def _correlate(a: Tensor, b: Tensor, ndim: int) -> Tensor:
    sides = {*a.shape[-ndim:], *b.shape[-ndim:]}
    if a.ndim < ndim or b.ndim < ndim or len(sides) != 1:
        raise ValueError(
            f"expected two equal {'cubes' if ndim == 3 else 'squares'}, got shapes {tuple(a.shape)} and {tuple(b.shape)}"
        )
    dims = tuple(range(-ndim, 0))
    index = shell_index(a.shape[-1], ndim, device=a.device)
    return fourier_correlation(torch.fft.rfftn(a, dim=dims), torch.fft.rfftn(b, dim=dims), index)


def first_below(curve: Tensor, threshold: float) -> int | None:
    """First shell above 0 where ``curve`` (shells,) is below ``threshold``; None if there is none."""
    below = (curve[1:] < threshold).nonzero()
    return int(below[0, 0]) + 1 if len(below) else None


def resolution_at(
    curve: Tensor, threshold: float, box: int, voxel_size_angstrom: float, *, interpolate: bool = False
) -> float | None:
    """Resolution, in ångström, where an FSC curve falls below a threshold.

    Parameters
    ----------
    curve
        Shape (shells,), from shell 0.
    threshold
        0.143 between half maps (Rosenthal and Henderson, J. Mol. Biol. 333, 721, 2003), 0.5 to truth.
    box, voxel_size_angstrom
        Side of the volume in voxels, and the voxel's in ångström: shell i stands at i/(box·voxel).
    interpolate
        False: the last shell before the first below, as RELION states it. True: where the straight line
        between these two shells crosses the threshold (finer, for comparing results).

    Returns
    -------
    None if the curve is below the threshold from shell 1 on; Nyquist (or the last shell) if it never is.
    """
    shell = first_below(curve, threshold)
    last = float(len(curve) - 1) if shell is None else float(shell - 1)
    if last == 0:
        return None
    if interpolate and shell is not None:
        above, below = float(curve[shell - 1]), float(curve[shell])
        last += (above - threshold) / (above - below)
    return box * voxel_size_angstrom / last


def randomise_phases(volume: Tensor, from_shell: int, generator: torch.Generator) -> Tensor:
    """Replace the phases from a shell on by random ones, keeping every amplitude.

    Parameters
    ----------
    volume
        Real, shape (n, n, n).
    from_shell
        Radius in Fourier pixels from which phases are random; the corners beyond n//2 are too.
    generator
        CPU generator: the same numbers on every device.

    Source: Chen et al., Ultramicroscopy 135, 24 (2013).
    """
    spectrum = torch.fft.rfftn(volume, dim=(-3, -2, -1))
    turned = randomise_spectrum(spectrum, from_shell, generator)
    return torch.fft.irfftn(turned, s=tuple(volume.shape[-3:]), dim=(-3, -2, -1))


def randomise_spectrum(spectrum: Tensor, from_shell: int, generator: torch.Generator) -> Tensor:
    """Turn each phase of a spectrum (n, n, n//2 + 1) from a shell on by a random angle; see :func:`randomise_phases`.

    The angles obey Friedel's symmetry, so the amplitudes stay exact. (RELION draws them per stored element
    with C's ``rand``, the plane kx = 0 without symmetry; so its curve differs by a few hundredths.) The few
    elements that are their own mates keep their phase.
    """
    n = spectrum.shape[0]
    angle = torch.rand(spectrum.shape, generator=generator, dtype=spectrum.real.dtype)
    angle = angle.to(spectrum.device).mul_(2 * math.pi)
    # in these planes an element's mate is stored too, and must turn the other way
    for column in {0, n // 2} if n % 2 == 0 else {0}:
        plane = angle[..., column]
        angle[..., column] = plane - plane.flip(0, 1).roll((1, 1), (0, 1))
    angle.mul_(_radius_squared(n, 3, spectrum.device) >= from_shell**2)
    turned = torch.empty_like(spectrum)
    one = angle.new_ones(())
    for out, old, turn in zip(turned.split(_SLAB), spectrum.split(_SLAB), angle.split(_SLAB), strict=True):
        torch.mul(old, torch.polar(one.expand_as(turn), turn), out=out)
    return turned


def corrected_fsc(masked: Tensor, randomised: Tensor, from_shell: int) -> Tensor:
    """FSC corrected for the mask: (t − n)/(1 − n) from shell ``from_shell`` + 2 on, ``masked`` below.

    Parameters
    ----------
    masked, randomised
        FSC of the masked half maps, and of the masked half maps after :func:`randomise_phases`; (shells,).
    from_shell
        First randomised shell; the two next to it keep the masked value, as in RELION.

    Returns
    -------
    Tensor (shells,). Where the randomised curve reaches 1 nothing can be said: 0.
    """
    shells = torch.arange(len(masked), device=masked.device)
    room = 1 - randomised
    true = torch.where(room > 1e-6, (masked - randomised) / room.clamp_min(1e-6), 0.0)
    return torch.where(shells < from_shell + 2, masked, true)
