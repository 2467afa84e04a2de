"""The stored lists of a session's shards: ``shard_00001.star`` and so on, blocks optics and micrographs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from emflow.io.star import format_value, read_star, write_star
from emflow.step import EmflowError


@dataclass(frozen=True)
class Shard:
    """One shard: its number (from 1), where its list is stored, and the list."""

    number: int
    path: Path
    table: pd.DataFrame
    optics: pd.DataFrame
    changed: bool = False
    """Whether the list differs from what is stored."""

    def __len__(self) -> int:
        return len(self.table)


def shard_path(folder: Path, number: int) -> Path:
    """Where the list of a shard is stored."""
    return folder / f"shard_{number:05d}.star"


def read_shards(folder: Path) -> list[Shard]:
    """Read the stored lists, in order; none if there are none.

    Raises
    ------
    EmflowError
        If a list is damaged or one is missing in between: results of later shards would lose their place.
    """
    shards = []
    paths = sorted(folder.glob("shard_[0-9]*.star"), key=lambda p: int(p.stem.split("_")[1]))
    for number, path in enumerate(paths, start=1):
        if path != shard_path(folder, number):
            raise EmflowError(
                f"{shard_path(folder, number)}: missing, while {path} exists. Bring it back, or delete the folder "
                f"{folder} to list the micrographs anew (half-sets are then assigned anew, too)."
            )
        tables = read_star(path)
        missing = {"optics", "micrographs"} - tables.keys()
        if missing:
            raise EmflowError(f"{path}: has no block data_{min(missing)}; it is not a shard's list.")
        shards.append(Shard(number, path, tables["micrographs"], tables["optics"]))
    return shards


def write_shard(shard: Shard) -> None:
    """Store a shard's list."""
    write_star(shard.path, {"optics": shard.optics, "micrographs": shard.table})


def as_text(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table with every value as the text that a file would hold."""
    return pd.DataFrame({c: [format_value(v) for v in table[c].tolist()] for c in table}, dtype=object)
