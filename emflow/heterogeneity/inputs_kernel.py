"""What a kernel decoding reads beside the fit's volumes: the particles' images, and the mask."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from emflow.em.masks import solvent_mask
from emflow.heterogeneity.config import HeterogeneityDecode, HeterogeneityFit
from emflow.heterogeneity.inputs import FittedFolder, open_stack, read_metrics, read_posed
from emflow.heterogeneity.inputs_explore import deviations, read_mask_file
from emflow.heterogeneity.kernel import Functions
from emflow.heterogeneity.kernel_fit import Coordinates, Curved, fit_curved
from emflow.io.star import floats
from emflow.step import EmflowError


def read_curved(
    fitted: Path,
    found: FittedFolder,
    halves: tuple[Tensor, Tensor],
    mask: Path | None,
    cfg: HeterogeneityDecode,
    where: tuple[Path, torch.device],
) -> Curved:
    """Pass over the images of a fit for what they show beyond its linear model; volumes in the units of its maps.

    Parameters
    ----------
    fitted, found
        The fit's folder, and what was read of it.
    halves
        Each half's V0 and components on the principal coordinates.
    mask
        Mask of the particle; None makes one from the fit's mean map.
    where
        Place for the copy of the images' spectra, and the device.

    Raises
    ------
    EmflowError
        If the images cannot be read.
    """
    cache, device = where
    try:
        posed = read_posed(fitted / "particles.star")
    except EmflowError as error:
        raise EmflowError(f"{error} Without the images, give --method linear.") from None
    finest = read_metrics(fitted)["resolution_angstrom"]
    own = HeterogeneityFit(resolution_angstrom=finest, symmetry=cfg.symmetry, seed=cfg.seed)
    stack = open_stack(posed, own, cache, device)
    scale = stack.spectra.scale
    place = {name: row for row, name in enumerate(posed.particles.table["emflowParticleId"])}
    rows = np.array([place[name] for name in found.table["emflowParticleId"]])
    deviation = deviations(found.table, found.latent.shape[1])
    functions = Functions.build(found.latent, deviation, cfg.functions, cfg.width, cfg.seed)
    latent, contrast = np.zeros((len(posed.half), found.latent.shape[1])), np.ones(len(posed.half))
    latent[rows], contrast[rows] = found.latent, floats(found.table, "emflowContrast")
    if mask is None:
        inside = solvent_mask(torch.from_numpy(found.volumes[0]), found.voxel_size_angstrom).mask
    else:
        inside = torch.from_numpy(read_mask_file(mask, posed.box))
    first, second = (half.to(device) / scale for half in halves)
    linear = torch.from_numpy(found.volumes).to(device) / scale
    known = Coordinates(latent, contrast)
    sides = posed.rows(1), posed.rows(2)
    return fit_curved(stack, sides, known, (linear, (first, second)), inside.to(device), functions).times(
        scale
    )
