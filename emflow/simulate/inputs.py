"""Read a simulated truth and a project's results, as far as they go."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from emflow.em.fourier import resample
from emflow.em.poses import euler_to_matrix
from emflow.em.wiener import PosedImages
from emflow.io.atoms import read_atoms
from emflow.io.mrc import read_header, read_mrc
from emflow.io.particle_ctf import ctf_of
from emflow.io.particle_images import read_mended
from emflow.io.particles import Particles, load_particles
from emflow.io.record import read_json
from emflow.io.star import concat, floats, integers, read_star, read_table
from emflow.simulate.bodies import BodyVolumes
from emflow.simulate.ensemble import Motion, State
from emflow.simulate.score_denoise import Restored
from emflow.simulate.score_latents import Latents
from emflow.simulate.scoring import Positions, Stage, Truth, match_particles, pose_alignments
from emflow.simulate.specimen import Atoms
from emflow.step import EmflowError

_BATCH = 256
_CTF_COLUMNS = ("rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle")


def read_models(files: Sequence[Path]) -> list[Atoms]:
    """Read the atoms of PDB or mmCIF files."""
    read = [read_atoms(path) for path in files]
    return [Atoms(position, electrons, np.zeros(len(electrons))) for position, electrons in read]


def read_truth(folder: Path) -> Truth:
    """Read the folder truth/ of a simulated session, or the session's folder."""
    folder = folder if (folder / "facts.json").exists() else folder / "truth"
    if not (folder / "facts.json").exists():
        raise EmflowError(
            f"{folder.parent}: holds no facts.json; expected the folder truth/ of `emflow simulate session`."
        )
    facts = read_json(folder / "facts.json")
    particles = read_table(folder / "particles.star", "particles")
    angles = _columns(particles, "rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
    positions = _positions(particles)
    origins = _columns(particles, "rlnOriginXAngst", "rlnOriginYAngst")  # of a stack; a session has none
    positions = Positions(positions.micrograph, positions.xy_px - origins / facts["pixel_size_angstrom"])
    micrographs = folder / "micrographs.star"  # a stack has none

    def junk(name: str) -> np.ndarray | None:
        path = folder / "masks" / f"{name}.mrc"
        return read_mrc(path) if path.exists() else None

    return Truth(
        particles=positions,
        rotations=euler_to_matrix(torch.from_numpy(angles)),
        ctf=ctf_by_micrograph(read_table(micrographs, "micrographs")) if micrographs.exists() else {},
        junk=junk,
        volume=torch.from_numpy(read_mrc(folder / "volume.mrc")),
        pixel_size_angstrom=facts["pixel_size_angstrom"],
        diameter_angstrom=facts["diameter_angstrom"],
        symmetry=facts["symmetry"],
    )


def ctf_by_micrograph(table: pd.DataFrame) -> dict[str, tuple[float, float, float]]:
    """Defocus U, V (Å) and angle (deg) of each micrograph, by its base name."""
    u, v, angle = _columns(table, *_CTF_COLUMNS).T.tolist() if len(table) else ([], [], [])
    return dict(zip(_stems(table), zip(u, v, angle, strict=True), strict=True))


def read_shards(folder: Path, block: str) -> pd.DataFrame | None:
    """Stack a block of all shards of a step; None where the step has not run."""
    found = [read_star(path) for path in sorted(folder.glob("shard_*.star"))]
    blocks = [tables[block] for tables in found if block in tables and len(tables[block])]
    if not found:
        return None
    return concat(blocks) if blocks else pd.DataFrame()


@dataclass(frozen=True)
class Variation:
    """What differs between the true particles, in the order of truth/particles.star."""

    state: np.ndarray
    """(N,)."""
    coordinate_deg: np.ndarray
    """(N, A)."""
    range_deg: tuple[float, ...]
    volume: Callable[[int, int, float], Tensor]
    """Particle, box, voxel size (Å) → its true volume on that grid."""


def read_variation(folder: Path, known: Truth) -> Variation:
    """Read what differs between the true particles, and how to make any one's volume."""
    folder = folder if (folder / "facts.json").exists() else folder / "truth"
    facts = read_json(folder / "facts.json")
    table = read_table(folder / "particles.star", "particles")
    names = [f"emflowCoordinate{k}" for k in (1, 2) if f"emflowCoordinate{k}" in table]
    angles = _columns(table, *names) if names else np.zeros((len(table), 0))
    state = integers(table, "emflowState") if len(table) else np.zeros(0, dtype=int)
    told = facts.get("variation")
    if told is None:

        @lru_cache(maxsize=1)
        def only(box: int, voxel: float) -> Tensor:
            return resample(known.volume, known.pixel_size_angstrom, box, voxel)

        return Variation(state, angles, (), lambda row, box, voxel: only(box, voxel))
    motion = None
    if told["motion"] is not None:
        pivot, axes, ranges = (np.array(told["motion"][k]) for k in ("pivot_angstrom", "axes", "range_deg"))
        motion = Motion(pivot, axes, ranges, told["motion"]["distribution"] == "normal")

    @lru_cache(maxsize=1)
    def bodies(box: int, voxel: float) -> BodyVolumes:
        files = [folder / "bodies" / f"body_{b}.mrc" for b in range(len(told["centres_angstrom"]))]
        volumes = [
            resample(torch.from_numpy(read_mrc(f)), known.pixel_size_angstrom, box, voxel) for f in files
        ]
        states = tuple(State(*s["bodies"]) for s in told["states"])
        centres = torch.tensor(told["centres_angstrom"], dtype=torch.float64)
        return BodyVolumes(volumes, centres, states, motion, voxel)

    def volume(row: int, box: int, voxel: float) -> Tensor:
        return bodies(box, voxel).volume(int(state[row]), torch.from_numpy(angles[row]))

    ranges_deg = tuple(motion.range_deg.tolist()) if motion is not None else ()
    return Variation(state, angles, ranges_deg, volume)


def read_latents(results: Path, known: Truth, truth: Variation, match_radius: float) -> Latents | None:
    """Latents of a project's heterogeneity/, of the particles that lie on a true one; None where there are none."""
    folder = results / "heterogeneity"
    path = next((p for p in (folder / "latents.star", folder / "fit" / "latents.star") if p.exists()), None)
    posed = next((s for s in (folder / "fit", folder, results / "reconstruct" / "refine")
                  if (s / "particles.star").exists()), None)  # fmt: skip
    table = read_table(path, "particles") if path is not None else pd.DataFrame()
    if path is None or posed is None or not len(table):
        return None
    stage = read_stage(posed)
    if stage is None:
        return None
    ids = load_particles(posed / "particles.star", images=False).table["emflowParticleId"]
    place = {identity: row for row, identity in enumerate(ids)}
    unknown = [i for i in table["emflowParticleId"] if i not in place]
    if unknown:
        raise EmflowError(
            f"{path}: {len(unknown)} of its particles (as {unknown[0]}) are not in {posed / 'particles.star'}."
        )
    rows, mates = match_particles(stage, known, match_radius)
    mate_of = np.full(len(ids), -1)
    mate_of[rows] = mates
    own = np.array([place[i] for i in table["emflowParticleId"]])
    kept = (mate_of[own] >= 0) & (truth.state[mate_of[own]] >= 0)  # neither false nor broken ones
    table, own = table[kept], own[kept]
    mates = mate_of[own]
    count = len([name for name in table if re.fullmatch(r"emflowLatent\d+", str(name))])
    latent = _columns(table, *(f"emflowLatent{k}" for k in range(1, count + 1))) if count else None
    maps = [path.parent / "mean.mrc", *(path.parent / f"component_{k:02d}.mrc" for k in range(1, count + 1))]
    volumes, voxel = None, 1.0
    if all(m.exists() for m in maps):
        volumes = torch.stack([torch.from_numpy(read_mrc(m)) for m in maps])
        voxel = read_header(maps[0]).voxel_size_angstrom

    def true_volume(row: int) -> Tensor:
        assert volumes is not None
        return truth.volume(int(mates[row]), volumes.shape[-1], voxel)

    return Latents(
        latent=np.zeros((len(table), 0)) if latent is None else latent,
        cluster=integers(table, "emflowCluster") if "emflowCluster" in table else None,
        state=truth.state[mates],
        coordinate_deg=truth.coordinate_deg[mates],
        range_deg=truth.range_deg,
        volumes=volumes,
        true_volume=true_volume,
        starts=pose_alignments(stage, known, own, mates, voxel),
        voxel_angstrom=voxel,
    )


def read_denoised(folder: Path, results: Path, known: Truth) -> Iterator[Restored]:
    """Denoised micrographs without carbon, with their raw and noise-free images, one at a time."""
    folder = folder if (folder / "facts.json").exists() else folder / "truth"
    table = read_shards(results / "denoise", "micrographs")
    if table is None or not len(table) or not (folder / "clean").is_dir():
        return
    truth = read_table(folder / "micrographs.star", "micrographs")
    dirt = floats(truth, "emflowCarbon") + floats(truth, "emflowContaminated", 0.0)
    dirty = set(np.array(_stems(truth))[dirt > 0])
    for name, denoised in zip(_stems(table), table["emflowDenoisedName"], strict=True):
        files = [
            Path(denoised),
            folder.parent / "micrographs" / f"{name}.mrc",
            folder / "clean" / f"{name}.mrc",
        ]
        if name in known.ctf and name not in dirty and all(f.exists() for f in files):
            image, raw, clean = (torch.from_numpy(read_mrc(f)) for f in files)
            yield Restored(image, raw, clean, known.particles.xy_px[known.particles.micrograph == name])


def read_picks(folder: Path) -> tuple[Positions, list[str]] | None:
    """Picks of a folder of shards and the micrographs that were picked; None where there are none yet."""
    picks, micrographs = (read_shards(folder, b) for b in ("particles", "micrographs"))
    if picks is None or micrographs is None:
        return None
    return _positions(picks), sorted(set(_stems(micrographs)) | set(_stems(picks)))


def read_stage(folder: Path) -> Stage | None:
    """Read a reconstruction's folder; None where it does not exist or has no posed particle."""
    star = folder / "particles.star"
    if not star.exists():
        return None
    table = read_star(star).get("particles")
    if table is None or len(table) == 0:
        return None
    particles = load_particles(star)
    facts = particles.common_facts()
    angles = _columns(particles.table, "rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
    origins = [floats(particles.table, f"rlnOrigin{axis}Angst", 0.0) for axis in "XY"]
    positions = _positions(particles.table)
    path = folder / "map.mrc"
    volume = torch.from_numpy(read_mrc(path)) if path.exists() else None

    def images(rows: np.ndarray, rotations: Tensor, shifts_px: Tensor) -> Iterator[PosedImages]:
        return _batches(particles, rows, rotations, shifts_px)

    return Stage(
        # extraction truncates coordinates, as RELION does
        particles=Positions(positions.micrograph, np.trunc(positions.xy_px)),
        origins_angstrom=np.stack(origins, 1),
        rotations=euler_to_matrix(torch.from_numpy(angles)),
        image_pixel_size_angstrom=facts.pixel_size_angstrom,
        box_px=facts.box_px,
        images=images,
        volume=volume,
        voxel_size_angstrom=read_header(path).voxel_size_angstrom if path.exists() else 0.0,
    )


def _batches(
    particles: Particles, rows: np.ndarray, rotations: Tensor, shifts_px: Tensor
) -> Iterator[PosedImages]:
    for start in range(0, len(rows), _BATCH):
        part = slice(start, start + _BATCH)
        images = read_mended(particles, rows[part])
        yield PosedImages(images, rotations[part], shifts_px[part], ctf_of(particles, rows[part]))


def read_number(path: Path, name: str) -> float | None:
    """One figure of a metrics.json; None where the file or the figure is missing."""
    if not path.exists():
        return None
    value = read_json(path).get(name)
    return None if value is None else float(value)


def _stems(table: pd.DataFrame) -> list[str]:
    return [Path(name).stem for name in table["rlnMicrographName"]] if len(table) else []


def _columns(table: pd.DataFrame, *names: str) -> np.ndarray:
    if len(table) == 0:
        return np.zeros((0, len(names)))
    return np.stack([floats(table, name) for name in names], 1)


def _positions(table: pd.DataFrame) -> Positions:
    return Positions(
        np.array(_stems(table), dtype=object), _columns(table, "rlnCoordinateX", "rlnCoordinateY")
    )
