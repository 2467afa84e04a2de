"""Figures of a project's results against the truth, step by step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from emflow.em.fourier import resample
from emflow.em.volume_align import Alignment
from emflow.em.wiener import PosedImages, reconstruct_from_poses
from emflow.simulate.compare import NO_AGREEMENT, Ctfs, MapAgreement, compare_map, defocus_errors
from emflow.simulate.match import PickScore, match_positions
from emflow.simulate.poses import PoseErrors, pose_errors

Metrics = dict[str, float | int | None]


@dataclass(frozen=True)
class Positions:
    """Positions in micrographs."""

    micrograph: np.ndarray
    """Base name of the micrograph without its suffix, (N,)."""
    xy_px: np.ndarray
    """(N, 2)."""


@dataclass(frozen=True)
class Truth:
    """What the simulation knows."""

    particles: Positions
    rotations: Tensor
    """(N, 3, 3), r_image = A r."""
    ctf: dict[str, tuple[float, float, float]]
    """Micrograph → defocus U, V (Å), angle (deg)."""
    junk: Callable[[str], np.ndarray | None]
    """Mask (y, x) of a micrograph, 1 on carbon and aggregates; None where there is none."""
    volume: Tensor
    pixel_size_angstrom: float
    diameter_angstrom: float
    symmetry: str


@dataclass(frozen=True)
class Stage:
    """Posed particles and the map of one reconstruction."""

    particles: Positions
    """Centres of the extracted boxes."""
    origins_angstrom: np.ndarray
    """rlnOriginX/YAngst, (N, 2): the shift that centres the particle."""
    rotations: Tensor
    image_pixel_size_angstrom: float
    box_px: int
    images: Callable[[np.ndarray, Tensor, Tensor], Iterator[PosedImages]]
    """Rows, their rotations and shifts (px) → batches of images with CTF."""
    volume: Tensor | None
    """The map; None where there is none."""
    voxel_size_angstrom: float
    """Of the map."""


def score_picks(picks: Positions, micrographs: list[str], truth: Truth, match_radius: float) -> Metrics:
    """Precision, recall and F1 over the micrographs that were picked; also how many picks lie on junk.

    Junk holds no true particle, so a pick there counts as false without further ado.
    """
    radius = match_radius * truth.diameter_angstrom / truth.pixel_size_angstrom
    hits, n_truth, on_junk = 0, 0, 0
    distances = []
    for name in micrographs:
        found = picks.xy_px[picks.micrograph == name]
        true = truth.particles.xy_px[truth.particles.micrograph == name]
        i, j = match_positions(found, true, radius)
        hits, n_truth = hits + len(i), n_truth + len(true)
        distances.append(np.linalg.norm(found[i] - true[j], axis=1))
        mask = truth.junk(name)
        if mask is not None and len(found):
            at = np.clip(np.rint(found).astype(int), 0, np.array(mask.shape[::-1]) - 1)
            on_junk += int((mask[at[:, 1], at[:, 0]] > 0.5).sum())
    score = PickScore(hits, int(np.isin(picks.micrograph, micrographs).sum()), n_truth)
    return {
        "pick_micrographs": len(micrographs),
        "pick_truth": score.n_truth,
        "pick_found": score.n_picks,
        "pick_true": score.true_positives,
        "pick_precision": score.precision,
        "pick_recall": score.recall,
        "pick_f1": score.f1,
        "pick_on_junk": on_junk,
        "pick_offset_median_angstrom": _quantile(
            np.concatenate([*distances, []]) * truth.pixel_size_angstrom, 0.5
        ),
    }


def score_ctf(found: dict[str, tuple[float, float, float]], truth: Truth) -> Metrics:
    """Errors of the CTF over the micrographs that have one."""
    names = sorted(set(found) & set(truth.ctf))

    def columns(table: dict[str, tuple[float, float, float]]) -> Ctfs:
        values = np.array([table[name] for name in names]).reshape(-1, 3)
        return values[:, 0], values[:, 1], values[:, 2]

    defocus, astigmatism = defocus_errors(columns(found), columns(truth.ctf))
    return {
        "ctf_micrographs": len(names),
        "ctf_defocus_error_median_angstrom": _quantile(defocus, 0.5),
        "ctf_defocus_error_max_angstrom": _quantile(defocus, 1.0),
        "ctf_astigmatism_error_median_angstrom": _quantile(astigmatism, 0.5),
    }


STAGE_FIGURES = (
    "particles",
    "true_particles",
    "pose_error_median_deg",
    "pose_error_p90_deg",
    "pose_within_10deg_fraction",
    "shift_error_median_angstrom",
    "shift_error_p90_angstrom",
    "hand_inverted",
    "map_to_truth_fsc05_angstrom",
    "map_to_truth_fsc0143_angstrom",
    "attainable_fsc05_angstrom",
    "attainable_fsc0143_angstrom",
    "over_attainable_ratio",
)
"""Figures of a reconstruction, each after the reconstruction's name."""


