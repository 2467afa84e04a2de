"""What the heterogeneity room writes, and the checkpoint of its fit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import safetensors.torch
import torch

from emflow.em.wiener import reconstruct_from_poses
from emflow.figure import png_bytes
from emflow.heterogeneity.analyze import States, decode
from emflow.heterogeneity.density import Landscape
from emflow.heterogeneity.figures import draw_agreement, draw_latents, draw_volumes
from emflow.heterogeneity.fit import Fit, Stage
from emflow.heterogeneity.inputs import FittedFolder, Posed, posed_batches, read_metrics, read_verdicts
from emflow.heterogeneity.inputs_previous import Origin, read_stage
from emflow.heterogeneity.judge import judge_fit, judge_origin, judge_stability, judge_states, judge_too_few
from emflow.heterogeneity.outputs_density import write_landscape
from emflow.io.atomic import write_bytes
from emflow.io.mrc import write_mrc
from emflow.io.record import verdict, write_metrics, write_verdicts
from emflow.io.star import integers, write_star

CHECKPOINT = ".stage.safetensors"


def save_stage(folder: Path, key: str, box: int, scale: float) -> Callable[[Stage], None]:
    """A function that keeps the last stage of a fit in its folder; ``scale`` is the unit of its volumes."""

    def save(stage: Stage) -> None:
        tensors = {}
        for half, model in enumerate(stage.models):
            tensors[f"volumes{half}"] = model.volumes.contiguous().cpu()
            tensors[f"noise{half}"] = model.noise.contiguous().cpu()
            tensors[f"contrast{half}"] = torch.tensor(model.contrast_variance, dtype=torch.float64)
        about = {"key": key, "number": str(stage.number), "band": repr(stage.band), "scale": repr(scale)}
        about |= {"box": str(box), "warm": str(int(stage.warm))}
        write_bytes(folder / CHECKPOINT, safetensors.torch.save(tensors, about))

    return save


def load_stage(folder: Path, key: str, device: torch.device) -> Stage | None:
    """The last stage of a fit with this key, if one was killed here."""
    path = folder / CHECKPOINT
    if not path.is_file():
        return None
    try:
        stage, about = read_stage(path, device)
    except (safetensors.SafetensorError, KeyError):  # cut short by a full disk: begin again
        return None
    return stage if about["key"] == key else None


def write_fit(out: Path, posed: Posed, fit: Fit, scale: float, origin: Origin) -> None:
    """Write a fit's folder; latents.star comes last."""
    volumes = (fit.volumes * scale).cpu().numpy()
    pixel = posed.pixel_size_angstrom
    count = len(volumes) - 1
    _clear(out)
    for k in range(1, count + 1):
        write_mrc(out / f"component_{k:02d}.mrc", volumes[k], pixel)
    for half, own in enumerate(fit.halves, start=1):
        maps = (own * scale).cpu().numpy()
        write_mrc(out / "halves" / f"half{half}_mean.mrc", maps[0], pixel)
        for k, kept in enumerate(fit.kept.tolist(), start=1):
            if kept:
                write_mrc(out / "halves" / f"half{half}_axis_{k:02d}.mrc", maps[k], pixel)
    shells = range(min(len(fit.shells.correlation), int(fit.band) + 2))
    curves = {"rlnSpectralIndex": list(shells)} | {
        name: fit.shells.correlation[: len(shells), k].cpu().numpy()
        for k, name in enumerate(["emflowMean", *(f"emflowAxis{k}" for k in range(1, len(fit.kept) + 1))])
    }
    write_star(out / "agreement.star", {"axes": _axes(fit), "fsc": pd.DataFrame(curves)})
    write_bytes(out / "figures" / "agreement.png", png_bytes(draw_agreement(fit, posed.box * pixel)))
    sizes = [int((posed.half == h).sum()) for h in (1, 2)]
    power = (volumes[1:] ** 2).sum((1, 2, 3)) / max(float((volumes[0] ** 2).sum()), 1e-30)
    metrics: dict[str, float | int | None] = {
        "particles": sum(sizes),
        "particles_half1": sizes[0],
        "particles_half2": sizes[1],
        "components_tried": len(fit.kept),
        "components": count,
        "resolution_angstrom": posed.box * pixel / fit.band,
        "contrast_deviation": fit.contrast_deviation,
        "warm_start_particles": origin.particles if fit.warm else 0,
        "anew_particles": origin.anew_particles if fit.warm else sum(sizes),
        "held_out_gain_nat": float(fit.evidence.gain[fit.kept].sum()),
        "canonical_correlation_min": float(fit.canonical.min()) if count else None,
        "latent_correlation_min": float(fit.evidence.latent[fit.kept].min()) if count else None,
    }
    metrics["rigid_fraction"] = fit.rigid_total() if count else None
    for k in range(count):
        metrics[f"component_{k + 1:02d}_power_fraction"] = float(power[k])
        metrics[f"component_{k + 1:02d}_rigid_fraction"] = float(fit.rigid[k])
    write_metrics(out / "metrics.json", metrics)
    write_verdicts(
        out / "verdicts.json", [verdict(*row) for row in (*judge_fit(fit), *judge_origin(metrics))]
    )
    write_mrc(out / "mean.mrc", volumes[0], pixel)
    _write_particles(out, posed)
    write_star(out / "latents.star", {"particles": latent_table(posed, fit)})


