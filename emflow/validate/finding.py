"""What one part of the validation of two half maps found."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from torch import Tensor

from emflow.step import Judgement


@dataclass(frozen=True)
class Finding:
    """Verdicts with the figures, pictures and tables behind them; parts are put together by :func:`pool`."""

    judgements: list[Judgement] = field(default_factory=list)
    metrics: dict[str, float | int | None] = field(default_factory=dict)
    figures: dict[str, Figure] = field(default_factory=dict)
    """Name of a PNG in ``figures/`` → the figure."""
    details: dict[str, Any] = field(default_factory=dict)
    """What validation.json holds besides the metrics: curves, lists (plain JSON)."""
    tables: dict[str, dict[str, pd.DataFrame]] = field(default_factory=dict)
    """Name of a STAR file → its blocks."""
    texts: dict[str, str] = field(default_factory=dict)
    """Name of a text file, with its extension → its content."""
    maps: dict[str, Tensor] = field(default_factory=dict)
    """Name of an MRC file → the map (n, n, n), of the half maps' voxel size."""


def pool(findings: list[Finding]) -> Finding:
    """Put findings together, in their order; a name may be used by one part only."""
    whole = Finding()
    for part in findings:
        whole.judgements.extend(part.judgements)
        for name in ("metrics", "figures", "details", "tables", "texts", "maps"):
            into, new = getattr(whole, name), getattr(part, name)
            if twice := into.keys() & new.keys():
                raise ValueError(f"two parts of the validation both write the {name} {sorted(twice)}")
            into.update(new)
    return whole
