"""The maps for the eye: the mean of two raw half maps, sharpened as a whole and filtered voxel by voxel."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from emflow.em.local_filter import blend_bands
from emflow.em.local_resolution import LocalResolution, local_weights
from emflow.em.sharpen import Sharpened, deconvolved, range_suffices, sharpen
from emflow.reconstruct.agreement import Agreement, compare
from emflow.reconstruct.config import ReconstructSharpen
from emflow.reconstruct.merge import particle_mask


@dataclass(frozen=True)
class SharpenedMaps:
    """Maps for the eye, (n, n, n), and how they came about."""

    whole: Tensor
    """Sharpened with one weight per shell; 0 where the halves agree on nothing."""
    local: Tensor
    """The same B factor, every voxel weighted and filtered by its own FSC."""
    mask: Tensor
    agreement: Agreement
    made: Sharpened | None
    """None where the halves agree on nothing."""
    resolution: LocalResolution | None
    fitted: bool
    """Whether the B factor was fitted and applied."""
    reach_suffices: bool
    """Whether the map is fine enough for a fit."""


def sharpen_halves(
    half1: Tensor,
    half2: Tensor,
    voxel_size_angstrom: float,
    diameter_angstrom: float,
    cfg: ReconstructSharpen,
    *,
    mask: Tensor | None = None,
    mtf: Tensor | None = None,
) -> SharpenedMaps:
    """Sharpen the mean of two raw half maps; the halves themselves are only read.

    Parameters
    ----------
    half1, half2
        Raw half maps, (n, n, n).
    voxel_size_angstrom, diameter_angstrom
        Voxel size, and diameter of the particle.
    cfg
        Settings.
    mask
        Soft mask of the particle; None makes one from the mean of the halves.
    mtf
        Modulation transfer of the detector at each shell, (n//2 + 1,), to be divided out; None is 1.

    Source: Rosenthal & Henderson, J. Mol. Biol. 333, 721 (2003); local FSC after Cardone, Heymann & Steven,
    J. Struct. Biol. 184, 226 (2013).
    """
    voxel, size = voxel_size_angstrom, half1.shape[-1] * voxel_size_angstrom
    mean = torch.lerp(half1, half2, 0.5)
    agreement = compare(half1, half2, voxel, diameter_angstrom, cfg.symmetry)
    mask = particle_mask(mean, agreement) if mask is None else mask
    if agreement.found:
        agreement = compare(half1, half2, voxel, diameter_angstrom, cfg.symmetry, mask)
    resolution = agreement.claim_angstrom
    if resolution is None:
        nothing = torch.zeros_like(mean)
        return SharpenedMaps(nothing, nothing.clone(), mask, agreement, None, None, False, False)
    finest = max(resolution, cfg.bfactor_fit_to_angstrom or resolution)
    suffices = range_suffices(finest, cfg.bfactor_fit_from_angstrom, size)
    fit = cfg.bfactor_angstrom2 is None and suffices
    used = cfg if fit else cfg.model_copy(update={"bfactor_angstrom2": cfg.bfactor_angstrom2 or 0.0})
    made = sharpen(mean, agreement.whole, resolution, voxel, used, mtf=mtf, mask=mask)
    if fit and made.bfactor_angstrom2 > 0:  # amplitudes that rise are noise: never blurred to hide it
        fit, used = False, cfg.model_copy(update={"bfactor_angstrom2": 0.0})
        made = sharpen(mean, agreement.whole, resolution, voxel, used, mtf=mtf, mask=mask)
    weights, local = local_weights(half1, half2, mask, voxel, cfg)
    raised = deconvolved(mean, made.bfactor_angstrom2, voxel, mtf)
    (filtered,) = blend_bands((raised,), weights, voxel)
    fitted = fit and made.line is not None
    return SharpenedMaps(made.volume, filtered, mask, agreement, made, local, fitted, suffices)
