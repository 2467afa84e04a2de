"""What check writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from emflow.figure import png_bytes
from emflow.heterogeneity.figures_check import draw_reality
from emflow.heterogeneity.judge_reality import Finding, judge_all, judge_none
from emflow.heterogeneity.reality import Coordinates, Sides
from emflow.heterogeneity.reality_states import StateMaps
from emflow.io.atomic import write_bytes
from emflow.io.record import verdict, write_metrics, write_verdicts
from emflow.io.star import write_star


def write_nothing(out: Path, why: str) -> None:
    """Write the results where the fit kept no component."""
    _clear(out)
    write_metrics(
        out / "metrics.json", {"coordinates": 0, "coordinates_real": 0, "states": 1, "states_confirmed": 0}
    )
    write_verdicts(out / "verdicts.json", [verdict(*judge_none(why))])


def write_checks(
    out: Path,
    found: Coordinates,
    sides: Sides,
    coordinates: list[Finding],
    maps: StateMaps | None,
    states: list[tuple[int, Finding]],
) -> None:
    """Write tables, figure, metrics and verdicts."""
    _clear(out)
    axes = pd.DataFrame(
        {
            "emflowAxis": range(1, len(coordinates) + 1),
            "emflowAnswer": [each.answer for each in coordinates],
            "emflowLatentCorrelation": found.latent.numpy(),
            "emflowVolumeCorrelation": sides.volume.cpu().double().numpy(),
            "emflowHeldOutGain": found.gain.numpy(),
            "emflowHeldOutGainBeyondPoses": found.gain_beyond.numpy(),
            "emflowHeldOutDeviations": found.deviations.numpy(),
            "emflowPoseFraction": found.pose_fraction.numpy(),
            "emflowContrastCorrelation": found.contrast.numpy(),
        }
    )
    chance = pd.DataFrame(
        {
            "emflowLatentCorrelation": found.latent_chance.numpy(),
            "emflowVolumeCorrelation": sides.volume_chance.cpu().double().numpy(),
        }
    )
    tables = {"axes": axes, "chance": chance}
    answers = dict(states)
    metrics: dict[str, float | int | None] = {
        "coordinates": len(coordinates),
        "coordinates_real": sum(each.answer == "real" for each in coordinates),
        "states": max(1, len(states)),
        "states_confirmed": sum(each.answer == "confirmed" for _, each in states),
    }
    if maps is not None:
        tables["states"] = pd.DataFrame(
            {
                "emflowCluster": maps.number.numpy(),
                "emflowAnswer": [answers[int(n)].answer for n in maps.number],
                "emflowParticlesHalf1": maps.particles[:, 0].numpy(),
                "emflowParticlesHalf2": maps.particles[:, 1].numpy(),
                "emflowScore": maps.score.numpy(),
                "emflowScoreExpected": maps.predicted.numpy(),
                "emflowChanceAbove": maps.above.numpy(),
                "emflowPoseFraction": maps.pose_fraction.numpy(),
                "emflowKappa": maps.kappa.numpy(),
            }
        )
        curves = {"rlnSpectralIndex": np.arange(maps.curves.shape[1])}
        curves |= {f"emflowState{int(n)}": c.numpy() for n, c in zip(maps.number, maps.curves, strict=True)}
        curves["emflowChanceMean"] = maps.chance.mean(0).numpy()
        curves["emflowChanceDeviation"] = maps.chance.std(0).numpy()
        tables["fsc"] = pd.DataFrame(curves)
        metrics |= {
            f"state_{int(n):02d}_score": float(s) for n, s in zip(maps.number, maps.score, strict=True)
        }
    write_bytes(
        out / "figures" / "reality.png", png_bytes(draw_reality(found, sides, coordinates, maps, answers))
    )
    write_metrics(out / "metrics.json", metrics)
    write_verdicts(out / "verdicts.json", [verdict(*row) for row in judge_all(coordinates, states)])
    write_star(out / "checks.star", tables)


def _clear(out: Path) -> None:
    for path in (out / "checks.star", out / "figures" / "reality.png"):
        path.unlink(missing_ok=True)
