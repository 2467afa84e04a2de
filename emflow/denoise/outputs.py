"""The tables and figures that the denoise room writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from emflow.io.journal import Journal
from emflow.io.mrc import read_header
from emflow.io.record import verdict
from emflow.step import EmflowError

COLUMNS = ("emflowDenoisedName", "emflowRestored", "emflowKeptVariance")


class ImageJournal(Journal):
    """A journal whose results count only while their images are whole: one removed or damaged is made again."""

    def __init__(self, path: Path, images: Path) -> None:
        super().__init__(path)
        self._images = images

    def get(self, identity: str, key: str) -> Any | None:
        """Return the stored result of a micrograph if it was made under the same key and its image is whole."""
        result = super().get(identity, key)
        if result is not None:
            try:
                read_header(self._images / f"{identity}.mrc")
            except EmflowError:
                return None
        return result


def with_denoised(table: pd.DataFrame, done: dict[int, tuple[Path, str]]) -> pd.DataFrame:
    """Return the rows that were denoised with the names of their images, marked; the original's name stays."""
    rows = sorted(done)
    columns = {
        "emflowDenoisedName": [str(done[row][0]) for row in rows],
        "emflowRestored": ["1"] * len(rows),
        "emflowKeptVariance": [done[row][1] for row in rows],
    }
    kept = table.iloc[rows].reset_index(drop=True).drop(columns=[name for name in COLUMNS if name in table])
    return pd.concat([kept, pd.DataFrame(columns, dtype=object)], axis=1)


def training_metrics(
    losses: list[float], gain: float, learned: int, unseen: int
) -> dict[str, float | int | None]:
    """Figures of a training."""
    tenth = max(1, len(losses) // 10)
    return {
        "micrographs": learned,
        "micrographs_held_out": unseen,
        "steps": len(losses),
        "loss_first_tenth": sum(losses[:tenth]) / tenth,
        "loss_last_tenth": sum(losses[-tenth:]) / tenth,
        "held_out_gain": gain,
    }


def training_verdicts(gain: float) -> list[dict[str, str]]:
    """Whether the training learned anything that holds for micrographs it has not seen."""
    question = "Does the trained model predict signal in micrographs that it has not seen?"
    evidence = f"It predicts {100 * gain:.0f} % of the power that input and target share."
    if gain > 0.1:
        return [verdict(question, "pass", evidence)]
    return [
        verdict(
            question, "fail" if gain <= 0 else "warn", evidence, "Use the general model, or more micrographs."
        )
    ]
