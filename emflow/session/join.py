"""Pool the shards' quality tables: what only shows across shards, figures, verdicts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from emflow.session.check import Fault, duplicates, odd_shapes

Metrics = dict[str, float | int | None]


@dataclass(frozen=True)
class Contrast:
    """What one shard says about the contrast."""

    used: str
    detected: str
    strength: float


def settle(quality: pd.DataFrame) -> pd.DataFrame:
    """Set aside what only shows across shards: copies, replaced versions of a file, odd shapes.

    The oldest file wins over its copies, the first entry among equally old ones; of several versions of one path
    the newest wins, unless its pixels are those of an earlier one.
    """
    table = quality.reset_index(drop=True).copy()
    names = [str(name) for name in table["rlnMicrographName"]]
    for row, original in _copies(table).items():
        same = names[original] == names[row]
        reason = (
            "the same pixels as before, the file is only newer" if same else f"a copy of {names[original]}"
        )
        _reject(table, row, Fault(reason, "each micrograph once"))
    rows = np.flatnonzero(_accepted(table)).tolist()
    newest = {names[row]: row for row in rows}
    for row in rows:
        if newest[names[row]] != row:
            _reject(table, row, Fault("replaced by a newer version of the file", "the newest version"))
    if {"rlnImageSizeX", "rlnImageSizeY"} <= set(table.columns):
        ok = _accepted(table)
        shapes = [
            (int(y), int(x)) if good else None
            for x, y, good in zip(table["rlnImageSizeX"], table["rlnImageSizeY"], ok, strict=True)
        ]
        groups = table["rlnOpticsGroup"].tolist() if "rlnOpticsGroup" in table else ["1"] * len(table)
        for row, fault in odd_shapes(shapes, groups, [False] * len(table)).items():
            _reject(table, row, fault)
    return table


def _accepted(table: pd.DataFrame) -> np.ndarray:
    return (table["emflowAccepted"] == "1").to_numpy()


def _reject(table: pd.DataFrame, row: int, fault: Fault) -> None:
    columns = ["emflowAccepted", "emflowStep", "emflowReason", "emflowExpected"]
    table.loc[row, columns] = ["0", "session.join", fault.reason, fault.expected]


def _copies(table: pd.DataFrame) -> dict[int, int]:
    if "emflowDigest" not in table:
        return {}
    ok = _accepted(table)
    digests = [d if good and d != "None" else None for d, good in zip(table["emflowDigest"], ok, strict=True)]
    times = table["emflowMtimeNs"] if "emflowMtimeNs" in table else ["0"] * len(table)
    ages = [int(time) if time.isdecimal() else 0 for time in times]
    return duplicates(digests, ages, [False] * len(table))


def measure_session(table: pd.DataFrame, pixel_size_angstrom: float | None) -> Metrics:
    """Figures of the session; ``table`` is the settled quality table."""
    ok, headers = _accepted(table), _header_pixels(table)
    halves = Counter(table.loc[ok, "rlnRandomSubset"]) if "rlnRandomSubset" in table else Counter()
    return {
        "micrographs": len(table),
        "accepted": int(ok.sum()),
        "set_aside": int((~ok).sum()),
        "half1_micrographs": halves["1"],
        "half2_micrographs": halves["2"],
        "copies": int(table["emflowReason"].str.startswith("a copy of").sum()),
        "pixel_size_angstrom": pixel_size_angstrom,
        "header_pixel_size_angstrom": headers.most_common(1)[0][0] if headers else None,
    }


def _header_pixels(table: pd.DataFrame) -> Counter[float]:
    """Count the pixel sizes that headers of accepted micrographs tell, in ångström."""
    if "emflowHeaderPixelSize" not in table:
        return Counter()
    told = table.loc[_accepted(table), "emflowHeaderPixelSize"]
    return Counter(float(value) for value in told if value != "None")


Verdicts = list[tuple[str, str, str, str]]
"""Question, verdict, evidence, action."""


def judge_session(
    table: pd.DataFrame, metrics: Metrics, contrasts: Sequence[Contrast], unmatched: Sequence[str]
) -> Verdicts:
    """Verdicts on the session as a whole."""
    verdicts = [_soundness(table), _balance(metrics), _contrast(contrasts), _pixel(table, metrics)]
    for column, which in (("emflowEvenName", "even"), ("emflowOddName", "odd")):
        if column in table:
            missing = int((table.loc[_accepted(table), column] == "None").sum())
            verdicts.append(
                (
                    f"Are all {which} half sums there?",
                    "warn" if missing else "pass",
                    f"{missing} of {metrics['accepted']} accepted micrographs lack a sound {which} half sum",
                    f"Look at input.{which} and the warnings of session check." if missing else "",
                )
            )
    if unmatched:
        verdicts.append(
            (
                "Are all micrographs known that were excluded by hand?",
                "warn",
                f"no micrograph is called {', '.join(unmatched[:5])}{' …' if len(unmatched) > 5 else ''}",
                "Correct or remove these lines of the list of excluded micrographs.",
            )
        )
    return verdicts


def _soundness(table: pd.DataFrame) -> tuple[str, str, str, str]:
    question = "Are the micrographs sound?"
    ok = _accepted(table)
    lost = Counter(table.loc[~ok, "emflowStep"])
    evidence = f"{int(ok.sum())} of {len(table)} accepted"
    if lost:
        evidence += "; set aside by " + ", ".join(f"{step}: {n}" for step, n in sorted(lost.items()))
    if not ok.any():
        return question, "fail", evidence, "See the reasons in session/set_aside.star."
    few = ok.mean() >= 0.9
    return question, "pass" if few else "warn", evidence, "" if few else "See session/set_aside.star."


def _balance(metrics: Metrics) -> tuple[str, str, str, str]:
    question = "Do both half-sets hold as many micrographs?"
    one, two = int(metrics["half1_micrographs"] or 0), int(metrics["half2_micrographs"] or 0)
    total, evidence = one + two, f"{one} and {two} micrographs"
    if not total:
        return question, "unknown", evidence, "There is no accepted micrograph with a half-set."
    if not (one and two):
        return (
            question,
            "fail",
            evidence,
            "Maps of halves cannot be compared; at least two micrographs are needed.",
        )
    # counting noise of two halves drawn at random is √total; alternation does far better
    uneven = abs(one - two) > max(2.0, total**0.5)
    return (
        question,
        "warn" if uneven else "pass",
        evidence,
        "The smaller half limits the resolution." if uneven else "",
    )


def _contrast(contrasts: Sequence[Contrast]) -> tuple[str, str, str, str]:
    question = "Is protein dark or bright in the micrographs?"
    used = Counter(c.used for c in contrasts)
    found = Counter(c.detected for c in contrasts)
    if not contrasts:
        return question, "unknown", "no shard says", ""
    if set(found) == {"set"}:
        return question, "pass", f"{contrasts[0].used}, as set in sample.contrast", ""
    typical = float(np.median([c.strength for c in contrasts]))
    evidence = f"detected in {len(contrasts)} shard(s): " + ", ".join(
        f"{k} {n}" for k, n in sorted(found.items())
    )
    evidence += f" (skewness {typical:+.1f} standard errors, negative is dark)"
    if len(used) > 1 or {"dark", "bright"} <= set(found):
        return question, "fail", evidence, "Shards disagree: look at the micrographs and set sample.contrast."
    if found["unknown"] == len(contrasts):
        return (
            question,
            "unknown",
            f"{evidence}; taken as {contrasts[0].used}",
            "If that is wrong, set sample.contrast.",
        )
    return question, "pass", evidence, ""


def _pixel(table: pd.DataFrame, metrics: Metrics) -> tuple[str, str, str, str]:
    question = "Do the headers agree with the pixel size that is used?"
    used, headers = metrics["pixel_size_angstrom"], _header_pixels(table)
    if not headers or used is None:
        return question, "unknown", f"used: {used} Å; the headers say nothing", ""
    others = {told: count for told, count in headers.items() if abs(told / used - 1) > 0.01}
    evidence = f"used: {used:g} Å; {sum(headers.values()) - sum(others.values())} headers agree"
    if not others:
        return question, "pass", evidence, ""
    evidence += "; " + ", ".join(f"{count} say {told:g} Å" for told, count in sorted(others.items())[:5])
    advice = (
        "Headers are not believed; make sure that sample.pixel_size_angstrom is right for all micrographs."
    )
    return question, "warn", evidence, advice