def score_stage(name: str, stage: Stage | None, truth: Truth, match_radius: float) -> Metrics:
    """Pose, shift and map of a reconstruction; what its particles would give with true poses."""
    if stage is None:
        return dict.fromkeys(f"{name}_{figure}" for figure in STAGE_FIGURES)
    centres = _centres(stage, truth)
    rows, mates = match_particles(stage, truth, match_radius)
    errors: PoseErrors | None = None
    if len(rows):
        errors = _pose_errors(stage, truth, rows, mates)
    angle = errors.angle_deg.numpy() if errors else np.zeros(0)
    shift = errors.shift_angstrom.numpy() if errors else np.zeros(0)
    found = _compare(stage, truth, errors)
    best = _attainable(stage, truth, rows, mates)
    numbers = (
        len(centres),
        len(rows),
        _quantile(angle, 0.5),
        _quantile(angle, 0.9),
        float((angle < 10).mean()) if len(angle) else None,
        _quantile(shift, 0.5),
        _quantile(shift, 0.9),
        int(found.mirrored) if found.fsc0143_angstrom is not None else None,
        found.fsc05_angstrom,
        found.fsc0143_angstrom,
        best.fsc05_angstrom,
        best.fsc0143_angstrom,
        _ratio(found.fsc05_angstrom, best.fsc05_angstrom),
    )
    return {f"{name}_{figure}": number for figure, number in zip(STAGE_FIGURES, numbers, strict=True)}


def match_particles(stage: Stage, truth: Truth, match_radius: float) -> tuple[np.ndarray, np.ndarray]:
    """Rows of a stage's particles and of the true ones on which they lie."""
    return _match_all(Positions(stage.particles.micrograph, _centres(stage, truth)), truth, match_radius)


def pose_alignments(
    stage: Stage, truth: Truth, rows: np.ndarray, mates: np.ndarray, voxel_angstrom: float
) -> tuple[Alignment, ...]:
    """How the stage's frame is brought onto the true one, by the poses of matched particles; empty without any."""
    if not len(rows):
        return ()
    errors = _pose_errors(stage, truth, rows, mates)
    return (Alignment(errors.rotation, errors.shift / voxel_angstrom, errors.mirrored, 0.0),)


def _centres(stage: Stage, truth: Truth) -> np.ndarray:
    return stage.particles.xy_px - stage.origins_angstrom / truth.pixel_size_angstrom


def _pose_errors(stage: Stage, truth: Truth, rows: np.ndarray, mates: np.ndarray) -> PoseErrors:
    offsets = (_centres(stage, truth)[rows] - truth.particles.xy_px[mates]) * truth.pixel_size_angstrom
    return pose_errors(
        stage.rotations[rows], truth.rotations[mates], torch.from_numpy(offsets), truth.symmetry
    )


def _compare(stage: Stage, truth: Truth, errors: PoseErrors | None) -> MapAgreement:
    """The stage's map against the truth."""
    if stage.volume is None:
        return NO_AGREEMENT
    voxel = stage.voxel_size_angstrom
    target = resample(truth.volume, truth.pixel_size_angstrom, stage.volume.shape[-1], voxel)
    starts = [Alignment(errors.rotation, errors.shift / voxel, errors.mirrored, 0.0)] if errors else []
    return compare_map(stage.volume, target, voxel, symmetry=truth.symmetry, starts=starts)


def _attainable(stage: Stage, truth: Truth, rows: np.ndarray, mates: np.ndarray) -> MapAgreement:
    """What the same particles' images give with their true poses (false picks left out)."""
    if len(rows) < 2:
        return NO_AGREEMENT
    box, voxel = stage.box_px, stage.image_pixel_size_angstrom
    # the true centre, seen from the centre of the box that was cut out
    away = truth.particles.xy_px[mates] - stage.particles.xy_px[rows]
    shifts = torch.from_numpy(-away * truth.pixel_size_angstrom / voxel).float()
    batches = stage.images(rows, truth.rotations[mates].float(), shifts)
    volume = reconstruct_from_poses(batches, box, voxel, symmetry=truth.symmetry)
    target = resample(truth.volume, truth.pixel_size_angstrom, box, voxel)
    return compare_map(volume, target, voxel, in_place=True)


def score_halves(halves_angstrom: float | None, to_truth_angstrom: float | None) -> Metrics:
    """Compare the resolution that the half maps claim (FSC 0.143) with that to the truth (FSC 0.5).

    The two thresholds mean the same: √(2F/(1 + F)) is 0.5 for F = 0.143 (P. B. Rosenthal & R. Henderson,
    J. Mol. Biol. 333 (2003) 721). Below 1 the halves claim too much.
    """
    return {
        "halves_resolution_angstrom": halves_angstrom,
        "halves_over_truth_ratio": _ratio(halves_angstrom, to_truth_angstrom),
    }


def _match_all(found: Positions, truth: Truth, match_radius: float) -> tuple[np.ndarray, np.ndarray]:
    radius = match_radius * truth.diameter_angstrom / truth.pixel_size_angstrom
    rows, mates = [np.zeros(0, dtype=int)], [np.zeros(0, dtype=int)]
    for name in np.unique(found.micrograph):
        here = np.flatnonzero(found.micrograph == name)
        there = np.flatnonzero(truth.particles.micrograph == name)
        i, j = match_positions(found.xy_px[here], truth.particles.xy_px[there], radius)
        rows.append(here[i])
        mates.append(there[j])
    return np.concatenate(rows), np.concatenate(mates)


def _quantile(values: np.ndarray, q: float) -> float | None:
    return float(np.quantile(values, q)) if len(values) else None


def _ratio(a: float | None, b: float | None) -> float | None:
    return a / b if a is not None and b is not None else None
