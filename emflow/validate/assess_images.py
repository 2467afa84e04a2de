"""All that the raw images say about the map, put together."""

from __future__ import annotations

import torch
from torch import Tensor

from emflow.em.fourier import resample
from emflow.em.fsc import fsc
from emflow.em.wiener import Accumulator
from emflow.validate import judge_images as judge
from emflow.validate.config import ValidateParticles
from emflow.validate.figures_images import draw_number, draw_rings, draw_scores
from emflow.validate.finding import Finding
from emflow.validate.images import Agreement, compare_images
from emflow.validate.judge import is_resolved
from emflow.validate.maps import compare_halves
from emflow.validate.number import Draw, NumberFit, draw_of, fit_number
from emflow.validate.outliers import Outliers, find_outliers
from emflow.validate.subsets import Posed, Quarters, accumulate_quarters, band_box

FEWEST = 64
"""Particles a half below which the images are not asked."""


def assess_images(
    posed: Posed, halves: tuple[Tensor, Tensor], mask: Tensor, cfg: ValidateParticles
) -> tuple[Finding, Agreement, Outliers]:
    """Ask the images.

    Parameters
    ----------
    posed
        Images with poses and half-sets, at least :data:`FEWEST` a half.
    halves, mask
        The half maps and their mask, of the images' box and pixel size.
    """
    box, pixel = posed.images.box, posed.images.pixel_size_angstrom
    given = compare_halves(*halves, mask, pixel, cfg)
    last = given.last_shell() if is_resolved(given) else 0
    band = float(min(box // 2 - 1, max(round(cfg.band_resolution * last) + 4, 12)))
    side = band_box(box, band)
    voxel = box * pixel / side
    soft = resample(mask, pixel, side, voxel).clamp(0, 1) if side != box else mask
    draws: list[Draw] = []

    def look(count: int, one: Accumulator, two: Accumulator) -> None:
        draws.append(draw_of(count, one.solve(), two.solve(), soft, voxel, cfg))

    quarters = accumulate_quarters(posed, band, cfg.seed, look)
    rebuilt = _rebuilt(quarters, halves, soft, pixel, last)
    agreement = compare_images(posed, quarters, soft)
    outliers = find_outliers(agreement)
    fit = fit_number(draws, cfg.seed)
    excess = judge.overfitting(agreement.rings, last)
    within = judge.overfitting(agreement.rings, last, within=True)
    count = len(posed.images)
    found = Finding(
        judgements=[
            judge.judge_held_out(agreement, last > 0),
            judge.judge_overfitting(excess, cfg, within),
            judge.judge_rebuilt(rebuilt),
            judge.judge_outliers(outliers, count, cfg),
            judge.judge_number(draws, fit, cfg),
        ],
        metrics=_metrics(agreement, outliers, draws, fit, excess, cfg)
        | {
            "overfitting_within_fraction": within[2] if within else None,
            "rebuilt_correlation": rebuilt,
        },
        figures={
            "agreement": draw_rings(agreement.rings, last),
            "scores": draw_scores(agreement, outliers),
            "number": draw_number(draws, fit),
        },
        details={"rings": _ring_lists(agreement), "subsets": [vars(draw) for draw in draws]},
    )
    return found, agreement, outliers


def _rebuilt(
    quarters: Quarters, halves: tuple[Tensor, Tensor], mask: Tensor, pixel: float, last: int
) -> float | None:
    """Mean FSC, over shells from half the resolution's to it, between given half maps and those made anew."""
    if last < 4:
        return None
    curves = []
    for number, half in enumerate(halves, start=1):
        same = (
            half
            if half.shape[-1] == quarters.box
            else resample(half, pixel, quarters.box, quarters.voxel_size_angstrom)
        )
        curves.append(fsc(same * mask, quarters.whole(number) * mask))
    return float(torch.stack(curves).min(0).values[last // 2 : last + 1].mean())


def _metrics(
    agreement: Agreement,
    outliers: Outliers,
    draws: list[Draw],
    fit: NumberFit | None,
    excess: tuple[float, float, float] | None,
    cfg: ValidateParticles,
) -> dict[str, float | int | None]:
    whole = draws[-1]
    rings = agreement.rings
    last = judge.reach(rings)
    effective = outliers.effective_particles
    return {
        "particles": len(agreement.score),
        "image_score_mean": float(agreement.score.mean()),
        "image_score_usual": outliers.usual_score,
        "image_significance_sd": agreement.significance,
        "image_agreement_reaches_angstrom": rings.box * rings.voxel_size_angstrom / last if last else None,
        "overfitting_excess": excess[0] if excess else None,
        "overfitting_significance_sd": excess[1] if excess else None,
        "overfitting_fraction": excess[2] if excess else None,
        "outliers": outliers.count,
        "outlier_fraction": outliers.count / len(agreement.score),
        "effective_particles": effective,
        "number_resolution_angstrom": whole.resolution_angstrom,
        "number_bfactor_angstrom2": fit.bfactor_angstrom2 if fit else None,
        "number_bfactor_low_angstrom2": fit.bfactor_low_angstrom2 if fit else None,
        "number_bfactor_high_angstrom2": fit.bfactor_high_angstrom2 if fit else None,
        "number_resolution_with_twice_angstrom": fit.resolution_with(2 * whole.particles) if fit else None,
        "number_particles_for_target": (
            fit.particles_for(cfg.target_angstrom) if fit and cfg.target_angstrom is not None else None
        ),
    }


def _ring_lists(agreement: Agreement) -> dict[str, list[float]]:
    rings = agreement.rings
    extent = rings.box * rings.voxel_size_angstrom
    return {
        "frequency_per_angstrom": [i / extent for i in range(len(rings.own))],
        "own": rings.own.tolist(),
        "held_out": rings.held_out.tolist(),
        "own_error": rings.own_error.tolist(),
        "held_out_error": rings.held_out_error.tolist(),
        "difference_error": rings.difference_error.tolist(),
        "phantom": rings.phantom.tolist(),
    }
