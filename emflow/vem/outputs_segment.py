"""Figures and verdicts of the segmentation's verbs."""

from __future__ import annotations

import numpy as np

from emflow.io.record import verdict
from emflow.vem.choose import HeldOut
from emflow.vem.stitch import Array
from emflow.vem.watershed import Cut

LEVELS = 255
"""A stored probability is a whole number of so-manieth."""


def learning_metrics(
    slices: int, told: HeldOut, cut: Cut, calibration: tuple[float, float]
) -> dict[str, float | int | None]:
    """Figures of a training."""
    return {
        "labelled_slices": slices,
        **{f"held_out_{name}": value for name, value in told.scores.items()},
        "held_out_components_rand": told.by_components["rand"],
        "held_out_components_info": told.by_components["info"],
        "held_out_one_segment_rand": told.as_one["rand"],
        "held_out_membrane_iou": told.overlap.iou,
        "held_out_membrane_dice": told.overlap.dice,
        "held_out_pixel_error": told.overlap.pixel_error,
        "held_out_calibration_error": told.calibration_error,
        "clear_level": told.clear_level,
        "clear_share": told.clear_share,
        "calibration_slope": calibration[0],
        "calibration_offset": calibration[1],
        **{f"cut_{name}": value for name, value in cut.facts().items()},
    }


def learning_verdicts(told: HeldOut) -> list[dict[str, str]]:
    """Whether held-out parts are segmented, and whether the probability is one."""
    found, one = told.scores, told.as_one
    evidence = (
        f"Parts of the labelled slices that were kept from the training: V_rand {found['rand']:.3f}, V_info "
        f"{found['info']:.3f}; one segment that holds all has V_rand {one['rand']:.3f}, V_info {one['info']:.3f}."
    )
    rows = []
    question = "Are held-out parts of the labelled slices divided as the labels divide them?"
    if found["rand"] > 0.8 and found["info"] > 0.8:
        rows.append(verdict(question, "pass", evidence))
    else:
        seen = found["rand"] > one["rand"] + 0.1 and found["info"] > 0.5
        action = "Label more slices, or train longer. Where labels have nothing to do with the image, nothing is learned."
        rows.append(verdict(question, "warn" if seen else "fail", evidence, action))
    question = "Is the membrane probability as often right as it says?"
    evidence = (
        f"On the same parts it differs from the share of membrane by {told.calibration_error:.3f} on average."
    )
    good = told.calibration_error < 0.05
    action = "" if good else "Read it as a rank, not as a probability; label more slices that differ."
    rows.append(verdict(question, "pass" if good else "warn", evidence, action))
    return rows


def segment_metrics(
    histogram: Array, learned: dict[str, float], threshold: float, sizes: Array
) -> dict[str, float | int | None]:
    """Figures of a segmentation.

    Parameters
    ----------
    histogram
        Voxels of each stored level of the probability.
    learned
        The training's figures.
    threshold
        From where on the probability counts as membrane.
    sizes
        Voxels of each segment.
    """
    level, share = np.arange(LEVELS + 1) / LEVELS, histogram / histogram.sum()
    return {
        "segments": len(sizes),
        "segment_median_voxels": float(np.median(sizes)),
        "membrane_share": float(share[level >= threshold].sum()),
        "clear_membranes": float(share[level >= learned["clear_level"]].sum() / learned["clear_share"]),
    }


def segment_verdicts(metrics: dict[str, float | int | None]) -> list[dict[str, str]]:
    """Whether membranes are as clear to the network as in what it learned from."""
    question = "Are membranes as clear here as in the slices that were learned from?"
    clear = metrics["clear_membranes"]
    assert clear is not None
    evidence = (
        f"{clear:.2f} times as many pixels have the probability that half of the membranes had on held-out parts of the "
        "labelled slices."
    )
    if clear > 0.5:
        return [verdict(question, "pass", evidence)]
    action = (
        "Do not trust the segments: this may be noise, or another contrast or magnification. Label some of these slices and "
        "learn from them, or denoise or restore before."
    )
    return [verdict(question, "warn" if clear > 0.2 else "fail", evidence, action)]
