"""Judge each state of a heterogeneity analysis by its own half maps."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from emflow.io.mrc import read_header, read_mrc
from emflow.io.star import read_table
from emflow.step import EmflowError
from emflow.validate.config import ValidateStates
from emflow.validate.inputs import Mask, check_headers, check_pixels
from emflow.validate.judge import Judgement, is_resolved
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


def judge_state(folder: Path, mask: Path | None, cfg: ValidateStates, device: torch.device) -> StateFigures:
    """Compare a state's half maps.

    Parameters
    ----------
    folder
        Holds particles.star and, where the state has particles in both half-sets, half1.mrc and half2.mrc.
    mask
        Mask on the same grid; by default one is made from the state's own mean map.
    cfg, device
        Settings, and where to compute.
    """
    particles = len(read_table(folder / "particles.star", "particles"))
    paths = (folder / "half1.mrc", folder / "half2.mrc")
    if not all(path.is_file() for path in paths):
        return StateFigures(folder.name, particles, None, None, None)
    headers = [read_header(path) for path in paths]
    voxel = check_headers(paths, headers, cfg.voxel_size_angstrom)
    halves = [torch.from_numpy(read_mrc(path)).to(device) for path in paths]
    if not all(bool(half.any()) for half in halves):
        return StateFigures(folder.name, particles, None, None, None)
    check_pixels(paths, halves)
    held = _mask(mask, halves, headers, voxel, cfg, device)
    curves = compare_halves(halves[0], halves[1], held.values, voxel, cfg)
    resolved = is_resolved(curves)
    return StateFigures(
        folder.name,
        particles,
        curves.resolution() if resolved else None,
        curves.resolution(threshold=0.5) if resolved else None,
        curves.significance(),
    )


def _mask(
    path: Path | None,
    halves: list[Tensor],
    headers: list,
    voxel: float,
    cfg: ValidateStates,
    device: torch.device,
) -> Mask:
    if path is not None:
        return Mask.read(path, headers[0], voxel, device)
    return Mask.make((halves[0] + halves[1]) / 2, voxel, cfg)


def state_folders(analysis: Path) -> list[Path]:
    """Folders of the states of an analysis, in order; none where nothing varies.

    Raises
    ------
    EmflowError
        If the folder is no analysis.
    """
    if not (analysis / "latents.star").is_file():
        raise EmflowError(
            f"{analysis}: no latents.star there; expected the folder of `emflow heterogeneity analyze`."
        )
    return sorted(path.parent for path in analysis.glob("states/*/particles.star"))


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
