"""Verdicts on classes: do two half-sets that share nothing find the same ones?"""

from __future__ import annotations

from emflow.reconstruct.agreement import SIGNIFICANT
from emflow.reconstruct.class_match import Matched
from emflow.step import Judgement

SAME = 0.5
"""Adjusted Rand index between halves from which particles count as sorted alike."""
ABOVE_CHANCE = 0.05
"""Below this the halves sort particles no more alike than chance, or than a nuisance would."""


def distinct(matched: Matched) -> int:
    """Classes that differ from the mean map in the same way in both half-sets."""
    return sum(
        one.difference.significance("whole") >= SIGNIFICANT and one.stability > 0 for one in matched.classes
    )


def judge_classes(matched: Matched) -> Judgement:
    """Say whether independent halves find the same classes."""
    question = "Do independent halves find the same classes?"
    if len(matched.classes) < 2:
        return Judgement(
            question, "unknown", "One class was asked for.", "Set reconstruct.classes.n_classes."
        )
    count = distinct(matched)
    best = max(one.difference.significance("whole") for one in matched.classes)
    numbers = (
        f"each half's maps sort the other half's particles with an adjusted Rand index of {matched.rand:.2f} "
        f"(0 is chance); differences from the mean map agree at {best:.0f} standard deviations of noise"
    )
    if count < 2 or matched.rand < ABOVE_CHANCE:
        return Judgement(
            question,
            "fail",
            f"No distinct classes: {numbers}.",
            "Do not interpret differences between the class maps. The particles are alike as far as these data tell; "
            "a mask on the part that may differ (reconstruct.classes.mask) or more particles may tell more.",
        )
    if matched.rand < SAME:
        return Judgement(
            question,
            "warn",
            f"{count} classes differ alike in both halves, but single particles are uncertain: {numbers}.",
            "Trust the maps more than the lists. Fewer classes, a mask or finer particles may help.",
        )
    return Judgement(question, "pass", f"{count} classes are found in both halves: {numbers}.")


def judge_empty(sizes: list[int], particles: int) -> Judgement:
    """Say whether classes ran empty."""
    question = "Does every class hold particles?"
    few = [number for number, size in enumerate(sizes, start=1) if size < 0.01 * particles]
    if not few:
        return Judgement(question, "pass", f"The smallest class holds {min(sizes)} of {particles}.")
    return Judgement(
        question,
        "warn",
        f"{len(few)} of {len(sizes)} hold less than one particle in a hundred: {', '.join(map(str, few))}.",
        "Ask for fewer classes.",
    )


def judge_start(poses: str, independent: bool) -> Judgement:
    """Say what the halves had in common at the start."""
    question = "Did the two halves begin apart?"
    if poses != "global":
        return Judgement(
            question,
            "unknown",
            "Classes were found in each half alone; the poses they began from came with the particles.",
            "Poses of `emflow reconstruct refine` keep the halves apart.",
        )
    if independent:
        return Judgement(question, "pass", "Each half began from its own start map.")
    return Judgement(
        question,
        "unknown",
        "Both halves began from one start map, low-passed: agreement beyond that low-pass is evidence.",
        "Start from a folder with half1.mrc and half2.mrc that were found apart.",
    )
