"""The tables and figures that the denoise room writes."""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path
from typing import Any

import pandas as pd

from emflow.io.freed import BESIDE, beside
from emflow.io.journal import Journal
from emflow.io.micrographs import Micrographs
from emflow.io.mrc import read_header
from emflow.io.record import verdict
from emflow.step import EmflowError

SAMPLED = ("emflowDeviationName", "emflowSampleName")
COLUMNS = ("emflowDenoisedName", "emflowRestored", "emflowKeptVariance", *SAMPLED)


class ImageJournal(Journal):
    """A journal whose results count only while their images are whole: one removed or damaged is made again.

    Parameters
    ----------
    path
        The journal.
    images
        The folder of the images.
    freed
        Ids whose images were removed by the reader that they were made for: it does not need them again.
    sampled
        Whether what a sampler writes lies beside each.
    """

    def __init__(self, path: Path, images: Path, freed: Container[str] = (), sampled: bool = False) -> None:
        super().__init__(path)
        self._images, self._sampled, self._freed = images, sampled, freed

    def get(self, identity: str, key: str) -> Any | None:
        """Return the stored result of a micrograph if it was made under the same key and its image is whole."""
        result = super().get(identity, key)
        if result is not None and identity not in self._freed:
            image = self._images / f"{identity}.mrc"
            try:
                for path in (image, *(beside(image) if self._sampled else [])):
                    read_header(path)
            except EmflowError:
                return None
        return result


def keep_only(images: Path, listed: Micrographs) -> None:
    """Remove denoised images of all micrographs but those listed, and what lies beside them."""
    kept = {f"{listed.identity(row)}.mrc" for row in range(len(listed))}
    for folder in (images, *(images.parent / name for name in BESIDE)):
        for path in folder.glob("*.mrc"):
            if path.name not in kept:
                path.unlink(missing_ok=True)


def with_denoised(table: pd.DataFrame, done: dict[int, tuple[Path, str]], sampled: bool) -> pd.DataFrame:
    """Return the rows that were denoised with the names of their images, marked; the original's name stays."""
    rows = sorted(done)
    columns = {
        "emflowDenoisedName": [str(done[row][0]) for row in rows],
        "emflowRestored": ["1"] * len(rows),
        "emflowKeptVariance": [done[row][1] for row in rows],
    }
    if sampled:
        for number, name in enumerate(SAMPLED):
            columns[name] = [str(beside(done[row][0])[number]) for row in rows]
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
