"""Real micrographs, against published annotations; skipped where the data is absent."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch

from emflow.io.image import read_image
from emflow.pick.apply import pick_micrograph
from emflow.pick.config import PickApply
from emflow.pick.score import match


def pick(path: Path, pixel: float, diameter: float, radius: float) -> tuple[float, float, float]:
    """Precision, recall and F1 at the automatic threshold."""
    picks = pick_micrograph(
        torch.from_numpy(read_image(path)), pixel, True, PickApply(diameter_angstrom=diameter)
    )
    truth = pd.read_csv(path.with_suffix(".csv")).to_numpy()
    hits = int((match(picks.xy_px, truth, radius) >= 0).sum())
    n = len(picks.xy_px)
    return hits / n, hits / len(truth), 2 * hits / (n + len(truth))


def test_apoferritin(real_data: Path) -> None:
    files = sorted((real_data / "apoferritin").glob("*.tif"))
    assert np.mean([pick(path, 1.5, 130.0, 15.0)[2] for path in files[::6]]) > 0.9


def test_ribosome_with_the_same_settings(real_data: Path) -> None:
    # the annotation leaves out particles that touch, so precision is bounded by it
    precision, recall, f1 = pick(real_data / "ribosome" / "10028_061.tif", 5.36, 285.0, 14.0)
    assert recall > 0.95
    assert precision > 0.65
    assert f1 > 0.78
