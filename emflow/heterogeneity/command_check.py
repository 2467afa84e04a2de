"""The command that asks whether coordinates and states are real."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from torch import Tensor

from emflow.device import generator, prepare
from emflow.em.basis import BasisGrid, rebox
from emflow.em.fourier import good_size
from emflow.em.masks import solvent_mask
from emflow.heterogeneity.config import HeterogeneityCheck, HeterogeneityFit
from emflow.heterogeneity.inputs import FittedFolder, open_stack, read_fit, read_metrics, read_posed
from emflow.heterogeneity.inputs_explore import band_of_fit, read_half_axes, read_mask_file, read_states
from emflow.heterogeneity.judge_reality import judge_coordinate, judge_states
from emflow.heterogeneity.outputs_check import write_checks, write_nothing
from emflow.heterogeneity.reality import build_sides, judge_coordinates, with_noise
from emflow.heterogeneity.reality_states import compare_states, cross_labels
from emflow.io.record import Record
from emflow.io.scratch import scratch_file
from emflow.step import Run

log = logging.getLogger("emflow")


def check(
    fitted: Path,
    analysis: Path,
    out: Path,
    /,
    *,
    mask: Path | None = None,
    cfg: HeterogeneityCheck = HeterogeneityCheck(),
    run: Run = Run(),
) -> None:
    """Ask of each coordinate and each state whether it is real: in both halves, beyond chance and beyond poses.

    Parameters
    ----------
    fitted
        Folder that ``heterogeneity fit`` wrote.
    analysis
        Folder that ``heterogeneity analyze`` wrote, for its states.
    out
        Folder to write: checks.star, metrics.json, verdicts.json, figures/reality.png.
    mask
        Mask of the particle, in the box of the maps; by default made from the fit's mean map.
    """
    device = prepare(run)
    star = fitted / "particles.star"
    with Record("heterogeneity.check", cfg, run, inputs=[fitted / "latents.star", analysis / "latents.star"]):
        found = read_fit(fitted, images=False)
        if not found.latent.shape[1]:
            write_nothing(out, "the fit kept no component")
            return
        posed = read_posed(star)
        state, centres = read_states(analysis, posed.particles)
        chosen = [_some(posed.rows(half), cfg, half) for half in (1, 2)]
        voxel, finest = posed.pixel_size_angstrom, read_metrics(fitted)["resolution_angstrom"]
        own = HeterogeneityFit(resolution_angstrom=finest, symmetry=cfg.symmetry, seed=cfg.seed)
        beside = out / ".check.store"
        try:
            with scratch_file(beside, run.scratch, 2.0 * len(posed.half) * posed.box**2) as cache:
                stack = open_stack(posed, own, cache, device)
                band = band_of_fit(fitted, found)
                grid = BasisGrid.build(min(posed.box, good_size(2 * band + 4)), band, device=device)
                first, second = (
                    rebox(v.to(device) / stack.spectra.scale, grid.box) for v in read_half_axes(fitted, found)
                )
                inner = _mask(mask, found, voxel, grid)
                sides = build_sides(grid, (first, second), inner, cfg.seed)
                contrast = float(read_metrics(fitted)["contrast_deviation"] or 0.1) ** 2
                halves = chosen[0], chosen[1]
                sides = with_noise(stack, halves, sides, max(contrast, 1e-4))
                coordinates = judge_coordinates(stack, halves, sides)
                told = [judge_coordinate(k, coordinates, sides, cfg) for k in range(sides.components)]
                log.info("coordinates: %s", ", ".join(each.answer for each in told))
                maps, states = None, []
                known = state[torch.cat(halves).numpy()]
                if state.max() > 1:
                    labels = cross_labels(coordinates.by, known, len(halves[0]))
                    components = rebox(torch.from_numpy(found.volumes[1:]), grid.box) / stack.spectra.scale
                    changes = torch.tensordot(torch.from_numpy(centres).float(), components, 1)
                    maps = compare_states(stack, halves, sides, labels, changes, cfg.seed)
                    states = judge_states(int(state.max()), maps, told, cfg)
        finally:
            beside.unlink(missing_ok=True)
        write_checks(out, coordinates, sides, told, maps, states)


def _some(rows: Tensor, cfg: HeterogeneityCheck, half: int) -> Tensor:
    """At most so many rows of a half, drawn at random, in their order."""
    if len(rows) <= cfg.images:
        return rows
    order = torch.randperm(len(rows), generator=generator(cfg.seed, 11, half))
    return rows[order[: cfg.images]].sort().values


def _mask(path: Path | None, found: FittedFolder, voxel: float, grid: BasisGrid) -> Tensor:
    """The mask in the grid's box."""
    n = found.volumes.shape[-1]
    if path is None:
        whole = solvent_mask(torch.from_numpy(found.volumes[0]), voxel).mask
    else:
        whole = torch.from_numpy(read_mask_file(path, n))
    return (rebox(whole[None].to(grid.device), grid.box)[0] * (grid.box / n) ** 2).clamp(0, 1)
