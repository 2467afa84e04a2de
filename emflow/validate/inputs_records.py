"""What a reconstruction's own files prove about its halves: particle table, verdicts, record, first maps."""

from __future__ import annotations

import filecmp
import json
from pathlib import Path

import numpy as np
import pandas as pd

from emflow.io.mrc import read_mrc
from emflow.io.record import read_json
from emflow.io.star import integers, read_star
from emflow.step import EmflowError


def read_proof(folder: Path | None, halves: tuple[Path, Path]) -> dict[str, bool | None]:
    """Statements that hold for independent halves → whether the files prove or refute them; None: they do not tell.

    Parameters
    ----------
    folder
        Of a reconstruction (half1.mrc, half2.mrc, particles.star, verdicts.json), with the project's
        ``records`` two levels up; nothing is known without it.
    halves
        The half maps that are judged.
    """
    if folder is None:
        return {}
    return {
        "the half maps are that folder's": _same_files(folder, halves),
        **_particles(folder / "particles.star"),
        "the halves began from different first maps": _starts(folder),
        "each half was refined from its own random start": _verdict(folder / "verdicts.json", "begin apart"),
    }


def _same_files(folder: Path, halves: tuple[Path, Path]) -> bool | None:
    """Whether the halves are the folder's; None where it holds others, of which its files then tell nothing."""
    for number, path in enumerate(halves, start=1):
        mine = folder / f"half{number}.mrc"
        if not mine.is_file() or not filecmp.cmp(mine, path, shallow=False):
            return None
    return True


def _particles(path: Path) -> dict[str, bool | None]:
    """What the particle table says: half-sets by micrograph, no image in both, no restored pixels."""
    names = (
        "each micrograph belongs to one half",
        "no particle is in both halves",
        "no image was restored",
    )
    if not path.is_file():
        return dict.fromkeys(names)
    tables = read_star(path)
    table = next((tables[block] for block in ("particles", "images", "") if block in tables), None)
    if table is None or "rlnRandomSubset" not in table or not len(table):
        return dict.fromkeys(names)
    half = integers(table, "rlnRandomSubset")
    if len(np.unique(half)) < 2:
        return {**dict.fromkeys(names), "the particles are split into halves": False}
    micrograph = next((name for name in ("emflowMicrographId", "rlnMicrographName") if name in table), None)
    image = next((name for name in ("emflowParticleId", "rlnImageName") if name in table), None)
    restored = "emflowRestored" in table and bool((integers(table, "emflowRestored") != 0).any())
    return {
        names[0]: _in_one_half(half, table[micrograph]) if micrograph else None,
        names[1]: _in_one_half(half, table[image]) if image else None,
        names[2]: False if restored else None if "emflowParticleId" not in table else True,
    }


def _in_one_half(half: np.ndarray, group: pd.Series) -> bool:
    return bool((pd.Series(half).groupby(group.to_numpy()).nunique() == 1).all())


def _starts(folder: Path) -> bool | None:
    """Whether the refinement's record names two first maps, and they are not one map twice."""
    record = folder.parent.parent / "records" / f"reconstruct.{folder.name}" / "all.json"
    try:
        inputs = json.loads(record.read_text(encoding="utf-8"))["inputs"]
        starts = [Path(entry["path"]) for entry in inputs if Path(entry["path"]).name.startswith("half")]
    except FileNotFoundError:
        return None
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError):
        raise EmflowError(f"{record}: not a record of emflow; expected JSON with its inputs.") from None
    if len(starts) != 2 or starts[0] == starts[1]:
        return False if len(starts) == 2 else None
    # recorded relative to where the run was started: the neighbour folder holds them
    found = [folder.parent / start.parent.name / start.name for start in starts]
    if not all(path.is_file() for path in found):
        return None
    first, second = (read_mrc(path) for path in found)
    return first.shape != second.shape or not np.allclose(
        first, second, rtol=1e-4, atol=1e-6 * float(np.abs(first).max())
    )


def _verdict(path: Path, words: str) -> bool | None:
    """Answer of the verdict whose question holds the words."""
    if not path.is_file():
        return None
    for row in read_json(path):
        if words in row.get("question", ""):
            return {"pass": True, "fail": False}.get(row.get("verdict", ""))
    return None
