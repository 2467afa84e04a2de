"""summary.json: the figures of all rooms in one file, and what was lost where."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from emflow.io.star import numbers_of
from emflow.report.gather import Results, count_rows, shard_files

Numbers = dict[str, Any]


@dataclass(frozen=True)
class Stage:
    """One stage of the way from micrographs to the map."""

    name: str
    count: int | None
    """None where the step has not run."""
    unit: str
    lost: list[tuple[str, int]]
    """Why how many did not come from the stage before."""


def accepted_of(table: pd.DataFrame) -> np.ndarray:
    """Which micrographs went on: emflowAccepted, or all where nothing was selected yet."""
    if "emflowAccepted" not in table:
        return np.ones(len(table), dtype=bool)
    return numbers_of(table, "emflowAccepted") == 1


def summarise(results: Results) -> dict[str, Numbers]:
    """Gather every room's figures; rooms that write none are counted from their tables.

    Returns
    -------
    ``{section: {name: number}}``; sections of steps that have not run are absent.
    """
    table = results.micrographs
    session = {} if results.of_volume else _session(results)
    summary: dict[str, Numbers] = {"session": session, "ctf": _ctf(table), "pick": _pick(table)}
    summary["extract"] = counted = _extract(results)
    for name, numbers in results.metrics.items():
        summary[name] = {**summary.get(name, {}), **numbers}
    if "particles_since_map" in counted:  # what extract join wrote is of an earlier day
        summary["extract"] |= counted
    summary["cost"] = _cost(results)
    summary["simulation"] = results.facts
    return {name: {k: _plain(v) for k, v in numbers.items()} for name, numbers in summary.items() if numbers}


def _plain(value: Any) -> Any:
    """Round to seven digits; None for what is not finite."""
    if isinstance(value, float):
        return float(f"{value:.7g}") if np.isfinite(value) else None
    return value


def _session(results: Results) -> Numbers:
    table = results.micrographs
    numbers: Numbers = {"micrographs": len(table)}
    if "emflowAccepted" in table:
        numbers["accepted"] = int(accepted_of(table).sum())
    if len(results.set_aside):
        numbers["set_aside"] = len(results.set_aside)
    for half in ("1", "2"):
        if "rlnRandomSubset" in table:
            numbers[f"half{half}_micrographs"] = int((table["rlnRandomSubset"].astype(str) == half).sum())
    return numbers


def _ctf(table: pd.DataFrame) -> Numbers:
    u, v = numbers_of(table, "rlnDefocusU"), numbers_of(table, "rlnDefocusV")
    fitted = np.isfinite(u) & np.isfinite(v)
    if not fitted.any():
        return {}
    defocus = (u + v)[fitted] / 2e4
    resolution = numbers_of(table, "rlnCtfMaxResolution")[fitted]
    return {
        "micrographs": int(fitted.sum()),
        "defocus_median_um": float(np.median(defocus)),
        "defocus_min_um": float(defocus.min()),
        "defocus_max_um": float(defocus.max()),
        "astigmatism_median_angstrom": float(np.median(np.abs(u - v)[fitted])),
        "fit_resolution_median_angstrom": _finite(np.nanmedian(resolution) if len(resolution) else np.nan),
        "fit_resolution_best_angstrom": _finite(np.nanmin(resolution) if len(resolution) else np.nan),
        "fit_resolution_worst_angstrom": _finite(np.nanmax(resolution) if len(resolution) else np.nan),
    }


def _pick(table: pd.DataFrame) -> Numbers:
    picks = numbers_of(table, "emflowPickCount")
    known = picks[np.isfinite(picks)]
    if not len(known):
        return {}
    on_accepted = picks[accepted_of(table) & np.isfinite(picks)]
    masked = numbers_of(table, "emflowMaskedFraction")
    numbers: Numbers = {
        "picks": int(known.sum()),
        "picks_on_accepted": int(on_accepted.sum()),
        "picks_per_micrograph_median": float(np.median(known)),
        "micrographs_without_picks": int((known == 0).sum()),
    }
    if np.isfinite(masked).any():
        numbers["masked_fraction_mean"] = float(np.nanmean(masked))
    return numbers


def _extract(results: Results) -> Numbers:
    numbers: Numbers = {}
    for name, parts in (("particles", ("extract",)), ("recentered_particles", ("extract", "recentered"))):
        path = results.path(*parts, "particles.star")
        if path is not None:
            numbers[name] = results.attempt(functools.partial(count_rows, path, "particles"), 0)
    shards, joined = shard_files(results.folder, "extract"), results.path("extract", "particles.star")
    grown = joined is not None and any(p.stat().st_mtime_ns > joined.stat().st_mtime_ns for p in shards)
    if shards and (joined is None or grown):  # a session that is still going on
        count = results.attempt(lambda: sum(count_rows(p, "particles") for p in shards), 0)
        if count > numbers.get("particles", 0) and grown:
            numbers["particles_since_map"] = count - numbers["particles"]
        numbers["particles"] = count
    return numbers


def _cost(results: Results) -> Numbers:
    jobs = [record for step in results.records.values() for record in step]
    if not jobs:
        return {}
    return {
        "jobs": len(jobs),
        "cpu_s": round(sum(float(job.get("cpu_s") or 0) for job in jobs), 1),
        "peak_memory_mb": max(float(job.get("peak_memory_mb") or 0) for job in jobs),
    }


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def stages(results: Results, summary: dict[str, Numbers]) -> list[Stage]:
    """What came in and what was lost, stage by stage: micrographs, then particles."""
    table = results.micrographs
    session, pick, extract = (summary.get(name, {}) for name in ("session", "pick", "extract"))
    found = session.get("micrographs")
    stages = [Stage("found", found, "micrographs", [])]
    if "emflowAccepted" in table:
        accepted = accepted_of(table)
        why = pd.Series("not accepted", index=table.index)
        if "emflowReason" in table:
            why = (
                table["emflowReason"].astype(str).where(lambda text: ~text.isin(["", "None"]), "not accepted")
            )
        reasons = why[~accepted].map(short_reason).value_counts()
        lost = [(str(reason), int(count)) for reason, count in reasons.items()]
        stages.append(Stage("accepted", int(accepted.sum()), "micrographs", lost))
    else:
        stages.append(Stage("accepted", None, "micrographs", []))
    picks = pick.get("picks")
    stages.append(Stage("picked", picks, "particles", []))
    extracted = extract.get("particles")
    lost = _not_extracted(pick, extract) if picks is not None and extracted is not None else []
    stages.append(Stage("extracted", extracted, "particles", lost))
    used = _used(results)
    lost = []
    if used is not None and extracted is not None and extracted > used:
        since = min(extract.get("particles_since_map", 0), extracted - used)
        kinds = {"came since the map was made": since, "left out of the refinement": extracted - used - since}
        lost = [(kind, count) for kind, count in kinds.items() if count]
    stages.append(Stage("in the map", used, "particles", lost))
    return stages


def _not_extracted(pick: Numbers, extract: Numbers) -> list[tuple[str, int]]:
    """Why picks did not become particles."""
    picks = pick["picks"]
    reasons = [
        ("on micrographs that were not accepted", picks - pick.get("picks_on_accepted", picks)),
        ("too near to the edge", extract.get("dropped_outside", 0)),
        ("without noise around them", extract.get("dropped_flat", 0)),
        ("repeated", extract.get("dropped_repeated", 0)),
    ]
    rest = picks - extract["particles"] - sum(count for _, count in reasons)
    return [(why, int(count)) for why, count in [*reasons, ("otherwise not cut out", rest)] if count > 0]


def _used(results: Results) -> int | None:
    """Particles in the refined map: its table, or else that of the first map."""
    for step in ("refine", "abinitio"):
        path = results.path("reconstruct", step, "particles.star")
        if path is not None:
            return results.attempt(functools.partial(count_rows, path, "particles"), None)
    return None


def short_reason(text: str) -> str:
    """The kind of a reason: without the file's name in front, numbers and what follows the first sentence."""
    import re

    text = re.sub(r"^\S*[/.]\S*:\s*", "", text.strip())
    text = re.split(r"(?<=[a-z)])[.;:]\s|\s\(", text)[0]
    return re.sub(r"\b\d+(\.\d+)?\b", "…", text).strip(" .") or "not accepted"
