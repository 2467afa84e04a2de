"""Read what the reconstruction commands take: particles with their images, and first maps."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from emflow.em.pose_fit import FittedPoses
from emflow.em.poses import euler_to_matrix
from emflow.em.symmetry import symmetry_operators
from emflow.io.mrc import read_header, read_mrc
from emflow.io.particle_images import poses_of
from emflow.io.particles import Particles, load_half_sets, load_particles
from emflow.io.record import read_json
from emflow.io.star import floats, integers, read_star
from emflow.reconstruct.config import ReconstructRefine
from emflow.reconstruct.warm import Previous
from emflow.step import EmflowError, SpecimenSize

log = logging.getLogger("emflow")

SIGMAS = ("emflowPoseSigmaDeg", "emflowShiftSigmaAngst")
"""Columns of a refinement's poses: how sure they are, over all directions."""
FEWEST = 50
"""Particles below which no map is tried."""


def read_particles(star: Path) -> Particles:
    """Load particles for a reconstruction, each with its half-set (:func:`emflow.io.particles.load_half_sets`)."""
    return load_half_sets(star)


def too_few(particles: Particles) -> bool:
    """Whether there are too few particles for a map."""
    if len(particles) < FEWEST:
        return True
    halves = integers(particles.table, "rlnRandomSubset")
    return min((halves == 1).sum(), (halves == 2).sum()) < FEWEST // 4


def diameter_of(cfg: SpecimenSize, box: int, pixel_size_angstrom: float) -> float:
    """Diameter of the particle: as given, else two thirds of the box; never more than the box holds."""
    extent = box * pixel_size_angstrom
    if cfg.diameter_angstrom is None:
        log.warning(
            "sample.diameter_angstrom is not set: taking two thirds of the box, %.0f Å", extent * 2 / 3
        )
        return extent * 2 / 3
    if cfg.diameter_angstrom > extent:
        raise EmflowError(
            f"sample.diameter_angstrom is {cfg.diameter_angstrom:g}, but the boxes are only {extent:.0f} Å wide. "
            "Extract with a larger box (extract.run.box_size_px), or correct the diameter."
        )
    return cfg.diameter_angstrom


def start_lowpass(cfg: ReconstructRefine, diameter_angstrom: float) -> float:
    """Resolution to which first maps are filtered that may know of each other."""
    order = len(symmetry_operators(cfg.symmetry))
    return cfg.start_lowpass_angstrom or diameter_angstrom / (5 * order ** (1 / 3))


def read_halves(folder: Path) -> tuple[tuple[Tensor, Tensor], float]:
    """Half maps of a first reconstruction, and their voxel size in ångström."""
    return read_pair((folder / "half1.mrc", folder / "half2.mrc"))


def read_pair(paths: tuple[Path, Path]) -> tuple[tuple[Tensor, Tensor], float]:
    """Two half maps of one box, and their voxel size in ångström."""
    volumes = []
    voxels = []
    for path in paths:
        volume = read_mrc(path)
        if volume.ndim != 3 or len(set(volume.shape)) != 1 or volume.shape[0] % 2:
            raise EmflowError(f"{path}: has shape {volume.shape}; expected an even cube.")
        volumes.append(torch.from_numpy(volume))
        voxels.append(read_header(path).voxel_size_angstrom)
    if volumes[0].shape != volumes[1].shape or not np.isclose(voxels[0], voxels[1], rtol=1e-3):
        raise EmflowError(f"{paths[0]} and {paths[1]} differ in box or voxel size.")
    return (volumes[0], volumes[1]), voxels[0]


def read_poses(star: Path, pixel_size_angstrom: float) -> tuple[dict[str, pd.DataFrame], Tensor, Tensor]:
    """Tables of particles with poses, their rotations A (N, 3, 3) and shifts in pixels (N, 2)."""
    tables = read_star(star)
    table = tables["particles"]
    try:
        angles = np.stack([floats(table, f"rlnAngle{name}") for name in ("Rot", "Tilt", "Psi")], 1)
        origins = np.stack([floats(table, f"rlnOrigin{axis}Angst") for axis in "XY"], 1)
    except KeyError as error:
        raise EmflowError(f"{star}: has no column {error}; expected particles with poses.") from None
    shifts = torch.from_numpy(origins / pixel_size_angstrom)
    return tables, euler_to_matrix(torch.from_numpy(angles)), shifts


