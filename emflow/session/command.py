"""Commands of the session room: files in, files out."""

from __future__ import annotations

import logging
from pathlib import Path

import pandas as pd

from emflow.io.incoming import HALF_SUMS, NothingFoundError, list_micrographs
from emflow.io.record import Record
from emflow.io.shards import Shard, as_text, read_shards, shard_path, write_shard
from emflow.session.config import SessionFind
from emflow.session.find import Member, append
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


def find_session(
    micrographs: str | None,
    folder: Path,
    cfg: SessionFind,
    *,
    even: str | None = None,
    odd: str | None = None,
    write: bool = True,
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
        table, optics = list_micrographs(micrographs, cfg, even, odd)
    except NothingFoundError:
        if not stored:
            raise
        log.warning("'%s' shows no micrograph now; the stored list is kept.", micrographs)
        return stored
    optics = as_text(optics)
    before = [_members(shard.table) for shard in stored]
    after = append(before, _members(table), cfg.shard_size, refresh=tuple(HALF_SUMS))
    shards = []
    for number, members in enumerate(after, start=1):
        old = stored[number - 1] if number <= len(stored) else None
        groups = _groups(optics, old, {member.columns["rlnOpticsGroup"] for member in members})
        if old is not None and members == before[number - 1] and groups.equals(old.optics):
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


def _groups(optics: pd.DataFrame, old: Shard | None, used: set[str]) -> pd.DataFrame:
    """Optics groups of a shard; a group that the input no longer defines keeps its stored definition."""
    tables = [optics] if old is None else [optics, old.optics]
    groups = pd.concat(tables, ignore_index=True).drop_duplicates("rlnOpticsGroup")
    groups = groups[groups["rlnOpticsGroup"].isin(used)].dropna(axis="columns", how="all")
    if len(groups) < len(used):
        lacking = sorted(used - set(groups["rlnOpticsGroup"]))
        raise EmflowError(f"input.micrographs: data_optics does not define the optics group {lacking[0]}.")
    return groups.fillna("None").reset_index(drop=True)


def _members(table: pd.DataFrame) -> list[Member]:
    members = []
    for row in table.to_dict("records"):
        columns = {str(key): str(value) for key, value in row.items() if key != "emflowShard"}
        name, identity = columns.pop("rlnMicrographName"), columns.pop("emflowMicrographId")
        members.append(Member(name, identity, columns))
    return members


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
