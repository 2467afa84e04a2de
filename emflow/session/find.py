"""Divide listed micrographs into shards whose membership only ever grows at the end."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Member:
    """A micrograph of a shard: its path, its id, and its row in the table."""

    name: str
    identity: str
    columns: dict[str, str] = field(default_factory=dict)


Shards = list[list[Member]]
VANISHED = "-1"
"""Size of a file that is listed but not there."""


def append(
    shards: Sequence[Sequence[Member]],
    seen: Sequence[Member],
    shard_size: int,
    refresh: Sequence[str] = (),
) -> Shards:
    """Append the micrographs that are not yet known; known ones keep their place, vanished ones too.

    A file is known by its id, which comes from base name, size and time. So a changed file is a new entry.
    A file that moved (its id is known, the old path is no longer listed) keeps its entry, under its new
    path. A second file of the same id elsewhere (a copy with its time kept) gets an id of its own.

    Parameters
    ----------
    shards
        The stored shards, in order.
    seen
        What is there now, in the order in which new ones shall be appended.
    shard_size
        Members of a new shard. The last stored shard is filled up to it; full ones never grow.
    refresh
        Columns that known entries take over from ``seen`` (paths of half sums, given later).
    """
    out = [list(shard) for shard in shards]
    places = {m.identity: (i, j) for i, shard in enumerate(out) for j, m in enumerate(shard)}
    listed = {member.name for member in seen}
    stored = {member.name for shard in out for member in shard}
    fresh: dict[str, Member] = {}
    for member in seen:
        identity = member.identity
        if member.columns.get("emflowSize") == VANISHED and member.name in stored:
            continue  # a list still names it: it keeps the entry of the time when it was there
        holder = _holder(identity, out, places, fresh)
        if holder is not None and holder.name != member.name:
            if identity in places and holder.name not in listed:
                i, j = places[identity]
                out[i][j] = Member(member.name, identity, {**holder.columns, **member.columns})
                continue
            identity = hashlib.sha256(f"{identity}\0{member.name}".encode()).hexdigest()[:12]
            holder = _holder(identity, out, places, fresh)
        if holder is None:
            fresh[identity] = Member(member.name, identity, member.columns)
        elif identity in places:
            i, j = places[identity]
            newer = {column: member.columns[column] for column in refresh if column in member.columns}
            out[i][j] = Member(holder.name, identity, {**holder.columns, **newer})
    for member in fresh.values():
        if not out or len(out[-1]) >= shard_size:
            out.append([])
        out[-1].append(member)
    return out


def _holder(
    identity: str, shards: Shards, places: dict[str, tuple[int, int]], fresh: dict[str, Member]
) -> Member | None:
    """Return the entry that has this id, if any."""
    if identity in places:
        i, j = places[identity]
        return shards[i][j]
    return fresh.get(identity)
