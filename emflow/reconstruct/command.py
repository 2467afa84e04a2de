"""Commands of the reconstruct room: files in, files out."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from emflow.device import prepare
from emflow.em.images import noise_spectra
from emflow.em.pose_fit import FittedPoses
from emflow.io.checkpoint import Checkpoint
from emflow.io.journal import result_key
from emflow.io.particle_images import image_set, poses_of
from emflow.io.particles import Particles
from emflow.io.record import Record
from emflow.reconstruct import judge
from emflow.reconstruct.agreement import Agreement, compare
from emflow.reconstruct.config import (
    ReconstructAbinitio,
    ReconstructCtf,
    ReconstructRefine,
    ReconstructSharpen,
)
from emflow.reconstruct.ctf_refine import CtfRefinement, make_matcher
from emflow.reconstruct.inputs import (
    diameter_of,
    independent_starts,
    read_halves,
    read_mtf,
    read_particles,
    read_raw_halves,
    start_lowpass,
    too_few,
)
from emflow.reconstruct.inputs_ctf import places_of, views_of
from emflow.reconstruct.judge_ctf import judge_ctf, no_structure
from emflow.reconstruct.merge import accumulate, merge, particle_mask
from emflow.reconstruct.outputs import (
    Maps,
    fsc_tables,
    pose_columns,
    uncertainty_columns,
    with_columns,
    write_empty,
    write_maps,
    write_results,
    write_sharpened,
)
from emflow.reconstruct.outputs_ctf import (
    Outcome,
    metrics_of,
    refined_table,
    write_ctf,
    write_figures,
)
from emflow.reconstruct.refine import Refinement, State
from emflow.reconstruct.resume import pack, start_state, unpack
from emflow.reconstruct.sharpen import sharpen_halves
from emflow.reconstruct.starts import find_halves
from emflow.step import EmflowError, Run, StepConfig


def abinitio(
    particles: Path,
    out: Path,
    /,
    *,
    cfg: ReconstructAbinitio = ReconstructAbinitio(),
    run: Run = Run(),
) -> None:
    """Find a first map without any model, in each half-set on its own.

    Parameters
    ----------
    particles
        Particle STAR with CTF and images.
    out
        Folder to write: half1.mrc, half2.mrc, map.mrc, mask.mrc, particles.star, fsc.star, metrics.json,
        verdicts.json.
    """
    device = prepare(run)
    with Record("reconstruct.abinitio", cfg, run, inputs=[particles]):
        source = read_particles(particles)
        if too_few(source):
            write_empty(out, source, judge.too_few(len(source)))
            return
        images = image_set(source, device)
        diameter = diameter_of(cfg, images.box, images.pixel_size_angstrom)
        key = _key(cfg, particles, source)

        def store(name: str, depends_on: str) -> Checkpoint:
            return Checkpoint(out / ".checkpoint" / f"{name}.safetensors", f"{key} {depends_on}")

        found, joined = find_halves(images, diameter, cfg, store)
        agreement = joined.agreement
        voxel = images.pixel_size_angstrom
        mask = particle_mask(0.5 * (joined.half1 + joined.half2), agreement)
        merged, _ = merge(joined.half1, joined.half2, agreement.whole, voxel, 0.0)
        control = source.control_angstrom
        write_maps(out, Maps(joined.half1, joined.half2, merged, mask, voxel, control is not None))
        evidence = [half.evidence for half in found]
        metrics: dict[str, float | int | None] = {
            "particles": len(images),
            "half1_particles": len(found[0].rows),
            "half2_particles": len(found[1].rows),
            "resolution_angstrom": agreement.claim_angstrom,
            "resolution_whole_angstrom": agreement.resolution(),
            "resolution_aspherical_angstrom": agreement.resolution("aspherical"),
            "significance_whole_sd": agreement.significance("whole"),
            "significance_aspherical_sd": agreement.significance("aspherical"),
            "half2_inverted": int(joined.alignment.mirrored),
            "alignment_correlation": joined.alignment.score,
            "n_starts": len(evidence[0]),
            "half1_log_likelihood": max(evidence[0]),
            "half2_log_likelihood": max(evidence[1]),
            "diameter_angstrom": diameter,
        }
        judgements = [
            judge.judge_agreement(
                "Do two independent random starts find the same structure?",
                agreement,
                "Half-sets with separate random starts",
            ),
            judge.judge_starts(evidence),
            judge.judge_hand(joined.alignment.mirrored),
            *judge.judge_control(control),
        ]
        columns = pose_columns(joined.rotations, joined.shifts_px, voxel)
        tables = {"optics": source.optics, "particles": with_columns(source, columns)}
        write_results(out, tables, metrics, judgements, fsc_tables(agreement))


def refine(
    particles: Path,
    start: Path,
    out: Path,
    /,
    *,
    cfg: ReconstructRefine = ReconstructRefine(),
    run: Run = Run(),
) -> None:
    """Refine poses and map in two independent halves.

    Parameters
    ----------
    particles
        Particle STAR with CTF, images and half-sets.
    start
        Folder with half1.mrc and half2.mrc in one frame, such as ab initio leaves; each half starts from its own.
    out
        Folder to write: half1.mrc and half2.mrc (raw), map.mrc, mask.mrc, particles.star, fsc.star,
        metrics.json, verdicts.json. A hidden checkpoint there lets a killed run go on.
    """
    device = prepare(run)
    with Record("reconstruct.refine", cfg, run, inputs=[particles, start / "half1.mrc", start / "half2.mrc"]):
        source = read_particles(particles)
        if too_few(source):
            write_empty(out, source, judge.too_few(len(source)))
            return
        images = image_set(source, device)
        diameter = diameter_of(cfg, images.box, images.pixel_size_angstrom)
        refinement = Refinement(images, diameter, cfg)
        checkpoint = Checkpoint(
            out / ".checkpoint" / "state.safetensors", _key(cfg, particles, source, start)
        )
        given = None if independent_starts(start) else start_lowpass(cfg, diameter)
        kept = checkpoint.load()
        if kept is not None:
            state = unpack(*kept, images)
        else:
            volumes, voxel = read_halves(start)
            state = start_state(refinement, volumes, voxel, given)
        state = refinement.run(state, lambda reached: checkpoint.save(*pack(reached)))
        _write_refined(source, refinement, state, diameter, given, out)


def sharpen(
    *paths: Path,
    cfg: ReconstructSharpen = ReconstructSharpen(),
    run: Run = Run(),
    mask: Path | None = None,
    mtf: Path | None = None,
) -> None:
    """Sharpen the mean of two raw half maps, as a whole and voxel by voxel (FOLDER OUT, or HALF1 HALF2 OUT).

    Parameters
    ----------
    paths
        Folder of a refinement (half1.mrc, half2.mrc, mask.mrc), or two raw half maps; last the folder to write:
        map_sharpened.mrc, map_local.mrc, local_resolution.mrc, mask.mrc, sharpening.star, metrics.json,
        verdicts.json, figures. The half maps are only read.
    mask
        Mask with values 0 to 1 (MRC); by default the folder's, or one that is made from the mean of the halves.
    mtf
        Modulation transfer function of the detector, to be divided out: STAR with rlnResolutionInversePixel and
        rlnMtfValue.
    """
    if len(paths) not in (2, 3):
        raise EmflowError(f"{len(paths)} paths; expected FOLDER OUT, or HALF1 HALF2 OUT.")
    *given, out = paths
    device = prepare(run)
    halves = read_raw_halves(given, out, mask, cfg.voxel_size_angstrom)
    with Record("reconstruct.sharpen", cfg, run, inputs=[*halves.paths, *(p for p in (mask, mtf) if p)]):
        one, two = (volume.to(device) for volume in halves.volumes)
        box, voxel = one.shape[-1], halves.voxel_size_angstrom
        transfer = read_mtf(mtf, box, voxel, cfg.mtf_pixel_size_angstrom) if mtf is not None else None
        around = halves.mask.to(device) if halves.mask is not None else None
        diameter = diameter_of(cfg, box, voxel)
        made = sharpen_halves(one, two, voxel, diameter, cfg, mask=around, mtf=transfer)
        judgements = [
            judge.judge_agreement("Do two independent halves agree?", made.agreement, "The half maps"),
            judge.judge_sharpening(made, cfg),
        ]
        write_sharpened(out, made, halves, judgements)


def _write_refined(
    source: Particles,
    refinement: Refinement,
    state: State,
    diameter: float,
    given: float | None,
    out: Path,
) -> None:
    """Write what a refinement came to."""
    images, cfg = refinement.images, refinement.cfg
    voxel = images.pixel_size_angstrom
    half1, half2 = (refinement.accumulate(half).solve() for half in state.halves)
    agreement = replace(compare(half1, half2, voxel, diameter, cfg.symmetry), given_angstrom=given)
    mask = particle_mask(0.5 * (half1 + half2), agreement)
    if agreement.found:
        masked = compare(half1, half2, voxel, diameter, cfg.symmetry, mask)
        agreement = replace(masked, given_angstrom=given)
    merged, bfactor = merge(half1, half2, agreement.whole, voxel, cfg.sharpening_bfactor_angstrom2)
    control = source.control_angstrom
    write_maps(out, Maps(half1, half2, merged, mask, voxel, control is not None))
    last = state.history[-1]
    metrics: dict[str, float | int | None] = {
        "particles": len(images),
        "half1_particles": len(state.halves[0].rows),
        "half2_particles": len(state.halves[1].rows),
        "resolution_angstrom": agreement.claim_angstrom,
        "resolution_whole_angstrom": agreement.resolution(),
        "resolution_aspherical_angstrom": agreement.resolution("aspherical"),
        "significance_whole_sd": agreement.significance("whole"),
        "significance_aspherical_sd": agreement.significance("aspherical"),
        "iterations": state.iteration,
        "last_pose_change_median_deg": last["pose_change_deg"],
        "pose_sigma_median_deg": last["pose_sigma_deg"],
        "sharpening_bfactor_angstrom2": bfactor,
        "diameter_angstrom": diameter,
    }
    judgements = [
        judge.judge_agreement("Do two independent halves agree?", agreement, "Half-sets refined apart"),
        judge.judge_independence(given),
        judge.judge_convergence(state.iteration, cfg.max_iterations),
        *judge.judge_control(control),
    ]
    columns = _refined_poses(state, voxel)
    tables = {"optics": source.optics, "particles": with_columns(source, columns)}
    write_results(out, tables, metrics, judgements, fsc_tables(agreement))


def _refined_poses(state: State, pixel_size_angstrom: float) -> dict[str, list[str]]:
    """Pose columns of all particles in their table's order."""
    ordered = torch.cat([half.rows for half in state.halves]).argsort()
    poses = FittedPoses.cat([half.poses for half in state.halves])[ordered]
    return pose_columns(poses.rotations, poses.shifts_px, pixel_size_angstrom) | uncertainty_columns(
        poses, pixel_size_angstrom
    )


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
    plane = images.plane(images.box / 2)
    halves = []
    for number in (1, 2):
        rows = images.rows(number)
        noise = noise_spectra(images, rows, plane)
        sums = accumulate(images, rows, rotations[rows, None], shifts[rows, None], noise, plane, cfg.symmetry)
        halves.append(sums.solve())
    after = compare(halves[0], halves[1], voxel, diameter, cfg.symmetry)
    return Outcome(before, after, (halves[0], halves[1]))


def _key(cfg: StepConfig, star: Path, particles: Particles, start: Path | None = None) -> str:
    """Identity of everything the result depends on."""
    parts: list[Any] = [hashlib.sha256(star.read_bytes()).hexdigest()]
    for path in particles.stacks:
        stat = path.stat()
        parts.append((path.name, stat.st_size, stat.st_mtime_ns))
    if start is not None:
        parts += [hashlib.sha256((start / f"half{n}.mrc").read_bytes()).hexdigest() for n in (1, 2)]
    return result_key(cfg, *parts)
