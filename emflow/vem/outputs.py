"""What the vem room's verbs write."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from emflow.io.record import verdict
from emflow.vem.heldout import HeldOut


def stored(values: Tensor, dtype: np.dtype[Any], up: bool = False) -> np.ndarray:
    """Return values in the measured volume's type: rounded (``up`` for errors), within its range."""
    found = values.cpu().numpy()
    if dtype.kind == "f":
        return found.astype(dtype)
    limits = np.iinfo(dtype)
    return np.clip(np.ceil(found) if up else np.rint(found), limits.min, limits.max).astype(dtype)


def training_metrics(
    factor: int, held_out: HeldOut | None, quantile: float, spread: float
) -> dict[str, float | int | None]:
    """Figures of a training."""
    return {
        "factor": factor,
        "residual_spread": spread,
        "interval_in_scales": quantile,
        "held_out_slices": held_out.slices if held_out else None,
        "held_out_psnr_db": held_out.psnr_db if held_out else None,
        "held_out_psnr_linear_db": held_out.psnr_linear_db if held_out else None,
        "interval_widening": held_out.widening if held_out else None,
    }


def training_verdicts(held_out: HeldOut | None) -> list[dict[str, str]]:
    """Whether hidden slices are restored better than by linear interpolation."""
    question = "Are slices that were hidden restored better than by linear interpolation?"
    if held_out is None:
        return [
            verdict(
                question,
                "unknown",
                "No slices were held out.",
                "Set held_out, or give more slices; with steps of 0 there must be weights for twice the factor.",
            )
        ]
    gain = held_out.psnr_db - held_out.psnr_linear_db
    evidence = (
        f"{held_out.slices} hidden slices, from neighbours twice as far apart as the measured ones: PSNR "
        f"{held_out.psnr_db:.2f} dB, by linear interpolation {held_out.psnr_linear_db:.2f} dB."
    )
    if gain > 0.3:
        return [verdict(question, "pass", evidence)]
    action = "Train longer, or on more slices; in noise there is nothing to gain."
    return [verdict(question, "warn" if gain > 0 else "fail", evidence, action)]
