"""The command that refines the CTF at fixed poses: files in, files out."""

from __future__ import annotations

from pathlib import Path

import torch

from emflow.device import prepare
from emflow.io.particle_images import image_set, poses_of
from emflow.io.particles import Particles
from emflow.io.record import Record
from emflow.reconstruct import judge
from emflow.reconstruct.agreement import Agreement, compare
from emflow.reconstruct.config import ReconstructCtf
from emflow.reconstruct.ctf_refine import CtfRefinement, make_matcher
from emflow.reconstruct.inputs import diameter_of, read_halves, read_particles, too_few
from emflow.reconstruct.inputs_ctf import places_of, views_of
from emflow.reconstruct.judge_ctf import judge_ctf, no_structure
from emflow.reconstruct.merge import reconstruct_halves
from emflow.reconstruct.outputs_ctf import Outcome, metrics_of, refined_table, write_ctf, write_figures
from emflow.step import EmflowError, Run


def ctf(
    particles: Path,
    refined: Path,
    out: Path,
    /,
    *,
    cfg: ReconstructCtf = ReconstructCtf(),
    run: Run = Run(),
) -> None:
    """Refine defocus, astigmatism, beam tilt and contrast at the poses of a refinement.

    Parameters
    ----------
    particles
        Particle STAR with the poses of that refinement: its particles.star.
    refined
        Folder of `emflow reconstruct refine`: each half is fitted against its own half map there.
    out
        Folder to write: particles.star, metrics.json, verdicts.json, figures; where something changed, half1.mrc
        and half2.mrc (raw, at the same poses) and fsc.star.
    """
    device = prepare(run)
    with Record("reconstruct.ctf", cfg, run, inputs=[particles, *(refined / f"half{n}.mrc" for n in (1, 2))]):
        source = read_particles(particles)
        halves, voxel = read_halves(refined)
        if too_few(source):
            write_ctf(out, source, judge.too_few(len(source)), {"particles": len(source)})
            return
        images = image_set(source, device)
        if halves[0].shape[-1] != images.box or abs(voxel / images.pixel_size_angstrom - 1) > 1e-3:
            raise EmflowError(
                f"{refined}: half maps of {halves[0].shape[-1]} px at {voxel:g} Å; the particles have {images.box} px at "
                f"{images.pixel_size_angstrom:g} Å. Give the folder of the refinement of these particles."
            )
        diameter = diameter_of(cfg, images.box, images.pixel_size_angstrom)
        before = compare(halves[0], halves[1], voxel, diameter, cfg.symmetry)
        if not before.found:
            write_ctf(out, source, no_structure(before), {"particles": len(source)})
            return
        views = views_of(source, images)
        matcher = make_matcher(images, views, halves, diameter, cfg)
        fit = CtfRefinement(matcher, places_of(source, views.micrograph), cfg).run()
        new = refined_table(source, fit)
        outcome = Outcome(before)
        if fit.changed:
            outcome = _reconstruct_again(new, before, diameter, cfg, device)
        write_figures(out, source, fit, views, matcher.geometry)
        judgements = judge_ctf(fit, before, outcome.after)
        write_ctf(out, new, judgements, metrics_of(fit, source, outcome), outcome)


def _reconstruct_again(
    particles: Particles, before: Agreement, diameter: float, cfg: ReconstructCtf, device: torch.device
) -> Outcome:
    """Half maps of the refined table at its poses, and how they agree."""
    images = image_set(particles, device)
    voxel = images.pixel_size_angstrom
    rotations, shifts = poses_of(particles, voxel)
    halves = reconstruct_halves(images, rotations, shifts, cfg.symmetry)
    after = compare(halves[0], halves[1], voxel, diameter, cfg.symmetry)
    return Outcome(before, after, halves)
