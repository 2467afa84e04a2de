"""Commands of the simulate room: files in, files out."""

from __future__ import annotations

from pathlib import Path

import emflow.device
from emflow.io.atomic import write_text
from emflow.io.record import Record, write_metrics
from emflow.simulate.command_volume import volume
from emflow.simulate.config import SimulateParticles, SimulateScore, SimulateSession, Specimen
from emflow.step import EmflowError, Run

__all__ = ["particles", "score", "session", "volume"]

DEFAULT_PIXEL_SIZE_ANGSTROM = 3.0


def session(out: Path, /, *, cfg: SimulateSession = SimulateSession(), run: Run = Run()) -> None:
    """Make a session of micrographs with known truth.

    Parameters
    ----------
    out
        Folder to write: micrographs/, even/, odd/ and truth/.
    """
    from emflow.simulate.bodies import Bodies
    from emflow.simulate.build import box_side, build_ensemble, extent
    from emflow.simulate.imaging import check_defocus
    from emflow.simulate.inputs import read_models
    from emflow.simulate.outputs import SessionWriter, write_volumes
    from emflow.simulate.session import calibrate, simulate_micrographs

    device = emflow.device.prepare(run)
    if cfg.n_micrographs + cfg.n_noise_micrographs == 0:
        raise EmflowError(
            "simulate.session: no micrographs asked for; set n_micrographs or n_noise_micrographs."
        )
    check_defocus(cfg, "simulate.session")
    with Record("simulate.session", cfg, run, inputs=_models(cfg)) as record:
        pixel = cfg.pixel_size_angstrom or DEFAULT_PIXEL_SIZE_ANGSTROM
        ensemble = build_ensemble(cfg, read_models(_models(cfg)))
        diameter, radius = extent(ensemble)
        box = box_side(diameter, radius, pixel)
        if box > cfg.micrograph_size_px:
            raise EmflowError(
                f"The specimen is {diameter:.0f} Å long, its box {box} px; micrographs of "
                f"{cfg.micrograph_size_px} px are too small. Raise simulate.session.micrograph_size_px."
            )
        bodies = Bodies(ensemble, box, pixel, cfg.atom_b_factor_angstrom2, device)
        imaging = calibrate(cfg, bodies, diameter, pixel, device)
        variation = write_volumes(out / "truth", bodies, cfg.n_state_volumes)
        writer = SessionWriter(out, pixel, cfg.keep_clean)
        for micrograph in simulate_micrographs(cfg, bodies, imaging, device):
            writer.add(micrograph)
        record.notes["n_particles"] = writer.finish(cfg, imaging, ensemble.mean_mass_kda, variation)


def particles(out: Path, /, *, cfg: SimulateParticles = SimulateParticles(), run: Run = Run()) -> None:
    """Make a stack of particle images with known poses, CTF and states.

    Parameters
    ----------
    out
        Folder to write: particles.star, particles.mrcs and truth/.
    """
    from emflow.simulate.bodies import Bodies
    from emflow.simulate.build import BOX_DIAMETERS, DEFAULT_DIAMETER_ANGSTROM, build_ensemble, extent
    from emflow.simulate.imaging import check_defocus
    from emflow.simulate.inputs import read_models
    from emflow.simulate.outputs import write_stack, write_volumes

    device = emflow.device.prepare(run)
    check_defocus(cfg, "simulate.particles")
    with Record("simulate.particles", cfg, run, inputs=_models(cfg)) as record:
        asked = cfg.diameter_angstrom or DEFAULT_DIAMETER_ANGSTROM
        pixel = cfg.pixel_size_angstrom or BOX_DIAMETERS * asked / cfg.box_px
        ensemble = build_ensemble(cfg, read_models(_models(cfg)))
        diameter, radius = extent(ensemble)
        if 2 * radius + 2 * cfg.max_shift_px * pixel > cfg.box_px * pixel:
            raise EmflowError(
                f"The specimen reaches {radius:.0f} Å from its centre, farther than half the box of "
                f"{cfg.box_px} px at {pixel:g} Å. Raise simulate.particles.box_px or sample.pixel_size_angstrom."
            )
        bodies = Bodies(ensemble, cfg.box_px, pixel, cfg.atom_b_factor_angstrom2, device)
        variation = write_volumes(out / "truth", bodies, cfg.n_state_volumes)
        facts = {"diameter_angstrom": diameter, "mass_kda": ensemble.mean_mass_kda, **variation}
        record.notes["snr_in_box"] = write_stack(out, cfg, bodies, facts, device)


def score(
    truth: Path, results: Path, out: Path, /, *, cfg: SimulateScore = SimulateScore(), run: Run = Run()
) -> None:
    """Compare results with a simulated truth; what a partial run lacks is null.

    Parameters
    ----------
    truth
        Folder truth/ of `emflow simulate session` or `emflow simulate particles`.
    results
        Folder of a project's results.
    out
        Folder to write metrics.json and facts.json to.
    """
    from emflow.simulate import inputs, scoring
    from emflow.simulate.score_denoise import score_denoise
    from emflow.simulate.score_latents import score_latents

    emflow.device.prepare(run, gpu=False)
    known = inputs.read_truth(truth)
    facts = next(p for p in (truth / "facts.json", truth / "truth" / "facts.json") if p.exists())
    with Record("simulate.score", cfg, run, inputs=[facts]):
        metrics: scoring.Metrics = {"particles": len(known.rotations), "micrographs": len(known.ctf)}
        picked = inputs.read_picks(results / "pick")
        picks, micrographs = picked or (known.particles, [])
        measured = scoring.score_picks(picks, micrographs, known, cfg.match_radius)
        metrics |= measured if picked else dict.fromkeys(measured)
        for pixels in ("raw", "denoised"):  # those that picking did not use, for comparison
            other = inputs.read_picks(results / "pick" / pixels)
            compared = scoring.score_picks(*other, known, cfg.match_radius) if other else {}
            metrics[f"pick_{pixels}_f1"] = compared.get("pick_f1")
        fitted = inputs.read_shards(results / "ctf", "micrographs")
        found = {} if fitted is None else inputs.ctf_by_micrograph(fitted)
        metrics |= scoring.score_ctf(found, known)
        for name in ("abinitio", "refine"):
            stage = inputs.read_stage(results / "reconstruct" / name)
            metrics |= scoring.score_stage(name, stage, known, cfg.match_radius)
        variation = inputs.read_variation(truth, known)
        metrics |= score_latents(inputs.read_latents(results, known, variation, cfg.match_radius))
        denoised = inputs.read_denoised(truth, results, known)
        metrics |= score_denoise(denoised, known.pixel_size_angstrom, known.diameter_angstrom)
        halves = inputs.read_number(results / "validate" / "metrics.json", "resolution_interpolated_angstrom")
        metrics |= scoring.score_halves(halves, metrics["refine_map_to_truth_fsc05_angstrom"])
        write_text(out / "facts.json", facts.read_text(encoding="utf-8"))
        write_metrics(out / "metrics.json", metrics)


def _models(cfg: Specimen) -> list[Path]:
    """Files of the specimen."""
    if cfg.model is not None and cfg.models:
        raise EmflowError("simulate: give model (one file) or models (one file a state), not both.")
    return [cfg.model] if cfg.model is not None else list(cfg.models)
