"""The verb select: particles by a condition, a state, their nearness to a point, their density."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from emflow.heterogeneity.config import HeterogeneitySelect
from emflow.heterogeneity.decode import parse_point
from emflow.heterogeneity.expression import evaluate
from emflow.step import EmflowError, Judgement

FEW = 100
"""Particles of a half-set, below which a refinement has little to begin with."""


@dataclass(frozen=True)
class Selection:
    """Which particles were chosen, and what each criterion left."""

    rows: np.ndarray
    """Bool, (N,)."""
    left: dict[str, int]
    """Particles after each criterion, by the criterion in words."""


def choose(columns: Mapping[str, np.ndarray], latent: np.ndarray, cfg: HeterogeneitySelect) -> Selection:
    """Apply all criteria that are set, one after the other; ``near`` comes last, on what the others left.

    Parameters
    ----------
    columns
        Arrays (N,) by name, as conditions name them.
    latent
        (N, K).

    Raises
    ------
    EmflowError
        If no criterion is set, a column is missing, or ``near`` has more numbers than there are coordinates.
    """
    rows = np.ones(len(latent), dtype=bool)
    left: dict[str, int] = {}
    if cfg.where:
        rows &= evaluate(cfg.where, columns, len(rows))
        left[f"where {cfg.where}"] = int(rows.sum())
    if cfg.state:
        rows &= np.isin(_column(columns, "state"), cfg.state)
        left[f"state {', '.join(map(str, cfg.state))}"] = int(rows.sum())
    if cfg.density_above is not None:
        density = _column(columns, "density")
        rows &= density >= np.percentile(density, cfg.density_above) if len(density) else rows
        left[f"density above percentile {cfg.density_above:g}"] = int(rows.sum())
    if cfg.near:
        point = parse_point(cfg.near)
        if len(point) > latent.shape[1]:
            raise EmflowError(
                f"near has {len(point)} numbers; the particles have {latent.shape[1]} coordinates."
            )
        distance = np.linalg.norm(latent[:, : len(point)] - np.asarray(point), axis=1)
        nearest = np.argsort(np.where(rows, distance, np.inf), kind="stable")[
            : min(cfg.count, int(rows.sum()))
        ]
        rows = np.zeros_like(rows)
        rows[nearest] = True
        left[f"the {cfg.count} nearest to {cfg.near}"] = int(rows.sum())
    if not left:
        raise EmflowError("Nothing says which particles to select; give where, state, near or density-above.")
    return Selection(rows, left)


def _column(columns: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    if name not in columns:
        raise EmflowError(
            f"The particles have no {name}; give the latents.star that heterogeneity analyze wrote, not that of fit."
        )
    return columns[name]


def judge_selection(chosen: np.ndarray, half: np.ndarray) -> Judgement:
    """Can what was selected be refined in two halves."""
    question = "Can the selected particles be refined in two halves?"
    sizes = [int((chosen & (half == side)).sum()) for side in (1, 2)]
    text = f"{int(chosen.sum())} of {len(chosen)} particles: {sizes[0]} in half 1, {sizes[1]} in half 2."
    if min(sizes) == 0:
        return Judgement(question, "fail", text, "Select more: an independent half map needs both half-sets.")
    if min(sizes) < FEW:
        return Judgement(question, "warn", text, "Select more particles; so few rarely carry a refinement.")
    if max(sizes) > 2 * min(sizes):
        return Judgement(
            question,
            "warn",
            text,
            "The criterion treats the half-sets unequally: look at why before refining.",
        )
    return Judgement(question, "pass", text)
