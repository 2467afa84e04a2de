"""What a watcher says of itself: watch.json for the report and other programs, a line for the terminal."""

from __future__ import annotations

from typing import Any


def span(seconds: float) -> str:
    """A length of time, in words: ``40 s``, ``8 min``, ``3.2 h``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 100 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"


def catching_up(status: dict[str, Any]) -> str:
    """When the run will have caught up, in words."""
    micrographs = status["micrographs"]
    if not micrographs["behind"]:
        return "up to date"
    if status["catch_up_s"] is not None:
        return f"caught up in {span(status['catch_up_s'])}"
    if status["capacity_per_hour"] is None:
        return "behind; how fast it goes is not known yet"
    return "falling behind: more comes than is processed"


def line(status: dict[str, Any]) -> str:
    """The state in one line."""
    count = status["micrographs"]
    parts = [f"{count['seen']} seen"]
    if count["waiting"]:
        parts.append(f"{count['waiting']} waiting")
    if count["behind"]:
        parts.append(f"{count['behind']} behind")
    parts.append(f"{count['processed']} processed ({count['set_aside']} set aside)")
    if status["in_per_hour"] is not None:
        parts.append(f"in {status['in_per_hour']:.0f}/h, out {status['out_per_hour']:.0f}/h")
    parts += [catching_up(status), status["state"]]
    parts += [f"ALARM {name}" for name in status["alarms"]]
    return " · ".join(parts)
