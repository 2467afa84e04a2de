"""Verdicts on two half maps: each says what was asked, the answer, the evidence and what to do."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from emflow.step import Judgement
from emflow.validate.maps import HalfMapCurves

RANK = {"pass": 0, "warn": 1, "fail": 2}
"""From good to bad. ``unknown`` has no rank: what nobody knows, such as the hand, does not spoil what is known."""


def is_resolved(curves: HalfMapCurves) -> bool:
    """Whether the halves agree more than noise does.

    Three shells or more, five standard deviations, and one chance in 200 at most by random signs (which
    assume nothing about the noise).
    """
    return curves.last_shell() >= 3 and curves.significance() >= 5 and curves.sign_probability <= 0.005


def judge_resolution(
    curves: HalfMapCurves,
    diameter_angstrom: float | None,
    quoted: Sequence[dict[str, str]],
) -> Judgement:
    """Say to which resolution the half maps agree; never better than the reconstruction's own verdicts.

    Parameters
    ----------
    curves
        FSC of the half maps.
    diameter_angstrom
        Diameter of the particle; agreement that is coarser than a quarter of it shows the shape only.
    quoted
        Verdicts of the reconstruction, if there are any.
    """
    question = "To which resolution do the half maps agree?"
    resolution = curves.resolution()
    if resolution is None or not is_resolved(curves):
        return Judgement(
            question,
            "fail",
            f"No resolution: the half maps agree no more than noise would ({curves.significance():.1f} standard "
            f"deviations at the lowest shells, 5 are asked for; by random signs p = {curves.sign_probability:.1g}).",
            "Do not interpret the map. Look at the picks and the particles first.",
        )
    masked, unmasked = (_angstrom(curves.resolution(name)) for name in ("masked", "unmasked"))
    evidence = (
        f"Corrected FSC 0.143 at {resolution:.2f} Å ({_interval(curves)}0.5 at "
        f"{_angstrom(curves.resolution(threshold=0.5))}; masked {masked}, unmasked {unmasked})."
    )
    answer, action = "pass", ""
    if _coarse(curves, diameter_angstrom):
        answer = "warn"
        evidence += (
            f" That is the overall shape of a particle of {diameter_angstrom:.0f} Å, nothing within it."
        )
        action = "Do not interpret detail inside the particle."
    elif curves.significance(curve="aspherical") < 5:
        answer = "warn"
        evidence += (
            " Without the spherically symmetric part little agrees: the map is a ball or a shell so far."
        )
        action = "Do not interpret detail: the orientations are not determined."
    elif _lingers(curves):
        answer = "warn"
        evidence += (
            " The curve lingers between 0.5 and 0.143: a part of the particles agrees, the rest does not."
        )
        action = "Many orientations may be wrong, or the particle moves: look at the directions of view and classify."
    elif curves.last_shell() == len(curves.corrected) - 1:
        answer = "warn"
        evidence += " The curve does not fall before Nyquist: the voxel size sets the limit."
        action = (
            "Extract the particles with a smaller pixel, or make sure that the maps are raw and independent."
        )
    elif curves.band_limit_shell is not None and curves.last_shell() >= curves.band_limit_shell:
        answer = "warn"
        evidence += " The maps hold nothing beyond it: a low-pass or the refinement's band sets the limit."
        action = "Give raw half maps, or refine to a higher resolution."
    worst = _worst(quoted)
    if worst is not None and RANK[worst["verdict"]] > RANK[answer]:
        answer = worst["verdict"]
        evidence += (
            f" But the reconstruction says: {worst['question']} {worst['verdict']}: {worst['evidence']}"
        )
        action = worst.get("action", "") or action
    return Judgement(question, answer, evidence, action)


def _interval(curves: HalfMapCurves) -> str:
    """Confidence interval of the resolution, in words; empty where the band does not close."""
    fine, coarse = curves.resolution_interval()
    return f"95 % band: {fine:.2f} to {coarse:.2f} Å; " if fine is not None and coarse is not None else ""


def _coarse(curves: HalfMapCurves, diameter_angstrom: float | None) -> bool:
    """Whether the agreement ends before a quarter of the particle's diameter."""
    resolution = curves.resolution()
    return resolution is None or (diameter_angstrom is not None and resolution > diameter_angstrom / 4)


def _lingers(curves: HalfMapCurves) -> bool:
    """Whether FSC 0.5 stands at less than half the frequency of FSC 0.143; a sound curve falls within 1.2 to 1.6."""
    last = curves.last_shell()
    return last >= 6 and curves.last_shell(threshold=0.5) < last / 2


