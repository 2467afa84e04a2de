"""Commands of the reconstruct room: files in, files out."""

from __future__ import annotations

import hashlib
import logging
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from emflow.device import prepare
from emflow.em.pose_fit import FittedPoses
from emflow.em.symmetry import symmetry_operators
from emflow.io.checkpoint import Checkpoint
from emflow.io.journal import result_key
from emflow.io.kept import Kept, Made
from emflow.io.particle_images import image_set
from emflow.io.particle_store import open_store
from emflow.io.particles import Particles
from emflow.io.record import Record, lineage_of
from emflow.io.scratch import scratch_file
from emflow.nn.ranks import Ranks, joined, launch, wanted
from emflow.reconstruct import judge
from emflow.reconstruct.agreement import compare, start_agreement
from emflow.reconstruct.command_classes import classes, expand, subtract
from emflow.reconstruct.command_ctf import ctf
from emflow.reconstruct.command_sharpen import sharpen
from emflow.reconstruct.command_symmetry import symmetry
from emflow.reconstruct.config import ReconstructAbinitio, ReconstructRefine
from emflow.reconstruct.inputs import (
    diameter_of,
    independent_starts,
    read_halves,
    read_particles,
    start_lowpass,
    too_few,
)
from emflow.reconstruct.inputs_previous import KEPT_FILES, Origin, ctf_reach, find_origin, reach_of
from emflow.reconstruct.join import HalfMap, Joined
from emflow.reconstruct.memory import announce_memory, refine_memory_bytes
from emflow.reconstruct.merge import merge, particle_mask
from emflow.reconstruct.outputs import (
    Maps,
    fsc_tables,
    pose_columns,
    uncertainty_columns,
    with_columns,
    write_empty,
    write_maps,
    write_results,
)
from emflow.reconstruct.refine import Refinement, State
from emflow.reconstruct.resume import pack, start_state, unpack
from emflow.reconstruct.starts import find_halves
from emflow.reconstruct.warm import warm_state
from emflow.step import Run, StepConfig

__all__ = ["abinitio", "classes", "ctf", "expand", "refine", "sharpen", "subtract", "symmetry"]

log = logging.getLogger("emflow")


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
        judge.judge_likeness(joined.alignment.score),
        judge.judge_hand(joined.alignment.mirrored),
        *judge.judge_control(control),
    ]
    tables = {"optics": source.optics, "particles": with_columns(source, columns)}
    write_results(out, tables, metrics, judgements, fsc_tables(agreement))


