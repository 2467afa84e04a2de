"""Figures and verdicts of a restoration."""

from __future__ import annotations

from typing import Any

from emflow.io.record import verdict
from emflow.vem.axial import Told
from emflow.vem.grid import Grid
from emflow.vem.inputs_slices import Measured
from emflow.vem.lacking import Lacking


def slice_metrics(measured: Measured, told: Told | None) -> dict[str, float | int | None]:
    """Figures of the slices that are worked with."""
    used = sum(measured.used)
    return {
        "slices_used": used,
        "slices_absent": len(measured.used) - used,
        "longest_gap_slices": measured.slices.longest_gap,
        "slices_resampled": measured.resampled,
        "neighbour_correlation": told.correlation if told else None,
    }


def slice_notes(measured: Measured, grid: Grid) -> dict[str, Any]:
    """What became of the measured slices, for an image's metadata."""
    kept = grid.whole and not measured.resampled and not measured.normalise
    return {
        "measured_slices": "verbatim" if kept else "interpolated or normalised",
        "distance_of_slices_voxels": grid.ratio,
        "absent_slices": [place for place, used in enumerate(measured.used) if not used],
        "resampled_slices": measured.resampled,
        "first_slice": int(measured.slices.stored[0]),
    }


def restoring_metrics(
    counts: list[dict[str, float]], measured: Measured, lacking: Lacking | None, told: Told | None
) -> dict[str, float | int | None]:
    """Figures of a restoration; ``counts`` are those of its blocks."""
    filled, abstained, widths = (
        sum(count[name] for count in counts) for name in ("filled", "abstained", "half_widths")
    )
    return {
        "voxels_filled": int(filled),
        "share_abstained": abstained / filled if filled else None,
        "half_width_mean": widths / filled if filled else None,
        "deviation": told.deviation if told else None,
        "flat": int(lacking is not None and lacking.nothing is not None),
        "wide_gaps_by_network": int(
            lacking is not None and lacking.doubled is not None and 2 in lacking.gaps
        ),
        **slice_metrics(measured, told),
    }


def restoring_verdicts(metrics: dict[str, float | int | None], max_error: float) -> list[dict[str, str]]:
    """How much of what was filled may be relied upon, and what absent slices were filled by."""
    question = "May the filled voxels be relied upon?"
    share = metrics["share_abstained"]
    if share is None:
        rows = [verdict(question, "unknown", "Nothing was filled.")]
    else:
        evidence = (
            f"In {100 * share:.1f} % the interval is wider than ± {max_error:g} deviations of the volume."
        )
        action = "Use the mask: these voxels are a guess. Raise max_error if you can bear more."
        answer = "pass" if share < 0.1 else "warn" if share < 0.5 else "fail"
        rows = [verdict(question, answer, evidence, "" if answer == "pass" else action)]
    question = "What stands in for absent slices?"
    if not metrics["slices_absent"]:
        return [*rows, verdict(question, "pass", "None is absent.")]
    by = "a network for doubled gaps" if metrics["wide_gaps_by_network"] else "linear interpolation"
    evidence = (
        f"{metrics['slices_absent']} are absent; the widest gap is {metrics['longest_gap_slices']} slices wide. About "
        f"single ones {by} fills, about more linear interpolation. The intervals are those of hidden slices."
    )
    wide = (metrics["longest_gap_slices"] or 0) > 2
    action = "Do not measure across gaps wider than two slices." if wide else ""
    return [*rows, verdict(question, "warn" if wide else "pass", evidence, action)]
