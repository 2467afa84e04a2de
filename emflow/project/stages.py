"""The stages that pool all particles: what they depend on, and which of them stay as they are in a run.

A stage that stays (*frozen*) has no rule in that run: what it made is a plain input of the steps that follow.
The main process of a run decides, once; its jobs read the decision.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from emflow.config import Settings
from emflow.io.atomic import write_text
from emflow.io.record import same_settings
from emflow.project.memory import Memory, params_of

_MAPS = ("half1.mrc", "half2.mrc", "map.mrc", "mask.mrc", "particles.star", "fsc.star")
_SAID = ("metrics.json", "verdicts.json")
_DECISION = ".frozen.json"


@dataclass(frozen=True)
class Stage:
    """A stage that pools all particles."""

    step: str
    folder: str
    """Where it writes, below the project's results."""
    files: tuple[str, ...]
    """What its rule declares."""


STAGES = {
    "classify": Stage("classify.run", "classify/run", ("particles.star", "classes.star", "classes.mrcs")),
    "abinitio": Stage("reconstruct.abinitio", "reconstruct/abinitio", (*_MAPS, *_SAID)),
    "refine": Stage("reconstruct.refine", "reconstruct/refine", (*_MAPS, *_SAID)),
    "heterogeneity": Stage("heterogeneity.fit", "heterogeneity/fit", ("latents.star", "mean.mrc", *_SAID)),
}
"""Key in the configuration's section ``increments`` → the stage."""


def steps_before(settings: Settings, step: str) -> list[str]:
    """Steps whose settings a stage depends on, itself the last."""
    given = settings.input
    raw = getattr(settings.steps.get("pick.apply"), "pixels", "raw") == "raw"
    assessed = getattr(settings.steps.get("session.select"), "assessment", "off") == "reject"
    way = [
        "session.check",
        "ctf.import" if given.ctf else "ctf.fit",
        *([] if given.picks or raw else ["denoise.apply"]),
        "pick.import" if given.picks else "pick.apply",
        *(["pick.assess"] if assessed else []),
        "session.select",
        "session.join",
        "extract.run",
        "extract.join",
    ]
    if step == "classify.run" or getattr(settings.steps.get("classify.select"), "enabled", False):
        way += ["classify.run", "classify.select"]
    way += ["reconstruct.abinitio", "extract.recenter", "reconstruct.refine", "heterogeneity.fit"]
    known = [name for name in way if name in settings.steps]
    return known[: known.index(step) + 1]


def lineages(settings: Settings, memory: Memory) -> dict[str, str]:
    """Step of each stage → what its settings and those of all steps before it come to.

    A digest, and behind a colon one for the optics of each session: further sessions leave the beginning as it is.
    """
    found = {}
    given = [settings.input.ctf, settings.input.picks]
    sessions = settings.input.micrographs
    listed = [sessions] if isinstance(sessions, str) else sessions or []
    optics = ",".join(_digest({} if isinstance(one, str) else one.facts())[:8] for one in listed)
    for stage in STAGES.values():
        if stage.step in settings.steps:
            way = [(name, params_of(settings, name, memory)) for name in steps_before(settings, stage.step)]
            found[stage.step] = f"{_digest([given, way])[:16]}:{optics}"
    return found


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def decide_frozen(settings: Settings, lineage: Mapping[str, str]) -> frozenset[str]:
    """Steps of the stages that stay as they are: chosen so, finished, and no setting before them has changed."""
    return frozenset(
        stage.step
        for key, stage in STAGES.items()
        if stage.step in lineage
        and getattr(settings.increments, key) == "frozen"
        and _stands(Path("results") / settings.project, stage, lineage[stage.step])
    )


def _stands(folder: Path, stage: Stage, lineage: str) -> bool:
    place = folder / stage.folder
    record = _read_json(folder / "records" / stage.step / "all.json")
    if not same_settings(lineage, record.get("lineage")) or not all(
        (place / name).is_file() for name in stage.files
    ):
        return False
    if stage.step != "reconstruct.abinitio":
        return True
    # a first map in which two random starts found nothing is no reference for what comes later
    return _read_json(place / "metrics.json").get("resolution_angstrom") is not None


def _read_json(path: Path) -> dict[str, object]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def store_frozen(folder: Path, frozen: frozenset[str]) -> None:
    """Store the decision of a run, for its jobs."""
    if stored_frozen(folder) != frozen or not (folder / _DECISION).exists():
        write_text(folder / _DECISION, json.dumps(sorted(frozen)) + "\n")


def stored_frozen(folder: Path) -> frozenset[str]:
    """Return what the main process of a run decided."""
    try:
        return frozenset(json.loads((folder / _DECISION).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return frozenset()
