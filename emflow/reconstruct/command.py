"""Commands of the reconstruct room: files in, files out."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch

from emflow.device import prepare
from emflow.em.fsc import first_below
from emflow.em.symmetry import symmetry_operators
from emflow.em.volume_align import align_poses, apply_alignment
from emflow.io.checkpoint import Checkpoint
from emflow.io.journal import result_key
from emflow.io.particle_images import image_set
from emflow.io.particles import Particles
from emflow.io.record import Record
from emflow.io.star import write_star
from emflow.reconstruct import judge
from emflow.reconstruct.agreement import compare, start_agreement
from emflow.reconstruct.config import ReconstructAbinitio, ReconstructRefine, ReconstructSymmetry
from emflow.reconstruct.inputs import (
    diameter_of,
    independent_starts,
    read_halves,
    read_particles,
    read_poses,
    too_few,
)
from emflow.reconstruct.join import HalfMap, Joined
from emflow.reconstruct.merge import merge, particle_mask
from emflow.reconstruct.outputs import (
    Maps,
    fsc_tables,
    pose_columns,
    symmetry_table,
    with_columns,
    write_empty,
    write_maps,
    write_results,
)
from emflow.reconstruct.refine import Refinement, State
from emflow.reconstruct.resume import pack, start_state, unpack
from emflow.reconstruct.starts import find_halves
from emflow.reconstruct.symmetry import search_symmetry
from emflow.step import Run, StepConfig


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
        columns = pose_columns(joined.rotations, joined.shifts_px, images.pixel_size_angstrom)
        _write_first(source, columns, found, joined, out)


def _write_first(
    source: Particles,
    columns: dict[str, list[str]],
    found: tuple[HalfMap, HalfMap],
    joined: Joined,
    out: Path,
) -> None:
    """Write what ab initio came to."""
    agreement = joined.agreement
    voxel = agreement.voxel_size_angstrom
    mask = particle_mask(0.5 * (joined.half1 + joined.half2), agreement)
    merged, _ = merge(joined.half1, joined.half2, agreement.whole, voxel, 0.0)
    control = source.control_angstrom
    write_maps(out, Maps(joined.half1, joined.half2, merged, mask, voxel, control is not None))
    metrics: dict[str, float | int | None] = {
        "particles": len(source),
        "half1_particles": len(found[0].rows),
        "half2_particles": len(found[1].rows),
        "resolution_angstrom": agreement.claim_angstrom,
        "resolution_whole_angstrom": agreement.resolution(),
        "resolution_aspherical_angstrom": agreement.resolution("aspherical"),
        "significance_whole_sd": agreement.significance("whole"),
        "significance_aspherical_sd": agreement.significance("aspherical"),
        "half2_inverted": int(joined.alignment.mirrored),
        "alignment_correlation": joined.alignment.score,
        "n_starts": len(found[0].evidence),
        "n_finalists": len(found[0].finalists),
        "half1_log_likelihood": max(found[0].finalists),
        "half2_log_likelihood": max(found[1].finalists),
        "half1_start_agreement": start_agreement(found[0].likeness),
        "half2_start_agreement": start_agreement(found[1].likeness),
        "diameter_angstrom": agreement.diameter_angstrom,
    }
    judgements = [
        judge.judge_agreement(
            "Do two independent random starts find the same structure?",
            agreement,
            "Half-sets with separate random starts",
        ),
        judge.judge_starts([half.likeness for half in found], [len(half.evidence) for half in found]),
        judge.judge_hand(joined.alignment.mirrored),
        *judge.judge_control(control),
    ]
    tables = {"optics": source.optics, "particles": with_columns(source, columns)}
    write_results(out, tables, metrics, judgements, fsc_tables(agreement))


def symmetry(
    start: Path,
    out: Path,
    /,
    *,
    cfg: ReconstructSymmetry = ReconstructSymmetry(),
    run: Run = Run(),
) -> None:
    """Find the point group of a map that was made without symmetry, and turn it into the group's frame.

    Parameters
    ----------
    start
        Folder with half1.mrc, half2.mrc and particles.star of a reconstruction in C1.
    out
        Folder to write: symmetry.star (the groups, ranked), half1.mrc, half2.mrc, map.mrc, mask.mrc and
        particles.star in the frame of the group found (as they came for C1), metrics.json, verdicts.json.
    """
    device = prepare(run)
    star = start / "particles.star"
    with Record("reconstruct.symmetry", cfg, run, inputs=[star, start / "half1.mrc", start / "half2.mrc"]):
        (half1, half2), voxel = read_halves(start)
        halves = [half1.float().to(device), half2.float().to(device)]
        diameter = diameter_of(cfg, len(half1), voxel)
        agreement = compare(halves[0], halves[1], voxel, diameter, "C1")
        tables, rotations, shifts = read_poses(star, voxel)
        scored, name = None, "C1"
        if agreement.found:
            band = first_below(agreement.aspherical, 0.143) or len(agreement.aspherical) - 1
            scored = search_symmetry(halves[0], halves[1], diameter / voxel / 2, band, cfg.seed)
        if scored and scored[0].holds:
            name = scored[0].symmetry
            halves = [apply_alignment(half, scored[0].frame) for half in halves]
            rotations, shifts = align_poses(rotations, shifts, scored[0].frame)
        mask = particle_mask(0.5 * (halves[0] + halves[1]), agreement)
        merged, _ = merge(halves[0], halves[1], agreement.whole, voxel, 0.0)
        write_maps(out, Maps(halves[0], halves[1], merged, mask, voxel))
        tables["particles"] = tables["particles"].assign(**pose_columns(rotations, shifts, voxel))
        metrics: dict[str, float | int | None] = {
            "particles": len(rotations),
            "order": len(symmetry_operators(name)),
            "ratio": scored[0].ratio if scored else None,
            "independent_starts": int(independent_starts(start)),
        }
        write_star(out / "symmetry.star", symmetry_table(scored or []))
        write_results(out, tables, metrics, [judge.judge_symmetry(scored)], fsc_tables(agreement))


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
        kept = checkpoint.load()
        if kept is not None:
            state = unpack(*kept, images)
        else:
            volumes, voxel = read_halves(start)
            state = start_state(refinement, volumes, voxel)
        state = refinement.run(state, lambda reached: checkpoint.save(*pack(reached)))
        _write_refined(source, refinement, state, diameter, start, out)


def _write_refined(
    source: Particles, refinement: Refinement, state: State, diameter: float, start: Path, out: Path
) -> None:
    """Write what a refinement came to."""
    images, cfg = refinement.images, refinement.cfg
    voxel = images.pixel_size_angstrom
    half1, half2 = (refinement.accumulate(half).solve() for half in state.halves)
    agreement = compare(half1, half2, voxel, diameter, cfg.symmetry)
    mask = particle_mask(0.5 * (half1 + half2), agreement)
    if agreement.found:
        agreement = compare(half1, half2, voxel, diameter, cfg.symmetry, mask)
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
        "pose_probability_median": float(torch.cat([half.probability for half in state.halves]).median()),
        "sharpening_bfactor_angstrom2": bfactor,
        "diameter_angstrom": diameter,
    }
    judgements = [
        judge.judge_agreement("Do two independent halves agree?", agreement, "Half-sets refined apart"),
        judge.judge_independence(independent_starts(start)),
        judge.judge_convergence(state.iteration, cfg.max_iterations),
        *judge.judge_control(control),
    ]
    columns = _refined_poses(state, len(images), voxel)
    tables = {"optics": source.optics, "particles": with_columns(source, columns)}
    write_results(out, tables, metrics, judgements, fsc_tables(agreement))


def _refined_poses(state: State, count: int, pixel_size_angstrom: float) -> dict[str, list[str]]:
    """Pose columns of all particles in their table's order."""
    rotations, shifts, probability = torch.empty(count, 3, 3), torch.empty(count, 2), torch.empty(count)
    for half in state.halves:
        rotations[half.rows], shifts[half.rows] = half.rotations, half.shifts_px
        probability[half.rows] = half.probability
    likely = {"rlnMaxValueProbDistribution": [f"{value:.6f}" for value in probability.tolist()]}
    return pose_columns(rotations, shifts, pixel_size_angstrom) | likely


def _key(cfg: StepConfig, star: Path, particles: Particles, start: Path | None = None) -> str:
    """Identity of everything the result depends on."""
    parts: list[Any] = [hashlib.sha256(star.read_bytes()).hexdigest()]
    for path in particles.stacks:
        stat = path.stat()
        parts.append((path.name, stat.st_size, stat.st_mtime_ns))
    if start is not None:
        parts += [hashlib.sha256((start / f"half{n}.mrc").read_bytes()).hexdigest() for n in (1, 2)]
    return result_key(cfg, *parts)
