"""Pick with networks that learned from a user's labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from emflow.nn.unet import UNet
from emflow.pick.apply import Picks, working_diameter
from emflow.pick.calibration import Calibration, count_taken
from emflow.pick.config import PickApply
from emflow.pick.view import peaks_of, view_of


@dataclass(frozen=True)
class Picker:
    """Networks with what their scores mean."""

    networks: list[UNet]
    calibration: Calibration
    diameter_angstrom: float
    """Of the particles that were labelled."""
    sha256: str


def pick_learned(
    image: Tensor, pixel_size_angstrom: float, dark: bool, cfg: PickApply, picker: Picker
) -> Picks:
    """Find the particles of one micrograph; see :func:`emflow.pick.apply.pick_micrograph`."""
    view = view_of(image, working_diameter(image.shape, pixel_size_angstrom, cfg), dark, cfg)
    peaks = peaks_of(picker.networks, view, cfg.min_distance)
    chance = picker.calibration.probabilities(peaks.score)
    n = count_taken(chance, cfg.false_discovery_rate, cfg.min_probability)
    level = float(peaks.score[n - 1]) if n else float(np.max(peaks.score, initial=0.0)) + 1e-3
    mask = (view.weight == 0).cpu().numpy()
    return Picks(peaks.xy_px[:n], peaks.score[:n], chance[:n], level, mask, np.zeros(0))
