"""What a simulated session's results are measured by, beside what they reached."""

from __future__ import annotations

from typing import Any, NamedTuple

from emflow.report.summary import Numbers


class Target(NamedTuple):
    """A bound on one figure of the truth section."""

    bound: float
    at_least: bool
    """Whether the figure must be at least the bound; else at most."""


TARGETS = {
    "pick_f1": Target(0.8, True),
    "ctf_defocus_error_median_angstrom": Target(150.0, False),
    "refine_pose_error_median_deg": Target(6.0, False),
    "refine_over_attainable_ratio": Target(1.3, False),
    "halves_over_truth_ratio": Target(0.9, True),
    "denoise_gain_over_raw_db": Target(8.0, True),
    "denoise_gain_over_gaussian_db": Target(0.0, True),
    "heterogeneity_coordinate1_rank_correlation": Target(0.8, True),
    "heterogeneity_fsc_area_gain": Target(0.0, True),
}
"""Name in simulate/metrics.json → what the demo's session must reach."""


def compare_with_targets(summary: dict[str, Numbers]) -> list[dict[str, Any]]:
    """Rows of the truth section: name, number, target if there is one, and whether it is met."""
    rows = []
    for name, value in summary.get("truth", {}).items():
        target = TARGETS.get(name)
        met = None
        if target is not None:
            met = value is not None and (value >= target.bound if target.at_least else value <= target.bound)
        rows.append({"name": name, "value": value, "target": target, "met": met})
    return rows
