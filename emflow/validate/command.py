"""Commands of the validate room: files in, files out."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import torch
from cyclopts import Parameter

from emflow.device import prepare
from emflow.figure import png_bytes
from emflow.io.atomic import write_bytes
from emflow.io.mrc import read_header, read_mrc
from emflow.io.record import Record, verdict, write_metrics, write_verdicts
from emflow.io.star import write_star
from emflow.step import Run
from emflow.validate import judge
from emflow.validate.angles import judge_coverage
from emflow.validate.config import ValidateMaps, ValidateStates
from emflow.validate.figures import draw_fsc, draw_map, draw_views
from emflow.validate.inputs import (
    Mask,
    check_headers,
    check_pixels,
    read_particles,
    read_states,
    read_verdicts,
    read_volume,
    views_of,
)
from emflow.validate.maps import compare_aspherical, compare_halves
from emflow.validate.outputs import FIGURES, curve_lists, fsc_tables, metrics_of, write_empty, write_results
from emflow.validate.states import judge_state, judge_states, state_metrics, state_table

log = logging.getLogger("emflow")


def maps(
    half1: Path,
    half2: Path,
    out: Path,
    /,
    *,
    cfg: ValidateMaps = ValidateMaps(),
    run: Run = Run(),
    map_: Annotated[Path | None, Parameter(name="--map")] = None,
    mask: Path | None = None,
    particles: Path | None = None,
    reconstruct: Path | None = None,
) -> None:
    """Judge two half maps: FSC, resolution, mask, half-sets, angular distribution.

    Parameters
    ----------
    half1
        Raw half map (MRC): unfiltered, unmasked, as a refinement ends with it.
    half2
        The other half.
    out
        Folder to write: validation.json, fsc.star, metrics.json, verdicts.json, figures.
    map_
        Combined map, for the pictures; by default the mean of the halves.
    mask
        Mask with values 0 to 1 (MRC); by default one is made from the mean of the halves.
    particles
        Particle STAR with angles and half-sets.
    reconstruct
        Folder of the reconstruction, whose verdicts are taken into account.
    """
    device = prepare(run)
    given = [path for path in (half1, half2, map_, mask, particles) if path is not None]
    with Record("validate.maps", cfg, run, inputs=given):
        headers = [read_header(half1), read_header(half2)]
        voxel = check_headers((half1, half2), headers, cfg.voxel_size_angstrom)
        halves = [torch.from_numpy(read_mrc(path)).to(device) for path in (half1, half2)]
        table = read_particles(particles)
        quoted = read_verdicts(reconstruct)
        if not any(bool(half.any()) for half in halves):
            write_empty(out, len(table) if table is not None else None)
            return
        check_pixels((half1, half2), halves)
        mean = read_volume(map_, headers[0], device) if map_ else (halves[0] + halves[1]) / 2
        judged = (
            Mask.read(mask, headers[0], voxel, device)
            if mask
            else Mask.make((halves[0] + halves[1]) / 2, voxel, cfg)
        )
        curves = compare_halves(halves[0], halves[1], judged.values, voxel, cfg)
        aspherical = compare_aspherical(halves[0], halves[1], judged.values, voxel, cfg)
        views = views_of(table, cfg.symmetry)
        coverage = judge_coverage(views) if views is not None else None
        split = judge.split_of(table) if table is not None else None
        diameter = cfg.diameter_angstrom or judged.diameter_angstrom
        judgements = [
            judge.judge_resolution(curves, aspherical, diameter, quoted),
            judge.judge_starts(quoted),
            judge.judge_halves(split),
            judge.judge_origin([header.unrestored for header in headers]),
            judge.judge_mask(curves, judged.edge_px, judged.description),
            judge.judge_residue(curves),
            judge.judge_views(coverage),
        ]
        resolution = curves.resolution() if judge.is_resolved(curves) else None
        figures = {
            "fsc": draw_fsc(curves, resolution),
            "map": draw_map(mean, voxel, judged.values, resolution),
        }
        if views is not None:
            figures["views"] = draw_views(views)
        for name in FIGURES:
            path = out / "figures" / f"{name}.png"
            if name in figures:
                write_bytes(path, png_bytes(figures[name]))
            else:
                path.unlink(missing_ok=True)
        metrics = metrics_of(curves, aspherical, resolution, judged, coverage, split)
        write_star(out / "fsc.star", fsc_tables(curves, (half1, half2), mask))
        write_results(out, metrics, judgements, {"mask": judged.description, "curves": curve_lists(curves)})
        log.info("%s", judgements[0].evidence)


def states(
    analysis: Path,
    out: Path,
    /,
    *,
    cfg: ValidateStates = ValidateStates(),
    run: Run = Run(),
    mask: Path | None = None,
) -> None:
    """Judge each state of a heterogeneity analysis by its own half maps.

    Parameters
    ----------
    analysis
        Folder of `emflow heterogeneity analyze`, with states/NN/half1.mrc and half2.mrc.
    out
        Folder to write: states.star, metrics.json, verdicts.json.
    mask
        Mask with values 0 to 1 (MRC); by default each state's own.
    """
    device = prepare(run)
    with Record("validate.states", cfg, run, inputs=[analysis / "latents.star"]):
        found = [judge_state(state, cfg) for state in read_states(analysis, mask, cfg, device)]
        judgement = judge_states(found)
        write_star(out / "states.star", {"states": state_table(found)})
        write_verdicts(out / "verdicts.json", [verdict(*judgement)])
        write_metrics(out / "metrics.json", state_metrics(found))
        log.info("%s", judgement.evidence)
