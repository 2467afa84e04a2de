"""Write what several pickers agree on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from emflow.io.star import write_star
from emflow.pick.consensus import Joined
from emflow.pick.inputs import PickTables
from emflow.pick.outputs import PARTICLE_COLUMNS, particle_id


def write_joined(
    out: Path, read: PickTables, joined: Joined, micrograph: np.ndarray, chance: np.ndarray, least: float
) -> None:
    """Write a pick table of the places that are at least ``least`` likely, likeliest first in each micrograph.

    The score is the probability's log-odds; emflowPickedBy has a 1 for each picker that found the place, in the
    order of the tables.
    """
    order = np.lexsort((-chance, micrograph))
    order = order[chance[order] >= least]
    owner, xy = micrograph[order], [[f"{v:.2f}" for v in place] for place in joined.xy_px[order]]
    names = read.micrographs["rlnMicrographName"].to_numpy()[owner]
    ids = read.micrographs["emflowMicrographId"].to_numpy()[owner]
    p = chance[order]
    content = {
        "rlnMicrographName": names,
        "rlnCoordinateX": [x for x, _ in xy],
        "rlnCoordinateY": [y for _, y in xy],
        "rlnAutopickFigureOfMerit": [f"{v:.4f}" for v in p],
        "emflowPickScore": [f"{v:.3f}" for v in np.log(p / (1 - p))],
        "emflowMicrographId": ids,
        "emflowParticleId": [particle_id(i, x, y) for i, (x, y) in zip(ids, xy, strict=True)],
        "emflowPickedBy": ["".join("01"[int(f)] for f in row) for row in ~np.isnan(joined.rank[order])],
    }
    particles = pd.DataFrame(content, columns=pd.Index([*PARTICLE_COLUMNS, "emflowPickedBy"]), dtype=object)
    if "rlnOpticsGroup" in read.micrographs:
        particles.insert(1, "rlnOpticsGroup", read.micrographs["rlnOpticsGroup"].to_numpy()[owner])
    counts = np.bincount(owner, minlength=len(read.micrographs))
    listed = read.micrographs[["rlnMicrographName", "emflowMicrographId"]].assign(
        emflowPickCount=[str(n) for n in counts]
    )
    optics = {} if read.optics is None else {"optics": read.optics}
    write_star(out, {**optics, "micrographs": listed, "particles": particles})
