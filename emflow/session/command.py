"""Commands of the session room: files in, files out."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pandas as pd

from emflow.io.image import header_pixel_size, is_restored, read_image
from emflow.io.journal import Journal, result_key
from emflow.io.micrographs import (
    SET_ASIDE_COLUMNS,
    Micrographs,
    for_each,
    load_micrographs,
    optics_facts,
    require_folder,
)
from emflow.io.record import Record, verdict, write_metrics, write_verdicts
from emflow.io.star import concat, read_star, write_star
from emflow.session.check import Fault, Peer, assign_halves, compare, measure
from emflow.session.config import SessionCheck, SessionFind, SessionJoin, SessionSelect
from emflow.session.contrast import decide, skewness
from emflow.session.inputs import column, find_gone, find_session, read_labels, read_selected, read_step
from emflow.session.join import judge_session, measure_session, settle
from emflow.session.outputs import checked_table, contrast_table, set_aside_table
from emflow.session.select import FATE_COLUMNS, StepTables, select_micrographs, with_assessment
from emflow.step import EmflowError, Run

log = logging.getLogger("emflow")


def find(
    micrographs: str,
    out: Path,
    /,
    *,
    even: str | None = None,
    odd: str | None = None,
    cfg: SessionFind = SessionFind(),
    run: Run = Run(),
) -> None:
    """List the micrographs and divide them into shards; run again, it appends what is new.

    Parameters
    ----------
    micrographs
        Folder, glob (in quotes), text list, image, or RELION micrographs STAR.
    out
        Folder for the shards' lists, shard_00001.star and so on.
    even, odd
        Patterns of even and odd half sums, with {name} for the base name without suffix.
    """
    with Record("session.find", cfg, run, inputs=[]):
        shards = find_session(micrographs, out, cfg, even=even, odd=odd)
    changed = sum(shard.changed for shard in shards)
    log.info("%d micrographs in %d shards, %d changed", sum(map(len, shards)), len(shards), changed)


def check(micrographs: Path, out: Path, /, *, cfg: SessionCheck = SessionCheck(), run: Run = Run()) -> None:
    """Read each micrograph once; set bad ones aside; assign half-sets; detect the contrast.

    A micrograph that vanished after it was read, because it was archived, stays what it was.

    Parameters
    ----------
    micrographs
        A shard's list from session find, or a STAR table, folder, glob (in quotes) or image.
    out
        STAR table to write: blocks optics, micrographs (accepted), set_aside and contrast.
    """
    images = load_micrographs(micrographs, cfg)
    with Record("session.check", cfg, run, inputs=[micrographs]) as record:
        journal = Journal(out.with_name(f".{out.stem}.journal"))
        stored = [journal.get(f"half {images.identity(row)}", "half") for row in range(len(images))]
        gone, faults = find_gone(images)
        for row in gone:
            if stored[row] is None:  # of one that was accepted before, its results stay
                require_folder(images, row)
        results = _look(images, gone, faults, journal, cfg, run)
        faults |= compare(_peers(images, results, stored), cfg)
        kept = [row for row in sorted(results) if row not in faults]
        halves = _halves(images, kept, stored, journal)
        contrast = _contrast(images, [results[row] for row in kept], journal, cfg)
        tables = {
            "optics": images.optics,
            "micrographs": checked_table(images, kept, results, halves, contrast["emflowContrast"].iloc[0]),
            "set_aside": set_aside_table(images, faults),
            "contrast": contrast,
        }
        write_star(out, tables)
        record.notes = {"micrographs": len(kept), "set_aside": len(faults)}


def _look(
    images: Micrographs,
    gone: dict[int, Fault],
    faults: dict[int, Fault],
    journal: Journal,
    cfg: SessionCheck,
    run: Run,
) -> dict[int, dict[str, Any]]:
    """Read the pixels of all that are there, each once; results by row. Adds to ``faults``.

    Of those that are gone, what was read before stays good.
    """
    rows = [row for row in range(len(images)) if row not in faults]
    part = Micrographs(images.table.iloc[rows].reset_index(drop=True), images.optics)
    own = SessionCheck(max_blank_fraction=cfg.max_blank_fraction)  # all that a measurement depends on

    def weighs(place: int) -> bool:
        return cfg.contrast == "auto" and rows[place] < cfg.contrast_micrographs

    def work(place: int) -> dict[str, Any]:
        name = part.name(place)
        if rows[place] in gone:
            raise EmflowError(f"{name}: {gone[rows[place]].reason}")
        if is_restored(name):
            return {
                "set_aside": "its header says that the pixels were denoised or restored",
                "expected": "micrographs as they came from motion correction",
            }
        image = read_image(name)
        found = measure(image, cfg)
        if isinstance(found, Fault):
            return {"set_aside": found.reason, "expected": found.expected}
        result: dict[str, Any] = {**vars(found), "header_pixel": header_pixel_size(name)}
        if weighs(place):
            pixel = part.facts(place).pixel_size_angstrom
            assert pixel is not None
            result["skewness"], result["skewness_error"] = skewness(image, pixel)
        return result

    def key(place: int) -> str:
        return result_key(own, part.facts(place).pixel_size_angstrom if weighs(place) else None)

    results, aside = for_each(part, work, journal, key, run.image_limit_minutes)
    row_of = {part.identity(place): row for place, row in enumerate(rows)}
    for identity, reason, expected in aside[SET_ASIDE_COLUMNS[1:]].itertuples(index=False):
        row = row_of[identity]
        faults[row] = gone.get(row) or Fault(reason, expected or "a sound image, MRC or TIFF")
    return {rows[place]: result for place, result in results.items()}


def _peers(
    images: Micrographs, results: dict[int, dict[str, Any]], stored: list[int | None]
) -> dict[int, Peer]:
    groups, times = column(images, "rlnOpticsGroup", "1"), column(images, "emflowMtimeNs", "0")
    return {
        row: Peer(
            name=images.name(row),
            group=groups[row],
            mtime_ns=int(times[row]),
            settled=stored[row] is not None,
            shape=(result["shape"][0], result["shape"][1]),
            digest=result["digest"],
            header_pixel_angstrom=result["header_pixel"],
        )
        for row, result in results.items()
    }


def _halves(
    images: Micrographs, kept: list[int], stored: list[int | None], journal: Journal
) -> list[int | None]:
    """Assign half-sets and store those of accepted micrographs for ever."""
    imported = [int(told) if told in ("1", "2") else None for told in column(images, "rlnRandomSubset", "")]
    accepted = [row in set(kept) for row in range(len(images))]
    shard = int(column(images, "emflowShard", "1")[0]) if len(images) else 1
    halves = assign_halves(accepted, stored, imported, shard)
    for row in kept:
        if halves[row] != stored[row]:
            journal.put(f"half {images.identity(row)}", "half", halves[row])
    return halves


def _contrast(
    images: Micrographs, results: list[dict[str, Any]], journal: Journal, cfg: SessionCheck
) -> pd.DataFrame:
    """Decide on the contrast; once it is found, it stays, whatever is appended to the shard."""
    if cfg.contrast != "auto":
        return contrast_table(cfg.contrast, "set", 0.0, 0)
    weighed = [result for result in results if "skewness" in result]
    own = SessionCheck(contrast_significance=cfg.contrast_significance)
    key = result_key(own, cfg.contrast_micrographs, images.optics.to_csv())
    known = journal.get("contrast", key)
    detected, strength = known or decide(
        [r["skewness"] for r in weighed], [r["skewness_error"] for r in weighed], cfg.contrast_significance
    )
    if detected == "unknown":
        log.warning("the contrast is not clear (%+.1f standard errors): dark protein is taken", strength)
        return contrast_table("dark", detected, strength, len(weighed))
    if known is None:
        journal.put("contrast", key, (detected, strength))
    return contrast_table(detected, detected, strength, len(weighed))


def select(
    check: Path,
    ctf: Path,
    pick: Path,
    out: Path,
    /,
    *,
    assessed: Path | None = None,
    cfg: SessionSelect = SessionSelect(),
    run: Run = Run(),
) -> None:
    """Join what check, CTF and picking found out about each micrograph; decide which go on.

    Parameters
    ----------
    check, ctf, pick
        The steps' tables of one shard.
    out
        STAR table to write: every micrograph once, emflowAccepted 1 or 0 with the reason.
    assessed
        Table of `pick assess` of the same micrographs; needed where session.select.assessment is reject.
    """
    if cfg.assessment == "reject" and assessed is None:
        raise EmflowError(
            "session.select.assessment is reject: give the table of `emflow pick assess` as --assessed."
        )
    inputs = [check, ctf, pick, *([assessed] if assessed else [])]
    with Record("session.select", cfg, run, inputs=inputs) as record:
        steps = [
            StepTables(step, *read_step(path))
            for step, path in (("session.check", check), ("ctf.fit", ctf), ("pick.apply", pick))
        ]
        if assessed and cfg.assessment != "off":
            steps[0] = with_assessment(steps[0], read_step(assessed)[0])
        quality, matched = select_micrographs(steps, read_labels(cfg), cfg)
        checked = read_star(check)
        tables = {"optics": checked["optics"], "micrographs": quality, "labels": matched}
        if "contrast" in checked:
            tables["contrast"] = checked["contrast"]
        write_star(out, tables)
        accepted = int((quality["emflowAccepted"] == "1").sum())
        record.notes = {"micrographs": len(quality), "accepted": accepted}


def join(*tables_and_folder: Path, cfg: SessionJoin = SessionJoin(), run: Run = Run()) -> None:
    """Pool the quality tables of all shards; find copies, replaced files and odd shapes across them.

    Parameters
    ----------
    tables_and_folder
        The shards' tables from session select, and last the folder for micrographs.star, set_aside.star,
        quality.star, metrics.json and verdicts.json.
    """
    *paths, folder = tables_and_folder or [Path()]
    if not paths:
        raise EmflowError("session join: give the shards' tables, and last the folder for the results.")
    with Record("session.join", cfg, run, inputs=paths) as record:
        shards = read_selected(paths)
        optics = concat(shard.optics for shard in shards).drop_duplicates("rlnOpticsGroup")
        table = settle(concat(shard.quality for shard in shards))
        metrics = measure_session(table, optics_facts(optics.iloc[:1]).pixel_size_angstrom)
        contrasts = [shard.contrast for shard in shards if shard.contrast is not None]
        known = {label for shard in shards for label, matched in shard.labels.items() if matched}
        unmatched = sorted({label for shard in shards for label in shard.labels} - known)
        verdicts = judge_session(table, metrics, contrasts, unmatched)
        ok = table["emflowAccepted"] == "1"
        aside = table.loc[~ok, [*SET_ASIDE_COLUMNS, "emflowStep", "emflowShard"]]
        accepted = table[ok].drop(columns=FATE_COLUMNS)
        write_metrics(folder / "metrics.json", metrics)
        write_verdicts(folder / "verdicts.json", [verdict(*row) for row in verdicts])
        write_star(folder / "set_aside.star", {"set_aside": aside})
        write_star(folder / "micrographs.star", {"optics": optics, "micrographs": accepted})
        write_star(folder / "quality.star", {"optics": optics, "micrographs": table})
        record.notes = {**metrics}
