"""Read what a results folder holds; whatever is missing or broken is left out and named."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
import yaml

from emflow.io.star import Tables, read_star, require_whole
from emflow.step import EmflowError

T = TypeVar("T")

METRIC_FOLDERS = {
    "session": "session",
    "ctf": "ctf",
    "denoise.check": "denoise/check",
    "pick": "pick",
    "extract": "extract",
    "extract.recentered": "extract/recentered",
    "classify": "classify",
    "reconstruct.abinitio": "reconstruct/abinitio",
    "reconstruct.refine": "reconstruct/refine",
    "reconstruct.ctf": "reconstruct/ctf",
    "reconstruct.classes": "reconstruct/classes",
    "heterogeneity": "heterogeneity",
    "heterogeneity.traverse": "heterogeneity/path",
    "heterogeneity.check": "heterogeneity/check",
    "validate": "validate",
    "validate.local": "validate/local",
    "validate.particles": "validate/particles",
    "validate.noise_control": "validate/noise_control",
    "validate.states": "validate/states",
    "vem": "vem",
    "vem.slices": "vem/slices",
    "vem.model": "vem/model",
    "vem.score": "vem/score",
    "vem.membranes": "vem/membranes",
    "vem.segmentation": "vem/segmentation.zarr",
    "vem.score_segments": "vem/score_segments",
    "truth": "simulate",
}
"""Section of summary.json → folder of its metrics.json and verdicts.json."""


@dataclass
class Results:
    """What was found. Tables hold text; a part that is not there yet is empty."""

    folder: Path
    micrographs: pd.DataFrame
    """One row per micrograph that was found, with the columns of all steps that ran (as quality.star)."""
    set_aside: pd.DataFrame
    """Columns rlnMicrographName, emflowReason, emflowExpected, and the step that set it aside (emflowStep)."""
    metrics: dict[str, dict[str, Any]]
    verdicts: dict[str, list[dict[str, str]]]
    records: dict[str, list[dict[str, Any]]]
    """Step → its records, one per job."""
    settings: dict[str, Any]
    facts: dict[str, Any]
    """Facts of the simulated session, where there is one."""
    problems: list[str] = field(default_factory=list)

    @property
    def of_volume(self) -> bool:
        """Whether these are results of a volume rather than of micrographs."""
        return (self.folder / "vem").is_dir() and not len(self.micrographs)

    def path(self, *parts: str) -> Path | None:
        """Return a file of the results if it is there."""
        path = self.folder.joinpath(*parts)
        return path if path.is_file() else None

    def attempt(self, read: Callable[[], T], otherwise: T) -> T:
        """Read something; what cannot be read is named on the page, and ``otherwise`` returned."""
        return _attempt(self.problems, read, otherwise)

    def sample(self, name: str) -> Any:
        """Return a fact of the sample from the settings, or None."""
        sample = self.settings.get("sample")
        return sample.get(name) if isinstance(sample, dict) else None


def gather(folder: Path) -> Results:
    """Read a project's results.

    Raises
    ------
    EmflowError
        If the folder does not exist or holds nothing of emflow.
    """
    if not folder.is_dir():
        raise EmflowError(f"{folder}: no such folder; expected a project's results, such as results/demo.")
    problems: list[str] = []
    metrics, verdicts = {}, {}
    for name, place in METRIC_FOLDERS.items():
        numbers = _json(folder / place / "metrics.json", problems, dict)
        rows = _json(folder / place / "verdicts.json", problems, list)
        if numbers:
            metrics[name] = numbers
        if rows:
            verdicts[name] = [row for row in rows if isinstance(row, dict) and "verdict" in row]
    nothing: dict[str, Any] = {}
    settings = _attempt(problems, lambda: _settings(folder / "settings.yaml"), nothing)
    records = _records(folder / "records", problems)
    micrographs, set_aside = _micrographs(folder, problems)
    found = Results(
        folder=folder,
        micrographs=micrographs,
        set_aside=set_aside,
        metrics=metrics,
        verdicts=verdicts,
        records=records,
        settings=settings,
        facts=_facts(folder, settings, records, problems) if "truth" in metrics else {},
        problems=problems,
    )
    if not (len(micrographs) or metrics or records or shard_files(folder, "session")):
        raise EmflowError(f"{folder}: holds no results of emflow; expected session/, ctf/, … or records/.")
    return found


def shard_files(folder: Path, *parts: str) -> list[Path]:
    """Shard tables of a room, in order; the profiles beside them are none."""
    return sorted(
        p for p in folder.joinpath(*parts).glob("shard_*.star") if re.fullmatch(r"shard_\d+\.star", p.name)
    )


def count_rows(path: Path, block: str) -> int:
    """Count the rows of a block without keeping them: particle tables may be large."""
    count, inside, in_columns = 0, False, False
    require_whole(path)
    with open(path, encoding="utf-8") as lines:
        for raw in lines:
            line = raw.strip()
            if line.startswith("data_"):
                inside, in_columns = line == f"data_{block}", True
            elif inside and line and not line.startswith("#"):
                in_columns = in_columns and line.startswith(("_", "loop_"))
                count += not in_columns
    return count


def _attempt(problems: list[str], read: Callable[[], T], otherwise: T) -> T:
    try:
        return read()
    except (EmflowError, OSError, ValueError, KeyError) as error:
        problems.append(str(error) if isinstance(error, EmflowError) else f"{type(error).__name__}: {error}")
        return otherwise


def _json(path: Path, problems: list[str], kind: type[T]) -> T | None:
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        problems.append(f"{path}: not readable: {error}")
        return None
    if not isinstance(content, kind):
        problems.append(f"{path}: expected a {kind.__name__}, found a {type(content).__name__}.")
        return None
    return content


def _settings(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise EmflowError(f"{path}: not valid YAML: {error}") from None
    return content if isinstance(content, dict) else {}


def _records(folder: Path, problems: list[str]) -> dict[str, list[dict[str, Any]]]:
    records: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(folder.glob("*/*.json")):
        if path.parent.name == "report":  # an earlier report's: the same results give the same summary
            continue
        content = _json(path, problems, dict)
        if content is not None:
            records.setdefault(path.parent.name, []).append(content)
    return records


def _facts(
    folder: Path, settings: dict[str, Any], records: dict[str, list[dict[str, Any]]], problems: list[str]
) -> dict[str, Any]:
    """Facts of the simulation: beside the score, or in the truth's folder that it was made against."""
    places = [folder / "simulate"]
    given = settings.get("input")
    if isinstance(given, dict) and given.get("truth"):
        places.append(Path(str(given["truth"])))
    for record in records.get("simulate.score", []):
        places += [Path(str(entry.get("path", ""))).parent for entry in record.get("inputs", [])]
    for place in places:
        facts = _json(place / "facts.json", problems, dict)
        if facts is not None:
            return facts
    return {}


