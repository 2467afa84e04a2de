"""What the local resolution says: metrics, verdicts, figures, maps."""

from __future__ import annotations

import torch
from torch import Tensor

from emflow.em.local_filter import filter_locally
from emflow.em.local_resolution import LocalResolution
from emflow.step import Judgement
from emflow.validate.config import ValidateLocal
from emflow.validate.figures_local import draw_histogram, draw_local
from emflow.validate.finding import Finding

FILTERED_MAP = "local_filtered"
"""Map whose pixels are no longer raw: it must carry the mark of restored ones."""
SPREAD = 2.0
"""Ratio of the 95th to the 5th percentile above which a part is called coarse; maps of even quality stay below 1.2."""
FINER = 1.5
"""How much finer than the whole a part must be to be looked at."""


def local_metrics(local: LocalResolution) -> dict[str, float | int | None]:
    """Figures of the local resolution inside the mask; None where nothing is resolved."""
    values = local.angstrom[local.inside & local.resolved]
    total = int(local.inside.sum())
    metrics: dict[str, float | int | None] = {
        "local_resolution_p05_angstrom": None,
        "local_resolution_median_angstrom": None,
        "local_resolution_p95_angstrom": None,
        "local_resolution_whole_angstrom": local.whole_angstrom,
        "resolved_fraction": len(values) / total if total else 0.0,
        "finer_than_whole_fraction": None,
        "at_nyquist_fraction": None,
    }
    if len(values):
        # a sort of at most a few million: torch.quantile takes no more
        ranked = values.sort().values
        for name, share in (("p05", 0.05), ("median", 0.5), ("p95", 0.95)):
            metrics[f"local_resolution_{name}_angstrom"] = float(ranked[round(share * (len(ranked) - 1))])
        metrics["at_nyquist_fraction"] = float((values <= 1.001 * local.nyquist_angstrom).float().mean())
        if local.whole_angstrom is not None:
            finer = values * FINER < local.whole_angstrom
            metrics["finer_than_whole_fraction"] = float(finer.float().mean())
    return metrics


def judge_parts(metrics: dict[str, float | int | None]) -> Judgement:
    """Say whether all of the mask is resolved, and about equally well."""
    question = "Is every part of the map resolved?"
    resolved = float(metrics["resolved_fraction"] or 0)
    fine, median, coarse = (metrics[f"local_resolution_{name}_angstrom"] for name in ("p05", "median", "p95"))
    if fine is None or median is None or coarse is None or resolved < 0.1:
        return Judgement(
            question,
            "fail",
            f"{100 * resolved:.1f} % of the mask agrees better than noise would.",
            "Do not interpret the map: look at the mask, then at picks and particles.",
        )
    evidence = (
        f"Median {median:.2f} Å; a twentieth of the mask is finer than "
        f"{fine:.2f} Å, a twentieth coarser than {coarse:.2f} Å; "
        f"{100 * (1 - resolved):.1f} % is not resolved."
    )
    if resolved < 0.95 or coarse > SPREAD * fine:
        return Judgement(
            question,
            "warn",
            evidence,
            "Do not interpret side chains in the coarse part: it is flexible or partly absent. Classify, refine with a "
            "mask around it, or, where it is solvent, make the mask tighter.",
        )
    return Judgement(question, "pass", evidence)


def judge_finer(metrics: dict[str, float | int | None]) -> Judgement:
    """Say whether a part claims much more than the whole."""
    question = "Does any part claim much more than the whole?"
    share, whole = metrics["finer_than_whole_fraction"], metrics["local_resolution_whole_angstrom"]
    if share is None or whole is None:
        return Judgement(question, "unknown", "The whole mask has no resolution to compare with.")
    evidence = f"{100 * share:.1f} % of what is resolved is more than {FINER:g} times finer than the whole ({whole:.2f} Å)."
    if share > 0.005:
        return Judgement(
            question,
            "warn",
            evidence,
            "Look there: a rigid core beside flexible parts, or density that both halves share (hot voxels, a symmetry "
            "axis, a pasted or shared reference).",
        )
    return Judgement(question, "pass", evidence)


def find_local(
    volume: Tensor, local: LocalResolution, mask: Tensor, voxel_size_angstrom: float, cfg: ValidateLocal
) -> Finding:
    """Put together what is written of a local resolution.

    Parameters
    ----------
    volume
        The map to show and to filter, shape (n, n, n).
    local
        Its local resolution.
    mask
        Values 0…1, shape (n, n, n).
    voxel_size_angstrom
        Voxel size.
    """
    metrics = local_metrics(local)
    return Finding(
        judgements=[judge_parts(metrics), judge_finer(metrics)],
        metrics=metrics | {"box_px": volume.shape[-1], "voxel_size_angstrom": voxel_size_angstrom},
        figures={
            "local": draw_local(volume, local, mask, voxel_size_angstrom),
            "histogram": draw_histogram(local),
        },
        details={"method": cfg.method, "threshold": cfg.threshold},
        maps={
            "local_resolution": torch.where(local.inside, local.angstrom, 0.0),
            FILTERED_MAP: filter_locally(volume, local.angstrom, mask, voxel_size_angstrom),
        },
    )


def nothing_local() -> tuple[dict[str, float | int | None], list[Judgement]]:
    """Metrics and verdicts of empty half maps."""
    metrics: dict[str, float | int | None] = {
        "local_resolution_median_angstrom": None,
        "resolved_fraction": None,
    }
    return metrics, [
        Judgement(
            "Is every part of the map resolved?",
            "fail",
            "The map, or one of its halves, is empty: there were too few particles.",
            "Look at the picks: no particles may be the truth about these micrographs.",
        )
    ]
