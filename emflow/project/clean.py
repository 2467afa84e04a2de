"""Free what a project can make again: lists it with its size first, and deletes below results/PROJECT only."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from emflow.config import Settings, load_settings
from emflow.io.freed import free_images
from emflow.project.chain import Chain, stored_shards
from emflow.project.lock import hold, holder, is_held
from emflow.project.unlock import queued_jobs, running_steps
from emflow.step import EmflowError


@dataclass(frozen=True)
class Waste:
    """Files of one kind that can go."""

    name: str
    """How it is asked for: denoised, stacks, checkpoints, leftovers."""
    paths: list[Path]
    about: str
    """What it is, and when it is made again."""

    @property
    def freed_bytes(self) -> int:
        """Room that removing it gives back: files that a branch shares stay on the disk."""
        return sum(_stat(path).st_blocks * 512 for path in self.paths if _stat(path).st_nlink == 1)

    @property
    def shared_bytes(self) -> int:
        """Room of files that another project has, too."""
        return sum(_stat(path).st_blocks * 512 for path in self.paths if _stat(path).st_nlink > 1)


def find_waste(project: str) -> list[Waste]:
    """List what of a project can be made again, or is needed no more.

    Raises
    ------
    EmflowError
        There is no such project, or it is running.
    """
    folder = Path("results") / project
    settings = _settings(project, folder)
    _require_idle(project, folder)
    refined = (folder / "reconstruct" / "refine" / "map.mrc").is_file()
    found = [
        Waste(
            "denoised",
            [] if settings.input.truth else _denoised(settings, folder),
            "denoised micrographs that picking is done with; those of the report stay",
        ),
        Waste(
            "stacks",
            _stacks(folder) if refined else [],
            "binned particles of all shards but the first, with their tables; cut out again when the first map or the "
            "classes are made anew, or micrographs are added",
        ),
        Waste(
            "checkpoints",
            _checkpoints(folder),
            "checkpoints of steps that have ended",
        ),
        Waste(
            "leftovers",
            [path for path in _files(folder) if _left(path)],
            "what killed steps left half written",
        ),
    ]
    return [waste for waste in found if waste.paths]


def remove(project: str, found: Iterable[Waste]) -> int:
    """Remove what was found; return the bytes given back.

    Raises
    ------
    EmflowError
        The project is running, or a file lies outside of it.
    """
    folder = Path("results") / project
    hold(folder)
    _require_no_steps(project, folder)
    given = 0
    for waste in found:
        for path in waste.paths:
            if not path.resolve().is_relative_to(folder.resolve()):
                raise EmflowError(f"{path}: lies outside {folder}; nothing there is removed.")
        given += waste.freed_bytes
        if waste.name == "denoised":
            _note_freed(_settings(project, folder), folder, waste.paths)
        for path in waste.paths:
            path.unlink(missing_ok=True)
    return given


def _settings(project: str, folder: Path) -> Settings:
    pattern = str(Settings.model_fields["project"].metadata[0].pattern)
    if not re.match(pattern, project) or not (folder / "settings.yaml").is_file():
        raise EmflowError(f"{folder}: no such project in {Path.cwd()}, or it has never run.")
    return load_settings(folder / "settings.yaml")


def _require_idle(project: str, folder: Path) -> None:
    if is_held(folder):
        raise EmflowError(
            f"{folder}: {holder(folder) or 'a snakemake'} is running this project. Wait for it."
        )
    _require_no_steps(project, folder)


def _require_no_steps(project: str, folder: Path) -> None:
    left = [f"process {pid}" for pid, _ in running_steps(project)] + [f"job {job}" for job in queued_jobs()]
    if left:
        raise EmflowError(f"{folder}: steps are still running ({', '.join(left)}). Wait for them.")


def _files(folder: Path) -> list[Path]:
    """Files below a folder, no links followed."""
    return [
        Path(where) / name
        for where, _, names in os.walk(folder)
        for name in names
        if not (Path(where) / name).is_symlink()
    ]


def _stat(path: Path) -> os.stat_result:
    return path.stat(follow_symlinks=False)


def _denoised(settings: Settings, folder: Path) -> list[Path]:
    """Denoised images beside the shards' tables; where they are picked from, those of shards that are picked."""
    images = {path.stem: path for path in (folder / "denoise" / "images").glob("*.mrc")}
    if not images or getattr(settings.section("pick.apply"), "pixels", "raw") != "denoised":
        return sorted(images.values())
    picked = [folder / "denoise" / path.name for path in (folder / "pick").glob("shard_*.star")]
    return sorted(images[identity] for table in picked for identity in _ids(table) if identity in images)


def _ids(table: Path) -> list[str]:
    from emflow.io.star import read_star

    tables = read_star(table) if table.is_file() else {}
    return list(tables["micrographs"]["emflowMicrographId"]) if "micrographs" in tables else []


def _note_freed(settings: Settings, folder: Path, paths: list[Path]) -> None:
    """Tell denoising that its reader does not need these again."""
    chain = Chain(settings, stored_shards(folder))
    if not chain.reader:
        return
    going = {path.stem: path for path in paths}
    for table in (folder / "denoise").glob("shard_*.star"):
        here = {identity: going[identity] for identity in _ids(table) if identity in going}
        if here:
            free_images(table, here, chain.reader)


def _stacks(folder: Path) -> list[Path]:
    """Binned particles and their tables: Snakemake makes a missing table again only where something needs it.

    The first shard's stay: the report draws some of its particles.
    """
    extract = folder / "extract"
    tables = sorted(extract.glob("shard_*.star"))[1:]
    stacks = [table.with_suffix(".mrcs") for table in tables if table.with_suffix(".mrcs").is_file()]
    if not stacks:
        return []
    joined = extract / "particles.star"
    return [*tables, *stacks, *([joined] if joined.is_file() else [])]


def _checkpoints(folder: Path) -> list[Path]:
    """Checkpoints beside figures that are newer: the step has come to its end."""
    found = []
    for path in _files(folder):
        if ".checkpoint" not in path.parts and not path.name.startswith(".checkpoint"):
            continue
        step = path.parent.parent if ".checkpoint" in path.parts else path.parent
        metrics = step / "metrics.json"
        if metrics.is_file() and metrics.stat().st_mtime_ns > path.stat().st_mtime_ns:
            found.append(path)
    return sorted(found)


def _left(path: Path) -> bool:
    return path.suffix == ".store" or (path.name.startswith(".") and ".partial" in path.name)
