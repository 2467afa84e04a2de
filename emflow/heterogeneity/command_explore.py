"""Commands that use a fit: volumes at given coordinates, particles by a criterion."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from emflow.device import prepare
from emflow.heterogeneity.config import HeterogeneityDecode, HeterogeneitySelect, HeterogeneityTraverse
from emflow.heterogeneity.decode import Reach, complete, decode_at, parse_point
from emflow.heterogeneity.inputs import FittedFolder, read_fit
from emflow.heterogeneity.inputs_explore import (
    band_of_fit,
    deviations,
    particles_beside,
    read_half_volumes,
    read_points,
    read_selectable,
)
from emflow.heterogeneity.inputs_kernel import read_curved
from emflow.heterogeneity.kernel_fit import Curved
from emflow.heterogeneity.outputs_explore import (
    VolumeFolder,
    clear_volumes,
    write_no_path,
    write_path,
    write_selection,
)
from emflow.heterogeneity.select import choose
from emflow.heterogeneity.traverse import find_path
from emflow.io.record import Record
from emflow.io.scratch import scratch_file
from emflow.step import EmflowError, Run

log = logging.getLogger("emflow")

_FAR = 1.5
"""Of a path's end, in units of the usual distance between particles."""


def decode(
    fitted: Path,
    out: Path,
    /,
    *,
    latents: Path | None = None,
    mask: Path | None = None,
    cfg: HeterogeneityDecode = HeterogeneityDecode(),
    run: Run = Run(),
) -> None:
    """Decode V(z) at given coordinates, each volume with its local confidence.

    Parameters
    ----------
    fitted
        Folder that ``heterogeneity fit`` wrote.
    out
        Folder to write: volume_001.mrc, volume_001_confidence.mrc …, volumes.star, metrics.json, figures.
    latents
        Points: a STAR file with _emflowLatent1 …, or a CSV file with a line for each. In place of values.
    mask
        Mask of the particle, in the box of the maps; by default made from the fit's mean map. For method kernel.
    """
    device = prepare(run)
    inputs = [fitted / "latents.star", *([latents] if latents else [])]
    with Record("heterogeneity.decode", cfg, run, inputs=inputs):
        found = read_fit(fitted, images=False)
        if not found.latent.shape[1]:
            raise EmflowError(f"{fitted}: no component was kept, so there is one volume only: mean.mrc.")
        points = complete(read_points(latents, cfg.values, found.latent.shape[1]), found.latent)
        far = Reach.build(found.latent, found.sizes).of(points)
        if far.max() > cfg.reach and not cfg.extrapolate:
            worst = int(far.argmax())
            raise EmflowError(
                f"Point {worst + 1} ({', '.join(f'{v:g}' for v in points[worst])}) lies {far[worst]:.1f} times as far "
                f"from its nearest particles as particles do from one another; at most {cfg.reach:g} is decoded. "
                "Choose a point among the particles, or give --extrapolate to see what the model makes of it."
            )
        volumes, halves = torch.from_numpy(found.volumes), read_half_volumes(fitted, found)
        band, voxel = band_of_fit(fitted, found), found.voxel_size_angstrom
        model, places = (volumes, halves), points
        said: dict[str, int] = {}
        if cfg.method == "kernel":
            curved = _curved(fitted, found, halves, out, (mask, cfg, run, device))
            model, places = (curved.volumes, curved.halves), curved.extend(points)
            said = {"functions_tried": curved.functions.count, "functions_kept": int(curved.kept.sum())}
        clear_volumes(out)
        folder = VolumeFolder(out, voxel, cfg.half_volumes)
        for point, place, distance in zip(points, places, far.tolist(), strict=True):
            folder.add(point, distance, decode_at(*model, place, voxel, band))
        folder.finish(said)
        log.info("%d volumes decoded.", len(points))


