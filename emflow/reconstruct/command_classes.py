"""Commands for particles that are not all alike: classes, subtraction, symmetry expansion."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch

from emflow.device import prepare
from emflow.em.images import ImageSet
from emflow.io.checkpoint import Checkpoint
from emflow.io.journal import result_key
from emflow.io.mrc import UNRESTORED_LABEL, write_mrc
from emflow.io.particle_images import image_set
from emflow.io.particles import Particles
from emflow.io.record import Record, write_metrics
from emflow.io.stack import GrowingStack
from emflow.reconstruct import judge, judge_classes
from emflow.reconstruct.class_images import Posed, Specimen
from emflow.reconstruct.class_match import match
from emflow.reconstruct.classify3d import FOLDS, Found, HalfClasses
from emflow.reconstruct.config import ReconstructClasses, ReconstructExpand, ReconstructSubtract
from emflow.reconstruct.expand import expand_poses
from emflow.reconstruct.inputs import diameter_of, read_halves, read_particles, too_few
from emflow.reconstruct.inputs_classes import on_grid, read_mask, read_poses, read_starts
from emflow.reconstruct.outputs_classes import (
    write_classes,
    write_expanded,
    write_subtracted,
    write_too_few,
)
from emflow.reconstruct.subtract import centre_on, outside_of, subtract_outside, wiener_halves
from emflow.step import EmflowError, Run


def classes(
    particles: Path,
    out: Path,
    /,
    *,
    start: Path | None = None,
    cfg: ReconstructClasses = ReconstructClasses(),
    run: Run = Run(),
) -> None:
    """Sort particles into classes, in each half-set on its own.

    Parameters
    ----------
    particles
        Particle STAR with CTF and images; with poses, unless they are searched everywhere.
    out
        Folder to write: class_01/ … (half1.mrc, half2.mrc, map.mrc, mask.mrc, particles.star, fsc.star), classes.star,
        particles.star with rlnClassNumber, metrics.json, verdicts.json.
    start
        For a global search: a map, or a folder with half1.mrc and half2.mrc, each the start of its half. Not used
        where poses are given.
    """
    device = prepare(run)
    if cfg.poses != "global":
        start = None
    given = [path for path in (start, cfg.mask) if path is not None]
    if cfg.poses == "global" and start is None:
        raise EmflowError(
            "A global search needs a start map: --start MAP, or a folder with half1.mrc and half2.mrc."
        )
    with Record("reconstruct.classes", cfg, run, inputs=[particles, *given]):
        source = read_particles(particles)
        if too_few(source):
            write_too_few(out, source, judge.too_few(len(source)))
            return
        images = image_set(source, device)
        voxel = images.pixel_size_angstrom
        diameter = diameter_of(cfg, images.box, voxel)
        mask = None if cfg.mask is None else read_mask(cfg.mask, images.box, voxel)
        specimen = Specimen(images, diameter, cfg.symmetry, mask)
        key = _key(cfg, particles, source, given)
        poses, starts, independent = None, None, False
        if cfg.poses == "global" and start is not None:
            resolution = cfg.start_resolution_angstrom or diameter / 5
            starts, independent = read_starts(start, images.box, voxel, resolution)
        else:
            poses = read_poses(particles, source, voxel)
        found = []
        for half in (1, 2):
            checkpoint = Checkpoint(out / ".checkpoint" / f"half{half}.safetensors", key)
            kept = _kept(checkpoint, images, half)
            if kept is None:
                search = HalfClasses(specimen, half, cfg)
                kept = search.run(search.begin(poses, None if starts is None else starts[half - 1]))
                _keep(checkpoint, kept)
            found.append(kept)
        matched = match(specimen, (found[0], found[1]), cfg.relax_symmetry, cfg.poses != "fixed")
        sizes = torch.bincount(matched.label, minlength=len(matched.classes)).tolist()
        judgements = [
            judge_classes.judge_classes(matched),
            judge_classes.judge_empty(sizes, len(images)),
            judge_classes.judge_start(cfg.poses, independent),
            *judge.judge_control(source.control_angstrom),
        ]
        write_classes(out, source, matched, voxel, judgements)


def subtract(
    particles: Path,
    maps: Path,
    mask: Path,
    out: Path,
    /,
    *,
    cfg: ReconstructSubtract = ReconstructSubtract(),
    run: Run = Run(),
) -> None:
    """Subtract from each image the projection of what lies outside a mask, by its own half-set's map.

    Parameters
    ----------
    particles
        Particle STAR with CTF, poses and half-sets.
    maps
        Folder with half1.mrc and half2.mrc (raw), such as refine leaves.
    mask
        Soft mask of what is to stay, 0 to 1.
    out
        Folder to write: particles.mrcs, particles.star, mask.mrc (centred like the new images), metrics.json.
    """
    device = prepare(run)
    inputs = [particles, maps / "half1.mrc", maps / "half2.mrc", mask]
    with Record("reconstruct.subtract", cfg, run, inputs=inputs):
        source = read_particles(particles)
        if not len(source):
            raise EmflowError(f"{particles}: there are no particles to subtract from.")
        images = image_set(source, device)
        voxel = images.pixel_size_angstrom
        rotations, shifts = read_poses(particles, source, voxel)
        side = images.box if cfg.box_px is None else cfg.box_px
        if side > images.box:
            raise EmflowError(
                f"reconstruct.subtract.box_px is {side}, the images are only {images.box} px wide; extract wider ones."
            )
        volumes, map_voxel = read_halves(maps)
        halves = wiener_halves(*on_grid(volumes, map_voxel, images.box, voxel))
        kept = read_mask(mask, images.box, voxel)
        outside = outside_of(kept, halves, images)
        centre = outside.centre_px if cfg.recenter else torch.zeros(3)
        edge = images.box // 2 - side // 2
        inner = slice(edge, edge + side)
        stack = GrowingStack(out / "particles.mrcs", side, voxel, (UNRESTORED_LABEL,))
        stack.resume([])
        moved, contrast, beyond = torch.empty(len(images), 2), torch.empty(len(images)), 0
        every = torch.arange(len(images))
        for rows, left, scale in subtract_outside(images, every, rotations, shifts, outside, cfg.scale):
            if cfg.recenter:
                left, moved[rows], over = centre_on(left, rotations[rows], shifts[rows], centre, side)
                beyond += int(over.sum())
            else:
                left = left[:, inner, inner]
            contrast[rows] = scale
            stack.append(f"{int(rows[0])}", left.numpy(), None)
        stack.finish()
        whole = centre.round().long()
        centred = kept.roll([-int(whole[i]) for i in (2, 1, 0)], (0, 1, 2))
        write_mrc(out / "mask.mrc", centred[inner, inner, inner].numpy(), voxel)
        metrics: dict[str, float | int | None] = {
            f"centre_{axis}_angstrom": float(centre[i]) * voxel for i, axis in enumerate("xyz")
        }
        metrics |= {
            "particles": len(images),
            "images_beyond_their_box": beyond,
            "contrast_median": float(contrast.median()),
            "mask_fraction": float(kept.mean()),
        }
        write_metrics(out / "metrics.json", metrics)
        write_subtracted(out, source, side, contrast.numpy(), moved if cfg.recenter else None)


def expand(
    particles: Path,
    out: Path,
    /,
    *,
    cfg: ReconstructExpand = ReconstructExpand(),
    run: Run = Run(),
) -> None:
    """Write each particle once for every operator of a point group, all copies in its own half-set.

    Parameters
    ----------
    particles
        Particle STAR with poses.
    out
        STAR to write, or a folder for its particles.star. The images stay where they are.
    """
    prepare(run, gpu=False)
    with Record("reconstruct.expand", cfg, run, inputs=[particles]):
        source = read_particles(particles)
        if "emflowExpandedFrom" in source.table:
            raise EmflowError(
                f"{particles}: is expanded already (_emflowExpandedFrom); take the table it was made of."
            )
        rotations, _ = read_poses(particles, source, source.common_facts().pixel_size_angstrom)
        row, number, turned = expand_poses(rotations.double(), cfg.expand_symmetry)
        write_expanded(out, source, row.numpy(), number.numpy(), turned)


def _key(cfg: ReconstructClasses, star: Path, particles: Particles, given: list[Path]) -> str:
    """Identity of everything that the classes of a half-set depend on."""
    files = [
        path for place in given for path in (sorted(place.glob("half?.mrc")) if place.is_dir() else [place])
    ]
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (star, *files)]
    stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in particles.stacks]
    return result_key(cfg, *digests, *stats)


def _keep(checkpoint: Checkpoint, found: Found) -> None:
    """Keep a half-set's classes."""
    posed = found.posed
    tensors = {name: getattr(posed, name) for name in ("rotations", "shifts_px", "noise", "fold")}
    more = {"fraction": found.fraction, "band": found.band, "evidence": found.evidence}
    checkpoint.save(tensors | {"posterior": found.posterior}, more)


def _kept(checkpoint: Checkpoint, images: ImageSet, half: int) -> Found | None:
    """A half-set's classes that a killed run had found."""
    kept = checkpoint.load()
    if kept is None:
        return None
    tensors, more = kept
    posterior = tensors.pop("posterior")
    noise = tensors.pop("noise").to(images.device)
    return Found(Posed(images.rows(half), noise=noise, folds=FOLDS, **tensors), posterior, **more)
