"""Figures and verdicts of a restorer's training."""

from __future__ import annotations

from emflow.denoise.train_restorer import Judged
from emflow.io.record import verdict

_FAR = 1.25
"""Ratio of error to deviation, or its inverse, beyond which the samples do not tell the error's size."""


def restorer_metrics(
    judged: Judged, deviation_losses: list[float], losses: list[float], learned: int, unseen: int
) -> dict[str, float | int | None]:
    """Figures of a training; errors are in deviations of the micrographs."""
    tenth = max(1, len(losses) // 10)
    return {
        "micrographs": learned,
        "micrographs_held_out": unseen,
        "deviation_steps": len(deviation_losses),
        "steps": len(losses),
        "loss_first_tenth": sum(losses[:tenth]) / tenth,
        "loss_last_tenth": sum(losses[-tenth:]) / tenth,
        "held_out_error": judged.error,
        "held_out_error_of_mean": judged.error_of_mean,
        "held_out_deviation": judged.spread,
        "widening": judged.widening,
    }


def restorer_verdicts(judged: Judged) -> list[dict[str, str]]:
    """Whether samples spread as much as the mean errs, on micrographs kept from the training."""
    question = "Do the samples spread as much as their mean errs, on micrographs that were not learned from?"
    evidence = f"The error is {judged.widening:.2f} times the samples' deviation, before they are widened by as much."
    if 1 / _FAR <= judged.widening <= _FAR:
        return [verdict(question, "pass", evidence)]
    return [verdict(question, "warn", evidence, "Train on more sessions, or for more steps.")]
