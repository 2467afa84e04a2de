"""How far results of equal runs may lie apart: every tolerance, each with its reason.

On the same machine with the same code, libraries, threads and device, bytes are equal and none of this applies.
Otherwise sums are taken in another order and differ in the last digits of single precision; iterations and
thresholds make more of that. A tolerance is what such differences grow to, and stays below what would change
a conclusion.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Tolerance:
    """A limit, and why it is what it is."""

    limit: float
    reason: str


ROWS = Tolerance(
    0.95, "share of rows in both tables: a pick or judgement at a threshold falls to either side"
)
AGREEING = Tolerance(0.9, "share of rows within a column's tolerance: some noisy images have two optima")
WORDS = Tolerance(0.95, "share of rows with equal text: a flag follows from a threshold")
SPREAD = Tolerance(0.05, "of a column's 5–95 % range: far below what sets its rows apart")
RELATIVE = Tolerance(1e-3, "of the value: single precision, summed over some thousand terms")
NUMBER = Tolerance(0.05, "of a figure in metrics.json: a resolution moves by less than one ring")
SMALL = Tolerance(
    0.02, "figures nearer to each other are equal: correlations and fractions near zero are noise"
)
CORRELATION = Tolerance(0.99, "of two images or stacks, pixel by pixel: the same data, up to rounding")
FSC = Tolerance(
    0.9, "of two maps in every ring up to the resolution of the run: detail beyond is noise anyway"
)
RING_POWER = Tolerance(1e-6, "of the strongest ring: weaker ones were filtered away, and hold rounding only")
FIGURE = Tolerance(0.05, "mean difference of pixels, of their range: curves and labels move a little")

COLUMNS = {
    r"rlnDefocus[UV]": Tolerance(100.0, "ångström: a tenth of a fit's usual error"),
    r"rlnDefocusAngle": Tolerance(10.0, "degrees: weak astigmatism has hardly a direction"),
    r"rlnOrigin[XY]Angst": Tolerance(1.0, "ångström: below what the alignment of one particle can tell"),
    r"rlnCoordinate[XY]": Tolerance(1.0, "pixel: peaks are found on the grid"),
    r"pose": Tolerance(
        2.0, "degrees between two orientations: below what the alignment of one particle can tell"
    ),
}
"""Column (a regular expression), or ``pose`` for the three Euler angles together → absolute tolerance."""


def column_tolerance(name: str) -> float:
    """Absolute tolerance of a column, 0 where only the relative ones hold."""
    return next((limit.limit for pattern, limit in COLUMNS.items() if re.fullmatch(pattern, name)), 0.0)
