"""Read what the reconstruction commands take: particles with their images, and first maps."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from emflow.em.symmetry import symmetry_operators
from emflow.io.mrc import read_header, read_mrc
from emflow.io.particles import Particles, load_particles
from emflow.io.star import floats, integers, read_star
from emflow.reconstruct.config import ReconstructRefine
from emflow.step import EmflowError, SpecimenSize

log = logging.getLogger("emflow")

FEWEST = 50
"""Particles below which no map is tried."""


def read_particles(star: Path) -> Particles:
    """Load particles for a reconstruction, each with its half-set.

    Without rlnRandomSubset the halves alternate from micrograph to micrograph, as they are first named.

    Raises
    ------
    EmflowError
        Particles of restored (denoised) micrographs, or a half-set that is neither 1 nor 2.
    """
    empty = load_particles(star, images=False)
    if not len(empty):
        return empty
    particles = load_particles(star)
    table = particles.table
    if "emflowRestored" in table and (table["emflowRestored"].astype(str) == "1").any():
        raise EmflowError(
            f"{star}: holds particles of restored (denoised) micrographs; their noise is correlated, and a map made "
            "of them agrees with itself better than it should. Extract from the original micrographs."
        )
    if "rlnRandomSubset" in table:
        found = set(integers(table, "rlnRandomSubset").tolist())
        if not found <= {1, 2}:
            raise EmflowError(f"{star}: rlnRandomSubset holds {sorted(found)}; expected 1 and 2.")
        return particles
    names = table["rlnMicrographName"] if "rlnMicrographName" in table else pd.Series(range(len(table)))
    order = {name: number for number, name in enumerate(dict.fromkeys(names))}
    halves = [str(order[name] % 2 + 1) for name in names]
    log.info("%s has no half-sets: they alternate from micrograph to micrograph", star)
    return Particles(
        table.assign(rlnRandomSubset=halves),
        particles.optics,
        particles.stacks,
        particles.stack,
        particles.index,
    )


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


def independent_starts(folder: Path) -> bool:
    """Whether a folder's half maps are known to come from separate random starts: emflow's ab initio says so."""
    try:
        rows = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return False
    return isinstance(rows, dict) and "half2_inverted" in rows


@dataclass(frozen=True)
class RawHalves:
    """Two raw half maps to be sharpened."""

    paths: tuple[Path, Path]
    volumes: tuple[Tensor, Tensor]
    voxel_size_angstrom: float
    mask: Tensor | None
    unrestored: bool
    """Whether both say that they come from unrestored pixels."""
    control: bool
    """Whether one is made from a noise control."""


def read_raw_halves(given: list[Path], out: Path, mask: Path | None, voxel: float | None) -> RawHalves:
    """Read the half maps of a folder, or two files, and the mask.

    Raises
    ------
    EmflowError
        Half maps of restored pixels, without a voxel size, or in the folder that is to be written; a mask of
        another box.
    """
    paths = (given[0] / "half1.mrc", given[0] / "half2.mrc") if len(given) == 1 else (given[0], given[1])
    if out.resolve() in {path.resolve().parent for path in paths}:
        raise EmflowError(
            f"{out}: holds the half maps; its metrics and curves would be overwritten. Name another folder."
        )
    volumes, found = read_pair(paths)
    headers = [read_header(path) for path in paths]
    for path, header in zip(paths, headers, strict=True):
        if header.restored:
            raise EmflowError(
                f"{path}: made from restored pixels (its label says so). Give the raw half maps of a refinement."
            )
    if voxel is None and found <= 0:
        raise EmflowError(f"{paths[0]}: the header has no voxel size; give --voxel-size-angstrom.")
    if mask is None and len(given) == 1 and (given[0] / "mask.mrc").exists():
        mask = given[0] / "mask.mrc"
    values = None
    if mask is not None:
        values = torch.from_numpy(read_mrc(mask))
        if values.shape != volumes[0].shape:
            raise EmflowError(
                f"{mask}: has shape {tuple(values.shape)}; expected that of the half maps, {tuple(volumes[0].shape)}."
            )
    return RawHalves(
        paths,
        volumes,
        voxel or found,
        values,
        all(header.unrestored for header in headers),
        any(header.control for header in headers),
    )


def read_mtf(path: Path, box: int, voxel_size_angstrom: float, pixel_size_angstrom: float | None) -> Tensor:
    """Modulation transfer of the detector at every shell of a box, (box//2 + 1,), float64.

    Parameters
    ----------
    path
        STAR table with rlnResolutionInversePixel (1/pixel, 0 … 0.5) and rlnMtfValue.
    box, voxel_size_angstrom
        Of the map.
    pixel_size_angstrom
        Pixel size that the table's frequencies refer to; None takes the voxel size.

    Raises
    ------
    EmflowError
        A table without these columns, with values that are not positive, or that ends below the map's Nyquist.
    """
    columns = ("rlnResolutionInversePixel", "rlnMtfValue")
    table = next((t for t in read_star(path).values() if set(columns) <= set(t)), None)
    if table is None:
        raise EmflowError(f"{path}: lacks the columns _{columns[0]} and _{columns[1]} of a detector's MTF.")
    frequency, value = (floats(table, name) for name in columns)
    order = np.argsort(frequency)
    frequency, value = frequency[order], value[order]
    asked = np.arange(box // 2 + 1) / box * (pixel_size_angstrom or voxel_size_angstrom) / voxel_size_angstrom
    if not (value > 0).all():
        raise EmflowError(f"{path}: holds MTF values that are not positive.")
    if asked[-1] > frequency[-1] + 1e-6:
        raise EmflowError(
            f"{path}: ends at {frequency[-1]:g} per pixel, but the map reaches {asked[-1]:.3g}. Set "
            "reconstruct.sharpen.mtf_pixel_size_angstrom to the pixel size of the detector."
        )
    return torch.from_numpy(np.interp(asked, frequency, value))
