"""Commands of the pick room that compare, take and give coordinates."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path

import numpy as np

from emflow.io.coordinates import read_coordinates
from emflow.io.record import Record
from emflow.pick.config_tools import PickConsensus, PickExport, PickScore
from emflow.pick.consensus import join, probabilities
from emflow.pick.inputs import read_positions, read_sizes, read_tables
from emflow.pick.outputs_consensus import write_joined
from emflow.pick.outputs_export import export as write_export
from emflow.pick.outputs_score import write_scores
from emflow.pick.score import match_picks
from emflow.step import EmflowError, Run

log = logging.getLogger("emflow")


def score(
    picks: Path,
    positions: Path,
    out: Path,
    /,
    *,
    micrographs: Path | None = None,
    cfg: PickScore = PickScore(),
    run: Run = Run(),
) -> None:
    """Compare picks with known positions: confusion matrix, precision, recall, F1, curves.

    Parameters
    ----------
    picks
        STAR, CSV, EMAN box or Topaz text, or a folder of such files.
    positions
        Known positions, likewise. Micrographs that they do not name are left out.
    out
        JSON file to write; beside it, by its name, _micrographs.star, _curve.star and .png.
    micrographs
        STAR table, folder or glob of the images, whose size true negatives are counted with. Not needed where the
        picks name images that are there.
    """
    inputs = [picks, positions, *([micrographs] if micrographs else [])]
    with Record("pick.score", cfg, run, inputs=inputs) as record:
        truth = read_positions(positions, sizes=True)
        if micrographs:
            truth = dataclasses.replace(truth, shape_px={**truth.shape_px, **read_sizes(micrographs)})
        matched = match_picks(read_positions(picks, sizes=True), truth, cfg.radius_px, cfg.threshold)
        metrics = write_scores(out, matched)
        print(json.dumps(metrics, indent=1))
        record.notes = dict(metrics)


def export(picks: Path, out: Path, /, *, cfg: PickExport = PickExport(), run: Run = Run()) -> None:
    """Write picks for another program: RELION, EMAN, Topaz or a spreadsheet.

    Parameters
    ----------
    picks
        STAR, CSV, EMAN box or Topaz text, or a folder of such files.
    out
        File to write; for the formats relion, relion-manual and box a folder.
    """
    with Record("pick.export", cfg, run, inputs=[picks]) as record:
        record.notes = {"picks": write_export(read_coordinates(picks), out, cfg)}


def consensus(*tables: Path, cfg: PickConsensus = PickConsensus(), run: Run = Run()) -> None:
    """Join the picks of several pickers; say from their agreement how likely each is.

    Parameters
    ----------
    tables
        Two or more of our pick tables, of the same micrographs, and last the STAR table to write.
    """
    if len(tables) < 3:
        raise EmflowError("pick consensus: give two tables of picks or more, and last the table to write.")
    if cfg.distance_px is None:
        raise EmflowError("pick consensus: give --distance-px, such as a third of the particle's diameter.")
    *sources, out = tables
    with Record("pick.consensus", cfg, run, inputs=sources) as record:
        read = read_tables(sources)
        joined, micrograph = join(read.xy_px, read.micrograph, read.merit, cfg.distance_px)
        chance = probabilities(joined.rank)
        write_joined(out, read, joined, micrograph, chance, cfg.min_probability)
        alone = (~np.isnan(joined.rank)).sum(axis=1) == 1
        record.notes = {
            "places": len(chance),
            "found_by_one": int(alone.sum()),
            "written": int((chance >= cfg.min_probability).sum()),
        }
        if len(sources) == 2:
            log.info(
                "Two pickers order places well, but their agreement cannot tell probabilities: give three."
            )
