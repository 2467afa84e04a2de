"""Figures and verdicts of the segmentation's verbs."""

from __future__ import annotations

import numpy as np

from emflow.io.record import verdict
from emflow.vem.choose import HeldOut
from emflow.vem.stitch import Array
from emflow.vem.watershed import Cut

LEVELS = 255
"""Membrane probability is stored as a whole number of so-manieth."""
_SURE = 0.9


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


def segment_metrics(histogram: Array, threshold: float, sizes: Array) -> dict[str, float | int | None]:
    """Figures of a segmentation.

    Parameters
    ----------
    histogram
        Voxels of each stored level of the probability.
    threshold
        From where on it counts as membrane.
    sizes
        Voxels of each segment.
    """
    level = np.arange(LEVELS + 1) / LEVELS
    membrane, total = histogram[level >= threshold].sum(), histogram.sum()
    doubtful = np.minimum(level, 1 - level) @ histogram / total
    prevalence = level @ histogram / total
    return {
        "segments": len(sizes),
        "segment_median_voxels": float(np.median(sizes)),
        "membrane_share": float(membrane / total),
        "sure_share_of_membrane": float(histogram[level >= _SURE].sum() / membrane) if membrane else None,
        "expected_error": float(doubtful),
        "expected_error_of_a_guess": float(min(prevalence, 1 - prevalence)),
    }


def segment_verdicts(metrics: dict[str, float | int | None]) -> list[dict[str, str]]:
    """Whether the network sees membranes, or only guesses how many there are."""
    question = "Does the network see membranes here?"
    share, sure = metrics["membrane_share"], metrics["sure_share_of_membrane"]
    assert share is not None
    if not share or sure is None:
        evidence = "No pixel is likelier membrane than the model's threshold."
        return [
            verdict(
                question, "fail", evidence, "Look at the images: noise, another contrast or magnification."
            )
        ]
    evidence = (
        f"{share:.1%} of the pixels are membrane by the model's threshold; of those {sure:.0%} with a probability of "
        f"{_SURE:g} or more."
    )
    answer = "pass" if sure > 0.3 and share > 0.01 else "warn" if sure > 0.1 else "fail"
    action = "Do not trust the segments: label some of these slices and learn from them, or denoise or restore before."
    return [verdict(question, answer, evidence, "" if answer == "pass" else action)]
