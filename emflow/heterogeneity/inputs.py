"""What the heterogeneity room reads: particles with poses, the consensus map's mask, a fit's folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from emflow.device import generator
from emflow.em.masks import solvent_mask
from emflow.em.poses import euler_to_matrix
from emflow.em.slices import HalfPlane
from emflow.em.symmetry import symmetry_operators
from emflow.em.wiener import PosedImages
from emflow.heterogeneity.config import HeterogeneityFit
from emflow.heterogeneity.model import Stack
from emflow.io.mrc import read_header, read_mrc
from emflow.io.particle_ctf import ctf_of
from emflow.io.particle_images import image_set, poses_of, read_mended
from emflow.io.particle_store import open_store
from emflow.io.particles import Particles, load_particles
from emflow.io.star import floats, integers, read_table
from emflow.step import EmflowError

_BATCH = 500
_POSES = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")


@dataclass(frozen=True)
class Posed:
    """Particles with poses, before their pixels are read."""

    particles: Particles
    box: int
    pixel_size_angstrom: float
    half: np.ndarray
    """Half-set of each, 1 or 2; 0 belongs to neither."""

    def rows(self, half: int) -> Tensor:
        """Rows of a half-set."""
        return torch.from_numpy(np.flatnonzero(self.half == half))


def read_posed(star: Path) -> Posed:
    """Read a particle STAR with poses; refuse restored pixels and tables without poses."""
    particles = load_particles(star)
    table = particles.table
    if not len(table):
        return Posed(particles, 2, 1.0, np.zeros(0, dtype=np.int64))
    if "emflowRestored" in table and bool((integers(table, "emflowRestored") != 0).any()):
        raise EmflowError(
            f"{star}: holds denoised or otherwise restored particles (emflowRestored). Volumes from them would "
            "show the denoiser's bias: give the raw particles."
        )
    if particles.control_angstrom is not None:
        raise EmflowError(
            f"{star}: holds a noise control (emflowNoiseControl), not data; give the particles themselves."
        )
    restored = next((stack for stack in particles.stacks if read_header(stack).restored), None)
    if restored is not None:
        raise EmflowError(
            f"{restored}: holds denoised or otherwise restored pixels (its label says so); give the raw particles."
        )
    missing = [name for name in _POSES if name not in table]
    if missing:
        raise EmflowError(
            f"{star}: lacks the column _{missing[0]}; expected particles with poses, as a refinement writes them."
        )
    twice = table["emflowParticleId"][table["emflowParticleId"].duplicated()]
    if len(twice):
        raise EmflowError(
            f"{star}: {len(twice)} particles stand in it more than once, as {twice.iloc[0]} (_emflowParticleId, or "
            "micrograph and coordinate). A particle seen twice counts as evidence twice: remove the copies. Of a "
            "symmetry-expanded set, give every copy an _emflowParticleId of its own."
        )
    facts = particles.common_facts()
    return Posed(particles, facts.box_px, facts.pixel_size_angstrom, half_sets(particles))


def half_sets(particles: Particles) -> np.ndarray:
    """Half of each particle: rlnRandomSubset, else by micrograph in the order first seen, else by row."""
    table = particles.table
    if "rlnRandomSubset" in table:
        return integers(table, "rlnRandomSubset")
    if "rlnMicrographName" in table:
        order = {name: place for place, name in enumerate(dict.fromkeys(table["rlnMicrographName"]))}
        return np.array([order[name] % 2 + 1 for name in table["rlnMicrographName"]], dtype=np.int64)
    return np.arange(len(table)) % 2 + 1


def read_mask(folder: Path, box: int, pixel_size_angstrom: float) -> np.ndarray:
    """Read mask.mrc of a reconstruction's folder, or make one from its map.mrc."""
    path = folder / "mask.mrc"
    if not path.is_file():
        path = folder / "map.mrc"
    if not path.is_file():
        raise EmflowError(f"{folder}: has neither mask.mrc nor map.mrc; expected a reconstruction's folder.")
    header = read_header(path)
    if header.shape != (box, box, box):
        raise EmflowError(
            f"{path}: has shape {header.shape}; the particles have boxes of {box} px. Give the maps that these "
            "particles were refined to."
        )
    values = read_mrc(path)
    if path.name == "map.mrc":
        return solvent_mask(torch.from_numpy(values), pixel_size_angstrom).mask.numpy()
    if float(values.min()) < -1e-3 or float(values.max()) > 1.001:
        raise EmflowError(f"{path}: values beyond 0 and 1; a mask lies between them.")
    return values


def finest_band(posed: Posed, resolution_angstrom: float | None) -> float:
    """Largest frequency index that may be used."""
    nyquist = posed.box // 2 - 1
    if resolution_angstrom is None:
        return float(nyquist)
    return float(min(nyquist, posed.box * posed.pixel_size_angstrom / resolution_angstrom))


