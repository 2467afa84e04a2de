"""Extraction on a real micrograph: apoferritin is a bright ring after averaging."""

from pathlib import Path

import numpy as np
import pandas as pd
import torch

from emflow.extract.boxes import choose_box
from emflow.extract.config import ExtractRun
from emflow.extract.cut import cut_particles
from emflow.io.image import read_image


def test_apoferritin_is_a_bright_shell(real_data: Path) -> None:
    """Outer diameter about 120 Å, inner 79 Å: bright between, hollow, nothing outside."""
    folder = real_data / "apoferritin"
    micrograph = torch.from_numpy(read_image(folder / "May08_05.55.31.tif"))
    picks = pd.read_csv(folder / "May08_05.55.31.csv")
    centres = torch.from_numpy(picks[["y_px", "x_px"]].to_numpy().astype(int))
    box = choose_box(ExtractRun(diameter_angstrom=130), 1.5)
    cut = cut_particles(micrograph, centres, box, invert=True, max_outside=0.15)
    assert 100 < int(cut.kept.sum()) <= len(centres)
    n = box.size_px
    axis = np.arange(n) - n // 2
    radius = np.hypot(axis[:, None], axis[None, :]) * box.pixel_size_angstrom
    average = cut.images.mean(0).numpy()

    def level(low: float, high: float) -> float:
        return float(average[(radius >= low) & (radius < high)].mean())

    assert level(40, 55) > 0.3
    assert level(0, 20) < level(40, 55) - 0.3
    assert level(62, 70) < -0.2  # the defocus fringe of a sharp outer edge
    assert abs(level(85, 100)) < 0.1
    outside = cut.images[:, radius > 1.1 * 65 + box.pixel_size_angstrom]
    assert abs(float(outside.mean())) < 0.02
    assert abs(float(outside.std()) - 1) < 0.03
