"""Commands of the heterogeneity room: files in, files out."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from emflow.device import prepare
from emflow.heterogeneity.analyze import along_coordinate, find_states
from emflow.heterogeneity.command_check import check
from emflow.heterogeneity.command_explore import decode, select, traverse
from emflow.heterogeneity.config import HeterogeneityAnalyze, HeterogeneityFit
from emflow.heterogeneity.density import make_landscape
from emflow.heterogeneity.fit import fit_model
from emflow.heterogeneity.inputs import (
    FittedFolder,
    finest_band,
    fit_key,
    open_stack,
    read_fit,
    read_mask,
    read_posed,
)
from emflow.heterogeneity.inputs_explore import deviations
from emflow.heterogeneity.inputs_previous import STAGE, find_origin
from emflow.heterogeneity.outputs import (
    CHECKPOINT,
    clear_states,
    load_stage,
    save_stage,
    write_fit,
    write_half_maps,
    write_states,
    write_too_few,
)
from emflow.heterogeneity.shrink import shrink
from emflow.io.kept import Kept, Made
from emflow.io.record import Record, lineage_of
from emflow.io.scratch import scratch_file
from emflow.step import Run

__all__ = ["analyze", "check", "decode", "fit", "select", "traverse"]

log = logging.getLogger("emflow")


def fit(
    particles: Path,
    maps: Path,
    out: Path,
    /,
    *,
    previous: Path | None = None,
    cfg: HeterogeneityFit = HeterogeneityFit(),
    run: Run = Run(),
) -> None:
    """Fit V(z) = V0 + Σ z_k V_k to particles with poses, in two independent halves.

    Parameters
    ----------
    particles
        Particle STAR with poses, CTF and half-sets, as a refinement writes it.
    maps
        The reconstruction's folder: mask.mrc, or map.mrc to make a mask from.
    out
        Folder to write: latents.star, mean.mrc, component_01.mrc …, agreement.star, metrics.json,
        verdicts.json, particles.star, halves, figures.
    previous
        Folder to keep what a later run goes on from when particles have been added; it need not exist.
    """
    device = prepare(run)
    inputs = [particles, maps / "mask.mrc", maps / "map.mrc"]
    with Record("heterogeneity.fit", cfg, run, inputs=inputs) as record:
        posed = read_posed(particles)
        sizes = [int((posed.half == half).sum()) for half in (1, 2)]
        if min(sizes) < cfg.minimum_particles:
            write_too_few(out, posed, f"{sizes[0]} and {sizes[1]} particles in the half-sets")
            return
        mask = torch.from_numpy(read_mask(maps, posed.box, posed.pixel_size_angstrom)).to(device)
        if not bool(mask.any()):
            write_too_few(out, posed, "the consensus map and its mask are empty")
            return
        lineage = lineage_of("heterogeneity.fit") or ""
        key = fit_key(particles, maps, cfg, lineage)
        kept = Kept(previous, key) if previous is not None else None
        origin = find_origin(kept, sum(sizes), posed.box, cfg, device)
        beside = out / ".spectra.store"
        try:
            with scratch_file(beside, run.scratch, 2.0 * len(posed.half) * posed.box**2) as cache:
                stack = open_stack(posed, cfg, cache, device)
                scale, began = stack.spectra.scale, f"{key} {origin.key}"
                resume = load_stage(out, began, device)
                if resume is not None:
                    log.info("Going on after band %d of an interrupted fit.", resume.number)
                finest = finest_band(posed, cfg.resolution_angstrom)
                halves = posed.rows(1), posed.rows(2)
                save = save_stage(out, began, posed.box, scale)
                earlier = origin.in_units_of(scale)
                result = fit_model(stack, halves, mask, cfg, finest, resume, save, earlier)
                write_fit(out, posed, result, scale, origin)
        finally:
            beside.unlink(missing_ok=True)
        if kept is not None:
            anew = origin.anew_particles if result.warm else sum(sizes)
            kept.keep({STAGE: out / CHECKPOINT}, Made(key, lineage, sum(sizes), anew))
        (out / CHECKPOINT).unlink(missing_ok=True)
        record.notes = {"began": origin.why, "went_on": result.warm}
        log.info("%d of %d components kept.", int(result.kept.sum()), len(result.kept))


def analyze(
    fitted: Path,
    out: Path,
    /,
    *,
    cfg: HeterogeneityAnalyze = HeterogeneityAnalyze(),
    run: Run = Run(),
) -> None:
    """Find states in the latents of a fit; write their particles, and volumes along the coordinates.

    Parameters
    ----------
    fitted
        Folder that ``heterogeneity fit`` wrote.
    out
        Folder to write: latents.star with the states and the learnt coordinates, states/01/particles.star …,
        volumes, mean.mrc and components, metrics.json, verdicts.json, figures.
    """
    device = prepare(run, gpu=False)
    with Record("heterogeneity.analyze", cfg, run, inputs=[fitted / "latents.star"]):
        found = read_fit(fitted, images=cfg.half_maps)
        if found.latent.size:
            found = _with_learnt(found, cfg)
        states = find_states(found.latent, found.sizes, cfg)
        paths = [
            along_coordinate(found.latent, k, cfg)
            for k in range(min(cfg.coordinates, found.latent.shape[1]) if len(found.latent) else 0)
        ]
        clear_states(out)
        if cfg.half_maps and len(found.latent):
            write_half_maps(out, found, states, cfg.symmetry, device)
        landscape = None
        if found.latent.shape[1] and len(found.latent) > 1:
            leading = min(2, found.latent.shape[1])
            landscape = make_landscape(
                found.latent[:, :leading],
                deviations(found.table, leading),
                cfg.gaussians,
                cfg.bootstraps,
                cfg.seed,
            )
        write_states(out, fitted, found, states, paths, landscape)


def _with_learnt(found: FittedFolder, cfg: HeterogeneityAnalyze) -> FittedFolder:
    """Add each particle's coordinates under the learnt prior to its row."""
    uncertain = deviations(found.table, found.latent.shape[1])
    learnt = shrink(found.latent, uncertain, cfg.prior_gaussians, cfg.seed)
    columns = {f"emflowLatentLearnt{k + 1}": learnt[:, k].astype(np.float32) for k in range(learnt.shape[1])}
    return replace(found, table=found.table.assign(**columns))
