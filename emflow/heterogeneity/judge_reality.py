"""What is said about coordinates and states after the reality checks."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from emflow.heterogeneity.config import HeterogeneityCheck
from emflow.heterogeneity.reality import Coordinates, Sides
from emflow.heterogeneity.reality_states import StateMaps
from emflow.step import Judgement

_POSES, _MIXED = 0.8, 0.5
"""Part of a coordinate's gain from which it is put down to the poses, and from which they have a share in it. One state with
poses off by 3 or 4° gave 0.84 to 1, a hinge with poses off by 3° 0.12 to 0.63."""
_STATE_POSES = 0.5
"""Part of a state's difference from which it is put down to the poses."""
_CONTRAST = 0.7
_KAPPA = 0.2
_LIKELY = 2.0
"""Times the score that confirms a state, that one must be expected to reach before its absence says anything."""

REAL, NOISE, POSES, MIXED, CONTRAST = "real", "noise", "poses", "poses and more", "contrast"
CONFIRMED, REFUSED, OPEN = "confirmed", "not confirmed", "cannot be told"


@dataclass(frozen=True)
class Finding:
    """One coordinate or state: the answer and why."""

    answer: str
    why: str


def judge_coordinate(k: int, found: Coordinates, sides: Sides, cfg: HeterogeneityCheck) -> Finding:
    """Is coordinate ``k`` (from 0) real: found by both halves, beyond poses and contrast."""
    latent, volume = float(found.latent[k]), float(sides.volume[k])
    limits = [_limit(chance, cfg.deviations) for chance in (found.latent_chance, sides.volume_chance)]
    said = (
        f"latents by the two halves' models correlate {latent:.2f} (chance stays below {limits[0]:.2f}), components "
        f"{volume:.2f} ({limits[1]:.2f})"
    )
    if latent < limits[0] or volume < limits[1]:
        return Finding(NOISE, said)
    gain = (
        f"{found.gain[k]:.2f} nat per held-out image, {found.gain_beyond[k]:.2f} of it beyond what errors of the poses "
        f"explain ({float(found.deviations[k]):.0f} standard errors)"
    )
    if float(found.gain[k]) <= 0:
        return Finding(NOISE, f"{said}; no held-out image becomes likelier")
    if float(found.pose_fraction[k]) >= _POSES or float(found.deviations[k]) < cfg.deviations:
        return Finding(POSES, f"{said}; {gain}")
    if float(found.pose_fraction[k]) >= _MIXED:
        return Finding(MIXED, f"{said}; {gain}")
    if abs(float(found.contrast[k])) >= _CONTRAST:
        return Finding(
            CONTRAST, f"{said}; it goes with the contrast of the images ({float(found.contrast[k]):.2f})"
        )
    return Finding(REAL, f"{said}; {gain}")


def _limit(chance: torch.Tensor, deviations: float) -> float:
    """What chance stays below: its mean and so many deviations, and the largest that was drawn."""
    return max(float(chance.mean() + deviations * chance.std()), float(chance.max()))


def judge_state(i: int, maps: StateMaps, coordinates: list[Finding], cfg: HeterogeneityCheck) -> Finding:
    """Does state ``i`` (of those in ``maps``) reappear in both halves, and from what."""
    score, expected = float(maps.score[i]), float(maps.predicted[i])
    fewest, poses, kappa = int(maps.particles[i].min()), float(maps.pose_fraction[i]), float(maps.kappa[i])
    said = (
        f"difference from the mean, made in each half by the other half's labels ({int(maps.particles[i, 0])} and "
        f"{int(maps.particles[i, 1])} particles): {score:.1f} deviations above random labels ({expected:.1f} expected), "
        f"shifts and turns of the whole explain {100 * poses:.0f} %, κ of the halves' labels {kappa:.2f}"
    )
    if fewest < cfg.minimum_particles:
        return Finding(OPEN, f"fewer than {cfg.minimum_particles} particles in a half; {said}")
    answers = {found.answer for found in coordinates}
    if REAL not in answers and MIXED in answers:
        return Finding(OPEN, f"imprecise poses have a share in every coordinate; {said}")
    if REAL not in answers:
        return Finding(REFUSED, f"no coordinate is real; {said}")
    if score < cfg.deviations or float(maps.above[i]) > 0:
        if expected < _LIKELY * cfg.deviations:
            return Finding(OPEN, f"too few particles to see it again; {said}")
        return Finding(REFUSED, f"it does not reappear; {said}")
    if poses >= _STATE_POSES:
        return Finding(REFUSED, f"imprecise poses look like this; {said}")
    if kappa < _KAPPA:
        return Finding(OPEN, f"the halves' models do not agree on who belongs to it; {said}")
    return Finding(CONFIRMED, said)


