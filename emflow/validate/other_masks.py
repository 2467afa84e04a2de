"""The FSC within other masks than the one in use: a sphere around it, and one that is tight to the density."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from emflow.em.fsc import fsc, resolution_at
from emflow.em.masks import radius_grid, soft_sphere, solvent_mask
from emflow.validate.config import HalfMaps
from emflow.validate.maps import THRESHOLD

_TIGHT_EDGE_ANGSTROM, _TIGHT_EDGE_PX = 6.0, 3.0


@dataclass(frozen=True)
class OtherMasks:
    """FSC curves, not corrected for their masks, each (shells,), float64, on the CPU."""

    spherical: Tensor
    diameter_angstrom: float
    """Diameter of the sphere."""
    tight: Tensor | None
    """None where no particle rises above the solvent."""
    tight_volume_angstrom3: float | None
    box: int
    voxel_size_angstrom: float

    def resolution(self, curve: str) -> float | None:
        """Resolution at 0.143 of ``spherical`` or ``tight``, in ångström."""
        values = getattr(self, curve)
        return (
            None if values is None else resolution_at(values, THRESHOLD, self.box, self.voxel_size_angstrom)
        )


def compare_other_masks(
    half1: Tensor, half2: Tensor, mask: Tensor, voxel_size_angstrom: float, cfg: HalfMaps
) -> OtherMasks:
    """Compute the FSC within a sphere and within a tight mask.

    The sphere, about n//2, holds all of the mask above ½ and has the automatic mask's edge. The tight mask is
    made as the automatic one, but does not reach beyond the density, has an edge of 6 Å (three voxels at
    least), and stays within the mask in use.

    Parameters
    ----------
    half1, half2
        Raw half maps, (n, n, n).
    mask
        The mask in use, values 0…1, (n, n, n).
    voxel_size_angstrom
        Voxel size.
    """
    n = mask.shape[-1]
    edge_px = max(cfg.mask_edge_angstrom / voxel_size_angstrom, 5.0)
    distance = radius_grid(n, device=mask.device)[mask > 0.5]
    radius_px = min(float(distance.max()) if len(distance) else n / 4, n / 2 - 1)
    sphere = soft_sphere(n, radius_px, edge_px, device=mask.device)
    spherical = fsc(half1 * sphere, half2 * sphere).cpu()
    made = solvent_mask(
        torch.lerp(half1, half2, 0.5),
        voxel_size_angstrom,
        lowpass_angstrom=max(cfg.mask_lowpass_angstrom, 2 * voxel_size_angstrom),
        dilate_angstrom=0,
        edge_angstrom=max(_TIGHT_EDGE_ANGSTROM, _TIGHT_EDGE_PX * voxel_size_angstrom),
        threshold_deviations=cfg.mask_threshold_deviations,
    )
    tight, volume = None, None
    if made.found:
        within = made.mask * mask
        tight = fsc(half1 * within, half2 * within).cpu()
        volume = float(within.sum(dtype=torch.float64)) * voxel_size_angstrom**3
    diameter = 2 * radius_px * voxel_size_angstrom
    return OtherMasks(spherical, diameter, tight, volume, n, voxel_size_angstrom)
