"""Which classes and particles are kept, and why the others are not."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from emflow.classify.config import ClassifySelect
from emflow.classify.measure import Columns
from emflow.classify.run import STRONG

SIGNAL = 0.5
"""Median evidence of its particles, in nat, from which a class has signal."""
_UNLIKE = 4.0
"""Robust deviations above the others' median from which what a class leaves of a particle is too much."""
_WEAK = np.arange(1.8, 4.01, 0.2)
"""Deviations below the others' median at which a particle may have too little signal to be whole; the first is taken
below which there are half as many again as there are above the median by as much."""
_BLURRED = 0.4
"""Least score of a class that is only blurred: its particles are judged one by one."""
_EVIDENCE = 0.5
"""Weight of the evidence beside the strength."""
_RESTS = {"rest_low": "low", "rest_middle": "medium", "rest_high": "high"}


@dataclass(frozen=True)
class Ranked:
    """Score of each class, and what speaks most against it."""

    score: np.ndarray
    """0…1, (K,)."""
    reason: list[str]
    """In words; empty for a class without fault."""


def _falling(value: np.ndarray, good: float, bad: float) -> np.ndarray:
    """1 where ``value`` is on the good side of ``good``, 0 beyond ``bad``, linear between; 0 where unknown."""
    return np.clip(np.nan_to_num((bad - value) / (bad - good), nan=0.0), 0, 1)


def rank_classes(classes: Columns) -> Ranked:
    """Score classes as a person would: signal, resolution, centring, size, edges.

    The score is the least of its parts, so that one fault is enough and is the reason.
    """
    count = classes["particles"]
    filled = count > 0
    known = classes["resolution_angstrom"][filled & np.isfinite(classes["resolution_angstrom"])]
    usual = float(np.median(known)) if len(known) else np.nan
    parts = {
        "no particles": filled.astype(float),
        "no signal: its particles fit noise alone as well": 1 - _falling(classes["evidence"], -1.0, 4.0),
        "its half-sets do not agree": 1 - _falling(classes["correlation"], 0.02, 0.15),
        "blurred: coarser than most classes": np.maximum(
            _falling(classes["resolution_angstrom"] / usual, 1.5, 4.0), _BLURRED
        ),
        "off centre": _falling(classes["off_centre"], 0.15, 0.35),
        "larger than the particle": _falling(classes["extent"], 1.45, 1.7),
        "smaller than the particle": 1 - _falling(classes["extent"], 0.1, 0.25),
        "density at the edge": _falling(classes["edge"], 0.7, 1.0),
    }
    table = np.stack(list(parts.values()))
    score = np.where(filled, table.min(0), 0.0)
    names = list(parts)
    return Ranked(
        score, [names[int(k)] if s < 0.9 else "" for k, s in zip(table.argmin(0), score, strict=True)]
    )


def judge_particles(particles: Columns, cfg: ClassifySelect) -> list[str]:
    """Say for each of N particles why it is none like the others; empty where nothing speaks against it.

    The measures of what a class leaves are compared with those of the particles that have evidence, by median
    and median absolute deviation, so that a minority of junk does not move the bounds.
    """
    evidence, power = particles["evidence"], particles["power"]
    reasons = np.full(len(evidence), "", dtype=object)
    usual = (evidence >= cfg.minimum_evidence) & (power <= STRONG)
    for name, words in _RESTS.items():
        rest = particles[name]
        middle = np.median(rest[usual]) if usual.any() else 0.0
        spread = 1.4826 * np.median(np.abs(rest[usual] - middle)) if usual.any() else 1.0
        reasons[rest > middle + _UNLIKE * max(spread, 0.5)] = (
            f"its class leaves too much of it at {words} frequency: crowded, broken or contaminated"
        )
    reasons[weak_particles(particles["strength"], evidence, usual & (reasons == ""))] = (
        "far less signal than most: broken, or hardly there"
    )
    reasons[evidence < cfg.minimum_evidence] = "fits noise alone as well as any class: an empty box"
    reasons[power > STRONG] = "far stronger at low frequency than most: carbon, ice or an edge"
    return list(reasons)


def weak_particles(strength: np.ndarray, evidence: np.ndarray, usual: np.ndarray) -> np.ndarray:
    """Which of N particles have too little signal, (N,) bool; none where the weak are no more than the strong.

    Strength and half the logarithm of the evidence, both in deviations of the ``usual`` particles, are added. Noise
    makes as many particles seem weak as strong; what there is more of on the weak side is broken, and only where that
    is a third of what would go, and three times what chance makes of such counts, is anything removed; beyond the
    last bound noise hardly comes.
    """
    if usual.sum() < 10:
        return np.zeros(len(strength), dtype=bool)
    both = _away(strength, usual) + _EVIDENCE * _away(np.log(evidence.clip(min=0.1)), usual)
    both = _away(both, usual)
    for bound in _WEAK:
        low, high = (both[usual] < -bound).sum(), (both[usual] > bound).sum()
        chance = 3 * np.sqrt(low + high) if bound < _WEAK[-1] else 0.0
        if low > 1.5 * high + 0.5 and low - high > chance:
            return both < -bound
    return np.zeros(len(strength), dtype=bool)


def _away(values: np.ndarray, usual: np.ndarray) -> np.ndarray:
    """Distance from the usual median, in deviations of the side above it, which broken particles do not widen."""
    middle = np.median(values[usual])
    above = values[usual & (values > middle)] - middle
    spread = 1.4826 * np.median(above) if len(above) else 0.0
    return (values - middle) / max(spread, 1e-9)


@dataclass(frozen=True)
class Selection:
    """The choice."""

    kept: np.ndarray
    """(N,), bool."""
    reason: list[str]
    """Why each of the N particles is removed; empty for those kept."""
    classes_kept: np.ndarray
    """(K,), bool."""
    ranked: Ranked
    by_person: int
    """Classes that a person chose."""


def select(
    number: np.ndarray, classes: Columns, particles: Columns, cfg: ClassifySelect, labels: dict[int, bool]
) -> Selection:
    """Choose classes and particles.

    Parameters
    ----------
    number
        Class of each particle, from 0, (N,).
    classes, particles
        Their figures (:mod:`emflow.classify.measure`).
    cfg
        Settings.
    labels
        A person's choices: class, from 0 → keep. In a class that a person keeps, no particle is removed.
    """
    ranked = rank_classes(classes)
    keep = (ranked.score >= cfg.minimum_score) & (classes["evidence"] >= SIGNAL)
    for k, wanted in labels.items():
        keep[k] = wanted
    single = judge_particles(particles, cfg) if cfg.particle_criterion else [""] * len(number)
    reasons = []
    for k, own in zip(number.tolist(), single, strict=True):
        if k in labels:
            reasons.append("" if labels[k] else "class removed by a person")
        elif own:
            reasons.append(own)
        else:
            reasons.append("" if keep[k] else f"class removed: {ranked.reason[k]}")
    kept = np.array([not reason for reason in reasons], dtype=bool)
    return Selection(kept, reasons, keep, ranked, len(labels))
