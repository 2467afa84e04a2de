"""What the session's commands read: incoming files, stored lists, other steps' tables, a person's labels."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from emflow.io.incoming import HALF_SUMS, NothingFoundError, list_micrographs
from emflow.io.listing import stat_file
from emflow.io.micrographs import SET_ASIDE_COLUMNS, Micrographs
from emflow.io.sessions import list_sessions, refuse_regrouped
from emflow.io.shards import Shard, as_text, read_shards, shard_path, write_shard
from emflow.io.star import read_star
from emflow.session.check import Fault
from emflow.session.config import SessionFind, SessionSelect
from emflow.session.find import Member, append
from emflow.session.join import Contrast
from emflow.step import EmflowError, Session

log = logging.getLogger("emflow")

LIST_COLUMNS = ("emflowSize", "emflowMtimeNs")


def find_session(
    micrographs: str | Sequence[str | Session] | None,
    folder: Path,
    cfg: SessionFind,
    *,
    even: str | None = None,
    odd: str | None = None,
    write: bool = True,
    ready: Collection[tuple[str, int, int]] | None = None,
) -> list[Shard]:
    """Find the session's micrographs (name, size and time; no pixel) and bring the shards' lists up to date.

    Entries that are stored keep their place, even where the file vanished; new and changed files are
    appended. Only lists that changed are written, so the others keep their time.

    Parameters
    ----------
    micrographs, even, odd
        As in the configuration's section ``input``.
    folder
        Where the lists are stored.
    write
        False computes the lists as they would be and changes nothing (dry run).
    ready
        Name, size and time (ns) of the files that may be taken; new files beside them are still being written,
        and left alone. None takes all.

    Returns
    -------
    All shards, in order; ``Shard.changed`` tells which differ from what was stored.

    Raises
    ------
    EmflowError
        If nothing is found and nothing is stored, or the pixel size is not known.
    """
    stored = read_shards(folder)
    if not micrographs:
        raise EmflowError("input.micrographs is not set: give a folder, a glob, a text list or a STAR table.")
    try:
        if isinstance(micrographs, str):
            table, optics = list_micrographs(micrographs, cfg, even, odd)
        else:
            table, optics = _sessions(micrographs, stored, cfg, even, odd)
    except NothingFoundError:
        if not stored:
            raise
        log.warning("input.micrographs shows no micrograph now (%s); the stored list is kept.", micrographs)
        return stored
    optics = as_text(optics)
    before = [_members(shard.table) for shard in stored]
    seen = _members(table)
    if ready is not None:
        seen = _ready(seen, ready, {member.identity for shard in before for member in shard})
        if not (seen or stored):
            raise EmflowError(
                f"'{micrographs}': emflow watch holds no micrograph ready yet; wait, or stop it."
            )
    after = append(before, seen, cfg.shard_size, refresh=tuple(HALF_SUMS))
    shards = []
    settled: dict[tuple[object, ...], tuple[pd.DataFrame, bool]] = {}
    for number, members in enumerate(after, start=1):
        old = stored[number - 1] if number <= len(stored) else None
        used = {member.columns["rlnOpticsGroup"] for member in members}
        # most shards have the same optics: hundreds of equal small tables are joined and compared once
        kind = (frozenset(used), *([] if old is None else (*old.optics, *old.optics.to_numpy().ravel())))
        if kind not in settled:
            groups = _groups(optics, old, used)
            settled[kind] = groups, old is not None and groups.equals(old.optics)
        groups, same = settled[kind]
        if old is not None and same and members == before[number - 1]:
            shards.append(old)
            continue
        shards.append(
            Shard(number, shard_path(folder, number), _table(members, number), groups, changed=True)
        )
    if write:
        for shard in shards:
            if shard.changed:
                write_shard(shard)
    return shards


def _sessions(
    sessions: Sequence[str | Session],
    stored: Sequence[Shard],
    cfg: SessionFind,
    even: str | None,
    odd: str | None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Several sessions as one table, each with the optics group that it has had."""
    known: dict[str, str] = {}
    groups: dict[str, str] = {}
    for shard in stored:
        if "rlnOpticsGroupName" in shard.optics:
            known |= dict(
                zip(shard.optics["rlnOpticsGroupName"], shard.optics["rlnOpticsGroup"], strict=True)
            )
        groups |= dict(zip(shard.table["emflowMicrographId"], shard.table["rlnOpticsGroup"], strict=True))
    table, optics = list_sessions(sessions, cfg, even, odd, known)
    refuse_regrouped(groups, table)
    return table, optics


def _ready(
    seen: list[Member], ready: Collection[tuple[str, int, int]], known: Collection[str]
) -> list[Member]:
    """Those that are ready, and those that were taken before, wherever they are now."""
    return [
        member
        for member in seen
        if member.identity in known
        or (member.name, *(int(member.columns[column]) for column in LIST_COLUMNS)) in ready
    ]


