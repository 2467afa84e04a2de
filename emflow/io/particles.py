"""Particle tables with their image stacks: load, check, read any rows with bounded memory."""

from __future__ import annotations

import hashlib
import logging
import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from emflow.io.mrc import map_mrc, read_header
from emflow.io.relion30 import with_optics
from emflow.io.star import Tables, floats, integers, read_star
from emflow.step import EmflowError

log = logging.getLogger("emflow")

PARTICLE_BLOCKS = ("particles", "images", "")
"""Names of the block with particles: RELION 3.1 and later, and older tables."""


@dataclass(frozen=True)
class ParticleFacts:
    """What one optics group says about its particle images."""

    group: str
    pixel_size_angstrom: float
    """Pixel size of the particle images (rlnImagePixelSize)."""
    box_px: int
    """Side of the particle images (rlnImageSize)."""
    voltage_kv: float
    cs_mm: float
    amplitude_contrast: float
    beam_tilt_mrad: tuple[float, float] = (0.0, 0.0)
    """rlnBeamTiltX and rlnBeamTiltY, in milliradian."""


@dataclass(frozen=True)
class Particles:
    """Particles with their optics groups, as text tables (STAR blocks particles and optics).

    ``stack`` numbers each row's stack file in ``stacks``; ``index`` is the image's place there, from 0.
    """

    table: pd.DataFrame
    optics: pd.DataFrame
    stacks: tuple[Path, ...] = ()
    stack: np.ndarray | None = None
    index: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.table)

    @property
    def control_angstrom(self) -> float | None:
        """Of a noise control: the resolution beyond which the images' phases are random; None for data."""
        if "emflowNoiseControl" not in self.table or not len(self):
            return None
        return float(floats(self.table, "emflowNoiseControl").max())

    @property
    def groups(self) -> np.ndarray:
        """Optics group of each particle, as text."""
        return self.groups_of(slice(None))

    def groups_of(self, rows: np.ndarray | slice) -> np.ndarray:
        """Optics group of some particles, as text: time and memory are those of the rows alone."""
        if "rlnOpticsGroup" not in self.table:
            return np.full(len(self), "1", dtype=object)[rows]
        return self.table["rlnOpticsGroup"].iloc[rows].astype(str).to_numpy(dtype=object)

    def facts(self, group: str) -> ParticleFacts:
        """Facts of an optics group; ``group`` is its number, as text."""
        row = self.optics[self.optics["rlnOpticsGroup"].astype(str) == str(group)]
        if len(row) != 1:
            raise EmflowError(f"data_optics has {len(row)} rows for the optics group {group}; expected one.")
        return ParticleFacts(
            group=str(group),
            pixel_size_angstrom=float(floats(row, "rlnImagePixelSize")[0]),
            box_px=int(integers(row, "rlnImageSize")[0]),
            voltage_kv=float(floats(row, "rlnVoltage")[0]),
            cs_mm=float(floats(row, "rlnSphericalAberration")[0]),
            amplitude_contrast=float(floats(row, "rlnAmplitudeContrast")[0]),
            beam_tilt_mrad=(
                float(floats(row, "rlnBeamTiltX", 0.0)[0]),
                float(floats(row, "rlnBeamTiltY", 0.0)[0]),
            ),
        )

    def common_facts(self) -> ParticleFacts:
        """Facts of all particles at once.

        Raises
        ------
        EmflowError
            If optics groups differ in box or pixel size: such sets must be extracted to a common one.
        """
        used = sorted(set(self.groups)) or [str(g) for g in self.optics["rlnOpticsGroup"]][:1]
        if not used:
            raise EmflowError("The particle table has no optics group; expected a block data_optics.")
        facts = [self.facts(group) for group in used]
        first = facts[0]
        for other in facts[1:]:
            if (
                other.box_px != first.box_px
                or abs(other.pixel_size_angstrom / first.pixel_size_angstrom - 1) > 1e-4
            ):
                raise EmflowError(
                    f"Optics groups {first.group} and {other.group} differ: {first.box_px} px at "
                    f"{first.pixel_size_angstrom:g} Å and {other.box_px} px at {other.pixel_size_angstrom:g} Å. "
                    "Extract all particles to one box and pixel size first."
                )
        return first


