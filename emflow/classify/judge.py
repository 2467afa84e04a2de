"""Verdicts on a classification, in words."""

from __future__ import annotations

import numpy as np

from emflow.classify.measure import Columns
from emflow.classify.select import SIGNAL, Selection
from emflow.step import Judgement


def too_few(particles: int) -> list[Judgement]:
    """Verdict on a set that is too small."""
    return [
        Judgement(
            "Do the classes show particles?",
            "unknown",
            f"There are only {particles} particles: no classes were made, none was removed.",
            "Look at the micrographs and the picks.",
        )
    ]


def judge_classes(classes: Columns, particles: Columns) -> list[Judgement]:
    """Say whether any class has signal."""
    filled = classes["particles"] > 0
    signal = filled & (classes["evidence"] >= SIGNAL)
    evidence = particles["evidence"]
    text = (
        f"{int(signal.sum())} of {int(filled.sum())} classes, with {int(classes['particles'][signal].sum())} of "
        f"{len(evidence)} particles, are likelier than noise alone, by averages of the other half-set (median over "
        f"all particles {np.median(evidence):.1f} nat)."
    )
    question = "Do the classes show particles?"
    if not signal.any():
        return [
            Judgement(
                question, "fail", f"No class has signal: {text}", "Look at the picks: they may be noise."
            )
        ]
    few = classes["particles"][signal].sum() < 0.3 * len(evidence)
    action = (
        "Most boxes hold nothing: raise pick.apply's threshold, or look at the micrographs." if few else ""
    )
    return [Judgement(question, "warn" if few else "pass", text, action)]


def judge_selection(selection: Selection) -> list[Judgement]:
    """Say how much was removed, and why."""
    kept, count = int(selection.kept.sum()), len(selection.kept)
    reasons = sorted({r for r in selection.reason if r}, key=selection.reason.count, reverse=True)
    why = "; ".join(f"{selection.reason.count(r)} {r}" for r in reasons[:6])
    person = f" {selection.by_person} classes were chosen by a person." if selection.by_person else ""
    text = f"{kept} of {count} particles are kept.{person} Removed: {why or 'none'}."
    question = "Are particles left, and what was removed?"
    if not kept:
        return [Judgement(question, "fail", text, "Look at classes.png and at removed.star.")]
    if kept < 0.5 * count:
        return [
            Judgement(
                question,
                "warn",
                text,
                "More than half is gone: look at classes.png; labels overrule the choice.",
            )
        ]
    return [Judgement(question, "pass", text)]
