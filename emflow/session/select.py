"""Join what the steps found out about each micrograph, and decide which go on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath

import pandas as pd

from emflow.session.config import SessionSelect

NONE = "None"
"""What stands where a value is missing, as RELION does."""
FATE_COLUMNS = ["emflowAccepted", "emflowStep", "emflowReason", "emflowExpected"]
LABEL_COLUMNS = ["emflowLabel", "emflowMatched"]


@dataclass(frozen=True)
class StepTables:
    """What one step says of a shard: its results by micrograph, and what it set aside."""

    step: str
    results: pd.DataFrame
    set_aside: pd.DataFrame


def select_micrographs(
    steps: Sequence[StepTables], labels: Sequence[str], cfg: SessionSelect
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Make the quality table: every micrograph once, all steps' columns, accepted or why not.

    Parameters
    ----------
    steps
        The steps in their order; the first (session.check) knows every micrograph. Tables join on
        emflowMicrographId; a column stays as the first step that has it says.
    labels
        A person's list of names (with or without folder and suffix) or ids to leave out.

    Returns
    -------
    quality (emflowAccepted 1 or 0, emflowReason, emflowExpected, emflowStep) and, for each label,
    whether it matched a micrograph of this shard.
    """
    rows: dict[str, dict[str, str]] = {}
    faults: dict[str, tuple[str, str, str]] = {}
    for number, step in enumerate(steps):
        for row in step.results.to_dict("records"):
            _add(rows, {str(key): str(value) for key, value in row.items()}, new=number == 0)
        for row in step.set_aside.to_dict("records"):
            values = {str(key): str(value) for key, value in row.items()}
            reason, expected = values.pop("emflowReason"), values.pop("emflowExpected", NONE)
            faults.setdefault(values["emflowMicrographId"], (step.step, reason, expected or NONE))
            _add(rows, values, new=number == 0)
        known = set(step.results["emflowMicrographId"]) if len(step.results) else set()
        for identity in rows.keys() - known - faults.keys():
            faults[identity] = (step.step, f"{step.step} says nothing about it", "a row in its table")
    for identity, figures in rows.items():
        if identity not in faults:
            fault = _judge(figures, cfg)
            if fault:
                faults[identity] = ("session.select", *fault)
    matched = _apply_labels(rows, labels, faults, cfg)
    quality = pd.DataFrame(list(rows.values()), dtype=object)
    fates = [faults.get(identity) for identity in rows]
    quality["emflowAccepted"] = ["1" if fate is None else "0" for fate in fates]
    for place, column in enumerate(FATE_COLUMNS[1:]):
        quality[column] = [NONE if fate is None else fate[place] for fate in fates]
    return quality.astype(object).where(quality.notna(), NONE), matched


def with_assessment(checked: StepTables, assessed: pd.DataFrame) -> StepTables:
    """The first step's results with the columns of an assessment, which need not know every micrograph."""
    new = pd.Index([name for name in assessed if name not in checked.results or name == "emflowMicrographId"])
    joined = checked.results.merge(assessed[new], on="emflowMicrographId", how="left")
    joined[new] = joined[new].fillna(NONE)
    return StepTables(checked.step, joined, checked.set_aside)


def _add(rows: dict[str, dict[str, str]], values: Mapping[str, str], new: bool) -> None:
    identity = values["emflowMicrographId"]
    if new or identity in rows:
        rows[identity] = {**values, **rows.get(identity, {})}


def _judge(row: Mapping[str, str], cfg: SessionSelect) -> tuple[str, str] | None:
    """Return why a micrograph is rejected and what was expected; a figure that is missing rejects none."""
    resolution = _number(row, "rlnCtfMaxResolution")
    limit = cfg.max_ctf_resolution_angstrom
    if resolution is not None and limit is not None and resolution > limit:
        return (
            f"the CTF fits to {resolution:.4g} Å only",
            f"{limit:g} Å or better (session.select.max_ctf_resolution_angstrom)",
        )
    if cfg.assessment == "reject" and row.get("emflowGood") == "0":
        return row.get("emflowGoodReason", NONE), row.get("emflowGoodExpected", NONE)
    picks = _number(row, "emflowPickCount")
    if picks is not None and picks < cfg.min_picks:
        return f"{picks:.0f} picks", f"at least {cfg.min_picks} (session.select.min_picks)"
    masked = _number(row, "emflowMaskedFraction")
    if masked is not None and masked > cfg.max_masked_fraction:
        return (
            f"{masked:.0%} is masked as carbon or contamination",
            f"at most {cfg.max_masked_fraction:.0%} (session.select.max_masked_fraction)",
        )
    return None


def _number(row: Mapping[str, str], column: str) -> float | None:
    try:
        value = float(row.get(column, NONE))
    except ValueError:
        return None
    return None if math.isnan(value) else value


def _apply_labels(
    rows: Mapping[str, Mapping[str, str]],
    labels: Sequence[str],
    faults: dict[str, tuple[str, str, str]],
    cfg: SessionSelect,
) -> pd.DataFrame:
    matched = dict.fromkeys(labels, "0")
    for identity, row in rows.items():
        path = PurePath(row["rlnMicrographName"])
        for label in {identity, str(path), path.name, path.stem} & matched.keys():
            matched[label] = "1"
            faults.setdefault(
                identity, ("session.select", "excluded by hand", f"not in {cfg.excluded_micrographs}")
            )
    return pd.DataFrame(list(matched.items()), columns=pd.Index(LABEL_COLUMNS), dtype=object)
