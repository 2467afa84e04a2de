"""Read a simulated truth and a project's results, as far as they go."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from emflow.em.poses import euler_to_matrix
from emflow.em.wiener import PosedImages
from emflow.io.atoms import read_atoms
from emflow.io.mrc import read_header, read_mrc
from emflow.io.particles import Particles, ctf_of, load_particles, read_images
from emflow.io.star import concat, floats, read_star, read_table
from emflow.simulate.scoring import Positions, Stage, Truth
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
    facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
    particles = read_table(folder / "particles.star", "particles")
    positions, angles = (
        _positions(particles),
        _columns(particles, "rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"),
    )

    def junk(name: str) -> np.ndarray | None:
        path = folder / "masks" / f"{name}.mrc"
        return read_mrc(path) if path.exists() else None

    return Truth(
        particles=positions,
        rotations=euler_to_matrix(torch.from_numpy(angles)),
        ctf=ctf_by_micrograph(read_table(folder / "micrographs.star", "micrographs")),
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


def read_picks(results: Path) -> tuple[Positions, list[str]] | None:
    """Picks and the micrographs that were picked; None where there are none yet."""
    picks, micrographs = (read_shards(results / "pick", b) for b in ("particles", "micrographs"))
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
        images = torch.from_numpy(read_images(particles, rows[part]))
        yield PosedImages(images, rotations[part], shifts_px[part], ctf_of(particles, rows[part]))


def read_number(path: Path, name: str) -> float | None:
    """One figure of a metrics.json; None where the file or the figure is missing."""
    if not path.exists():
        return None
    value = json.loads(path.read_text(encoding="utf-8")).get(name)
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
