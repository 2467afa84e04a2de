"""The table of slices, with figures and verdicts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from emflow.io.record import verdict, write_metrics, write_verdicts
from emflow.io.star import format_value, write_star
from emflow.vem.axial import Told
from emflow.vem.check import Checked, listed
from emflow.vem.inputs_slices import BLOCK, COLUMNS
from emflow.vem.shifts import SMALLEST_PX

_SHOWN = 12


def write_slices(out: Path, checked: Checked, names: tuple[str, ...]) -> None:
    """Write ``slices.star``: one row for each place along the axis."""
    slices, stored = checked.slices, checked.slices.stored
    there = stored >= 0
    columns: dict[str, list[object]] = {
        "emflowSliceNumber": list(range(len(slices))),
        COLUMNS[0]: list(stored),
        "emflowSliceName": [names[n] if names and n >= 0 else "none" for n in stored],
        COLUMNS[1]: [int(used) for used in slices.used],
        COLUMNS[2]: [reason or "none" for reason in slices.reasons],
        COLUMNS[3]: list(slices.shifts[:, 0]),
        COLUMNS[4]: list(slices.shifts[:, 1]),
        COLUMNS[5]: list(slices.scale),
        COLUMNS[6]: list(slices.offset),
        "emflowSliceSimilarity": [checked.similar[n] if n >= 0 else 0.0 for n in stored],
        "emflowSliceMedian": [checked.looks[n].mean if n >= 0 else 0.0 for n in stored],
        "emflowSliceDeviation": [checked.looks[n].deviation if n >= 0 else 0.0 for n in stored],
        "emflowSliceDetail": [checked.looks[n].middle_detail if n >= 0 else 0.0 for n in stored],
    }
    assert there.any()
    table = {name: [format_value(value) for value in values] for name, values in columns.items()}
    write_star(out / "slices.star", {BLOCK: pd.DataFrame(table)})


def check_metrics(checked: Checked, told: Told | None) -> dict[str, float | int | None]:
    """Figures of a check."""
    slices = checked.slices
    reasons = slices.reasons
    moved = np.linalg.norm(slices.shifts, axis=1)
    course = checked.course[slices.used]
    return {
        "slices_stored": int((slices.stored >= 0).sum()),
        "slices_used": int(slices.used.sum()),
        "slices_missing": sum(reason == "missing" for reason in reasons),
        "slices_same_as_before": sum("same" in reason for reason in reasons),
        "slices_damaged": sum(
            word in reason for reason in reasons for word in ("blank", "saturated", "blurred", "unlike")
        ),
        "slices_shifted": int((moved > 0).sum()),
        "slices_of_other_brightness": sum("brightness" in reason for reason in reasons),
        "longest_gap_slices": slices.longest_gap,
        "detectable_shift_px": checked.sure_px,
        "largest_shift_px": float(moved.max()),
        "course_px": float(np.linalg.norm(course[-1] - course[0])) if len(course) else None,
        "neighbour_correlation": told.correlation if told else None,
        "far_correlation": told.apart if told else None,
    }


def write_check(out: Path, checked: Checked, told: Told | None) -> dict[str, float | int | None]:
    """Write metrics.json and verdicts.json of a check, and return the figures."""
    metrics = check_metrics(checked, told)
    write_metrics(out / "metrics.json", metrics)
    rows = [_whole(checked, metrics), _in_register(checked, metrics), _even(checked, metrics), tells(told)]
    write_verdicts(out / "verdicts.json", rows)
    return metrics


def _whole(checked: Checked, metrics: dict[str, float | int | None]) -> dict[str, str]:
    question = "Are all slices there and fit to be used?"
    absent = ~checked.slices.used
    if not absent.any():
        return verdict(question, "pass", f"All {len(absent)} slices are.")
    found = [(place, reason) for place, reason in listed(checked) if absent[place]]
    evidence = (
        f"{absent.sum()} of {len(absent)} are not: "
        + "; ".join(f"{place}: {reason}" for place, reason in found[:_SHOWN])
        + ("; …" if len(found) > _SHOWN else ".")
    )
    bad = absent.mean() > 0.2 or checked.slices.longest_gap > 4
    action = "Give slices.star to vem train and vem restore, which fill across them. To use a slice, set its "
    return verdict(question, "fail" if bad else "warn", evidence, action + "emflowSliceUsed to 1.")


def _in_register(checked: Checked, metrics: dict[str, float | int | None]) -> dict[str, str]:
    question = "Do slices lie in register?"
    if checked.sure_px is None:
        evidence = f"The field is smaller than {SMALLEST_PX} pixels: a few structures that move would decide."
        return verdict(question, "unknown", evidence, "Judge it by eye, or check a wider part of the volume.")
    evidence = (
        f"{metrics['slices_shifted']} of {metrics['slices_used']} lie apart, by {metrics['largest_shift_px']:.1f} "
        f"pixels at most (what can be told: {checked.sure_px:.1f}); the specimen's own course, which stays, goes "
        f"{metrics['course_px'] or 0:.1f} pixels."
    )
    if not metrics["slices_shifted"]:
        return verdict(question, "pass", evidence)
    action = "Give slices.star to vem train and vem restore, which move them; `--no-align` leaves them."
    return verdict(question, "warn", evidence, action)


def _even(checked: Checked, metrics: dict[str, float | int | None]) -> dict[str, str]:
    question = "Are slices evenly bright?"
    number = metrics["slices_of_other_brightness"]
    if not number:
        return verdict(question, "pass", "No slice departs from its neighbours.")
    where = [str(place) for place, reason in listed(checked) if "brightness" in reason]
    evidence = (
        f"{number} depart from their neighbours: {', '.join(where[:_SHOWN])}{', …' * (len(where) > _SHOWN)}."
    )
    return verdict(question, "warn", evidence, "Set normalise in vem train and vem restore.")


def tells(told: Told | None) -> dict[str, str]:
    """Whether neighbouring slices tell of one another: in pure noise they do not."""
    question = "Do neighbouring slices tell of one another?"
    if told is None:
        return verdict(question, "unknown", "There are no two neighbouring slices.", "Give more slices.")
    evidence = (
        f"Correlation of neighbours {told.correlation:.3f} ± {told.error:.3f}, far apart {told.apart:.3f}."
    )
    if told.anything:
        return verdict(question, "pass", evidence)
    action = (
        "They are noise, too far apart, or out of register (vem check tells). Gaps are restored flat, and the mask "
        "is set in them."
    )
    return verdict(question, "fail", evidence, action)