def latent_table(posed: Posed, fit: Fit) -> pd.DataFrame:
    """One row per particle: identity, half, latents, their deviations, contrast."""
    rows = posed.half > 0
    deviation = fit.covariance.diagonal(dim1=1, dim2=2).clamp(min=0).sqrt()
    columns = {
        "emflowParticleId": posed.particles.table["emflowParticleId"].to_numpy()[rows],
        "rlnRandomSubset": posed.half[rows],
    }
    for k in range(fit.latent.shape[1]):
        columns[f"emflowLatent{k + 1}"] = fit.latent[:, k].float().numpy()[rows]
        columns[f"emflowLatentDeviation{k + 1}"] = deviation[:, k].float().numpy()[rows]
    columns["emflowContrast"] = fit.contrast.float().numpy()[rows]
    return pd.DataFrame(columns)


def write_too_few(out: Path, posed: Posed, why: str) -> None:
    """Write the results of a set from which nothing can be learnt."""
    _clear(out)
    count = len(posed.particles)
    names = ("particles", "components_tried", "components")
    write_metrics(out / "metrics.json", dict(zip(names, (count, 0, 0), strict=True)))
    write_verdicts(out / "verdicts.json", [verdict(*judge_too_few(why))])
    empty = torch.zeros(posed.box, posed.box, posed.box).numpy()
    write_mrc(out / "mean.mrc", empty, posed.pixel_size_angstrom)
    _write_particles(out, posed)
    table = posed.particles.table
    ids = table["emflowParticleId"].tolist() if "emflowParticleId" in table else []
    columns = {"emflowParticleId": ids, "rlnRandomSubset": posed.half}
    write_star(out / "latents.star", {"particles": pd.DataFrame(columns)})


def _axes(fit: Fit) -> pd.DataFrame:
    evidence = fit.evidence
    return pd.DataFrame(
        {
            "emflowAxis": range(1, len(fit.kept) + 1),
            "emflowKept": fit.kept.int().numpy(),
            "emflowHeldOutGain": evidence.gain.numpy(),
            "emflowHeldOutDeviations": evidence.deviations.numpy(),
            "emflowLatentCorrelation": evidence.latent.numpy(),
            "emflowVolumeCorrelation": evidence.volume.numpy(),
        }
    )


def _write_particles(out: Path, posed: Posed) -> None:
    """The particle table as it came."""
    particles = posed.particles
    write_star(out / "particles.star", {"optics": particles.optics, "particles": particles.table})


def _clear(out: Path) -> None:
    """Remove components of an earlier fit; fewer may come now."""
    for pattern in ("component_*.mrc", "halves/half?_*.mrc", "figures/*.png"):
        for path in out.glob(pattern):
            path.unlink()


