"""What a measured volume tells of gaps, before any network is asked."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

from emflow.vem.axial import SIDE, Told, linear_misses, what_neighbours_tell
from emflow.vem.inputs_slices import Measured
from emflow.vem.lacking import Lacking
from emflow.vem.model import Filler


def told_of(measured: Measured, coverage: float) -> Told | None:
    """Compare a volume's neighbouring slices; None where no two used ones are neighbours."""
    used = measured.used
    pairs = [z for z, (a, b) in enumerate(pairwise(used)) if a and b]
    return what_neighbours_tell(partial(measured.middle, side=SIDE), pairs, coverage) if pairs else None


def lacking_of(
    measured: Measured, doubled: Filler | None, told: Told | None, coverage: float
) -> Lacking | None:
    """How gaps are filled that are not the network's; None where there is none."""
    nothing = told if told is not None and not told.anything else None
    if all(measured.used) and nothing is None:
        return None
    lacking = Lacking(measured.used, doubled, {}, nothing)
    read = partial(measured.middle, side=SIDE)
    for gap in lacking.gaps:
        if gap > 2 or doubled is None:
            widths = linear_misses(read, measured.used, gap, coverage)
            if widths is not None:
                lacking.misses[gap] = widths
    return lacking
