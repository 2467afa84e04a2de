"""From half maps to the maps that people look at: raw halves at given poses, the filtered mean, its mask."""

from __future__ import annotations

import torch
from torch import Tensor

from emflow.em.batches import in_batches
from emflow.em.fsc import first_below, radial_average, shell_index
from emflow.em.images import ImageSet, noise_spectra
from emflow.em.masks import soft_sphere, solvent_mask
from emflow.em.search import WeightedImages
from emflow.em.sharpen import fit_line, fsc_weight, log_amplitude, range_suffices
from emflow.em.slices import HalfPlane, complex_product
from emflow.em.wiener import Accumulator
from emflow.reconstruct.agreement import Agreement

GUINIER_FROM_ANGSTROM = 10.0
"""The fall-off of protein follows Wilson's statistics from here on (Rosenthal and Henderson 2003)."""


def accumulate(
    images: ImageSet,
    rows: Tensor,
    rotations: Tensor,
    shifts_px: Tensor,
    noise: Tensor,
    plane: HalfPlane,
    symmetry: str,
) -> Accumulator:
    """Sums of images at their poses, weighted by their noise (G, S): to be solved for a map.

    Parameters
    ----------
    images, rows
        The n images.
    rotations, shifts_px
        The pose of each, (n, 3, 3) and (n, 2), or D poses that are equally likely, (n, D, 3, 3) and (n, D, 2); on
        the CPU.
    noise
        Noise spectra.
    plane
        Pixels to insert.
    symmetry
        Point group.
    """
    sums = Accumulator(images.box, float(plane.radius[-1]), 2, symmetry, images.device)
    inverse = 1 / noise[:, plane.shell].clamp(min=1e-20)
    if rotations.ndim == 3:
        rotations, shifts_px = rotations[:, None], shifts_px[:, None]

    def add(here: slice, part: Tensor, transforms: Tensor, ctf: Tensor) -> None:
        weighted = WeightedImages.make(transforms, ctf, inverse[images.group[part].to(images.device)])
        power = weighted.power / rotations.shape[1]
        turned, moved = rotations[here].to(images.device), shifts_px[here].to(images.device)
        for pose in range(
            rotations.shape[1]
        ):  # each by itself: what is added already must not be added again

            def insert(piece: slice, pose: int = pose) -> None:
                phases = plane.phases(moved[piece, pose])
                centred = complex_product(weighted.data[piece], phases) / rotations.shape[1]
                sums.add(centred, power[piece], turned[piece, pose], plane)

            in_batches(insert, len(part), len(part), "images in a map")

    images.each(rows, plane, add, "images in a map")
    return sums


def reconstruct_halves(
    images: ImageSet, rotations: Tensor, shifts_px: Tensor, symmetry: str
) -> tuple[Tensor, Tensor]:
    """Raw half maps of images at given poses, (N, 3, 3) and (N, 2) on the CPU; the noise is their mean power."""
    plane = images.plane(images.box / 2)
    halves = []
    for number in (1, 2):
        rows = images.rows(number)
        noise = noise_spectra(images, rows, plane)
        sums = accumulate(images, rows, rotations[rows], shifts_px[rows], noise, plane, symmetry)
        halves.append(sums.solve())
    return halves[0], halves[1]


def merge(
    half1: Tensor, half2: Tensor, curve: Tensor, voxel_size_angstrom: float, bfactor_angstrom2: float | None
) -> tuple[Tensor, float]:
    """Mean of two raw half maps, each shell weighted by √(2F/(1 + F)) to where F falls below 0.143, sharpened.

    Parameters
    ----------
    half1, half2
        Shape (n, n, n).
    curve
        FSC of the halves, (S,).
    voxel_size_angstrom
        Voxel size.
    bfactor_angstrom2
        Applied as exp(−B/4·s²), negative to sharpen; None fits it (Guinier plot) where the map reaches
        beyond 10 Å by a third, and is 0 elsewhere.

    Returns
    -------
    The map, and the B factor applied.

    Source: P. B. Rosenthal & R. Henderson, J. Mol. Biol. 333 (2003) 721.
    """
    n = half1.shape[-1]
    index = shell_index(n, device=half1.device)
    shell = first_below(curve, 0.143)
    last = (len(curve) if shell is None else shell) - 1
    weight = fsc_weight(curve).to(half1.device)
    weight[last + 1 :] = 0
    spectrum = torch.fft.rfftn(0.5 * (half1 + half2))
    extent = n * voxel_size_angstrom
    bfactor = bfactor_angstrom2
    if bfactor is None:
        bfactor = _guinier(spectrum, weight, index, last, extent)
    s2 = (torch.arange(len(weight), device=weight.device) / extent) ** 2
    weight = weight * torch.exp(-bfactor / 4 * s2)
    padded = torch.nn.functional.pad(weight, (0, 1)).float()  # the corners' shell
    return torch.fft.irfftn(spectrum * padded[index], s=(n, n, n)), bfactor


def _guinier(spectrum: Tensor, weight: Tensor, index: Tensor, last: int, extent: float) -> float:
    """B factor that levels the fall-off of the weighted amplitudes: 4 × the slope of ln⟨|F|⟩ against s²."""
    if last == 0 or not range_suffices(extent / last, GUINIER_FROM_ANGSTROM, extent):
        return 0.0
    weighted = log_amplitude((radial_average(spectrum.abs(), index) * weight).cpu())
    s2 = (torch.arange(len(weighted), dtype=torch.float64) / extent) ** 2
    line = fit_line(s2, weighted, GUINIER_FROM_ANGSTROM, extent / last)
    return round(min(0.0, 4 * line.slope), 1) if line is not None else 0.0


def particle_mask(volume: Tensor, agreement: Agreement) -> Tensor:
    """Soft solvent mask of the halves' mean; the particle's sphere where no structure was found."""
    voxel, claim = agreement.voxel_size_angstrom, agreement.claim_angstrom
    edge = max(12.0, 5 * voxel)
    radius_px = min(0.55 * agreement.diameter_angstrom / voxel, volume.shape[-1] / 2 - 3)
    sphere = soft_sphere(volume.shape[-1], radius_px, edge / voxel, device=volume.device)
    if claim is None:
        return sphere
    lowpass = max(15.0, 1.5 * claim)
    found = solvent_mask(volume * sphere, voxel, lowpass_angstrom=lowpass, edge_angstrom=edge)
    return found.mask if found.found else sphere