def clear_states(out: Path) -> None:
    """Remove the states and volumes of an earlier analysis; fewer may come now."""
    patterns = ("states/*/particles.star", "states/*/half?.mrc", "volumes/*.mrc", "component_*.mrc")
    for pattern in (*patterns, "density.star", "figures/*.png"):
        for path in out.glob(pattern):
            path.unlink()
    for folder in out.glob("states/*"):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def write_half_maps(
    out: Path, found: FittedFolder, states: States, symmetry: str, device: torch.device
) -> None:
    """Write states/NN/half1.mrc and half2.mrc: raw maps of each state's particles."""
    particles = found.particles
    facts = particles.common_facts()
    half = integers(found.table, "rlnRandomSubset")
    for number in range(1, len(states.centres) + 1):
        for side in (1, 2):
            rows = np.flatnonzero((states.state == number) & (half == side))
            if not len(rows):
                continue
            volume = reconstruct_from_poses(
                posed_batches(particles, rows, device),
                facts.box_px,
                facts.pixel_size_angstrom,
                symmetry=symmetry,
            )
            path = out / "states" / f"{number:02d}" / f"half{side}.mrc"
            write_mrc(path, volume.cpu().numpy(), facts.pixel_size_angstrom)


def write_states(
    out: Path,
    fitted: Path,
    found: FittedFolder,
    states: States,
    paths: list[np.ndarray],
    landscape: Landscape | None,
) -> None:
    """Write an analysis: volumes, tables of the states, figures, metrics; latents.star comes last."""
    voxel = found.voxel_size_angstrom
    write_mrc(out / "mean.mrc", found.volumes[0], voxel)
    for k in range(1, len(found.volumes)):
        write_mrc(out / f"component_{k:02d}.mrc", found.volumes[k], voxel)
    points = [(f"pc{k:02d}_{i:02d}", z) for k, path in enumerate(paths, 1) for i, z in enumerate(path, 1)]
    counts = np.bincount(states.state, minlength=len(states.centres) + 1)[1:]
    points += [(f"state_{number:02d}", z) for number, z in enumerate(states.centres, 1)]
    for name, z in points:
        write_mrc(out / "volumes" / f"{name}.mrc", decode(found.volumes, z), voxel)
    rows: dict[str, list[str] | list[float]] = {"emflowVolume": [f"volumes/{name}.mrc" for name, _ in points]}
    for k in range(found.latent.shape[1]):
        rows[f"emflowLatent{k + 1}"] = [float(z[k]) for _, z in points]
    write_star(out / "volumes" / "volumes.star", {"volumes": pd.DataFrame(rows)})
    for number in range(1, len(states.centres) + 1):
        own = found.particles.table[states.state == number]
        tables = {"optics": found.particles.optics, "particles": own}
        write_star(out / "states" / f"{number:02d}" / "particles.star", tables)
    if landscape is not None:
        write_landscape(out, landscape, found.latent)
    if found.latent.shape[1]:
        drawn = draw_latents(found.latent, states.state)
        write_bytes(out / "figures" / "latents.png", png_bytes(drawn))
    rows_drawn = [[decode(found.volumes, z) for z in path] for path in paths]
    names = [f"coordinate {k}" for k in range(1, len(paths) + 1)]
    if len(states.centres) > 1:
        rows_drawn.append([decode(found.volumes, z) for z in states.centres])
        names.append("states")
    if rows_drawn:
        write_bytes(out / "figures" / "volumes.png", png_bytes(draw_volumes(rows_drawn, names)))
    metrics = read_metrics(fitted) | {
        "states": len(states.centres),
        "silhouette": states.silhouette,
        "state_stability": states.stability,
        "density_gaussians": len(landscape.mixture.weight) if landscape is not None else None,
    }
    metrics |= {f"state_{number:02d}_particles": int(count) for number, count in enumerate(counts, 1)}
    write_metrics(out / "metrics.json", metrics)
    told = judge_states(len(states.centres), states.silhouette, int(counts.min()) if len(counts) else 0)
    said = [verdict(*row) for row in (told, *judge_stability(states.stability))]
    write_verdicts(out / "verdicts.json", [*read_verdicts(fitted), *said])
    table = found.table.assign(emflowCluster=states.state, emflowClusterProbability=states.probability)
    if landscape is not None:
        table = table.assign(emflowDensity=landscape.own)
    write_star(out / "latents.star", {"particles": table})
