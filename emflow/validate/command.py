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
from emflow.step import Run
from emflow.validate.assess import Evidence, assess
from emflow.validate.config import ValidateMaps, ValidateStates
from emflow.validate.inputs import (
    Mask,
    check_headers,
    check_pixels,
    image_sizes,
    read_model,
    read_particles,
    read_states,
    read_verdicts,
    read_volume,
)
from emflow.validate.inputs_records import read_proof
from emflow.validate.outputs import write_empty, write_finding
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
    model: Path | None = None,
    particles: Path | None = None,
    reconstruct: Path | None = None,
) -> None:
    """Judge two half maps: FSC, resolution, mask, half-sets, angular distribution, hand, atomic model.

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
    model
        Atomic model (PDB or mmCIF), which is placed as a rigid body if need be.
    particles
        Particle STAR with angles and half-sets.
    reconstruct
        Folder of the reconstruction, whose verdicts are taken into account.
    """
    device = prepare(run)
    given = [path for path in (half1, half2, map_, mask, model, particles) if path is not None]
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
            model=read_model(model, headers[0], voxel) if model else None,
            model_path=model,
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
