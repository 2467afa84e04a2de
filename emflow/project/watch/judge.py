"""What is worth an alarm, and when it is over; between the two limits an alarm stays as it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from emflow.project.watch.config import Watch
from emflow.project.watch.space import Space
from emflow.project.watch.status import span

_SOURCE_GONE_S = 300.0


class Reading(NamedTuple):
    """One thing looked at."""

    alarm: str
    on: bool
    """Bad enough for an alarm."""
    off: bool
    """Good enough to end one."""
    text: str


@dataclass(frozen=True)
class Facts:
    """What there is to judge."""

    quiet_s: float | None
    """Seconds since something came; None if nothing has come yet."""
    problem: str
    """Why the source cannot be looked at."""
    problem_s: float
    """Since when, in seconds."""
    figures: Mapping[str, Any]
    spaces: Sequence[Space]
    failed: Mapping[str, Sequence[str]]
    """Kind of run → rules that failed when it last ran."""
    log: str


def readings(cfg: Watch, facts: Facts) -> Iterator[Reading]:
    """Yield what can be said now; what is not known is left out, and its alarm stays as it is."""
    if cfg.stall_minutes is not None and facts.quiet_s is not None:
        on = facts.quiet_s >= 60 * cfg.stall_minutes
        text = f"no new micrograph for {span(facts.quiet_s)}" if on else "micrographs come again"
        yield Reading("acquisition stalled", on, not on, text)
    text = facts.problem or "the micrographs can be seen again"
    on = bool(facts.problem) and facts.problem_s >= _SOURCE_GONE_S
    yield Reading("micrographs out of sight", on, not facts.problem, text)
    yield from _drops(cfg, facts.figures)
    for space in facts.spaces:
        yield from _disk(cfg, space)
    named = ", ".join(sorted({rule for rules in facts.failed.values() for rule in rules}))
    text = f"failed: {named}; see {facts.log}" if named else "the last run went through"
    yield Reading("a step failed", bool(named), not named, text)


def _drops(cfg: Watch, figures: Mapping[str, Any]) -> Iterator[Reading]:
    last = f"the last {cfg.drop_micrographs} micrographs"
    ctf, factor = figures.get("ctf"), cfg.ctf_drop_factor
    if ctf and factor is not None:
        worse = ctf["recent"] - ctf["earlier"]
        yield Reading(
            "CTF fits worse",
            ctf["recent"] > factor * ctf["earlier"] and worse > ctf["noise"],
            ctf["recent"] < (1 + factor) / 2 * ctf["earlier"],
            f"the CTF of {last} fits to {ctf['recent']:.1f} Å (median), {ctf['earlier']:.1f} Å before them",
        )
    picks, fraction = figures.get("picks"), cfg.picks_drop_factor
    if picks and fraction is not None:
        fewer = picks["earlier"] - picks["recent"]
        yield Reading(
            "fewer picks",
            picks["recent"] < fraction * picks["earlier"] and fewer > picks["noise"],
            picks["recent"] > (1 + fraction) / 2 * picks["earlier"],
            f"{picks['recent']:.0f} picks (median) on {last}, {picks['earlier']:.0f} before them",
        )


def _disk(cfg: Watch, space: Space) -> Iterator[Reading]:
    free, hours = space.free_gb, space.full_in_hours
    if free is None:
        return
    name = f"disk of the {space.name}"
    if cfg.disk_free_gb is not None:
        limit = cfg.disk_free_gb
        yield Reading(f"{name} nearly full", free < limit, free >= 1.1 * limit, f"{free:.1f} GB are free")
    if cfg.disk_hours is not None:
        left = float("inf") if hours is None else hours
        text = "it does not fill now" if hours is None else f"full in {span(3600 * hours)} at this rate"
        text = f"{free:.1f} GB are free; {text}"
        yield Reading(f"{name} fills", left < cfg.disk_hours, left >= 1.5 * cfg.disk_hours, text)
