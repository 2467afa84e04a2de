"""Judge each state of a heterogeneity analysis by its own half maps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from emflow.step import Judgement
from emflow.validate.config import ValidateStates
from emflow.validate.inputs import Mask, StateMaps
from emflow.validate.judge import is_resolved
from emflow.validate.maps import compare_halves


@dataclass(frozen=True)
class StateFigures:
    """One state, as its halves show it."""

    name: str
    particles: int
    resolution_angstrom: float | None
    """None where the halves agree no more than noise, or one of them is missing or empty."""
    resolution_fsc05_angstrom: float | None
    significance: float | None
    """Standard deviations above noise; None without two half maps."""


def judge_state(state: StateMaps, cfg: ValidateStates) -> StateFigures:
    """Compare a state's half maps."""
    if state.halves is None:
        return StateFigures(state.name, state.particles, None, None, None)
    voxel = state.voxel_size_angstrom
    mask = state.mask or Mask.make((state.halves[0] + state.halves[1]) / 2, voxel, cfg)
    curves = compare_halves(state.halves[0], state.halves[1], mask.values, voxel, cfg)
    resolved = is_resolved(curves)
    return StateFigures(
        state.name,
        state.particles,
        curves.resolution() if resolved else None,
        curves.resolution(threshold=0.5) if resolved else None,
        curves.significance(),
    )


def state_metrics(states: list[StateFigures]) -> dict[str, float | int | None]:
    """Figures of all states: the worst and the best resolution, and each one's own."""
    known = [state.resolution_angstrom for state in states if state.resolution_angstrom is not None]
    metrics: dict[str, float | int | None] = {
        "states": len(states),
        "states_resolved": len(known),
        "resolution_best_angstrom": min(known, default=None),
        "resolution_worst_angstrom": max(known, default=None),
    }
    return metrics | {
        f"state_{state.name}_resolution_angstrom": state.resolution_angstrom for state in states
    }


def state_table(states: list[StateFigures]) -> pd.DataFrame:
    """One row per state, for states.star."""

    def text(value: float | None) -> str:
        return "None" if value is None or not np.isfinite(value) else f"{value:.4g}"

    return pd.DataFrame(
        {
            "emflowState": [state.name for state in states],
            "emflowParticleCount": [str(state.particles) for state in states],
            "rlnFinalResolution": [text(state.resolution_angstrom) for state in states],
            "emflowResolutionHalf": [text(state.resolution_fsc05_angstrom) for state in states],
            "emflowSignificance": [text(state.significance) for state in states],
        },
        dtype=object,
    )


def judge_states(states: list[StateFigures]) -> Judgement:
    """Say whether every state stands on its own half maps."""
    question = "Is each state resolved by its own half maps?"
    if not states:
        return Judgement(question, "unknown", "There are no states.")
    told = "; ".join(
        f"state {state.name}, {state.particles} particles: "
        + (
            f"{state.resolution_angstrom:.1f} Å"
            if state.resolution_angstrom
            else "no agreement of its halves"
        )
        for state in states[:20]
    )
    lost = sum(state.resolution_angstrom is None for state in states)
    if lost:
        return Judgement(
            question,
            "warn" if lost < len(states) else "fail",
            told,
            "Do not interpret the states whose halves do not agree; ask for fewer states (heterogeneity.analyze.states).",
        )
    return Judgement(question, "pass", told)
