"""What decode, select and traverse read: points, latents with their particles, the halves' own volumes."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from emflow.heterogeneity.decode import half_components, parse_point
from emflow.heterogeneity.inputs import FittedFolder, read_metrics
from emflow.io.mrc import read_mrc
from emflow.io.particles import Particles, load_particles
from emflow.io.star import floats, integers, read_star, read_table
from emflow.step import EmflowError

SHORT = {"state": "emflowCluster", "contrast": "emflowContrast", "density": "emflowDensity"}
"""Short names of columns, for conditions."""


def latent_columns(table: pd.DataFrame) -> list[str]:
    """Names of the columns with coordinates, in their order."""
    names = [n for n in table.columns if n.startswith("emflowLatent") and n[12:].isdigit()]
    return sorted(names, key=lambda name: int(name[12:]))


def deviations(table: pd.DataFrame, count: int) -> np.ndarray:
    """Posterior standard deviations of the leading coordinates, (N, count)."""
    return np.stack([floats(table, f"emflowLatentDeviation{k + 1}") for k in range(count)], 1)


def read_points(path: Path | None, values: tuple[str, ...], coordinates: int) -> np.ndarray:
    """Points (P, D) from a table (STAR, or CSV with or without a first line of names) or from ``values``.

    Raises
    ------
    EmflowError
        If there are none or both, or they have different or too many numbers.
    """
    if (path is None) == (not values):
        raise EmflowError("Give the points either in a file (--latents) or as --values, not both.")
    if path is None:
        rows = [parse_point(value) for value in values]
        source = "--values"
    else:
        rows, source = _rows_of(path), str(path)
    widths = {len(row) for row in rows}
    if len(widths) != 1:
        raise EmflowError(
            f"{source}: {'no points' if not rows else 'points of different numbers of coordinates'}."
        )
    if not 1 <= len(rows[0]) <= coordinates:
        raise EmflowError(f"{source}: points have {len(rows[0])} coordinates; the fit has {coordinates}.")
    points = np.asarray(rows, dtype=np.float64)
    if not np.isfinite(points).all():
        raise EmflowError(f"{source}: holds values that are not finite.")
    return points


def _rows_of(path: Path) -> list[list[float]]:
    if path.suffix == ".star":
        for table in read_star(path).values():
            names = latent_columns(table)
            if names:
                return np.stack([floats(table, name) for name in names], 1).tolist()
        raise EmflowError(f"{path}: no block has the column _emflowLatent1.")
    try:
        with open(path, newline="", encoding="utf-8") as handle:
            lines = [line for line in csv.reader(handle) if line]
    except (OSError, UnicodeDecodeError) as error:
        raise EmflowError(f"{path}: cannot be read ({error}).") from None
    try:
        [float(part) for part in lines[0]]
    except (ValueError, IndexError):
        lines = lines[1:]  # names of columns
    return [parse_point(",".join(line)) for line in lines]


def read_half_axes(folder: Path, found: FittedFolder) -> tuple[Tensor, Tensor]:
    """Each half's V0 and axes as the fit keeps them: common to both, unfiltered, (K+1, n, n, n)."""
    halves = []
    for side in (1, 2):
        paths = sorted((folder / "halves").glob(f"half{side}_axis_*.mrc"))
        if len(paths) != len(found.volumes) - 1:
            raise EmflowError(
                f"{folder}: halves/ has {len(paths)} axes of half {side}, the fit {len(found.volumes) - 1} components; "
                "expected a folder of heterogeneity fit, whole."
            )
        maps = [read_mrc(path) for path in (folder / "halves" / f"half{side}_mean.mrc", *paths)]
        halves.append(torch.from_numpy(np.stack(maps)))
    return halves[0], halves[1]


def read_half_volumes(folder: Path, found: FittedFolder) -> tuple[Tensor, Tensor]:
    """Each half's V0 and components along the principal coordinates, unfiltered, (K+1, n, n, n)."""
    return half_components(torch.from_numpy(found.volumes), *read_half_axes(folder, found))


