"""The volume of a project: looked at when a run begins, then stored with the parts that jobs restore."""

from __future__ import annotations

import json
import math
import re
import sys
from pathlib import Path
from typing import Any

from emflow.config import Settings
from emflow.io.atomic import write_text
from emflow.project.workload import Workload
from emflow.step import EmflowError

_PART = re.compile(r"part_(\d+)\.json$")


def find_volume(settings: Settings, pretend: Path | None = None) -> tuple[str, dict[str, str]]:
    """Look at the volume and divide it among jobs.

    What is stored of a volume that has gone, because it was archived, stays; so do files whose content would be the
    same, with their time.

    Parameters
    ----------
    pretend
        Folder to write new lists to in place of the project, for a run that must not change anything.

    Returns
    -------
    Path of the volume's description, and number of each part → path of its list.

    Raises
    ------
    EmflowError
        If the volume cannot be read and was not seen before, or micrographs are given beside it.
    """
    given = settings.input
    if given.micrographs:
        raise EmflowError(
            "input: names micrographs and a volume. A project is of one kind; write a configuration for each."
        )
    folder = Path("results") / settings.project / "vem"
    try:
        seen, parts = _look(settings)
    except EmflowError as error:
        stored = stored_parts(folder.parent)
        if not stored[1]:
            raise
        print(f"emflow: {error} What was made of it stays.", file=sys.stderr)
        return stored
    place = _store(folder, pretend, "volume.json", seen)
    names = {}
    for number, part in parts.items():
        names[number] = _store(folder, pretend, f"parts/part_{number}.json", part)
    if pretend is None:
        for name, path in stored_parts(folder.parent)[1].items():
            if name not in names:  # of an earlier, finer division
                Path(path).unlink()
    return place, names


def stored_parts(folder: Path) -> tuple[str, dict[str, str]]:
    """What an earlier look at a project's volume stored."""
    found = ((_PART.match(path.name), path) for path in (folder / "vem" / "parts").glob("part_*.json"))
    parts = {match[1]: str(path) for match, path in sorted(found, key=lambda item: item[1]) if match}
    return str(folder / "vem" / "volume.json"), parts


def volume_workload(settings: Settings, volume: str, parts: dict[str, str]) -> Workload:
    """Count the work of restoring a volume from what was stored of it.

    Parameters
    ----------
    volume, parts
        Paths of its description and of the lists of its blocks.
    """
    seen = json.loads(Path(volume).read_text(encoding="utf-8"))
    voxel = settings.section("vem.restore").model_dump()["voxel_nm"] or seen["voxel_nm"]
    restored = math.prod(seen["shape"]) * (voxel[0] / voxel[2] if voxel else 1)
    return Workload(dict.fromkeys(parts, 1), restored / 1e6 / max(1, len(parts)), 0.0, True, 0.0, 0.0, 0.0)


def _look(settings: Settings) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    from emflow.io.volume import open_volume, volume_identity
    from emflow.vem.config import VemParts
    from emflow.vem.parts import parts_of

    volume = open_volume(str(settings.input.volume))
    cfg = settings.section("vem.parts")
    assert isinstance(cfg, VemParts)
    seen = {
        "path": str(settings.input.volume),
        "identity": volume_identity(volume),
        "shape": list(volume.shape),
        "dtype": str(volume.dtype),
        "voxel_nm": list(volume.voxel_nm) if volume.voxel_nm else None,
    }
    return seen, parts_of(volume.shape, str(seen["identity"]), cfg)


def _store(folder: Path, pretend: Path | None, name: str, content: dict[str, Any]) -> str:
    path = folder / name
    text = json.dumps(content, indent=1) + "\n"
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return str(path)
    if pretend is not None:
        path = pretend / "vem" / name
    write_text(path, text)
    return str(path)
