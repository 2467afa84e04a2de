"""Judge a refinement against a simulated truth, whoever made it: poses, shifts, maps, resolutions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from emflow.device import generator
from emflow.em.fsc import corrected_fsc, first_below, fsc, randomise_phases, resolution_at
from emflow.em.volume_align import Alignment, align_volume, apply_alignment
from emflow.io.mrc import read_header, read_mrc
from emflow.io.particle_images import poses_of
from emflow.io.particles import load_particles
from emflow.simulate.poses import PoseErrors, pose_errors

FAR_DEG = 15.0
"""A pose farther off than this is counted as lost."""

Figures = dict[str, float | int | str | None]


@dataclass(frozen=True)
class Outcome:
    """Files of a refinement."""

    poses: Path
    """STAR with rlnImageName, angles and origins."""
    half1: Path
    half2: Path
    reported_angstrom: float | None
    """Resolution that the program itself states."""


def score(folder: Path, symmetry: str, bands: tuple[tuple[float, float], ...], outcome: Outcome) -> Figures:
    """Compare an outcome with the truth of its set, after the best common rotation, shift and hand."""
    errors = _errors(folder, symmetry, outcome.poses)
    angle, shift = errors.angle_deg, errors.shift_angstrom
    figures: Figures = {
        "pose_error_median_deg": float(angle.median()),
        "pose_error_p90_deg": float(angle.quantile(0.9)),
        "poses_lost_fraction": float((angle > FAR_DEG).double().mean()),
        "shift_error_median_angstrom": float(shift.median()),
        "shift_error_p90_angstrom": float(shift.quantile(0.9)),
        "mirrored": int(errors.mirrored),
    }
    voxel = read_header(outcome.half1).voxel_size_angstrom
    halves = [torch.from_numpy(read_mrc(path)) for path in (outcome.half1, outcome.half2)]
    truth = torch.from_numpy(read_mrc(folder / "truth" / "volume.mrc"))
    mask = torch.from_numpy(read_mrc(folder / "truth" / "mask.mrc"))
    start = Alignment(errors.rotation, errors.shift / voxel, errors.mirrored, 0.0)
    found = align_volume(0.5 * (halves[0] + halves[1]), truth, symmetry=symmetry, starts=[start])
    moved = [apply_alignment(half, found) for half in halves]
    box = len(truth)
    curve = fsc(0.5 * (moved[0] + moved[1]) * mask, truth * mask)
    for coarse, fine in bands:
        figures[f"fsc_{coarse:g}_{fine:g}"] = band_mean(curve, coarse, fine, box * voxel)
    true = resolution_at(curve, 0.5, box, voxel, interpolate=True)
    half = resolution_at(_halves(moved, mask), 0.143, box, voxel, interpolate=True)
    figures["true_angstrom"], figures["halves_angstrom"] = true, half
    figures["reported_angstrom"] = reported = outcome.reported_angstrom
    figures["halves_over_true"] = half / true if half and true else None
    figures["reported_over_true"] = reported / true if reported and true else None
    return figures


def band_mean(curve: Tensor, coarse_angstrom: float, fine_angstrom: float, extent_angstrom: float) -> float:
    """Mean of a curve over the shells from one resolution (not included) to a finer one."""
    shells = torch.arange(1, len(curve) - 1)
    resolution = extent_angstrom / shells
    inside = shells[(resolution < coarse_angstrom) & (resolution >= fine_angstrom)]
    return float(curve[inside].mean())


def _halves(halves: list[Tensor], mask: Tensor) -> Tensor:
    """FSC of the halves within the mask, corrected by random phases, as RELION's postprocess does."""
    shell = first_below(fsc(halves[0], halves[1]), 0.8)
    curve = fsc(halves[0] * mask, halves[1] * mask)
    if shell is None:
        return curve
    drawn = [randomise_phases(half, shell, generator(0, n)) * mask for n, half in enumerate(halves)]
    return corrected_fsc(curve, fsc(drawn[0], drawn[1]), shell)


def _errors(folder: Path, symmetry: str, poses: Path) -> PoseErrors:
    truth = load_particles(folder / "truth" / "particles.star", images=False)
    found = load_particles(poses, images=False)
    names = truth.table["rlnImageName"].map(_name)
    rows = {name: row for row, name in enumerate(found.table["rlnImageName"].map(_name))}
    order = [rows[name] for name in names]  # RELION sorts by half
    turned, origins = poses_of(found, 1.0)
    known, true_origins = poses_of(truth, 1.0)
    # a particle lies at minus its origin
    return pose_errors(turned[order], known, true_origins - origins[order], symmetry)


def _name(image: str) -> str:
    """Number and file of an image, without folders and leading zeros."""
    number, _, file = image.partition("@")
    return f"{int(number)}@{Path(file).name}"