def load_particles(star: str | os.PathLike[str], *, images: bool = True) -> Particles:
    """Load a particle STAR and check it against its stacks' headers (no pixel is read).

    Stack names in rlnImageName are relative to the working folder or else to the STAR's folder; these are made
    relative to the working folder, so that a table written elsewhere still finds its images. Tables of
    RELION 3.0 (no data_optics; magnification and detector pixel) get optics groups. Rows without
    ``emflowParticleId`` get one.

    Parameters
    ----------
    images
        False for a table whose images are not needed (coordinates for extraction): no stack is looked for.
        Nor is one for a table without rows.

    Raises
    ------
    EmflowError
        A stack is missing or too short, or its box or pixel size contradicts the table.
    """
    source = Path(star)
    tables = read_star(source)
    block = next((name for name in PARTICLE_BLOCKS if name in tables), None)
    if block is None:
        raise EmflowError(
            f"{source}: has no block data_particles; it has {', '.join('data_' + b for b in tables)}."
        )
    table, optics, foreign = with_optics(tables[block], _optics_of(tables), str(source))
    table = _with_ids(table)
    if not images:
        return Particles(table, optics)
    if not len(table):
        return Particles(table, optics, (), *np.zeros((2, 0), dtype=np.int64))
    if "rlnImageName" not in table:
        raise EmflowError(
            f"{source}: data_{block} lacks the column _rlnImageName; it names no particle images."
        )
    particles = _locate(Particles(table, optics), source)
    return _check_stacks(particles, source, foreign)


def load_half_sets(star: Path) -> Particles:
    """Load particles whose halves are to be compared, each with its half-set.

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
            f"{star}: holds particles of restored (denoised) micrographs; their noise is correlated, and a map or "
            "class made of them agrees with itself better than it should. Extract from the original micrographs."
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
    return replace(particles, table=table.assign(rlnRandomSubset=halves))


def _optics_of(tables: Tables) -> pd.DataFrame | None:
    return tables.get("optics")


def _with_ids(table: pd.DataFrame) -> pd.DataFrame:
    """Add ``emflowParticleId`` where it is missing: micrograph (by name) and rounded coordinate, or the image."""
    if "emflowParticleId" in table or not len(table):
        return table
    if {"rlnMicrographName", "rlnCoordinateX", "rlnCoordinateY"} <= set(table.columns):
        if "emflowMicrographId" in table:
            micrographs = table["emflowMicrographId"].tolist()
        else:
            short = {n: _short_hash(Path(n).name) for n in table["rlnMicrographName"].unique()}
            micrographs = [short[n] for n in table["rlnMicrographName"]]
        x = np.rint(floats(table, "rlnCoordinateX")).astype(int)
        y = np.rint(floats(table, "rlnCoordinateY")).astype(int)
        ids = [f"{m}-{a}-{b}" for m, a, b in zip(micrographs, x, y, strict=True)]
    elif "rlnImageName" in table:
        ids = [_short_hash(name) for name in table["rlnImageName"]]
    else:
        return table
    return table.assign(emflowParticleId=ids)


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _locate(particles: Particles, source: Path) -> Particles:
    """Parse ``000001@stack.mrcs`` and find each stack file."""
    numbers = np.zeros(len(particles), dtype=np.int64)
    codes = np.zeros(len(particles), dtype=np.int64)
    known: dict[str, int] = {}
    for row, name in enumerate(particles.table["rlnImageName"]):
        number, at, stack = str(name).rpartition("@")
        if not at:
            number, stack = "1", str(name)
        if not number.isdecimal() or int(number) < 1:
            raise EmflowError(
                f"{source}: rlnImageName '{name}' (particle {row + 1}); expected <number from 1>@<stack.mrcs>."
            )
        numbers[row] = int(number) - 1
        codes[row] = known.setdefault(stack, len(known))
    paths = []
    for stack in known:
        candidates = [Path(stack), source.parent / stack]
        found = next((p for p in candidates if p.is_file()), None)
        if found is None:
            raise EmflowError(
                f"{source}: the stack '{stack}' named in rlnImageName does not exist, neither from the working "
                f"folder nor from {source.parent}. Run from the project's folder, or correct the names."
            )
        paths.append(found)
    table = particles.table
    if any(path != Path(stack) for path, stack in zip(paths, known, strict=True)):
        names = [f"{number + 1:06d}@{paths[code]}" for number, code in zip(numbers, codes, strict=True)]
        table = table.assign(rlnImageName=names)
    return Particles(table, particles.optics, tuple(paths), codes, numbers)


def _check_stacks(particles: Particles, source: Path, foreign: bool) -> Particles:
    """Compare the table with each stack's header; fill rlnImageSize where an old table lacks it."""
    assert particles.stack is not None
    assert particles.index is not None
    groups = particles.groups
    optics = particles.optics.copy()
    if "rlnImageSize" not in optics:
        optics["rlnImageSize"] = ""
    for number, path in enumerate(particles.stacks):
        header = read_header(path)
        rows = np.flatnonzero(particles.stack == number)
        count = header.shape[0] if len(header.shape) == 3 else 1
        if header.shape[-1] != header.shape[-2]:
            raise EmflowError(
                f"{path}: images of {header.shape[-1]} × {header.shape[-2]} px; particles are square."
            )
        last = int(particles.index[rows].max()) + 1
        if last > count:
            raise EmflowError(
                f"{source}: names image {last} of {path}, which holds {count}. Stack and table do not belong together."
            )
        for group in sorted(set(groups[rows])):
            place = optics["rlnOpticsGroup"].astype(str) == group
            if not place.any():
                raise EmflowError(f"{source}: optics group {group} is not in data_optics.")
            if not optics.loc[place, "rlnImageSize"].iloc[0]:
                optics.loc[place, "rlnImageSize"] = str(header.shape[-1])
            facts = Particles(particles.table, optics).facts(group)
            _check_box(facts, header.shape[-1], header.voxel_size_angstrom, source, path, foreign)
    return Particles(particles.table, optics, particles.stacks, particles.stack, particles.index)


