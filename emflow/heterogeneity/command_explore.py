"""Commands that use a fit: volumes at given coordinates, particles by a criterion."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from emflow.device import prepare
from emflow.heterogeneity.config import HeterogeneityDecode, HeterogeneitySelect
from emflow.heterogeneity.decode import Reach, complete, decode_at
from emflow.heterogeneity.inputs import read_fit
from emflow.heterogeneity.inputs_explore import (
    band_of_fit,
    particles_beside,
    read_half_volumes,
    read_points,
    read_selectable,
)
from emflow.heterogeneity.outputs_explore import VolumeFolder, clear_volumes, write_selection
from emflow.heterogeneity.select import choose
from emflow.io.record import Record
from emflow.step import EmflowError, Run

log = logging.getLogger("emflow")


def decode(
    fitted: Path,
    out: Path,
    /,
    *,
    latents: Path | None = None,
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
    """
    prepare(run, gpu=False)
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
        clear_volumes(out)
        folder = VolumeFolder(out, voxel, cfg.half_volumes)
        for point, distance in zip(points, far.tolist(), strict=True):
            folder.add(point, distance, decode_at(volumes, halves, point, voxel, band))
        folder.finish()
        log.info("%d volumes decoded.", len(points))


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
