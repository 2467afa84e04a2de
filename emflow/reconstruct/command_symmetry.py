"""The command that finds a map's point group: files in, files out."""

from __future__ import annotations

from pathlib import Path

from emflow.device import prepare
from emflow.em.fsc import first_below
from emflow.em.symmetry import symmetry_operators
from emflow.em.volume_align import align_poses, apply_alignment
from emflow.io.record import Record
from emflow.io.star import write_star
from emflow.reconstruct import judge
from emflow.reconstruct.agreement import compare
from emflow.reconstruct.config import ReconstructSymmetry
from emflow.reconstruct.inputs import diameter_of, independent_starts, read_halves, read_poses
from emflow.reconstruct.merge import merge, particle_mask
from emflow.reconstruct.outputs import (
    Maps,
    fsc_tables,
    pose_columns,
    symmetry_table,
    write_maps,
    write_results,
)
from emflow.reconstruct.symmetry import search_symmetry
from emflow.step import Run


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
