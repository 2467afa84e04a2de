"""Commands of the pick room that compare, take and give coordinates."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from emflow.io.coordinates import read_coordinates
from emflow.io.record import Record
from emflow.pick.config_tools import PickExport, PickScore
from emflow.pick.inputs import read_positions, read_sizes
from emflow.pick.outputs_export import export as write_export
from emflow.pick.outputs_score import write_scores
from emflow.pick.score import match_picks
from emflow.step import Run


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
