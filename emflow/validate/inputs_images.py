"""Read particle images with poses and half-sets, and refuse what cannot tell about a map."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from emflow.em.fsc import first_below, fsc
from emflow.io.mrc import read_header, read_mrc
from emflow.io.particle_images import image_set, poses_of
from emflow.io.particles import Particles, load_particles
from emflow.io.star import integers
from emflow.step import EmflowError
from emflow.validate.config import HalfMaps, NoiseControl
from emflow.validate.inputs import Mask, check_pixels, read_pair
from emflow.validate.subsets import Posed

POSES = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")


def read_data(star: Path) -> Particles:
    """Load particles; refuse restored ones.

    Raises
    ------
    EmflowError
        If the table or a stack carries the mark of restored pixels or of a noise control.
    """
    particles = load_particles(star, images=False)
    if not len(particles):
        return particles
    particles = load_particles(star)
    table = particles.table
    restored = "emflowRestored" in table and bool((integers(table, "emflowRestored") != 0).any())
    headers = [read_header(stack) for stack in particles.stacks]
    if restored or any(header.restored for header in headers):
        raise EmflowError(
            f"{star}: holds denoised or otherwise restored particles. What they agree on is the denoiser's too: give "
            "the raw particles."
        )
    if particles.control_angstrom is not None or any(header.control for header in headers):
        raise EmflowError(f"{star}: holds a noise control, not data; give the particles themselves.")
    return particles


def fewest_of_half(particles: Particles) -> int:
    """Particles of the smaller half; of a table that names no halves, half of all."""
    if "rlnRandomSubset" not in particles.table:
        return len(particles) // 2
    half = particles.table["rlnRandomSubset"].astype(str)
    return int(min((half == "1").sum(), (half == "2").sum()))


def read_posed(star: Path, particles: Particles, symmetry: str, device: torch.device) -> Posed:
    """Give the verbs images with poses and half-sets.

    Raises
    ------
    EmflowError
        If poses or half-sets are missing: which map an image took part in must be known.
    """
    missing = [name for name in (*POSES, "rlnRandomSubset") if name not in particles.table]
    if missing:
        raise EmflowError(
            f"{star}: lacks the column _{missing[0]}; expected particles with poses and half-sets (rlnRandomSubset), as "
            "the refinement that made the half maps writes them."
        )
    found = set(integers(particles.table, "rlnRandomSubset").tolist())
    if not found <= {1, 2}:
        raise EmflowError(f"{star}: rlnRandomSubset holds {sorted(found)}; expected 1 and 2.")
    images = image_set(particles, device)
    rotations, shifts = poses_of(particles, images.pixel_size_angstrom)
    return Posed(images, rotations, shifts, symmetry)


def read_control(paths: tuple[Path, Path], device: torch.device) -> tuple[Tensor, Tensor]:
    """Read the half maps of a noise control, and nothing else."""
    for path in paths:
        if not read_header(path).control:
            raise EmflowError(
                f"{path}: carries no mark of a noise control; refine the stack of `noise-control`."
            )
    one, two = (torch.from_numpy(read_mrc(path)).to(device) for path in paths)
    if bool(one.any()) and bool(two.any()):
        check_pixels(paths, [one, two])
    return one, two


def check_same_box(halves: tuple[Path, Path], shape: torch.Size, voxel: float, posed: Posed) -> None:
    """Refuse maps of another box or pixel size than the images'."""
    images = posed.images
    if shape[0] != images.box or abs(voxel / images.pixel_size_angstrom - 1) > 0.02:
        raise EmflowError(
            f"{halves[0]}: {shape[0]} voxels of {voxel:g} Å, but the images have {images.box} px of "
            f"{images.pixel_size_angstrom:g} Å. Give the particles that the half maps were refined from."
        )


def mask_of(
    path: Path | None, like: Path, halves: tuple[Tensor, Tensor], voxel: float, cfg: HalfMaps
) -> Mask:
    """The mask that is given, or one made from the mean of the halves."""
    if path is not None:
        return Mask.read(path, read_header(like), voxel, halves[0].device)
    return Mask.make((halves[0] + halves[1]) / 2, voxel, cfg)


def control_start(cfg: NoiseControl, halves: tuple[Path, Path] | None, device: torch.device) -> float:
    """Resolution beyond which phases are to be random, in ångström.

    Raises
    ------
    EmflowError
        If it is neither given nor can be taken from half maps.
    """
    if cfg.from_angstrom is not None:
        return cfg.from_angstrom
    if halves is None:
        raise EmflowError(
            "From which resolution on are phases to be random? Give --from-angstrom, or --half1 and --half2: then from "
            "where their FSC falls below validate.noise_control.randomise_below."
        )
    (one, two), _, voxel = read_pair(halves, cfg.voxel_size_angstrom, device)
    shell = first_below(fsc(one, two), cfg.randomise_below)
    if shell is None:
        raise EmflowError(
            f"{halves[0]} and {halves[1]} agree to Nyquist; give --from-angstrom, coarser than two voxels ({2 * voxel:g} Å)."
        )
    return one.shape[-1] * voxel / max(shell, 2)