def independent_starts(folder: Path) -> bool:
    """Whether a folder's half maps are known to come from separate random starts: ab initio and refine say so."""
    rows = _figures(folder)
    return "half2_inverted" in rows or rows.get("independent_starts") == 1


def read_previous(folder: Path, particles: Particles, symmetry: str) -> Previous | None:
    """Poses of particles in an earlier refinement's folder, joined by their identity; None for any other folder.

    Raises
    ------
    EmflowError
        If a particle or a micrograph is in the other half-set than it was.
    """
    figures, star = _figures(folder), folder / "particles.star"
    if figures.get("symmetry_order") != len(symmetry_operators(symmetry)) or not star.is_file():
        return None
    before = load_particles(star, images=False)
    needed = {"emflowParticleId", "rlnRandomSubset", "rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi", *SIGMAS}
    if not len(before) or not needed <= set(before.table.columns):
        return None
    if (
        before.control_angstrom != particles.control_angstrom
    ):  # a noise control may know nothing of the data's poses
        return None
    for column, what in (("emflowParticleId", "particle"), ("rlnMicrographName", "micrograph")):
        _check_halves(before.table, particles.table, column, what, folder)
    place = {name: row for row, name in enumerate(before.table["emflowParticleId"])}
    names = particles.table["emflowParticleId"]
    found = torch.tensor([place.get(name, -1) for name in names], dtype=torch.long)
    pixel = particles.common_facts().pixel_size_angstrom
    angle, shift = (torch.from_numpy(floats(before.table, name)).float() for name in SIGMAS)
    variances = torch.cat(
        [
            (torch.deg2rad(angle) ** 2 / 3)[:, None].expand(-1, 3),
            ((shift / pixel) ** 2 / 2)[:, None].expand(-1, 2),
        ],
        1,
    )
    had = FittedPoses(
        *poses_of(before, pixel), torch.zeros(len(before)), torch.diag_embed(variances.clamp(min=1e-12))
    )
    poses = FittedPoses.cat([had, FittedPoses.unknown(1)])[found]  # row -1 is the unknown
    moved = _moved(before, particles, found.numpy())
    poses = replace(poses, shifts_px=poses.shifts_px + torch.from_numpy(moved / pixel).float())
    return Previous(found >= 0, poses, len(before))


def _moved(before: Particles, now: Particles, found: np.ndarray) -> np.ndarray:
    """How far the centre of each box has moved since an earlier extraction, ångström (N, 2); 0 for new particles."""
    columns = [f"rlnCoordinate{axis}" for axis in "XY"]
    if not all(name in part.table for name in columns for part in (before, now)):
        return np.zeros((len(now), 2))
    old, new = (np.stack([floats(part.table, name) for name in columns], 1) for part in (before, now))
    sizes = floats(now.optics, "rlnMicrographOriginalPixelSize", 1.0)
    pixel_of = dict(zip(now.optics["rlnOpticsGroup"].astype(str), sizes, strict=True))
    pixels = np.array([pixel_of[group] for group in now.groups])[:, None]
    return np.where((found >= 0)[:, None], (new - old[found]) * pixels, 0.0)


def _check_halves(before: pd.DataFrame, now: pd.DataFrame, column: str, what: str, folder: Path) -> None:
    """Half-sets are set once: what was in half 1 has shaped half 1's map."""
    if column not in before or column not in now:
        return
    half = dict(zip(before[column], integers(before, "rlnRandomSubset").tolist(), strict=True))
    for name, number in zip(now[column], integers(now, "rlnRandomSubset").tolist(), strict=True):
        if half.get(name, number) != number:
            raise EmflowError(
                f"The {what} {name} is in half-set {number} (rlnRandomSubset), but was in {half[name]} in "
                f"{folder / 'particles.star'}. Half-sets are set once: give the particles the earlier "
                "rlnRandomSubset, or start from ab initio."
            )


def _figures(folder: Path) -> dict[str, float | int | None]:
    """metrics.json of a folder; empty where there is none."""
    path = folder / "metrics.json"
    rows = read_json(path) if path.is_file() else {}
    return rows if isinstance(rows, dict) else {}