def _micrographs(folder: Path, problems: list[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """One row per micrograph, and the set-aside ones: the pooled tables, or what the shards say so far."""
    quality = _pooled(folder / "session" / "quality.star", problems)
    aside = _pooled(folder / "session" / "set_aside.star", problems)
    if quality is None:
        listed = _shards(folder, problems, "session")
        quality = _stack([t["micrographs"] for t in listed if "micrographs" in t])
        for step in (("session", "check"), ("ctf",), ("pick",)):
            parts = _stack([t["micrographs"] for t in _shards(folder, problems, *step) if "micrographs" in t])
            if "emflowMicrographId" in quality and "emflowMicrographId" in parts:
                new = [c for c in parts if c not in quality or c == "emflowMicrographId"]
                once = parts[new].drop_duplicates("emflowMicrographId")
                quality = quality.merge(once, "left", "emflowMicrographId")
    if aside is None:
        found = []
        for step in (("session", "check"), ("ctf",), ("pick",)):
            tables = [t["set_aside"] for t in _shards(folder, problems, *step) if "set_aside" in t]
            found += [table.assign(emflowStep=".".join(step)) for table in tables if len(table)]
        aside = _stack(found)
    return quality, _stack([aside, *_aside_by_extraction(folder, problems)])


def _aside_by_extraction(folder: Path, problems: list[str]) -> list[pd.DataFrame]:
    """What extraction set aside, after the session's table was made. Its tables are large: only those are read whose
    records say that there is something."""
    found = []
    for path in shard_files(folder, "extract"):
        record = _json(folder / "records" / "extract.run" / f"{path.stem}.json", problems, dict)
        if record and record.get("set_aside"):
            tables: Tables = _attempt(problems, functools.partial(read_star, path), {})
            if "set_aside" in tables:
                found.append(tables["set_aside"].assign(emflowStep="extract"))
    return found


def _pooled(path: Path, problems: list[str]) -> pd.DataFrame | None:
    """Table of a pooled STAR file, whatever its block is called; None if it is not there."""
    if not path.is_file():
        return None
    tables: Tables = _attempt(problems, lambda: read_star(path), {})
    named = [table for table in tables.values() if "rlnMicrographName" in table]
    return named[0] if named else None


def _shards(folder: Path, problems: list[str], *parts: str) -> list[Tables]:
    empty: Tables = {}
    return [
        _attempt(problems, functools.partial(read_star, path), empty) for path in shard_files(folder, *parts)
    ]


def _stack(tables: list[pd.DataFrame]) -> pd.DataFrame:
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()