def judge_states(
    count: int, maps: StateMaps | None, coordinates: list[Finding], cfg: HeterogeneityCheck
) -> list[tuple[int, Finding]]:
    """Every state by its number, from 1; of one that either half has no particle of nothing can be told."""
    places = {} if maps is None else {int(n): i for i, n in enumerate(maps.number)}
    lost = Finding(OPEN, "the other half's labels leave a half without a particle of it")
    return [
        (n, judge_state(places[n], maps, coordinates, cfg) if maps is not None and n in places else lost)
        for n in range(1, count + 1)
    ]


def judge_none(why: str) -> Judgement:
    """No component was kept by the fit."""
    return Judgement(
        _QUESTION, "unknown", f"No heterogeneity beyond noise: {why}.", "Treat the particles as one state."
    )


_QUESTION = "Is the heterogeneity real?"


def judge_all(coordinates: list[Finding], states: list[tuple[int, Finding]]) -> list[Judgement]:
    """One row for all coordinates together, and one for each state."""
    real = [str(k) for k, found in enumerate(coordinates, 1) if found.answer == REAL]
    text = "; ".join(f"axis {k}: {found.answer} ({found.why})" for k, found in enumerate(coordinates, 1))
    confirmed = [number for number, found in states if found.answer == CONFIRMED]
    if not real:
        kinds = {found.answer for found in coordinates}
        if MIXED in kinds:
            evidence = (
                f"Cannot be told: imprecise poses explain much of what both halves find, not all. {text}."
            )
            return [
                Judgement(_QUESTION, "unknown", evidence, "Refine the poses further."),
                *_state_rows(states),
            ]
        beyond = "noise and imprecise poses" if POSES in kinds else "noise"
        action = "Refine the poses further." if POSES in kinds else "Treat the particles as one state."
        rows = [Judgement(_QUESTION, "fail", f"No heterogeneity beyond {beyond}: {text}.", action)]
    elif len(states) > 1 and not confirmed:
        evidence = f"Of {len(coordinates)} axes real: {', '.join(real)}; no state is confirmed. {text}."
        rows = [Judgement(_QUESTION, "warn", evidence, "Read the coordinates rather than the states.")]
    else:
        shown = f", {len(confirmed)} of {len(states)} states confirmed" if len(states) > 1 else ""
        rows = [
            Judgement(
                _QUESTION, "pass", f"Of {len(coordinates)} axes real: {', '.join(real)}{shown}. {text}."
            )
        ]
    return [*rows, *_state_rows(states)]


def _state_rows(states: list[tuple[int, Finding]]) -> list[Judgement]:
    """One row for each state."""
    answers = {CONFIRMED: "pass", REFUSED: "fail", OPEN: "unknown"}
    actions = {
        CONFIRMED: "",
        REFUSED: "Do not interpret this state.",
        OPEN: "Ask for fewer states, or collect more particles.",
    }
    return [
        Judgement(
            f"Is state {number} real?",
            answers[found.answer],
            f"{found.answer.capitalize()}: {found.why}.",
            actions[found.answer],
        )
        for number, found in states
    ]