def _curved(
    fitted: Path,
    found: FittedFolder,
    halves: tuple[Tensor, Tensor],
    out: Path,
    request: tuple[Path | None, HeterogeneityDecode, Run, torch.device],
) -> Curved:
    """What the images show beyond the linear model; the copy of their spectra is removed."""
    mask, cfg, run, device = request
    beside = out / ".decode.store"
    box = found.volumes.shape[-1]
    try:
        with scratch_file(beside, run.scratch, 2.0 * len(found.latent) * box**2) as cache:
            cache.parent.mkdir(parents=True, exist_ok=True)
            curved = read_curved(fitted, found, halves, mask, cfg, (cache, device))
    finally:
        beside.unlink(missing_ok=True)
    if curved.kept.any():
        log.info("%d of %d functions of the coordinates count.", curved.kept.sum(), len(curved.kept))
    else:
        log.info("The halves agree on nothing beyond the linear model: the volumes are its own.")
    return curved


def traverse(
    fitted: Path,
    out: Path,
    /,
    *,
    cfg: HeterogeneityTraverse = HeterogeneityTraverse(),
    run: Run = Run(),
) -> None:
    """Find a path through dense particles, decode volumes along it, and place every particle on it.

    Parameters
    ----------
    fitted
        Folder that ``heterogeneity fit`` wrote.
    out
        Folder to write: volume_001.mrc … with their confidence, volumes.star, path.star, latents.star with each
        particle's place, metrics.json, verdicts.json, figures.
    """
    prepare(run, gpu=False)
    with Record("heterogeneity.traverse", cfg, run, inputs=[fitted / "latents.star"]):
        found = read_fit(fitted, images=False)
        if not found.latent.shape[1] or len(found.latent) < 2 * cfg.neighbours:
            write_no_path(
                out, "the fit kept no component" if not found.latent.shape[1] else "too few particles"
            )
            return
        reach = Reach.build(found.latent, found.sizes)
        ends = [_end(text, found.latent, reach) for text in (cfg.start, cfg.end)]
        path = find_path(found.latent, found.sizes, cfg, *ends)
        volumes, halves = torch.from_numpy(found.volumes), read_half_volumes(fitted, found)
        band, voxel = band_of_fit(fitted, found), found.voxel_size_angstrom
        points = path.points(cfg.points)
        clear_volumes(out)
        folder = VolumeFolder(out, voxel, False)
        for point, distance in zip(points, reach.of(points).tolist(), strict=True):
            folder.add(point, distance, decode_at(volumes, halves, point, voxel, band))
        folder.finish()
        uncertain = deviations(found.table, found.latent.shape[1])
        write_path(out, found, path, points, uncertain, float(reach.of(path.fine).max()))
        log.info("%s of length %.2f.", "A loop" if path.closed else "A path", path.length())


def _end(text: str, latent: np.ndarray, reach: Reach) -> np.ndarray | None:
    """An end that was given, with all coordinates."""
    if not text:
        return None
    given = parse_point(text)
    if len(given) > latent.shape[1]:
        raise EmflowError(
            f"The end {text} has {len(given)} numbers; the particles have {latent.shape[1]} coordinates."
        )
    point = complete(np.asarray([given]), latent)
    if (far := float(reach.of(point)[0])) > _FAR:
        raise EmflowError(
            f"The end {text} lies {far:.1f} times as far from its nearest particles as particles do from one another; "
            "choose one among the particles."
        )
    return np.asarray(point[0])


def select(
    latents: Path,
    out: Path,
    /,
    *,
    particles: Path | None = None,
    cfg: HeterogeneitySelect = HeterogeneitySelect(),
    run: Run = Run(),
) -> None:
    """Write the particles that a criterion chooses, as a STAR file that refinements read.

    Parameters
    ----------
    latents
        latents.star of ``heterogeneity analyze`` (or of ``fit``, which has no states and no density).
    out
        Particle STAR to write, all columns of the particles as they are; what was selected goes beside it (.json).
    particles
        The particles that were fitted; by default particles.star beside the latents or in fit/.
    """
    prepare(run, gpu=False)
    beside = particles_beside(latents, particles)
    with Record("heterogeneity.select", cfg, run, inputs=[latents, beside]) as record:
        found = read_selectable(latents, beside)
        chosen = choose(found.columns, found.latent, cfg)
        told = write_selection(out, latents, found, chosen)
        record.notes = {"left_after": chosen.left}
        log.info("%s %s", told.evidence, told.action)
