"""Commands of the validate room: files in, files out."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import torch
from cyclopts import Parameter

from emflow.device import prepare
from emflow.io.mrc import read_header, read_mrc
from emflow.io.record import Record, verdict, write_metrics, write_verdicts
from emflow.io.star import write_star
from emflow.step import EmflowError, Run
from emflow.validate.assess import Evidence, assess
from emflow.validate.config import ValidateLocal, ValidateMaps, ValidateStates
from emflow.validate.inputs import (
    Mask,
    check_headers,
    check_pixels,
    image_sizes,
    read_pair,
    read_particles,
    read_single,
    read_states,
    read_verdicts,
    read_volume,
)
from emflow.validate.inputs_records import read_proof
from emflow.validate.judge_local import FILTERED_MAP, find_local, nothing_local
from emflow.validate.local import windowed_resolution
from emflow.validate.local_single import monogenic_resolution
from emflow.validate.outputs import write_empty, write_finding, write_results
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
        table, optics = read_particles(particles)
        quoted = read_verdicts(reconstruct)
        if not any(bool(half.any()) for half in halves):
            write_empty(out, len(table) if table is not None else None)
            return
        check_pixels((half1, half2), halves)
        mean = (halves[0] + halves[1]) / 2
        evidence = Evidence(
            paths=(half1, half2),
            halves=(halves[0], halves[1]),
            mean=read_volume(map_, headers[0], device) if map_ else mean,
            voxel_size_angstrom=voxel,
            mask=Mask.read(mask, headers[0], voxel, device) if mask else Mask.make(mean, voxel, cfg),
            particles=table,
            optics=optics,
            quoted=quoted,
            unrestored=[header.unrestored for header in headers],
            images=image_sizes(optics),
            proof=read_proof(reconstruct, (half1, half2)),
        )
        found = assess(evidence, cfg)
        write_finding(out, found, voxel, unrestored=all(evidence.unrestored))
        log.info("%s", found.judgements[0].evidence)


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


def local(
    *paths: Path,
    cfg: ValidateLocal = ValidateLocal(),
    run: Run = Run(),
    map_: Annotated[Path | None, Parameter(name="--map")] = None,
    mask: Path | None = None,
) -> None:
    """Local resolution of two half maps (HALF1 HALF2 OUT) or of one map (MAP OUT --method monogenic).

    Parameters
    ----------
    paths
        Two raw half maps, or one raw map, and last the folder to write: local_resolution.mrc, local_filtered.mrc,
        metrics.json, verdicts.json, validation.json, figures.
    map_
        Combined map, to be shown and filtered; by default the mean of the halves.
    mask
        Mask with values 0 to 1 (MRC); by default one is made from the map.
    """
    if len(paths) not in (2, 3):
        raise EmflowError(
            f"{len(paths)} paths; expected HALF1 HALF2 OUT, or MAP OUT with --method monogenic."
        )
    *maps_, out = paths
    if len(maps_) == 1 and cfg.method != "monogenic":
        raise EmflowError(f"{maps_[0]}: one map alone has no FSC; give two half maps, or --method monogenic.")
    device = prepare(run)
    given = [path for path in (*maps_, map_, mask) if path is not None]
    with Record("validate.local", cfg, run, inputs=given):
        halves, noise = None, None
        if len(maps_) == 2:
            halves, header, voxel = read_pair((maps_[0], maps_[1]), cfg.voxel_size_angstrom, device)
            mean, noise = (halves[0] + halves[1]) / 2, (halves[0] - halves[1]) / 2
        else:
            mean, header, voxel = read_single(maps_[0], cfg.voxel_size_angstrom, device)
        if not bool(mean.any()):
            write_results(out, *nothing_local(), {})
            return
        weight = (Mask.read(mask, header, voxel, device) if mask else Mask.make(mean, voxel, cfg)).values
        if cfg.method == "halves" and halves is not None:
            found = windowed_resolution(*halves, weight, voxel, cfg)
        else:
            found = monogenic_resolution(mean, noise, weight, voxel, cfg)
        shown = read_volume(map_, header, device) if map_ else mean
        finding = find_local(shown, found, weight, voxel, cfg)
        write_finding(out, finding, voxel, restored=(FILTERED_MAP,))
        log.info("%s", finding.judgements[0].evidence)
