"""The page: what it says, put together from gathered results, and rendered by the template."""

from __future__ import annotations

import base64
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure

from emflow import __version__
from emflow.figure import png_bytes
from emflow.io.mrc import read_header, read_mrc
from emflow.io.star import read_star
from emflow.report import words
from emflow.report.figures import draw_ctf_fits, draw_fsc_table, draw_session
from emflow.report.gather import Results, shard_files
from emflow.report.pictures import MicrographPicture, gallery, particle_images, particle_jpeg
from emflow.report.summary import Numbers, Stage, accepted_of, numbers_of, stages
from emflow.report.targets import compare_with_targets
from emflow.validate.figures import draw_map

MOST_ROWS = 300
"""Rows of a table on the page; the rest is in the STAR file that is named below it."""
RANK = {"fail": 0, "warn": 1, "unknown": 2, "pass": 3}
ROOM_NAMES = {
    "session": "Session",
    "ctf": "CTF",
    "pick": "Picking",
    "extract": "Extraction",
    "extract.recentered": "Extraction, recentred",
    "reconstruct.abinitio": "First map",
    "reconstruct.refine": "Refinement",
    "validate": "Validation",
    "truth": "Against the truth",
    "cost": "Cost",
    "simulation": "Simulation",
}


def render(results: Results, summary: dict[str, Numbers]) -> str:
    """Render the page: one HTML text that needs nothing else."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": words.number,
        "seconds": words.seconds,
        "plural": words.plural,
        "room": lambda name: ROOM_NAMES.get(name, name),
        "label": lambda name: words.label_and_unit(name)[0],
        "unit": lambda name: words.label_and_unit(name)[1],
    }
    return environment.get_template("page.html").render(**context(results, summary))


def context(results: Results, summary: dict[str, Numbers]) -> dict[str, Any]:
    """Everything that the template shows."""
    way = stages(results, summary)
    pictures = gallery(results)
    claim = next(iter(results.verdicts.get("validate", [])), None)
    settings = (
        yaml.safe_dump(results.settings, sort_keys=False, allow_unicode=True) if results.settings else ""
    )
    return {
        "project": results.settings.get("project") or results.folder.resolve().name,
        "version": __version__,
        "css": (Path(__file__).parent / "page.css").read_text(encoding="utf-8"),
        "headline": headline(summary, way, claim["verdict"] if claim else "pass"),
        "claim": claim,
        "sample": {k: v for k, v in (results.settings.get("sample") or {}).items() if v is not None},
        "summary": summary,
        "verdicts": _verdicts(results),
        "stages": _bars(way),
        "pictures": [_picture(p) for p in pictures],
        "set_aside": _rows(
            results.set_aside, ["rlnMicrographName", "emflowStep", "emflowReason", "emflowExpected"]
        ),
        "micrographs": _micrograph_rows(results),
        "session_figure": _drawn(results, lambda: draw_session(results.micrographs)),
        "ctf_figure": _ctf_figure(results, pictures),
        "particles": _particles(results),
        "maps": [entry for entry in (_map(results, step) for step in ("abinitio", "refine")) if entry],
        "validation": _validation(results),
        "truth": compare_with_targets(summary),
        "settings": settings or _recorded_settings(results),
        "costs": _costs(results),
        "libraries": _libraries(results),
        "problems": results.problems,
        "most_rows": MOST_ROWS,
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


def _verdicts(results: Results) -> list[dict[str, str]]:
    rows = [
        {"room": room, "question": "", "evidence": "", "action": "", **row}
        for room, listed in results.verdicts.items()
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


def _picture(picture: MicrographPicture) -> dict[str, Any]:
    return {
        "name": Path(picture.name).name,
        "picture": picture,
        "source": _data_uri(picture.jpeg, "jpeg") if picture.jpeg else "",
        "bar_px": _bar(picture.width_px * (picture.pixel_size_angstrom or 0))
        / (picture.pixel_size_angstrom or 1),
        "bar_nm": _bar(picture.width_px * (picture.pixel_size_angstrom or 0)) / 10,
    }


def _bar(width_angstrom: float) -> float:
    """Length of a scale bar, in ångström: a round number, at most a quarter of the width."""
    lengths = [a * 10**b for b in range(1, 6) for a in (1, 2, 5)]
    return max([length for length in lengths if length <= width_angstrom / 4], default=0)


def _data_uri(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _drawn(results: Results, draw: Callable[[], Figure | None]) -> str:
    """Data URI of a figure, or nothing where there is nothing to draw."""
    drawn = results.attempt(draw, None)
    return _data_uri(png_bytes(drawn), "png") if drawn is not None else ""


def _ctf_figure(results: Results, pictures: list[MicrographPicture]) -> str:
    titles: dict[str, str] = {}
    for picture in pictures:
        if picture.defocus_um is not None:
            fit = (
                f", fit to {picture.fit_resolution_angstrom:.1f} Å" if picture.fit_resolution_angstrom else ""
            )
            name = Path(picture.name).stem
            name = name if len(name) <= 28 else f"{name[:12]}…{name[-14:]}"
            titles[picture.identity] = f"{name}: {picture.defocus_um:.2f} µm{fit}"

    def draw() -> Figure | None:
        wanted, parts = set(titles), []
        for path in shard_files(results.folder, "ctf"):
            profiles = path.with_name(f"{path.stem}.profiles.star")
            if not wanted or not profiles.is_file():
                continue
            table = next(iter(read_star(profiles).values()))
            if "emflowMicrographId" in table:
                parts.append(table[table["emflowMicrographId"].isin(list(wanted))])
                wanted -= set(parts[-1]["emflowMicrographId"])
        return draw_ctf_fits(pd.concat(parts, ignore_index=True), titles) if parts else None

    return _drawn(results, draw)


def _particles(results: Results) -> dict[str, Any]:
    found = results.attempt(functools.partial(particle_images, results), None)
    if found is None:
        return {}
    images, pixel = found
    side = images.shape[-1] * pixel
    return {
        "source": _data_uri(particle_jpeg(images), "jpeg"),
        "count": len(images),
        "box_px": images.shape[-1],
        "pixel": pixel,
        "side": side,
    }


def _map(results: Results, step: str) -> dict[str, Any]:
    path = results.path("reconstruct", step, "map.mrc")
    if path is None:
        return {}

    def draw() -> Figure | None:
        assert path is not None
        volume = torch.from_numpy(read_mrc(path))
        if volume.ndim != 3 or not bool(volume.any()):
            return None
        mask_path = results.path("reconstruct", step, "mask.mrc")
        mask = torch.from_numpy(read_mrc(mask_path)) if mask_path else None
        mask = mask if mask is not None and mask.shape == volume.shape else None
        return draw_map(volume, read_header(path).voxel_size_angstrom, mask)

    return {
        "step": f"reconstruct.{step}",
        "source": _drawn(results, draw),
        "numbers": results.metrics.get(f"reconstruct.{step}", {}),
    }


def _validation(results: Results) -> dict[str, str]:
    """Validate's own figures; without them the FSC of the refinement."""
    figures = {}
    for name in ("fsc", "views"):
        path = results.path("validate", "figures", f"{name}.png")
        figures[name] = _data_uri(path.read_bytes(), "png") if path else ""
    if not figures["fsc"]:
        for parts in (("validate",), ("reconstruct", "refine"), ("reconstruct", "abinitio")):
            path = results.path(*parts, "fsc.star")
            if path is not None:
                tables = results.attempt(functools.partial(read_star, path), dict[str, pd.DataFrame]())
                table = next((t for t in tables.values() if "rlnResolution" in t), pd.DataFrame())
                figures["fsc"] = _drawn(results, functools.partial(draw_fsc_table, table))
            if figures["fsc"]:
                break
    return figures


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
