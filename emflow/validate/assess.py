"""All parts of the validation of two half maps: each looks at the same evidence and says what it finds."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd
import torch
import torch.nn.functional as functional
from torch import Tensor

from emflow.em.atoms import AtomicModel
from emflow.em.fsc import fsc, resolution_at
from emflow.em.sharpen import sharpen
from emflow.em.symmetry import symmetry_operators
from emflow.figure_guinier import draw_guinier
from emflow.validate import judge, judge_inputs, sanity
from emflow.validate.angles import Coverage, judge_coverage
from emflow.validate.census import count_particles
from emflow.validate.config import ValidateMaps
from emflow.validate.directional import compare_directions, fsc_volume, sum_directions
from emflow.validate.emdb import fsc_xml
from emflow.validate.enhanced import noise_field
from emflow.validate.figures import draw_fsc, draw_map
from emflow.validate.figures_census import draw_particles
from emflow.validate.figures_direction import draw_cones, draw_views
from emflow.validate.figures_inputs import draw_noise
from emflow.validate.figures_model import draw_hand
from emflow.validate.finding import Finding, pool
from emflow.validate.hand import measure_windings
from emflow.validate.inputs import Mask
from emflow.validate.judge_census import judge_census, judge_halves
from emflow.validate.judge_directions import FEW, cone_lists, direction_metrics, judge_directions
from emflow.validate.judge_model import HAND_LIMIT_ANGSTROM, judge_hand, judge_no_map
from emflow.validate.maps import THRESHOLD, HalfMapCurves, compare_halves
from emflow.validate.other_masks import compare_other_masks
from emflow.validate.overlay import overlay
from emflow.validate.poses import views_of
from emflow.validate.report_model import score_model
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
    optics: pd.DataFrame | None
    """Its optics groups, where it has them."""
    quoted: list[dict[str, str]]
    """Verdicts of the reconstruction, where its folder was given."""
    unrestored: list[bool]
    """For each half map, whether its file says that it was made from unrestored pixels."""
    images: list[tuple[float, int]] | None = None
    """Pixel size (Å) and box of the images of each optics group, where the particle table tells."""
    proof: dict[str, bool | None] = field(default_factory=dict)
    """What the reconstruction's files prove of its halves' independence; see ``read_proof``."""
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
    parts = (compare, look_for_faults, look_at_particles, look_at_model, look_at_hand)
    return pool([part(evidence, cfg) for part in parts])


def compare(evidence: Evidence, cfg: ValidateMaps) -> Finding:
    """FSC curves, resolution, how far the mask is to blame; and the sharpened map."""
    voxel, mask = evidence.voxel_size_angstrom, evidence.mask
    curves = compare_halves(*evidence.halves, mask.values, voxel, cfg)
    others = compare_other_masks(*evidence.halves, mask.values, voxel, cfg)
    resolution = curves.resolution() if judge.is_resolved(curves) else None
    tables = fsc_tables(curves, others, evidence.paths, mask.path)
    quoted = list(evidence.quoted)
    record = judge_inputs.judge_records(evidence.proof)
    if record.verdict == "fail":  # no resolution stands on halves that are known to share something
        quoted.append(verdict_row(record))
    found = Finding(
        judgements=[
            judge.judge_resolution(curves, cfg.diameter_angstrom or mask.diameter_angstrom, quoted),
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


def verdict_row(judgement: judge.Judgement) -> dict[str, str]:
    """Return a judgement as a row of ``verdicts.json``."""
    return dict(zip(("question", "verdict", "evidence", "action"), judgement, strict=True))


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


def look_for_faults(evidence: Evidence, cfg: ValidateMaps) -> Finding:
    """Whether the half maps are what they claim to be: a pair, raw, and made apart."""
    half1, half2 = evidence.halves
    voxel, mask = evidence.voxel_size_angstrom, evidence.mask.values
    box = half1.shape[-1]
    order = len(symmetry_operators(cfg.symmetry))
    fraction = max(float(mask.double().mean()), 1e-4)
    diameter = cfg.diameter_angstrom or evidence.mask.diameter_angstrom or 0.6 * box * voxel
    spectra = sanity.pair_spectra(half1, half2)
    moved = overlay(half1, half2, fraction, diameter / voxel, order, spectra.last_shell)
    alike = sanity.likeness(spectra)
    filters = sanity.filtering(half1, half2, spectra)
    around = sanity.solvent(half1, half2, mask)
    noise = noise_field(half1, half2, mask, spectra.last_shell)
    shape = sanity.mask_shape(mask, evidence.mean, spectra.last_shell)
    return Finding(
        judgements=[
            judge_inputs.judge_overlay(moved, voxel),
            judge_inputs.judge_likeness(alike, sanity.chance_ratio(box, order)),
            judge_inputs.judge_filtering(filters, spectra.directional.tolist(), box, voxel),
            judge_inputs.judge_solvent(around, fraction),
            judge_inputs.judge_contrast(*sanity.skewness(evidence.mean, voxel)),
            judge_inputs.judge_scale(box, voxel, evidence.images),
            judge_inputs.judge_rawness(noise),
            judge_inputs.judge_common(noise),
            judge_inputs.judge_mask_shape(shape),
            judge_inputs.judge_records(evidence.proof),
        ],
        metrics={
            "halves_shift_angstrom": math.hypot(*moved.shift_px) * voxel,
            "halves_rotation_deg": moved.rotation_deg,
            "halves_mirrored": int(moved.mirrored),
            "halves_scale": alike.scale,
            "halves_noise_ratio": min(alike.noise_ratio, 1e6),
            "noise_contrast": min(noise.contrast, 1e6),
            "noise_kurtosis": noise.kurtosis,
            "noise_modulation": filters.modulation,
            "noise_rise": filters.rise,
            "solvent_fsc": noise.plateau,
            "solvent_flat_fraction": None if math.isnan(around.flat_fraction) else around.flat_fraction,
            "mask_noise_correlation": shape.noise_correlation,
        },
        figures={"noise": draw_noise(spectra, noise, box, voxel)},
    )


def look_at_particles(evidence: Evidence, cfg: ValidateMaps) -> Finding:
    """What the particle table says by itself, and preferred orientation by its angles and by the map."""
    table = evidence.particles
    views = views_of(table, cfg.symmetry) if table is not None else None
    coverage = judge_coverage(views) if views is not None else None
    directions = _look_at_directions(evidence, coverage)
    if views is not None:
        directions.figures["views"] = draw_views(views)
    return pool([_take_census(evidence, coverage, cfg), directions])


def _look_at_directions(evidence: Evidence, coverage: Coverage | None) -> Finding:
    sums = sum_directions(*evidence.halves, evidence.mask.values, evidence.voxel_size_angstrom)
    cones = compare_directions(sums)
    found = Finding(
        judgements=[judge_directions(coverage, cones)], metrics=direction_metrics(coverage, cones)
    )
    if cones is not None:
        found.figures["directions"] = draw_cones(cones)
        found.details["cones"] = cone_lists(cones)
        found.maps["3dfsc"] = fsc_volume(sums, cones.band_shell)
    return found


def _take_census(evidence: Evidence, coverage: Coverage | None, cfg: ValidateMaps) -> Finding:
    """Halves, doubles, poses, defoci and weights, as the particle table has them."""
    table, optics = evidence.particles, evidence.optics
    if table is None or not len(table):
        return Finding(judgements=[judge_halves(None)])
    mask = evidence.mask
    ball = (6 / math.pi * mask.volume_angstrom3) ** (1 / 3)
    diameter = cfg.diameter_angstrom or mask.diameter_angstrom or ball
    census = count_particles(table, optics, diameter, cfg.double_distance_fraction * diameter, cfg.symmetry)
    factor = coverage.factor if coverage is not None and coverage.particles >= FEW else None
    return Finding(
        judgements=judge_census(census, factor),
        metrics=census.metrics(),
        figures={"particles": draw_particles(table, optics)},
        tables={"flagged": {"particles": census.flagged(table)}},
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
