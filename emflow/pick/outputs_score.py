"""What scoring picks writes: figures, tables and a picture."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from emflow.io.atomic import write_bytes
from emflow.io.record import write_metrics
from emflow.io.star import write_star
from emflow.pick.figure_score import score_figure
from emflow.pick.measures import Figures, curve, figures, per_micrograph, reliability
from emflow.pick.score import Matched


def write_scores(out: Path, matched: Matched) -> Figures:
    """Write OUT (JSON, flat), and beside it OUT's name with ``_micrographs.star``, ``_curve.star`` and ``.png``."""
    metrics = figures(matched)
    write_metrics(out, metrics)
    write_star(
        out.with_name(f"{out.stem}_micrographs.star"), {"micrographs": _columns(per_micrograph(matched))}
    )
    curves = {"curve": _columns(curve(matched)), "reliability": _columns(reliability(matched))}
    write_star(out.with_name(f"{out.stem}_curve.star"), curves)
    write_bytes(out.with_suffix(".png"), score_figure(matched, metrics))
    return metrics


def _columns(table: pd.DataFrame) -> pd.DataFrame:
    """Our names for columns; what is not defined is None, as in RELION's tables."""
    names = {c: f"emflow{''.join(word.capitalize() for word in str(c).split('_'))}" for c in table}
    text = table.astype(object).where(table.notna(), "None")
    return text.rename(columns={**names, "micrograph": "rlnMicrographName"})
