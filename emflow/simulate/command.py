"""Commands of the simulate room: files in, files out."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import emflow.device
from emflow.io.atomic import write_text
from emflow.io.atoms import read_atoms
from emflow.io.mrc import write_mrc
from emflow.io.record import Record, write_metrics
from emflow.simulate.config import SimulateScore, SimulateSession
from emflow.step import EmflowError, Run

if TYPE_CHECKING:
    from emflow.simulate.specimen import Atoms

DEFAULT_PIXEL_SIZE_ANGSTROM = 3.0
DEFAULT_DIAMETER_ANGSTROM = 200.0
BOX_DIAMETERS = 1.5
"""Side of the box in which the SNR is defined, in longest diameters."""


def session(out: Path, /, *, cfg: SimulateSession = SimulateSession(), run: Run = Run()) -> None:
    """Make a session of micrographs with known truth.

    Parameters
    ----------
    out
        Folder to write: micrographs/, even/, odd/ and truth/.
    """
    from emflow.simulate.density import potential
    from emflow.simulate.outputs import SessionWriter
    from emflow.simulate.project import Projector
    from emflow.simulate.session import calibrate, simulate_micrographs
    from emflow.simulate.specimen import longest_diameter

    device = emflow.device.prepare(run)
    _check(cfg)
    with Record("simulate.session", cfg, run, inputs=[cfg.model] if cfg.model else []) as record:
        pixel = cfg.pixel_size_angstrom or DEFAULT_PIXEL_SIZE_ANGSTROM
        atoms = _specimen(cfg)
        diameter = longest_diameter(atoms)
        box = _box(atoms, diameter, pixel)
        if box > cfg.micrograph_size_px:
            raise EmflowError(
                f"The specimen is {diameter:.0f} Å long, its box {box} px; micrographs of "
                f"{cfg.micrograph_size_px} px are too small. Raise simulate.session.micrograph_size_px."
            )
        volume = potential(atoms, box, pixel, cfg.atom_b_factor_angstrom2)
        projector = Projector(volume.to(device), pixel)
        imaging = calibrate(cfg, projector, diameter, pixel, device)
        write_mrc(out / "truth" / "volume.mrc", volume.numpy(), pixel)
        writer = SessionWriter(out, pixel, cfg.keep_clean)
        for micrograph in simulate_micrographs(cfg, projector, imaging, device):
            writer.add(micrograph)
        record.notes["n_particles"] = writer.finish(cfg, imaging, atoms.mass_kda)


def score(
    truth: Path, results: Path, out: Path, /, *, cfg: SimulateScore = SimulateScore(), run: Run = Run()
) -> None:
    """Compare results with a simulated truth; what a partial run lacks is null.

    Parameters
    ----------
    truth
        Folder truth/ of `emflow simulate session`.
    results
        Folder of a project's results.
    out
        Folder to write metrics.json and facts.json to.
    """
    from emflow.simulate import inputs, scoring

    emflow.device.prepare(run)
    known = inputs.read_truth(truth)
    facts = next(p for p in (truth / "facts.json", truth / "truth" / "facts.json") if p.exists())
    with Record("simulate.score", cfg, run, inputs=[facts]):
        metrics: scoring.Metrics = {"particles": len(known.rotations), "micrographs": len(known.ctf)}
        picked = inputs.read_picks(results)
        picks, micrographs = picked or (known.particles, [])
        measured = scoring.score_picks(picks, micrographs, known, cfg.match_radius)
        metrics |= measured if picked else dict.fromkeys(measured)
        fitted = inputs.read_shards(results / "ctf", "micrographs")
        found = {} if fitted is None else inputs.ctf_by_micrograph(fitted)
        metrics |= scoring.score_ctf(found, known)
        for name in ("abinitio", "refine"):
            stage = inputs.read_stage(results / "reconstruct" / name)
            metrics |= scoring.score_stage(name, stage, known, cfg.match_radius)
        halves = inputs.read_number(results / "validate" / "metrics.json", "resolution_interpolated_angstrom")
        metrics |= scoring.score_halves(halves, metrics["refine_map_to_truth_fsc05_angstrom"])
        write_text(out / "facts.json", facts.read_text(encoding="utf-8"))
        write_metrics(out / "metrics.json", metrics)


def _check(cfg: SimulateSession) -> None:
    if cfg.n_micrographs + cfg.n_noise_micrographs == 0:
        raise EmflowError(
            "simulate.session: no micrographs asked for; set n_micrographs or n_noise_micrographs."
        )
    if cfg.defocus_min_um > cfg.defocus_max_um:
        raise EmflowError(
            f"simulate.session: defocus_min_um {cfg.defocus_min_um:g} is above defocus_max_um {cfg.defocus_max_um:g}."
        )


def _specimen(cfg: SimulateSession) -> Atoms:
    """Read or generate the specimen, its symmetry imposed, centred."""
    from emflow.simulate.specimen import Atoms, generate_specimen, impose_symmetry

    if cfg.model is not None:
        position, electrons = read_atoms(cfg.model)
        unit = Atoms(position, electrons, np.zeros(len(electrons)))
        return impose_symmetry(
            unit, cfg.symmetry, pack=False
        ).centred()  # a symmetric one moves along its axis
    rng = np.random.default_rng(cfg.seed)
    if cfg.symmetry == "C1":
        diameter = cfg.diameter_angstrom or DEFAULT_DIAMETER_ANGSTROM
        return generate_specimen(cfg.mass_kda, diameter, cfg.n_domains, rng)
    compact = 3.0 * np.cbrt(cfg.mass_kda * 1e3 / 0.6 * 3 / (4 * np.pi))  # 1.5 times a sphere's
    unit = generate_specimen(cfg.mass_kda, compact, cfg.n_domains, rng)
    return impose_symmetry(unit, cfg.symmetry, pack=True).centred()


def _box(atoms: Atoms, diameter_angstrom: float, pixel: float) -> int:
    """Even side of the box in which projections lie and the SNR is defined: 1.5 diameters, or what it takes."""
    from emflow.simulate.specimen import longest_radius

    side = max(BOX_DIAMETERS * diameter_angstrom, 2 * longest_radius(atoms) + 30)
    return 2 * math.ceil(side / pixel / 2)