def read_states(analysis: Path, particles: Particles) -> tuple[np.ndarray, np.ndarray]:
    """State of each particle (0: of none), (N,), and the mean latent of each state, (S, K)."""
    path = analysis / "latents.star"
    table = read_table(path, "particles", "emflowParticleId", "emflowCluster")
    state = integers(table, "emflowCluster")
    place = dict(zip(table["emflowParticleId"], state, strict=True))
    names = particles.table["emflowParticleId"]
    missing = sorted(place.keys() - set(names))
    if missing:
        raise EmflowError(
            f"{path}: names the particle {missing[0]}, which the fit lacks; give an analysis of this fit."
        )
    latent = np.stack([floats(table, name) for name in latent_columns(table)], 1)
    centres = np.stack([latent[state == s].mean(0) for s in range(1, int(state.max()) + 1)])
    return np.array([place.get(name, 0) for name in names], dtype=np.int64), centres


def read_mask_file(path: Path, box: int) -> np.ndarray:
    """A mask (box, box, box), values 0…1."""
    values = read_mrc(path)
    if values.shape != (box,) * 3 or float(values.min()) < -1e-3 or float(values.max()) > 1.001:
        raise EmflowError(f"{path}: expected a mask of {box}³ voxels with values between 0 and 1.")
    return values


def band_of_fit(folder: Path, found: FittedFolder) -> float:
    """Finest frequency index that a fit used."""
    finest = read_metrics(folder).get("resolution_angstrom")
    box = found.volumes.shape[-1]
    return box / 2 - 1 if not finest else box * found.voxel_size_angstrom / float(finest)


@dataclass(frozen=True)
class Selectable:
    """Particles that may be selected."""

    particles: Particles
    """In the order of latents.star."""
    columns: dict[str, np.ndarray]
    """Float64 or text, by name; short names too."""
    latent: np.ndarray
    """(N, K)."""
    half: np.ndarray
    """1 or 2, (N,)."""


def read_selectable(latents: Path, particles: Path) -> Selectable:
    """Read latents with all columns of their particles."""
    table = read_table(latents, "particles", "emflowParticleId")
    whole = load_particles(particles)
    place = {name: row for row, name in enumerate(whole.table["emflowParticleId"])} if len(whole) else {}
    missing = [name for name in table["emflowParticleId"] if name not in place]
    if missing:
        raise EmflowError(
            f"{particles}: lacks the particle {missing[0]} of {latents}; give the particles that were fitted (--particles)."
        )
    rows = np.array([place[name] for name in table["emflowParticleId"]], dtype=np.int64)
    own = whole.table.iloc[rows].reset_index(drop=True)
    columns = {str(name): _values(own[name]) for name in own}
    columns |= {str(name): _values(table[name]) for name in table}
    names = latent_columns(table)
    latent = np.stack([floats(table, name) for name in names], 1) if names else np.zeros((len(table), 0))
    columns |= {f"z{k + 1}": latent[:, k] for k in range(len(names))}
    columns |= {short: columns[name] for short, name in SHORT.items() if name in columns}
    half = columns.get("rlnRandomSubset", np.zeros(len(table)))
    return Selectable(Particles(own, whole.optics), columns, latent, half.astype(np.int64))


def _values(column: pd.Series) -> np.ndarray:
    """A column as float64, or as text where it holds something else."""
    try:
        return column.to_numpy(dtype=object).astype(np.float64)
    except (ValueError, TypeError):
        return np.asarray(column.astype(str).to_numpy(dtype=object))


def particles_beside(latents: Path, given: Path | None) -> Path:
    """The particle table of a latents.star: given, or in its folder, or in fit/ beneath it as in a project."""
    places = (
        [given] if given else [latents.parent / "particles.star", latents.parent / "fit" / "particles.star"]
    )
    for path in places:
        if path.is_file():
            return path
    raise EmflowError(
        f"{places[0]}: is not there; give the particle table that was fitted, such as FIT/particles.star (--particles)."
    )
