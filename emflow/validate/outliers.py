"""Images that do not show the particle of the map, and what all images are worth together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from emflow.validate.images import Agreement

NOISE_SCORE = 5.0
"""Score that an image of noise hardly reaches, even where a search over all poses fitted it to the map."""
NOISE = "matches the map no better than noise"
WORSE = "matches the map far worse than the other particles"
_FEW = 20
"""Images below which nothing is said of a single one."""


@dataclass(frozen=True)
class Outliers:
    """Which images stand out."""

    deviation: Tensor
    """Score below (negative) or above what is usual for an image's view and defocus, in robust deviations, (N,)."""
    reason: np.ndarray
    """Why an image is an outlier, text (N,); empty for the others."""
    usual_score: float
    """Median of the score that is usual for each image."""
    effective_particles: float | None
    """As many equally good particles give the same map; None where single images tell too little."""

    @property
    def count(self) -> int:
        """Outliers."""
        return int((self.reason != "").sum())

    @property
    def told_apart(self) -> bool:
        """Whether an image of noise could be told from a particle of this set."""
        return self.usual_score > NOISE_SCORE + 3


def find_outliers(agreement: Agreement) -> Outliers:
    """Find images whose score is far below what is usual for their view and defocus.

    What is usual is the median amplitude times the score that a particle as strong as the map would have.
    The deviation is that of the upper half of the images, which junk does not widen. An image is an outlier
    if it lies 3 deviations below and has no higher score than noise may, or 5 deviations below.
    """
    score, expected = agreement.score.double(), agreement.expected.double()
    count = len(score)
    known = expected > 0.1
    reason = np.full(count, "", dtype=object)
    if int(known.sum()) < _FEW:
        return Outliers(torch.zeros(count), reason, 0.0, None)
    usual = expected * (score[known] / expected[known]).median()
    rest = score - usual
    above = rest[known & (rest > 0)]
    deviation = rest / (1.4826 * above.median()).clamp(min=1.0)
    reason[np.asarray(known & (deviation < -5))] = WORSE
    reason[np.asarray(known & (deviation < -3) & (score < NOISE_SCORE))] = NOISE
    return Outliers(
        deviation.float(), reason, float(usual[known].median()), _effective(score[known], expected[known])
    )


def _effective(score: Tensor, expected: Tensor) -> float | None:
    """(Σb)²/Σb² of the amplitudes b (Kish), the noise's part of Σb² taken off."""
    amplitude = score / expected
    squares = float((amplitude**2 - expected**-2).sum())
    total = float(amplitude.sum())
    noise = float((2 * (2 * amplitude**2 + expected**-2) * expected**-2).sum()) ** 0.5
    if squares < 5 * noise or total <= 0:
        return None
    return min(float(len(score)), total**2 / squares)
