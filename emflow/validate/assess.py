"""All parts of the validation of two half maps: each looks at the same evidence and says what it finds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import torch.nn.functional as functional
from torch import Tensor

from emflow.em.atoms import AtomicModel
from emflow.em.fsc import fsc, resolution_at
from emflow.validate import judge
from emflow.validate.angles import judge_coverage
from emflow.validate.config import ValidateMaps
from emflow.validate.figures import draw_fsc, draw_map, draw_views
from emflow.validate.figures_model import draw_hand
from emflow.validate.finding import Finding, pool
from emflow.validate.hand import measure_windings
from emflow.validate.inputs import Mask, views_of
from emflow.validate.judge_model import HAND_LIMIT_ANGSTROM, judge_hand, judge_no_map
from emflow.validate.maps import THRESHOLD, compare_aspherical, compare_halves
from emflow.validate.report_model import score_model
from emflow.validate.tables import curve_lists, curve_metrics, fsc_tables


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
    model: AtomicModel | None = None
    """Atomic model, where one was given; positions relative to the centre n//2, in ångström."""
    model_path: Path | None = None

    def evened(self) -> Evidence:
        """The same on the CPU and in a box of even side: an odd one gains a plane of zeros before each axis."""
        ahead = [self.mean.shape[-1] % 2, 0] * 3
        mean, one, two, mask = (
            functional.pad(v.cpu(), ahead) for v in (self.mean, *self.halves, self.mask.values)
        )
        return replace(self, mean=mean, halves=(one, two), mask=replace(self.mask, values=mask))

    def masked_resolution(self) -> float | None:
        """Resolution at FSC 0.143 of the masked half maps, in ångström: a first, quick estimate."""
        curve = fsc(self.halves[0] * self.mask.values, self.halves[1] * self.mask.values)
        return resolution_at(curve, THRESHOLD, self.mean.shape[-1], self.voxel_size_angstrom)


def assess(evidence: Evidence, cfg: ValidateMaps) -> Finding:
    """Look at the evidence in every way there is."""
    return pool([part(evidence, cfg) for part in (compare, look_at_particles, look_at_model, look_at_hand)])


def compare(evidence: Evidence, cfg: ValidateMaps) -> Finding:
    """FSC curves, resolution, and how far the mask is to blame."""
    voxel, mask = evidence.voxel_size_angstrom, evidence.mask
    curves = compare_halves(*evidence.halves, mask.values, voxel, cfg)
    aspherical = compare_aspherical(*evidence.halves, mask.values, voxel, cfg)
    resolution = curves.resolution() if judge.is_resolved(curves) else None
    return Finding(
        judgements=[
            judge.judge_resolution(
                curves, aspherical, cfg.diameter_angstrom or mask.diameter_angstrom, evidence.quoted
            ),
            judge.judge_starts(evidence.quoted),
            judge.judge_origin(evidence.unrestored),
            judge.judge_mask(curves, mask.edge_px, mask.description),
            judge.judge_residue(curves),
        ],
        metrics=curve_metrics(curves, aspherical, resolution, mask),
        figures={
            "fsc": draw_fsc(curves, resolution),
            "map": draw_map(evidence.mean, voxel, mask.values, resolution),
        },
        details={"mask": mask.description, "curves": curve_lists(curves)},
        tables={"fsc": fsc_tables(curves, evidence.paths, mask.path)},
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


def look_at_model(evidence: Evidence, cfg: ValidateMaps) -> Finding:
    """How well an atomic model, where one was given, explains the map."""
    if evidence.model is None:
        return Finding()
    even = evidence.evened()
    resolution = even.masked_resolution()
    if resolution is None:
        return Finding(judgements=[judge_no_map()])
    return score_model(
        evidence.model,
        evidence.model_path,
        even.mean,
        even.halves,
        even.mask.values,
        even.voxel_size_angstrom,
        resolution,
        cfg.contour_level,
    )


def look_at_hand(evidence: Evidence, cfg: ValidateMaps) -> Finding:
    """Whether the α-helices of the map are right-handed, where they are resolved."""
    if not cfg.hand:
        return Finding()
    even = evidence.evened()
    resolution = even.masked_resolution()
    if resolution is None or resolution > HAND_LIMIT_ANGSTROM:
        return Finding(judgements=[judge_hand(None, resolution)], metrics={"right_hand_probability": None})
    windings = measure_windings(even.mean, even.voxel_size_angstrom, resolution)
    return Finding(
        judgements=[judge_hand(windings, resolution)],
        metrics={
            "right_hand_probability": windings.probability,
            "right_hand_score": windings.score,
            "rods": len(windings.right),
        },
        figures={"hand": draw_hand(windings)} if len(windings.right) else {},
    )
