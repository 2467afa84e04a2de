"""Several sessions processed together: each keeps its optics group, under a number of its own."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence

import pandas as pd

from emflow.io.incoming import NothingFoundError, list_micrographs
from emflow.io.shards import as_text
from emflow.step import EmflowError, OpticsFacts, Session

log = logging.getLogger("emflow")


def list_sessions(
    sessions: Sequence[str | Session],
    facts: OpticsFacts,
    even: str | None,
    odd: str | None,
    known: Mapping[str, str],
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """List the micrographs of several sessions, one after the other; see :func:`list_micrographs`.

    An optics group is told from the others by its name: ``opticsGroup2`` for the second session, a STAR table's
    own name with ``session2_`` before it. Numbers follow the order in which names are first seen.

    Parameters
    ----------
    sessions
        Paths, or what is known of each session; what it leaves open comes from ``facts``, ``even`` and ``odd``.
    known
        Number of each optics group by its name, as stored.

    Raises
    ------
    NothingFoundError
        If no session shows a micrograph.
    """
    numbers = dict(known)
    tables, groups = [], []
    for place, given in enumerate(sessions, start=1):
        session = Session(path=given) if isinstance(given, str) else given
        own = facts.model_copy(update=session.facts())
        try:
            table, optics = list_micrographs(session.path, own, session.even or even, session.odd or odd)
        except NothingFoundError:
            log.warning("'%s' shows no micrograph now; what is stored of it is kept.", session.path)
            continue
        optics = as_text(optics)
        optics["rlnOpticsGroupName"] = _names(optics, place, session.path.endswith(".star"))
        fresh = {}
        for number, name in zip(optics["rlnOpticsGroup"], optics["rlnOpticsGroupName"], strict=True):
            fresh[number] = numbers.setdefault(name, _next(numbers.values()))
        tables.append(table.assign(rlnOpticsGroup=[fresh[str(g)] for g in table["rlnOpticsGroup"]]))
        groups.append(optics.assign(rlnOpticsGroup=[fresh[number] for number in optics["rlnOpticsGroup"]]))
    if not tables:
        raise NothingFoundError("input.micrographs: none of the sessions holds an MRC or TIFF image.")
    joined = pd.concat(tables, ignore_index=True).drop_duplicates("rlnMicrographName")
    optics = pd.concat(groups, ignore_index=True).astype(object)
    return joined.where(joined.notna(), "None").reset_index(drop=True), optics.where(optics.notna(), "None")


def refuse_regrouped(stored: Mapping[str, str], table: pd.DataFrame) -> None:
    """Refuse sessions in another order than before: a micrograph (by id) never changes its optics group.

    Raises
    ------
    EmflowError
        Naming a micrograph whose group would change.
    """
    columns = ("emflowMicrographId", "rlnOpticsGroup", "rlnMicrographName")
    for identity, group, name in zip(*(table[column] for column in columns), strict=True):
        if stored.get(identity, group) != group:
            raise EmflowError(
                f"input.micrographs: {name} was in optics group {stored[identity]} and is in {group} now. Keep the "
                "sessions in their order, and add further ones at the end of the list."
            )


def _names(optics: pd.DataFrame, place: int, told: bool) -> list[str]:
    if not told:
        return [f"opticsGroup{place}"]
    numbers = optics["rlnOpticsGroup"]
    names = (
        optics["rlnOpticsGroupName"]
        if "rlnOpticsGroupName" in optics
        else [f"opticsGroup{n}" for n in numbers]
    )
    return [name if place == 1 else f"session{place}_{name}" for name in names]


def _next(numbers: Iterable[str]) -> str:
    return str(1 + max((int(number) for number in numbers), default=0))