def _groups(optics: pd.DataFrame, old: Shard | None, used: set[str]) -> pd.DataFrame:
    """Optics groups of a shard; a group that the input no longer defines keeps its stored definition."""
    tables = [optics] if old is None else [optics, old.optics]
    groups = pd.concat(tables, ignore_index=True).drop_duplicates("rlnOpticsGroup")
    groups = groups[groups["rlnOpticsGroup"].isin(used)]
    if len(groups) < len(used):
        lacking = sorted(used - set(groups["rlnOpticsGroup"]))
        raise EmflowError(f"input.micrographs: data_optics does not define the optics group {lacking[0]}.")
    return groups.dropna(axis="columns", how="all").fillna("None").reset_index(drop=True)


def _members(table: pd.DataFrame) -> list[Member]:
    own = ("rlnMicrographName", "emflowMicrographId")
    names = [str(name) for name in table if name not in (*own, "emflowShard")]
    rows = zip(*(map(str, table[name].tolist()) for name in (*own, *names)), strict=True)
    return [Member(name, identity, dict(zip(names, values, strict=True))) for name, identity, *values in rows]


def _table(members: list[Member], number: int) -> pd.DataFrame:
    rows = [
        {
            "rlnMicrographName": member.name,
            "rlnOpticsGroup": member.columns["rlnOpticsGroup"],
            "emflowMicrographId": member.identity,
            "emflowShard": str(number),
            **member.columns,
        }
        for member in members
    ]
    return pd.DataFrame(rows, dtype=object).fillna("None")


def find_gone(images: Micrographs) -> tuple[dict[int, Fault], dict[int, Fault]]:
    """Find files that are not what was listed any more: those that vanished, and those that changed, by row."""
    gone, faults = {}, {}
    for row in range(len(images)):
        now = stat_file(images.name(row))
        if now is None or now.size < 0:
            gone[row] = Fault("no such file: it vanished, or a link is broken", "the file that was listed")
        elif set(LIST_COLUMNS) <= set(images.table.columns):
            listed = tuple(str(images.table[column].iloc[row]) for column in LIST_COLUMNS)
            if listed != (str(now.size), str(now.mtime_ns)):
                faults[row] = Fault(
                    f"the file changed since it was listed ({listed[0]} bytes then, {now.size} now); "
                    "its new version has an entry of its own",
                    "an unchanged file",
                )
    return gone, faults


def read_step(path: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    tables = read_star(path)
    if "micrographs" not in tables or "emflowMicrographId" not in tables["micrographs"]:
        raise EmflowError(f"{path}: has no block data_micrographs with the column _emflowMicrographId.")
    empty = pd.DataFrame(columns=pd.Index(SET_ASIDE_COLUMNS), dtype=object)
    return tables["micrographs"], tables.get("set_aside", empty)


def read_labels(cfg: SessionSelect) -> list[str]:
    path = Path(cfg.excluded_micrographs)
    default = SessionSelect.model_fields["excluded_micrographs"].default
    if not path.is_file():
        if cfg.excluded_micrographs not in ("", default):
            raise EmflowError(f"session.select.excluded_micrographs: there is no file {path}.")
        return []
    lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    return list(dict.fromkeys(line for line in lines if line and not line.startswith("#")))


@dataclass(frozen=True)
class Selected:
    """What session select says of one shard."""

    quality: pd.DataFrame
    optics: pd.DataFrame
    contrast: Contrast | None
    labels: dict[str, bool]
    """A person's label → whether it matched a micrograph of the shard."""


def read_selected(paths: Iterable[Path]) -> list[Selected]:
    """Read the shards' tables from session select."""
    shards = []
    for path in paths:
        tables = read_star(path)
        missing = {"optics", "micrographs"} - tables.keys()
        if missing or "emflowAccepted" not in tables["micrographs"]:
            raise EmflowError(f"{path}: not a table of session select.")
        rows = tables["contrast"].to_dict("records") if "contrast" in tables else []
        contrasts = [
            Contrast(
                row["emflowContrast"], row["emflowContrastDetected"], float(row["emflowContrastStrength"])
            )
            for row in rows
        ]
        labels = tables["labels"].to_dict("records") if "labels" in tables else []
        matched = {str(row["emflowLabel"]): row["emflowMatched"] == "1" for row in labels}
        shards.append(Selected(tables["micrographs"], tables["optics"], next(iter(contrasts), None), matched))
    return shards


def column(images: Micrographs, name: str, otherwise: str) -> list[str]:
    """Return a column of the micrographs' table, or the same value for all where it is missing."""
    return [str(v) for v in images.table[name]] if name in images.table else [otherwise] * len(images)
