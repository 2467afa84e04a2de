"""Figures of a project for its watcher, counted in a process of its own, whose memory ends with it.

    python -m emflow.project.watch.figures results/PROJECT N

writes results/PROJECT/watch/figures.json: what is processed, how much is behind, and the medians of the last N
micrographs beside those of the session before them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from emflow.io.atomic import write_text
from emflow.io.listing import stat_file
from emflow.io.star import read_star
from emflow.project.watch.ready import FOLDER, ReadyList, is_followed
from emflow.report.gather import count_rows, shard_files

_FAILED_FIT_ANGSTROM = 100.0
"""What a CTF that could not be fitted counts as."""


def figures(project: Path, last: int) -> dict[str, Any]:
    """Count; ``last`` micrographs are compared with those before them."""
    ready = {item.identity: item for item in ReadyList(project).read() if is_followed(item.name)}
    path = project / "session" / "quality.star"
    table = read_star(path)["micrographs"] if path.is_file() else pd.DataFrame()
    done = set(table["emflowMicrographId"]) if len(table) else set()
    accepted = int((table["emflowAccepted"] == "1").sum()) if len(table) else 0
    before = _stored(project / FOLDER / "figures.json").get("shards", {})
    shards = {p.name: _counted(p, before.get(p.name)) for p in shard_files(project, "extract")}
    pooled = project / "extract" / "recentered" / "particles.star"
    sound = table[table["emflowStep"] != "session.check"] if len(table) else table
    return {
        "processed": len(done),
        "accepted": accepted,
        "set_aside": len(done) - accepted,
        "behind": sum(
            stat_file(item.name) == item for identity, item in ready.items() if identity not in done
        ),
        "particles": sum(shard[2] for shard in shards.values()),
        "pooled_particles": count_rows(pooled, "particles") if pooled.is_file() else None,
        "ctf": compare(_resolutions(sound), last),
        "picks": compare(_numbers(sound, "emflowPickCount"), last),
        "shards": shards,
    }


def compare(values: np.ndarray, last: int) -> dict[str, float] | None:
    """Medians of the last values and of those before, and three standard errors of their difference.

    None with fewer than twice as many values before, so that the beginning of a session is no drop.
    """
    if len(values) < 3 * last:
        return None
    earlier, recent = values[:-last], values[-last:]
    middle = float(np.median(earlier))
    spread = 1.4826 * float(np.median(np.abs(earlier - middle)))
    return {
        "recent": float(np.median(recent)),
        "earlier": middle,
        "noise": 3 * 1.2533 * spread * (1 / len(recent) + 1 / len(earlier)) ** 0.5,
    }


def _numbers(table: pd.DataFrame, column: str) -> np.ndarray:
    if column not in table:
        return np.empty(0)
    values = pd.to_numeric(table[column], errors="coerce").to_numpy(dtype=np.float64)
    return values[np.isfinite(values)]


def _resolutions(table: pd.DataFrame) -> np.ndarray:
    """Resolutions to which the CTF fits, in ångström; none where the CTF was imported without."""
    if not len(_numbers(table, "rlnCtfMaxResolution")):
        return np.empty(0)
    values = pd.to_numeric(table["rlnCtfMaxResolution"], errors="coerce").to_numpy(dtype=np.float64)
    return np.where(np.isfinite(values), np.minimum(values, _FAILED_FIT_ANGSTROM), _FAILED_FIT_ANGSTROM)


def _counted(path: Path, before: list[int] | None) -> list[int]:
    """Size, time and particles of a shard's table; counted again only if it changed."""
    stat = path.stat()
    if before is not None and before[:2] == [stat.st_size, stat.st_mtime_ns]:
        return before
    return [stat.st_size, stat.st_mtime_ns, count_rows(path, "particles")]


def _stored(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


if __name__ == "__main__":
    where = Path(sys.argv[1])
    write_text(where / FOLDER / "figures.json", json.dumps(figures(where, int(sys.argv[2]))) + "\n")
