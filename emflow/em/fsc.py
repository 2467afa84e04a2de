"""Fourier shell correlation with the conventions of RELION's postprocess.

The half-complex grid of ``rfftn`` is used as it is stored, each element counted once (so the plane
kx = 0 weighs double), a shell is floor(r + ½) of the radius in Fourier pixels, and shells run from 0
to n//2. Own code, because the library (torch-fourier-shell-correlation) shares each element between
two neighbouring shells; a test compares the two.
"""

from __future__ import annotations

import torch
from torch import Tensor

_CHUNK = 1 << 22  # elements of a spectrum that are summed at a time


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
    shells = index.shape[0] // 2 + 1
    flat = values.reshape(-1, index.numel())
    out = torch.zeros(flat.shape[0], shells + 1, dtype=torch.float64, device=values.device)
    for part, where in zip(flat.split(_CHUNK, 1), index.reshape(-1).split(_CHUNK), strict=True):
        out.index_add_(1, where, part.double())
    return out[:, :shells].reshape(*values.shape[: values.ndim - index.ndim], shells)


def radial_average(values: Tensor, index: Tensor) -> Tensor:
    """Mean of real ``values`` (..., *index.shape) in each shell of :func:`shell_index`: (..., n//2 + 1), float64."""
    ones = torch.ones(index.shape, device=values.device)
    return shell_sum(values, index) / shell_sum(ones, index)


def fourier_correlation(spectrum1: Tensor, spectrum2: Tensor, index: Tensor) -> Tensor:
    """Correlate two half-complex spectra (..., *index.shape) by shell; see :func:`fsc`."""
    product = spectrum1.real * spectrum2.real + spectrum1.imag * spectrum2.imag
    cross = shell_sum(product, index)
    power1 = shell_sum(spectrum1.real.square() + spectrum1.imag.square(), index)
    power2 = shell_sum(spectrum2.real.square() + spectrum2.imag.square(), index)
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

    The phases are those of white noise, so they obey Friedel's symmetry and the amplitudes stay exact
    (RELION draws them per stored element with C's ``rand``, so its curve differs by a few hundredths).

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
    noise = torch.randn(volume.shape[-3:], generator=generator, dtype=volume.dtype).to(volume.device)
    phase = torch.fft.rfftn(noise, dim=(-3, -2, -1)).angle()
    chosen = _radius_squared(volume.shape[-1], 3, volume.device) >= from_shell**2
    spectrum = torch.where(chosen, torch.polar(spectrum.abs(), phase), spectrum)
    return torch.fft.irfftn(spectrum, s=tuple(volume.shape[-3:]), dim=(-3, -2, -1))


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
