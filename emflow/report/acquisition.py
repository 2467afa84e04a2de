"""What the watcher of a running acquisition last said of itself (watch.json), for the page."""

from __future__ import annotations

import json
from typing import Any

from emflow.project.watch.status import catching_up
from emflow.report.gather import Results
from emflow.report.words import number, plural


def acquisition_entry(results: Results) -> dict[str, Any]:
    """Rows of the section, alarms and waiting files; empty where nobody watches or watched."""
    path = results.path("watch.json")
    if path is None:
        return {}

    def read() -> dict[str, Any]:
        assert path is not None
        try:
            return _entry(json.loads(path.read_text(encoding="utf-8")))
        except (TypeError, AttributeError) as error:
            raise ValueError(f"{path}: not as emflow watch writes it ({error})") from None

    nothing: dict[str, Any] = {}
    return results.attempt(read, nothing)


def _entry(said: dict[str, Any]) -> dict[str, Any]:
    count, rows = said["micrographs"], []
    rows.append(("State", f"{said['state']}, {_time(said['updated'])}"))
    rows.append(("Micrographs seen", number(count["seen"])))
    if count["waiting"]:
        rows.append(("Waiting: still being written, or not whole", number(count["waiting"])))
    rows.append(("Ready, not processed yet", f"{number(count['behind'])}; {catching_up(said)}"))
    rows.append(
        ("Processed", f"{number(count['processed'])}, of which {number(count['set_aside'])} set aside")
    )
    if said["in_per_hour"] is not None:
        rates = f"{said['in_per_hour']:.0f} an hour came, {said['out_per_hour']:.0f} an hour were processed"
        rows.append(("Lately", rates))
    if said["capacity_per_hour"] is not None:
        rows.append(("While it works", f"{said['capacity_per_hour']:.0f} micrographs an hour"))
    if said["pooled_particles"]:
        since = said["particles"] - said["pooled_particles"]
        more = f"; {plural(since, 'particle')} have come since" if since > 0 else ""
        rows.append(("Maps were begun with", f"{plural(said['pooled_particles'], 'particle')}{more}"))
    for name, disk in said["disks"].items():
        if disk["free_gb"] is not None:
            full = disk["full_in_hours"]
            left = "" if full is None else f"; full in {full:.0f} h at this rate"
            rows.append((f"Disk of the {name}", f"{disk['free_gb']:.0f} GB free{left}"))
    return {
        "rows": rows,
        "alarms": [(name, alarm["text"], _time(alarm["since"])) for name, alarm in said["alarms"].items()],
        "undelivered": list(said["undelivered"].items()),
        "waiting": [(file["name"], file["why"]) for file in said["waiting_files"]],
    }


def _time(iso: str) -> str:
    """``2026-11-23T02:58:19+00:00`` → ``2026-11-23 02:58 UTC``."""
    return f"{iso[:10]} {iso[11:16]} UTC"
