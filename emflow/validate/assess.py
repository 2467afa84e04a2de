"""All parts of the validation of two half maps: each looks at the same evidence and says what it finds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from emflow.validate import judge
from emflow.validate.angles import judge_coverage
from emflow.validate.config import ValidateMaps
from emflow.validate.emdb import fsc_xml
from emflow.validate.figures import draw_fsc, draw_map, draw_views
from emflow.validate.figures_sharpen import draw_guinier
from emflow.validate.finding import Finding, pool
from emflow.validate.inputs import Mask, views_of
from emflow.validate.maps import HalfMapCurves, compare_halves
from emflow.validate.other_masks import compare_other_masks
from emflow.validate.sharpen import sharpen
from emflow.validate.tables import (
    curve_lists,
    curve_metrics,
    fsc_tables,
    postprocess_tables,
    sharpening_metrics,
)


@dataclass(frozen=True)
class Evidence:
    """What there is to judge."""

    paths: tuple[Path, Path]
    """Files of the half maps, for messages and tables."""
    halves: tuple[Tensor, Tensor]
    """Raw half maps, each (n, n, n)."""
    mean: Tensor
    """The combined map that was given, or the mean of the halves."""
    voxel_size_angstrom: float
    mask: Mask
    particles: pd.DataFrame | None
    """Particle table (text columns), where one was given."""
    quoted: list[dict[str, str]]
    """Verdicts of the reconstruction, where its folder was given."""
    unrestored: list[bool]
    """For each half map, whether its file says that it was made from unrestored pixels."""


def assess(evidence: Evidence, cfg: ValidateMaps) -> Finding:
    """Look at the evidence in every way there is."""
    return pool([part(evidence, cfg) for part in (compare, look_at_particles)])


def compare(evidence: Evidence, cfg: ValidateMaps) -> Finding:
    """FSC curves, resolution, how far the mask is to blame; and the sharpened map."""
    voxel, mask = evidence.voxel_size_angstrom, evidence.mask
    curves = compare_halves(*evidence.halves, mask.values, voxel, cfg)
    others = compare_other_masks(*evidence.halves, mask.values, voxel, cfg)
    resolution = curves.resolution() if judge.is_resolved(curves) else None
    tables = fsc_tables(curves, others, evidence.paths, mask.path)
    found = Finding(
        judgements=[
            judge.judge_resolution(curves, cfg.diameter_angstrom or mask.diameter_angstrom, evidence.quoted),
            judge.judge_starts(evidence.quoted),
            judge.judge_origin(evidence.unrestored),
            judge.judge_mask(curves, mask.edge_px, mask.description),
            judge.judge_residue(curves),
        ],
        metrics=curve_metrics(curves, others, resolution, mask),
        figures={
            "fsc": draw_fsc(curves, resolution, others),
            "map": draw_map(evidence.mean, voxel, mask.values, resolution),
        },
        details={"mask": mask.description, "curves": curve_lists(curves, others)},
        tables={"fsc": tables},
        texts={
            "fsc.xml": fsc_xml(curves.corrected, curves.box * voxel, "Masked FSC, corrected for the mask")
        },
    )
    return pool([found, sharpened_map(evidence, curves, resolution, cfg)])


def sharpened_map(
    evidence: Evidence, curves: HalfMapCurves, resolution: float | None, cfg: ValidateMaps
) -> Finding:
    """The map as ``relion_postprocess`` makes it; nothing where the halves agree no more than noise."""
    if resolution is None:
        return Finding(metrics=sharpening_metrics(None))
    halves, mask = evidence.halves, evidence.mask
    made = sharpen(torch.lerp(*halves, 0.5), curves.corrected, resolution, evidence.voxel_size_angstrom, cfg)
    return Finding(
        metrics=sharpening_metrics(made),
        figures={"guinier": draw_guinier(made)},
        tables={"postprocess": postprocess_tables(curves, made, evidence.paths, mask.path)},
        maps={"postprocess": made.volume, "postprocess_masked": made.volume * mask.values},
    )


def look_at_particles(evidence: Evidence, cfg: ValidateMaps) -> Finding:
    """Half-sets and directions of view, as the particle table has them."""
    table = evidence.particles
    split = judge.split_of(table) if table is not None else None
    views = views_of(table, cfg.symmetry)
    coverage = judge_coverage(views) if views is not None else None
    return Finding(
        judgements=[judge.judge_halves(split), judge.judge_views(coverage)],
        metrics={
            "half1_particles": split.half1 if split else None,
            "half2_particles": split.half2 if split else None,
            "sampling_factor": coverage.factor if coverage else None,
            "empty_directions_fraction": coverage.empty_fraction if coverage else None,
        },
        figures={"views": draw_views(views)} if views is not None else {},
    )
