"""The page: what it says, put together from gathered results, and rendered by the template."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from emflow import __version__
from emflow.io.star import numbers_of
from emflow.report import words
from emflow.report.acquisition import acquisition_entry
from emflow.report.embed import (
    ctf_figure,
    drawn_uri,
    map_entry,
    particle_sheet,
    picture_entry,
    picture_uri,
)
from emflow.report.figures import draw_session
from emflow.report.gather import Results
from emflow.report.increments import increments, verdicts
from emflow.report.pictures import gallery
from emflow.report.summary import Numbers, Stage, accepted_of, stages
from emflow.report.targets import compare_with_targets
from emflow.report.validation import fsc_figure, validation_figures
from emflow.report.variation import variation_entry
from emflow.report.volume import volume_context

MOST_ROWS = 300
"""Rows of a table on the page; the rest is in the STAR file that is named below it."""
RANK = {"fail": 0, "warn": 1, "unknown": 2, "pass": 3}
ROOM_NAMES = {
    "session": "Session",
    "ctf": "CTF",
    "pick": "Picking",
    "extract": "Extraction",
    "extract.recentered": "Extraction, recentred",
    "classify": "Classes",
    "reconstruct.abinitio": "First map",
    "reconstruct.refine": "Refinement",
    "reconstruct.ctf": "Refinement of the CTF",
    "reconstruct.classes": "Classes",
    "heterogeneity": "Heterogeneity",
    "heterogeneity.traverse": "Path through the particles",
    "heterogeneity.check": "Is the heterogeneity real",
    "validate": "Validation",
    "validate.local": "Local resolution",
    "validate.particles": "Validation by the images",
    "validate.noise_control": "Noise control",
    "validate.states": "Validation of states",
    "vem": "Restoration",
    "vem.slices": "Slices",
    "vem.model": "Training",
    "vem.score": "Against the truth",
    "vem.membranes": "Training of the segmentation",
    "vem.segmentation": "Segmentation",
    "vem.score_segments": "Segments against the truth",
    "increments": "New data",
    "truth": "Against the truth",
    "cost": "Cost",
    "simulation": "Simulation",
}


def templates_of(folder: Path) -> Environment:
    """Templates of a folder; what goes into them is escaped, and what they lack is an error."""
    return Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render(results: Results, summary: dict[str, Numbers]) -> str:
    """Render the page: one HTML text that needs nothing else."""
    environment = templates_of(Path(__file__).parent)
    environment.filters |= {
        "number": words.number,
        "seconds": words.seconds,
        "plural": words.plural,
        "room": lambda name: ROOM_NAMES.get(name, name),
        "label": lambda name: words.label_and_unit(name)[0],
        "unit": lambda name: words.label_and_unit(name)[1],
    }
    if results.of_volume:
        shown, template = volume_context(results, summary), "volume.html"
    else:
        shown, template = context(results, summary), "page.html"
    return environment.get_template(template).render(**shown, **_frame(results, summary))


def context(results: Results, summary: dict[str, Numbers]) -> dict[str, Any]:
    """What the template shows of a session of micrographs."""
    way = stages(results, summary)
    pictures = gallery(results)
    claim = next(iter(results.verdicts.get("validate", [])), None)
    return {
        "acquisition": acquisition_entry(results),
        "headline": headline(summary, way, claim["verdict"] if claim else "pass"),
        "claim": claim,
        "since": increments(results, summary),
        "stages": _bars(way),
        "pictures": [picture_entry(p) for p in pictures],
        "set_aside": _rows(
            results.set_aside, ["rlnMicrographName", "emflowStep", "emflowReason", "emflowExpected"]
        ),
        "micrographs": _micrograph_rows(results),
        "session_figure": drawn_uri(results, lambda: draw_session(results.micrographs)),
        "ctf_figure": ctf_figure(results, pictures),
        "particles": particle_sheet(results),
        "denoise_trust": picture_uri(results, "denoise", "check", "trust.png"),
        "classes": picture_uri(results, "classify", "figures", "classes.png"),
        "maps": [entry for entry in (map_entry(results, step) for step in ("abinitio", "refine")) if entry],
        "fsc": fsc_figure(results),
        "validation": validation_figures(results),
        "variation": variation_entry(results),
        "truth": compare_with_targets(summary),
        "most_rows": MOST_ROWS,
    }


def _frame(results: Results, summary: dict[str, Numbers]) -> dict[str, Any]:
    """What every page shows; asked for last, since reading for the others may find problems."""
    project = str(results.settings.get("project") or results.folder.resolve().name)
    settings = (
        yaml.safe_dump(results.settings, sort_keys=False, allow_unicode=True) if results.settings else ""
    )
    facts = {} if results.of_volume else results.settings.get("sample") or {}
    return {
        "project": project,
        "version": __version__,
        "css": (Path(__file__).parent / "page.css").read_text(encoding="utf-8"),
        "sample": {k: v for k, v in facts.items() if v is not None},
        "summary": summary,
        "verdicts": _verdicts(results, verdicts(increments(results, summary), project)),
        "settings": settings or _recorded_settings(results),
        "costs": _costs(results),
        "libraries": _libraries(results),
        "problems": results.problems,
    }


def headline(summary: dict[str, Numbers], way: list[Stage], answer: str = "pass") -> str:
    """The result in one sentence; a run without particles or without resolution says so first.

    Parameters
    ----------
    summary, way
        Figures of all rooms, and the stages from micrographs to the map.
    answer
        Validate's verdict on the resolution: a number that did not pass is no headline by itself.
    """
    counts = {stage.name: stage.count for stage in way}
    found, accepted, picked, used = (counts[name] for name in ("found", "accepted", "picked", "in the map"))
    extracted = counts["extracted"]
    came = words.plural(accepted if accepted is not None else found or 0, "micrograph")
    if not found:
        return "No micrographs yet."
    if picked == 0 or extracted == 0 or used == 0:
        return f"No particles in {came}."
    if "validate" in summary:
        resolution = summary["validate"].get("resolution_angstrom")
        count = words.plural(used or extracted or 0, "particle")
        if resolution is None and "particles" in summary["validate"]:
            return f"Too few particles for a map: {count} from {came}."
        if resolution is None:
            return f"No resolution: the half maps of {count} from {came} agree no more than noise."
        if answer == "fail":
            return f"No resolution is claimed, though the half maps of {count} agree to {resolution:.1f} Å."
        if answer != "pass":
            return f"{resolution:.1f} Å between half maps, with a reservation; {count} from {came}."
        return f"{resolution:.1f} Å between half maps, from {count} on {came}."
    if extracted is not None:
        return f"{words.plural(extracted, 'particle')} from {came}; no validated map yet."
    if picked is not None:
        return f"{words.plural(picked, 'pick')} on {came}; no particles extracted yet."
    return f"{words.plural(found, 'micrograph')} found; no particles picked yet."


def _verdicts(results: Results, since: list[dict[str, str]]) -> list[dict[str, str]]:
    rows = [
        {"room": room, "question": "", "evidence": "", "action": "", **row}
        for room, listed in [*results.verdicts.items(), ("increments", since)]
        for row in listed
    ]
    return sorted(rows, key=lambda row: RANK.get(row["verdict"], 2))


def _bars(way: list[Stage]) -> list[dict[str, Any]]:
    """Stages with the width of their bar, in percent of the first of their unit."""
    first: dict[str, int] = {}
    rows = []
    for stage in way:
        if stage.count:
            first[stage.unit] = max(first.get(stage.unit, 0), stage.count)
    for stage in way:
        width = 100 * (stage.count or 0) / first.get(stage.unit, 1)
        rows.append({"stage": stage, "width": round(width, 1)})
    return rows


def _rows(table: pd.DataFrame, columns: list[str]) -> list[list[str]]:
    return [
        [str(table[name].iloc[i]) if name in table else "" for name in columns]
        for i in range(min(len(table), MOST_ROWS))
    ]


def _micrograph_rows(results: Results) -> list[dict[str, Any]]:
    table = results.micrographs.head(MOST_ROWS)
    if "rlnMicrographName" not in table:
        return []
    defocus = (numbers_of(table, "rlnDefocusU") + numbers_of(table, "rlnDefocusV")) / 2e4
    fit, picks, masked = (
        numbers_of(table, c) for c in ("rlnCtfMaxResolution", "emflowPickCount", "emflowMaskedFraction")
    )
    accepted = accepted_of(table)
    reasons = table["emflowReason"].astype(str) if "emflowReason" in table else [""] * len(table)
    return [
        {
            "name": str(name),
            "accepted": bool(accepted[i]),
            "reason": "" if reason == "None" else reason,
            "defocus": float(defocus[i]),
            "fit": float(fit[i]),
            "picks": float(picks[i]),
            "masked": float(100 * masked[i]),
        }
        for i, (name, reason) in enumerate(zip(table["rlnMicrographName"], reasons, strict=True))
    ]


def _recorded_settings(results: Results) -> str:
    """Settings from the records, where the results do not belong to a project."""
    settings = {
        step: jobs[-1]["settings"] for step, jobs in results.records.items() if jobs[-1].get("settings")
    }
    return yaml.safe_dump(settings, sort_keys=False, allow_unicode=True) if settings else ""


def _costs(results: Results) -> list[dict[str, Any]]:
    rows = []
    for step, jobs in results.records.items():
        rows.append(
            {
                "step": step,
                "jobs": len(jobs),
                "cpu_s": sum(float(job.get("cpu_s") or 0) for job in jobs),
                "wall_s": sum(float(job.get("wall_s") or 0) for job in jobs),
                "memory_mb": max(float(job.get("peak_memory_mb") or 0) for job in jobs),
                "device": ", ".join(sorted({str(job.get("device", "")) for job in jobs})),
            }
        )
    return sorted(rows, key=lambda row: -row["cpu_s"])


def _libraries(results: Results) -> dict[str, str]:
    """Versions that the steps ran with; several, where they differ."""
    versions: dict[str, set[str]] = {}
    for jobs in results.records.values():
        for job in jobs:
            named = {"emflow": job.get("emflow"), "python": job.get("python"), "machine": job.get("machine")}
            for name, version in {**named, **(job.get("libraries") or {})}.items():
                if version:
                    versions.setdefault(str(name), set()).add(str(version))
    return {name: ", ".join(sorted(found)) for name, found in versions.items()}


def summary_text(summary: dict[str, Numbers]) -> str:
    """Text of summary.json."""
    return json.dumps(summary, indent=1, allow_nan=False, default=str) + "\n"
