"""What a project remembers of its steps: the versions it began with, and how often a restart was asked for."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from emflow.config import Settings
from emflow.io.atomic import write_text
from emflow.project.lock import holder, is_held
from emflow.step import EmflowError

_FILE = "steps.json"


@dataclass(frozen=True)
class Memory:
    """What ``steps.json`` in a project's results holds."""

    versions: dict[str, int] = field(default_factory=dict)
    """Step → the version by which its results count; a step that is not named takes the installed one."""
    restarts: dict[str, int] = field(default_factory=dict)
    """Step → how often it was asked to begin anew."""


def recall(folder: Path) -> Memory:
    """Read a project's memory; an empty one where there is none.

    Raises
    ------
    EmflowError
        If the file is damaged.
    """
    path = folder / _FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return Memory(
            *({str(k): int(v) for k, v in content[part].items()} for part in ("versions", "restarts"))
        )
    except FileNotFoundError:
        return Memory()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise EmflowError(
            f"{path}: cannot be read ({error}). Bring it back from a copy, or delete it: then every step counts "
            "by the version that is installed, and what is older is made again."
        ) from None


def keep(folder: Path, memory: Memory) -> None:
    """Store a project's memory, if it is not what is stored."""
    if not (folder / _FILE).exists() or recall(folder) != memory:
        content = {"versions": memory.versions, "restarts": memory.restarts}
        write_text(folder / _FILE, json.dumps(content, indent=1, sort_keys=True) + "\n")


def with_versions(memory: Memory, settings: Settings, folder: Path) -> Memory:
    """Complete the versions: as remembered for every step that has ever run here, as installed for the others."""
    versions = {}
    for step, cfg in settings.steps.items():
        ran = step in memory.versions and any((folder / "records" / step).glob("*.json"))
        versions[step] = memory.versions[step] if ran else cfg.version
    return replace(memory, versions=versions)


def params_of(settings: Settings, step: str, memory: Memory) -> str:
    """JSON of a step's settings, its version as the project remembers it, and its restarts if there were any."""
    content = json.loads(settings.params(step))
    content["version"] = memory.versions.get(step, content["version"])
    if memory.restarts.get(step):
        content["restart"] = memory.restarts[step]
    return json.dumps(content)


def kept_back(settings: Settings, memory: Memory) -> dict[str, tuple[int, int]]:
    """Steps that this emflow does differently: version as remembered, and as installed."""
    return {
        step: (memory.versions[step], cfg.version)
        for step, cfg in settings.steps.items()
        if memory.versions.get(step, cfg.version) != cfg.version
    }


def in_words(differing: dict[str, tuple[int, int]], project: str) -> str:
    """Say which steps are kept as they were."""
    listed = ", ".join(f"{step} (version {old} → {new})" for step, (old, new) in differing.items())
    return (
        f"this version of emflow does {listed} differently. What is there is kept, and new data joins it; "
        f"`emflow upgrade {project}` has these steps made again."
    )


def upgrade_steps(folder: Path, settings: Settings, steps: Iterable[str] = ()) -> list[str]:
    """Take the installed versions of some steps, of all if none is named; return those that changed.

    Raises
    ------
    EmflowError
        If a step is unknown, or a run of the project is going on.
    """
    _refuse_running(folder)
    chosen = list(steps) or list(settings.steps)
    unknown = [step for step in chosen if step not in settings.steps]
    if unknown:
        raise EmflowError(f"{unknown[0]}: no such step. Steps are {', '.join(settings.steps)}.")
    memory = recall(folder)
    changed = [step for step in chosen if step in kept_back(settings, memory)]
    newer = {step: settings.steps[step].version for step in changed}
    keep(folder, replace(memory, versions={**memory.versions, **newer}))
    return changed


def ask_restart(folder: Path, steps: Iterable[str]) -> None:
    """Have steps begin anew at the next run: neither frozen nor from their previous result.

    Raises
    ------
    EmflowError
        If a run of the project is going on.
    """
    _refuse_running(folder)
    memory = recall(folder)
    restarts = {**memory.restarts, **{step: memory.restarts.get(step, 0) + 1 for step in steps}}
    keep(folder, replace(memory, restarts=restarts))


def _refuse_running(folder: Path) -> None:
    if is_held(folder):
        raise EmflowError(
            f"{folder}: {holder(folder) or 'a snakemake'} is running this project. Wait for its end, or stop it."
        )