def open_stack(posed: Posed, cfg: HeterogeneityFit, cache: Path, device: torch.device) -> Stack:
    """Transform all images once into a store of centred half-plane spectra (float16)."""
    plane = HalfPlane.build(posed.box, finest_band(posed, cfg.resolution_angstrom), device)
    table = posed.particles.table
    halved = replace(posed.particles, table=table.assign(rlnRandomSubset=posed.half.astype(str)))
    images = image_set(halved, device)
    _, shifts = poses_of(posed.particles, posed.pixel_size_angstrom)
    store = open_store(cache, posed.particles, images, plane, shifts)
    extent = posed.box * posed.pixel_size_angstrom

    def ctf(rows: Tensor, plane: HalfPlane) -> Tensor:
        return images.ctf(rows, plane.ky / extent, plane.kx / extent)

    rotations = _random_mates(_rotations(table), cfg).float()
    return Stack(store, plane, rotations, ctf, images.group, device)


def _rotations(table: pd.DataFrame) -> Tensor:
    return euler_to_matrix(torch.from_numpy(np.stack([floats(table, name) for name in _POSES], 1)))


def _random_mates(rotations: Tensor, cfg: HeterogeneityFit) -> Tensor:
    """Replace each pose by one of its symmetry mates, drawn at random: the mean becomes symmetrical."""
    operators = symmetry_operators(cfg.symmetry)
    if len(operators) == 1:
        return rotations
    chosen = torch.randint(len(operators), (len(rotations),), generator=generator(cfg.seed, 77))
    return rotations @ operators[chosen].to(rotations)


def fit_key(particles: Path, maps: Path, cfg: HeterogeneityFit, lineage: str) -> str:
    """Identity of a fit's settings, those of the steps before it, and its inputs; for its checkpoint."""
    files = [path for path in (particles, maps / "mask.mrc", maps / "map.mrc") if path.is_file()]
    inputs = [(path.name, hashlib.sha256(path.read_bytes()).hexdigest()) for path in files]
    text = json.dumps([cfg.version, cfg.model_dump(mode="json"), inputs, lineage], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class FittedFolder:
    """What analyze reads of a fit."""

    table: pd.DataFrame
    """latents.star."""
    latent: np.ndarray
    """(N, K)."""
    volumes: np.ndarray
    """V0 and components, (K+1, n, n, n)."""
    voxel_size_angstrom: float
    particles: Particles
    """The particles of the same rows, with all their columns."""

    @property
    def sizes(self) -> np.ndarray:
        """Norm of each component, (K,)."""
        return np.asarray(np.sqrt((self.volumes[1:].astype(np.float64) ** 2).sum((1, 2, 3))))


def read_fit(folder: Path, images: bool) -> FittedFolder:
    """Read a fit's folder, its particles joined by their identity; ``images``: their stacks are needed too."""
    table = read_table(folder / "latents.star", "particles", "emflowParticleId")
    names = [n for n in table.columns if n.startswith("emflowLatent") and n[12:].isdigit()]
    names.sort(key=lambda name: int(name[12:]))
    latent = np.stack([floats(table, name) for name in names], 1) if names else np.zeros((len(table), 0))
    paths = [folder / "mean.mrc", *(folder / f"component_{k:02d}.mrc" for k in range(1, len(names) + 1))]
    volumes = np.stack([read_mrc(path) for path in paths])
    voxel = read_header(paths[0]).voxel_size_angstrom
    whole = load_particles(folder / "particles.star", images=images)
    if not len(table):
        return FittedFolder(table, latent, volumes, voxel, whole)
    place = {name: row for row, name in enumerate(whole.table["emflowParticleId"])}
    missing = [name for name in table["emflowParticleId"] if name not in place]
    if missing:
        raise EmflowError(
            f"{folder}: latents.star names the particle {missing[0]}, which particles.star lacks. The folder is "
            "not of one fit: fit again."
        )
    rows = np.array([place[name] for name in table["emflowParticleId"]])
    places = [None if part is None else part[rows] for part in (whole.stack, whole.index)]
    particles = Particles(whole.table.iloc[rows], whole.optics, whole.stacks, *places)
    return FittedFolder(table, latent, volumes, voxel, particles)


def read_verdicts(folder: Path) -> list[dict[str, str]]:
    """Verdicts of a fit."""
    rows: list[dict[str, str]] = _read_json(folder / "verdicts.json")
    return rows


def read_metrics(folder: Path) -> dict[str, float | int | None]:
    """Figures of a fit."""
    figures: dict[str, float | int | None] = _read_json(folder / "metrics.json")
    return figures


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise EmflowError(
            f"{path}: cannot be read ({error}); expected a folder of heterogeneity fit."
        ) from None


def posed_batches(particles: Particles, rows: np.ndarray, device: torch.device) -> Iterator[PosedImages]:
    """Images of some particles with their poses and CTF, a batch of one optics group at a time."""
    groups = particles.groups[rows]
    for group in sorted(set(groups)):
        own = rows[groups == group]
        pixel = particles.facts(group).pixel_size_angstrom
        for part in np.array_split(own, max(1, -(-len(own) // _BATCH))):
            table = particles.table.iloc[part]
            shifts = np.stack([floats(table, f"rlnOrigin{a}Angst", 0.0) / pixel for a in "XY"], 1)
            yield PosedImages(
                read_mended(particles, part).to(device),
                _rotations(table).float().to(device),
                torch.from_numpy(shifts).float().to(device),
                ctf_of(particles, part).to(device),
            )