def refine(
    particles: Path,
    start: Path,
    out: Path,
    /,
    *,
    previous: Path | None = None,
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
        With the folder of an earlier refinement, particles that it knew keep their poses.
    out
        Folder to write: half1.mrc and half2.mrc (raw), map.mrc, mask.mrc, particles.star, fsc.star,
        metrics.json, verdicts.json. A hidden checkpoint there lets a killed run go on.
    previous
        Folder to keep what a later run goes on from when particles have been added; it need not exist.
    """
    count = wanted(run)
    if count > 1:
        words = ["reconstruct", "refine", str(particles), str(start), str(out)]
        words += ["--previous", str(previous)] if previous is not None else []
        launch([*words, "--json", cfg.model_dump_json()], run, count)
        return
    device = prepare(run)
    with joined(device) as ranks:
        if not ranks.first:
            run = run.model_copy(update={"record": None})
        inputs = [particles, start / "half1.mrc", start / "half2.mrc"]
        with Record("reconstruct.refine", cfg, run, inputs=inputs) as record:
            source = read_particles(particles)
            if too_few(source):
                if ranks.first:
                    write_empty(out, source, judge.too_few(len(source)))
                return
            record.notes = _refine(source, (particles, start, out, previous), cfg, (run, device, ranks))
            cpu_s = ranks.total(time.process_time())
            if ranks.count > 1:
                record.notes |= {"ranks": ranks.count, "ranks_cpu_s": round(cpu_s, 3)}


def _refine(
    source: Particles,
    paths: tuple[Path, Path, Path, Path | None],
    cfg: ReconstructRefine,
    job: tuple[Run, torch.device, Ranks],
) -> dict[str, Any]:
    """Refine as one of the processes, the first of which writes; return what to note of it."""
    (particles, start, out, previous), (run, device, ranks) = paths, job
    images = image_set(source, device)
    diameter = diameter_of(cfg, images.box, images.pixel_size_angstrom)
    lineage = lineage_of("reconstruct.refine") or ""
    key = hashlib.sha256(f"{_key(cfg, particles, source, start)} {lineage}".encode()).hexdigest()[:20]
    kept = Kept(previous, key) if previous is not None else None
    origin = find_origin(start, kept, source, images.half, cfg)
    cfg = cfg.model_copy(update={"shift_fraction": reach_of(source, cfg)})
    if origin.previous is not None:
        cfg = cfg.model_copy(update={"global_iterations": 0})
    begun = _Start(diameter, origin, independent_starts(origin.folder), start_lowpass(cfg, diameter))
    announce_memory(refine_memory_bytes(images.box, len(images)), device, run)
    ranks.agree(f"{key} {origin.key}", "particles")
    beside = out / ".checkpoint" / "particles.store"
    plane = images.plane(images.box / 2)
    # processes of one job share the store, which is one of them's on the scratch disk
    scratch = run.scratch if ranks.count == 1 else None
    with scratch_file(beside, scratch, 4.0 * len(images) * len(plane)) as store_path:
        if ranks.first and ranks.count > 1:  # one makes the store, the others find it whole
            with open_store(store_path, source, images, plane):
                pass
        ranks.agree("made", "store")
        with open_store(store_path, source, images, plane) as store:
            refinement = Refinement(replace(images, spectra=store), diameter, cfg, ranks)
            checkpoint = Checkpoint(out / ".checkpoint" / "state.safetensors", f"{key} {origin.key}")
            reached = checkpoint.load()
            ranks.agree(str(reached is not None), "checkpoint")
            if reached is not None:
                state = unpack(*reached, images)
            elif origin.previous is not None:
                state = warm_state(refinement, origin.previous)
                if ranks.first:
                    checkpoint.save(*pack(state))
            else:
                volumes, voxel = read_halves(start)
                state = start_state(refinement, volumes, voxel, begun.given_angstrom)
            state = refinement.run(refinement.as_first(state), lambda now: checkpoint.save(*pack(now)))
            halves = refinement.raw_halves(state)
            if ranks.first:
                _write_refined(source, refinement, state, begun, (halves[0], halves[1]), out)
    if ranks.first:
        beside.unlink(missing_ok=True)
        if kept is not None:
            made = Made(key, lineage, len(source), origin.anew_particles)
            kept.keep({name: out / name for name in KEPT_FILES}, made)
    return {"began": origin.why, "known_particles": begun.known}


@dataclass(frozen=True)
class _Start:
    """What a refinement began with."""

    diameter_angstrom: float
    origin: Origin
    independent: bool
    """Whether each half is known to have begun from a random start of its own."""
    lowpass_angstrom: float
    """Filter of first maps that may know of each other."""

    @property
    def given_angstrom(self) -> float | None:
        """Resolution of what may have been given to both halves; None for independent ones."""
        return None if self.independent else self.lowpass_angstrom

    @property
    def known(self) -> int:
        """Particles whose poses were taken over."""
        return 0 if self.origin.previous is None else int(self.origin.previous.known.sum())

    @property
    def particles(self) -> int:
        """Particles of the earlier refinement."""
        return 0 if self.origin.previous is None else self.origin.previous.particles

    def ctf_reaches(self, source: Particles) -> tuple[float | None, float | None]:
        """Median resolution of the CTF fits, in ångström: of known and of new particles; None for a run of all."""
        if self.origin.previous is None:
            return None, None
        known = self.origin.previous.known.numpy()
        return ctf_reach(source, known), ctf_reach(source, ~known)


def _write_refined(
    source: Particles,
    refinement: Refinement,
    state: State,
    start: _Start,
    halves: tuple[Tensor, Tensor],
    out: Path,
) -> None:
    """Write what a refinement came to."""
    images, cfg, diameter = refinement.images, refinement.cfg, start.diameter_angstrom
    voxel = images.pixel_size_angstrom
    half1, half2 = halves
    given = start.given_angstrom
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
        "symmetry_order": len(symmetry_operators(cfg.symmetry)),
        "independent_starts": int(start.independent),
        "warm_start_particles": start.particles,
        "new_particles": len(images) - start.known,
        "anew_particles": start.origin.anew_particles,
    }
    judgements = [
        judge.judge_agreement("Do two independent halves agree?", agreement, "Half-sets refined apart"),
        judge.judge_independence(start.given_angstrom),
        judge.judge_convergence(state.iteration, cfg.max_iterations),
        *judge.judge_warm_start(metrics, *start.ctf_reaches(source)),
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


def _key(cfg: StepConfig, star: Path, particles: Particles, start: Path | None = None) -> str:
    """Identity of everything the result depends on."""
    parts: list[Any] = [hashlib.sha256(star.read_bytes()).hexdigest()]
    for path in particles.stacks:
        stat = path.stat()
        parts.append((path.name, stat.st_size, stat.st_mtime_ns))
    if start is not None:
        files = [start / name for name in ("half1.mrc", "half2.mrc", "particles.star", "metrics.json")]
        parts += [hashlib.sha256(file.read_bytes()).hexdigest() for file in files if file.is_file()]
    return result_key(cfg, *parts)
