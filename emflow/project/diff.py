"""Two projects compared: settings key by key, figures with their direction, verdicts."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from emflow.config import load_settings
from emflow.report.gather import METRIC_FOLDERS
from emflow.report.targets import TARGETS
from emflow.step import EmflowError

_LESS_IS_BETTER = re.compile(
    r"resolution\w*_angstrom$|_error_|set_aside|outliers|dropped|overfitting|pose_sigma|fsc05_angstrom$"
)
_MORE_IS_BETTER = re.compile(
    r"accepted|precision|recall|_f1$|correlation|significance|_gain|effective_particles|resolved|coverage"
)
_TOO_LITTLE = 0.01
"""Of two figures that differ by less, neither is called better."""
_NO_RESULT = re.compile(r"^(cpu|wall)_s$|peak_memory")


class Change(NamedTuple):
    """Something that differs. None where a side does not have it."""

    where: str
    """Dotted key of a setting; room and name of a figure; room and question of a verdict."""
    a: Any
    b: Any
    better: str = ""
    """a or b, where it can be said."""


@dataclass(frozen=True)
class Difference:
    """What differs between two projects; equal parts are left out."""

    a: str
    b: str
    settings: list[Change]
    figures: list[Change]
    verdicts: list[Change]
    equal_figures: int


def compare(a: Path, b: Path) -> Difference:
    """Compare two projects' folders.

    Raises
    ------
    EmflowError
        One of them is no project.
    """
    for folder in (a, b):
        if not (folder / "settings.yaml").is_file():
            raise EmflowError(
                f"{folder}: no project; expected a folder such as results/demo with settings.yaml."
            )
    settings = _changes(_settings(a), _settings(b))
    numbers = [_figures(folder) for folder in (a, b)]
    figures = [
        change._replace(better=_better(change))
        for change in _changes(*numbers)
        if not _same(change.a, change.b)
    ]
    return Difference(
        a=a.name,
        b=b.name,
        settings=[change for change in settings if change.where != "project"],
        figures=figures,
        verdicts=_changes(_verdicts(a), _verdicts(b)),
        equal_figures=len(numbers[0].keys() | numbers[1].keys()) - len(figures),
    )


def _changes(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[Change]:
    keys = [*a, *(key for key in b if key not in a)]
    return [Change(key, a.get(key), b.get(key)) for key in keys if a.get(key) != b.get(key)]


def _settings(folder: Path) -> dict[str, Any]:
    return _flat(load_settings(folder / "settings.yaml").as_mapping())


def _flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in content.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise EmflowError(f"{path}: cannot be read ({error}).") from None


def _figures(folder: Path) -> dict[str, Any]:
    found = {}
    for room, place in METRIC_FOLDERS.items():
        content = _read(folder / place / "metrics.json")
        for name, value in (content if isinstance(content, dict) else {}).items():
            if not _NO_RESULT.search(name):
                found[f"{room}.{name}"] = value
    return found


def _verdicts(folder: Path) -> dict[str, str]:
    found = {}
    for room, place in METRIC_FOLDERS.items():
        content = _read(folder / place / "verdicts.json")
        for row in content if isinstance(content, list) else []:
            found[f"{room}: {row['question']}"] = str(row["verdict"])
    return found


def _same(a: Any, b: Any) -> bool:
    """Whether two figures are equal to rounding."""
    if isinstance(a, int | float) and isinstance(b, int | float):
        return math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-12)
    return bool(a == b)


def _better(change: Change) -> str:
    """Which side is better: by the target of a simulated session's figure, else by what the name says."""
    if not isinstance(change.a, int | float) or not isinstance(change.b, int | float):
        return ""
    name = change.where.rpartition(".")[2]
    target = TARGETS.get(name)
    less = bool(_LESS_IS_BETTER.search(name)) if target is None else not target.at_least
    more = bool(_MORE_IS_BETTER.search(name)) if target is None else target.at_least
    if less == more or "noise" in name or math.isclose(change.a, change.b, rel_tol=_TOO_LITTLE):
        return ""
    return "b" if (change.b < change.a) == less else "a"


def in_words(found: Difference) -> str:
    """Return the comparison as text."""
    lines = [f"{found.a} (A) and {found.b} (B)", "", "Settings"]
    lines += _table(found.settings) or ["  the same"]
    lines += ["", f"Figures ({found.equal_figures} are equal)"]
    lines += _table(found.figures) or ["  the same"]
    lines += ["", "Verdicts"]
    lines += _table(found.verdicts) or ["  the same"]
    return "\n".join(lines)


def _table(changes: list[Change]) -> list[str]:
    width = max((len(change.where) for change in changes), default=0)
    return [
        f"  {change.where:{width}}  {value_text(change.a)} → {value_text(change.b)}"
        + (f"  {change.better.upper()} is better" if change.better else "")
        for change in changes
    ]


def value_text(value: Any) -> str:
    """Write a setting or a figure, short."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