def _check_box(
    facts: ParticleFacts, box: int, header_pixel: float, source: Path, path: Path, foreign: bool
) -> None:
    if box != facts.box_px:
        raise EmflowError(
            f"{source}: says boxes of {facts.box_px} px at {facts.pixel_size_angstrom:g} Å (optics group "
            f"{facts.group}), but {path} holds boxes of {box} px (header: {header_pixel:g} Å). If the stack was "
            f"binned, the pixel size is {facts.pixel_size_angstrom * facts.box_px / box:.4g} Å: correct "
            "rlnImageSize and rlnImagePixelSize."
        )
    told = header_pixel > 0 and abs(header_pixel - 1) > 1e-3  # 0 and 1 mean that nobody wrote it
    if told and abs(header_pixel / facts.pixel_size_angstrom - 1) > 0.02:
        text = (
            f"{source}: says {facts.pixel_size_angstrom:g} Å per pixel (optics group {facts.group}), but the header "
            f"of {path} says {header_pixel:g} Å with boxes of {box} px."
        )
        if foreign:  # no rlnImageSize that would confirm the table
            raise EmflowError(
                f"{text} The stack seems binned since the table was written: give the table a data_optics block "
                "with rlnImagePixelSize and rlnImageSize of this stack."
            )
        log.warning("%s The table is believed.", text)


def read_images(particles: Particles, rows: np.ndarray | None = None) -> np.ndarray:
    """Read the images of some particles, in the order of ``rows``, as float32 (n, box, box).

    Stacks are memory-mapped and touched one after the other, each in file order: memory is that of
    the result alone.

    Raises
    ------
    EmflowError
        If the rows differ in box size.
    """
    if particles.stack is None or particles.index is None:
        raise EmflowError("These particles were loaded without their images.")
    wanted = np.arange(len(particles)) if rows is None else np.asarray(rows, dtype=np.int64)
    sizes = {particles.facts(group).box_px for group in set(particles.groups_of(wanted))}
    if len(sizes) > 1:
        raise EmflowError(f"Boxes of {sorted(sizes)} px cannot be read as one stack.")
    box = sizes.pop() if sizes else particles.common_facts().box_px
    out = np.empty((len(wanted), box, box), dtype=np.float32)
    order = np.lexsort((particles.index[wanted], particles.stack[wanted]))
    codes = particles.stack[wanted][order]
    for places in np.split(order, np.flatnonzero(np.diff(codes)) + 1):
        if not len(places):
            continue
        pixels = map_mrc(particles.stacks[particles.stack[wanted[places[0]]]])
        pixels = pixels.reshape(-1, *pixels.shape[-2:])
        for place in places:
            out[place] = pixels[particles.index[wanted[place]]]
    return out
