"""Read what classification and subtraction take beside particles: poses, start maps, masks."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from emflow.em.fourier import resample
from emflow.em.masks import lowpass
from emflow.io.mrc import read_header, read_mrc
from emflow.io.particle_images import poses_of
from emflow.io.particles import Particles
from emflow.reconstruct.inputs import read_halves
from emflow.step import EmflowError

POSES = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")


def read_poses(star: Path, particles: Particles, pixel_size_angstrom: float) -> tuple[Tensor, Tensor]:
    """Poses A (N, 3, 3) and shifts (N, 2), in pixels, that the table must have."""
    missing = [name for name in POSES if name not in particles.table]
    if missing:
        raise EmflowError(
            f"{star}: lacks {', '.join('_' + name for name in missing)}: its particles have no poses. "
            "Take the particles.star of `emflow reconstruct refine`, or search them: --poses global --start MAP."
        )
    return poses_of(particles, pixel_size_angstrom)


def read_starts(
    start: Path, box: int, pixel_size_angstrom: float, resolution_angstrom: float
) -> tuple[tuple[Tensor, Tensor], bool]:
    """Start maps of half 1 and 2 on the images' grid, low-passed; and whether they are two maps.

    A folder holds half1.mrc and half2.mrc; a file is the start of both.
    """
    if start.is_dir():
        volumes, voxel = read_halves(start)
    else:
        volume = read_mrc(start)
        if volume.ndim != 3 or len(set(volume.shape)) != 1 or volume.shape[0] % 2:
            raise EmflowError(f"{start}: has shape {volume.shape}; expected an even cube.")
        one = torch.from_numpy(volume).float()
        volumes, voxel = (one, one), read_header(start).voxel_size_angstrom
    placed = [
        resample(lowpass(volume, voxel, resolution_angstrom), voxel, box, pixel_size_angstrom)
        for volume in volumes
    ]
    if not all(bool(volume.any()) for volume in placed):
        raise EmflowError(f"{start}: the start map is empty.")
    return (placed[0], placed[1]), start.is_dir()


def read_mask(path: Path, box: int, pixel_size_angstrom: float) -> Tensor:
    """A soft mask on the images' grid, 0 to 1."""
    values = torch.from_numpy(read_mrc(path)).float()
    if values.ndim != 3 or len(set(values.shape)) != 1 or values.shape[0] % 2:
        raise EmflowError(f"{path}: has shape {tuple(values.shape)}; expected an even cube.")
    if float(values.min()) < -1e-3 or float(values.max()) > 1.001 or not bool(values.any()):
        raise EmflowError(
            f"{path}: holds values from {float(values.min()):g} to {float(values.max()):g}; a mask goes from 0 to 1."
        )
    voxel = read_header(path).voxel_size_angstrom
    if values.shape[0] == box and abs(voxel / pixel_size_angstrom - 1) < 1e-3:
        return values.clamp(0, 1)
    return resample(values, voxel, box, pixel_size_angstrom).clamp(0, 1)


def on_grid(
    halves: tuple[Tensor, Tensor], voxel_size_angstrom: float, box: int, pixel_size_angstrom: float
) -> tuple[Tensor, Tensor]:
    """Half maps on the images' grid, in the images' units (their contrast grows with the square of the pixel)."""
    if halves[0].shape[0] == box and abs(voxel_size_angstrom / pixel_size_angstrom - 1) < 1e-4:
        return halves
    scale = (pixel_size_angstrom / voxel_size_angstrom) ** 2
    one, two = (resample(half, voxel_size_angstrom, box, pixel_size_angstrom) * scale for half in halves)
    return one, two
