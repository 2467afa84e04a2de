"""What is measured of classes and of single particles; the choice is made from these numbers alone."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from emflow.classify.model import raw_average
from emflow.classify.run import Classes, low_power
from emflow.em.fsc import frc, resolution_at
from emflow.em.masks import radius_grid, rotational_part, soft_sphere

Columns = dict[str, np.ndarray]


def measure_classes(found: Classes, diameter_px: float, pixel_size_angstrom: float) -> Columns:
    """Figures of the K classes.

    Returns
    -------
    ``particles``; ``resolution_angstrom`` (FRC 0.143 between the averages of the half-sets, NaN where there is
    none); ``correlation`` (mean FRC over the band); ``evidence`` (median of its particles, nat); ``off_centre``
    (of the density's mass, in diameters); ``extent`` (of the mass: twice √2 times its radius of gyration, in
    diameters; 1 for a disc, 1.4 for a ring at the rim); ``edge`` (see :func:`_edge`).
    """
    box = found.averages.shape[-1]
    radius = min(0.55 * diameter_px, box / 2 - 3)
    disc = soft_sphere(box, radius, max(2.0, 0.15 * radius), 2, device=found.averages.device)
    half1, half2 = (raw_average(found.sums.grid[half], found.turns) * disc for half in (0, 1))
    curves = frc(half1, half2).cpu()
    curves[:, 0] = 1
    number = found.assigned.number
    count = torch.bincount(number, minlength=len(found.averages)).numpy()
    resolution = [resolution_at(c, 0.143, box, pixel_size_angstrom) if n else None
                  for c, n in zip(curves, count, strict=True)]  # fmt: skip
    band = max(3, int(found.band))
    evidence = found.assigned.evidence.numpy()
    own = [np.median(evidence[number.numpy() == k]) if count[k] else np.nan for k in range(len(count))]
    return {
        "particles": count,
        "resolution_angstrom": np.array([np.nan if r is None else r for r in resolution]),
        "correlation": curves[:, 1 : band + 1].mean(1).numpy(),
        "evidence": np.array(own),
        **shapes(found.averages, diameter_px),
    }


def shapes(averages: Tensor, diameter_px: float) -> Columns:
    """Where the density of averages lies."""
    n = averages.shape[-1]
    radius = radius_grid(n, 2, device=averages.device)
    mass = (averages - 0.25 * averages.amax((1, 2), keepdim=True)).clamp(min=0)
    total = mass.sum((1, 2)).clamp(min=1e-12)
    line = (torch.arange(n, device=averages.device) - n // 2).float()
    x, y = (mass.sum(1) * line).sum(1) / total, (mass.sum(2) * line).sum(1) / total
    spread = (mass * radius.square()).sum((1, 2)) / total - x.square() - y.square()
    return {
        "off_centre": (torch.hypot(x, y) / diameter_px).cpu().numpy(),
        "extent": (2 * (2 * spread.clamp(min=0)).sqrt() / diameter_px).cpu().numpy(),
        "edge": _edge(averages, diameter_px).cpu().numpy(),
    }


def _edge(averages: Tensor, diameter_px: float) -> Tensor:
    """Density at the rim that is no centred particle's, (K,): what the rotational average leaves at 0.42 to 0.55
    diameters, over the deviation of all density within the diameter.

    A hollow shell has its wall at the rim, and defocus leaves a dark halo about it: both are rotationally symmetric.
    """
    radius = radius_grid(averages.shape[-1], 2, device=averages.device)
    ring, inside = (radius > 0.42 * diameter_px) & (radius < 0.55 * diameter_px), radius < 0.5 * diameter_px
    left = averages - rotational_part(averages)
    return left[:, ring].square().mean(1).sqrt() / averages[:, inside].std(1).clamp(min=1e-12)


def measure_particles(found: Classes, first_band: float) -> Columns:
    """Figures of the N particles.

    Returns
    -------
    ``evidence``: log of the likelihood under the classes of the other half-set over that of noise alone, averaged
    over classes, angles and shifts, nat. ``contrast``: factor by which its class fits it best. ``rest_low``,
    ``rest_middle``, ``rest_high``: power that its class leaves, in deviations of noise, in the bands up to a quarter
    of the first band, up to the first band, and beyond. ``strength``: see
    :func:`strength`. ``power``: at low frequency, over the median's.
    """
    told = found.explained
    shells = told.cross.shape[1]
    model = told.model[:, 1:].sum(1)
    contrast = told.cross[:, 1:].sum(1) / model.clamp(min=1e-6)
    edges = (1, max(2, round(first_band / 4)), round(first_band), shells)
    rests = {}
    for name, low, high in zip(("low", "middle", "high"), edges[:-1], edges[1:], strict=True):
        pixels = told.pixels[low:high].sum().clamp(min=1)
        left = (told.image - 2 * told.cross + told.model)[:, low:high].sum(1)
        rests[f"rest_{name}"] = ((left - pixels) / pixels.sqrt()).numpy()
    usual = found.sound[found.assigned.evidence[found.sound] > 0]
    power = low_power(found.power, first_band)
    return {
        "evidence": found.assigned.evidence.numpy(),
        "contrast": torch.where(model > 1e-3, contrast, 0.0).numpy(),
        **rests,
        "strength": strength(found, usual, first_band).numpy(),
        "power": (power / power.median()).numpy(),
    }


def strength(found: Classes, usual: Tensor, band: float) -> Tensor:
    """Signal of each particle over that of most, (N,): 1 is usual, a broken particle has less, an empty box none.

    Power above noise, in the shells from a third of a band to the band, weighed as in a matched filter with the
    signal spectrum of the ``usual`` particles (the median of their power above noise over C²) times the particle's
    own C². It asks for no class and no pose.
    """
    told = found.explained
    shells = slice(max(1, round(band / 3)), round(band) + 1)
    pixels, square = told.pixels[shells], told.ctf[:, shells]
    excess = told.image[:, shells] - pixels
    chosen = usual if len(usual) else torch.arange(len(excess))
    spectrum = (excess[chosen].mean(0) / square[chosen].mean(0).clamp(min=1e-6)).clamp(min=0)
    expected = square * spectrum
    weight = expected / (pixels + expected).square().clamp(min=1e-12) * pixels
    found_power = (excess * weight).sum(1) / (expected * weight).sum(1).clamp(min=1e-9)
    middle = found_power[chosen].median().clamp(min=1e-6)
    return found_power / middle