def judge_mask(curves: HalfMapCurves, edge_px: float, description: str) -> Judgement:
    """Say whether the mask, rather than the particle, lifts the curve."""
    question = "Does the mask lift the curve?"
    evidence = f"{description}. With random phases the masked maps still correlate {curves.mask_effect:.2f} on average."
    if curves.random_from_shell is None:
        evidence = f"{description}. The unmasked FSC stays high to Nyquist, so no phases could be randomised."
        return Judgement(question, "unknown", evidence, "Use a smaller voxel, so that the curve can fall.")
    masked, corrected = curves.resolution("masked"), curves.resolution()
    # one shell is a step of five per cent where there are few: no evidence by itself
    shells = curves.last_shell("masked") - curves.last_shell()
    lifted = masked is not None and (corrected is None or (corrected > 1.05 * masked and shells > 1))
    if lifted:
        evidence += f" It moves the resolution from {_angstrom(corrected)} (corrected) to {_angstrom(masked)} (masked)."
    if curves.mask_effect > 0.1 or lifted:
        return Judgement(
            question, "warn", evidence, "Quote the corrected resolution; use a softer or wider mask."
        )
    if edge_px < 3:
        return Judgement(
            question, "warn", evidence + " Its edge is hard.", "Use a mask with a soft edge of 5 voxels."
        )
    return Judgement(question, "pass", evidence)


def judge_residue(curves: HalfMapCurves) -> Judgement:
    """Say whether the curve falls to zero where nothing should be left."""
    question = "Does the FSC fall to zero?"
    residue = curves.residue
    if residue is None:
        return Judgement(question, "unknown", "Too few shells lie beyond the resolution to tell.")
    mean, deviation = residue
    evidence = f"Beyond the resolution the unmasked FSC is {mean:.3f} on average (noise: ±{deviation:.3f})."
    if abs(mean) > max(0.05, 4 * deviation):
        return Judgement(
            question,
            "warn",
            evidence,
            "Something is common to the halves: duplicated particles, a shared reference, a mask, or restored pixels.",
        )
    return Judgement(question, "pass", evidence)


def judge_starts(quoted: Sequence[dict[str, str]]) -> Judgement:
    """Say whether anything is known about how independent the two refinements were.

    Of the reconstruction's verdicts those count whose question is about starts; all, where none is.
    """
    question = "Is the agreement more than a shared start?"
    about = [
        row for row in quoted if any(word in row.get("question", "").lower() for word in ("start", "apart"))
    ]
    worst = _worst(about or quoted)
    if worst is None:
        return Judgement(
            question,
            "unknown",
            "Half maps that began from one reference can agree on it. Nothing is known here about their starts.",
            "Give the reconstruction's folder (--reconstruct), or repeat from independent random starts.",
        )
    if worst["verdict"] == "pass":
        return Judgement(question, "pass", f"The reconstruction says: {worst['evidence']}")
    return Judgement(
        question, worst["verdict"], f"{worst['question']} {worst['evidence']}", worst.get("action", "")
    )


def _worst(quoted: Sequence[dict[str, str]]) -> dict[str, str] | None:
    """The worst of the reconstruction's verdicts, leaving out what is unknown; the first of equals."""
    known = [row for row in quoted if row.get("verdict") in RANK]
    return max(known, key=lambda row: RANK[row["verdict"]], default=None)


def judge_origin(known: Sequence[bool]) -> Judgement:
    """Say whether the half maps are known to be free of restored (denoised) pixels."""
    question = "Are the half maps made from unrestored pixels?"
    if all(known):
        return Judgement(question, "pass", "Both half maps say so in their labels.")
    return Judgement(
        question,
        "unknown",
        "The files carry no mark of their origin. Denoised images would raise the FSC without more signal.",
        "Make sure that the half maps are raw: no denoising, no sharpening, no filter.",
    )


def empty_set(particles: int | None) -> list[Judgement]:
    """What there is to say where there were no particles, or too few for a map."""
    why = f"Only {particles} particles, too few for a map" if particles else "No particles"
    return [
        Judgement(
            "To which resolution do the half maps agree?",
            "fail",
            f"{why}: the half maps are empty. There is nothing to validate.",
            "Look at the picks: no particles may be the truth about these micrographs.",
        )
    ]


def _angstrom(value: float | None) -> str:
    return "none" if value is None or not np.isfinite(value) else f"{value:.2f} Å"
