"""Commands of the extract room: files in, files out."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from emflow import device as devices
from emflow.extract.config import ExtractJoin, ExtractRecenter, ExtractRun
from emflow.extract.inputs import accepted_micrographs, read_picks, with_halves
from emflow.extract.join import join_shards, judge, judge_set_aside, measure
from emflow.extract.outputs import Shard, extract_shard
from emflow.extract.recenter import recenter as recenter_boxes
from emflow.extract.table import describe, match_micrographs, with_later
from emflow.io.micrographs import Micrographs, load_micrographs
from emflow.io.particles import load_particles
from emflow.io.record import Record, verdict, write_metrics, write_verdicts
from emflow.io.star import floats, read_star, read_table, write_star
from emflow.step import EmflowError, Run


def run(
    select: Path, ctf: Path, picks: Path, out: Path, /, *, cfg: ExtractRun = ExtractRun(), run: Run = Run()
) -> None:
    """Cut out picked particles, bin and normalise them.

    On plain files, give RELION's micrographs_ctf.star twice, and a particle STAR with coordinates.

    Parameters
    ----------
    select
        Micrographs; those with emflowAccepted 0 are left out.
    ctf
        Micrographs with their CTF and optics.
    picks
        Particle STAR with rlnCoordinateX/Y, matched by micrograph id or base name.
    out
        STAR table to write; the stack goes beside it as .mrcs.
    """
    device = devices.prepare(run, gpu=False)
    with Record("extract.run", cfg, run, inputs=[select, ctf, picks]) as record:
        micrographs = accepted_micrographs(ctf, select, cfg)
        particles = read_picks(picks)
        rows = match_micrographs(particles, micrographs.table)
        known = rows >= 0
        particles = describe(particles[known], micrographs.table, rows[known], prefer="micrographs")
        record.notes = extract_shard(
            Shard(micrographs, particles, rows[known], cfg, device, run.image_limit_minutes), out
        )


def recenter(
    particles: Path,
    ctf: Path,
    out: Path,
    /,
    *,
    picked: Path | None = None,
    cfg: ExtractRecenter = ExtractRecenter(),
    run: Run = Run(),
) -> None:
    """Cut particles out again, centred on their refined origins and finer; poses are kept.

    Parameters
    ----------
    particles
        Particle STAR with rlnCoordinateX/Y and rlnOriginX/YAngst.
    ctf
        Micrographs; only their particles are taken.
    out
        STAR table to write; the stack goes beside it as .mrcs.
    picked
        Particle STAR as extract run writes it. Particles of micrographs that the first table lacks are taken from
        it, centred on their picks; emflowPoseKnown is 0 for these.
    """
    device = devices.prepare(run, gpu=False)
    inputs = [particles, ctf, *([picked] if picked else [])]
    with Record("extract.recenter", cfg, run, inputs=inputs) as record:
        micrographs = load_micrographs(ctf, cfg)
        micrographs = Micrographs(with_halves(micrographs.table), micrographs.optics)
        table = load_particles(particles, images=False).table
        if picked is not None:
            table = with_later(table, load_particles(picked, images=False).table)
        rows = match_micrographs(table, micrographs.table)
        found = describe(table[rows >= 0], micrographs.table, rows[rows >= 0], prefer="particles")
        shard = Shard(micrographs, found, rows[rows >= 0], cfg, device, run.image_limit_minutes)
        pixels = np.array([shard.pixel_sizes[shard.group(row)] for row in shard.rows]).reshape(-1, 1)
        old = np.stack([floats(found, f"rlnCoordinate{axis}") for axis in "XY"], -1)
        origins = np.stack([floats(found, f"rlnOrigin{axis}Angst", 0.0) for axis in "XY"], -1)
        centres, rest = recenter_boxes(old, origins, pixels)
        for column, axis in enumerate("XY"):
            found[f"rlnCoordinate{axis}"] = [f"{value:.0f}" for value in centres[:, column]]
            found[f"rlnOrigin{axis}Angst"] = [f"{value:.6g}" for value in rest[:, column]]
        record.notes = extract_shard(shard, out)


def join(
    *paths: Path,
    quality: Path | None = None,
    removed: Path | None = None,
    cfg: ExtractJoin = ExtractJoin(),
    run: Run = Run(),
) -> None:
    """Join the shards' particles, those of accepted micrographs.

    Parameters
    ----------
    paths
        STAR tables of the shards, and last the one to write; metrics.json and verdicts.json go beside it.
    quality
        Quality table of all micrographs; without it all are accepted.
    removed
        Particle STAR: particles that are left out, such as those that classification removed.
    """
    if len(paths) < 2:
        raise EmflowError("extract join: give the shards' STAR tables, and last the table to write.")
    *shards, out = paths
    with Record("extract.join", cfg, run, inputs=[*shards, *(path for path in (quality, removed) if path)]):
        accepted = None
        if quality is not None:
            table = read_table(quality, "micrographs", "emflowMicrographId", "emflowAccepted")
            accepted = set(table.loc[table["emflowAccepted"] == "1", "emflowMicrographId"])
        out_of_it: set[str] = set()
        if removed is not None:
            out_of_it = set(read_table(removed, "particles", "emflowParticleId")["emflowParticleId"])
        joined = join_shards((read_star(path) for path in shards), accepted, out_of_it)
        metrics = measure(joined, cfg.diameter_angstrom)
        write_metrics(out.with_name("metrics.json"), metrics)
        verdicts = [*judge(metrics), *judge_set_aside(joined.set_aside)]
        write_verdicts(out.with_name("verdicts.json"), [verdict(*row) for row in verdicts])
        write_star(out, {"optics": joined.optics, "particles": joined.particles})
