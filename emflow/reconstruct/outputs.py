"""Write what the reconstruction commands leave: maps, particles, curves, figures, verdicts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from emflow.em.pose_fit import FittedPoses
from emflow.em.poses import matrix_to_euler, wrap_degrees
from emflow.figure import png_bytes
from emflow.figure_guinier import draw_guinier
from emflow.io.atomic import write_bytes
from emflow.io.mrc import CONTROL_LABEL, RESTORED_LABEL, UNRESTORED_LABEL, write_mrc
from emflow.io.particles import Particles
from emflow.io.record import verdict, write_metrics, write_verdicts
from emflow.io.star import write_star
from emflow.reconstruct.agreement import Agreement
from emflow.reconstruct.figures import draw_maps
from emflow.reconstruct.inputs_sharpen import RawHalves
from emflow.reconstruct.sharpen import SharpenedMaps
from emflow.reconstruct.symmetry import Scored
from emflow.step import Judgement

EMPTY_BOX = 16
"""Side of the empty maps of a set without particles."""


@dataclass(frozen=True)
class Maps:
    """Maps of a reconstruction, (n, n, n)."""

    half1: Tensor
    half2: Tensor
    merged: Tensor
    mask: Tensor
    voxel_size_angstrom: float
    control: bool = False
    """Whether they are made from a noise control."""


def pose_columns(rotations: Tensor, shifts_px: Tensor, pixel_size_angstrom: float) -> dict[str, list[str]]:
    """RELION's columns of poses, as text: (N, 3, 3) and (N, 2)."""
    angles = matrix_to_euler(rotations.double())
    angles[:, 0] = wrap_degrees(angles[:, 0])
    angles[:, 2] = wrap_degrees(angles[:, 2])
    origins = shifts_px.double() * pixel_size_angstrom
    columns = torch.cat([angles, origins], 1).numpy()
    names = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi", "rlnOriginXAngst", "rlnOriginYAngst")
    return {name: [f"{v:.5f}" for v in columns[:, i]] for i, name in enumerate(names)}


def uncertainty_columns(poses: FittedPoses, pixel_size_angstrom: float) -> dict[str, list[str]]:
    """How sure each pose is, and its log-likelihood against an empty image's, as text."""
    columns = {
        "emflowPoseSigmaDeg": poses.rotation_sigma_deg,
        "emflowShiftSigmaAngst": poses.shift_sigma_px * pixel_size_angstrom,
        "rlnLogLikeliContribution": poses.scores,
    }
    return {name: [f"{value:.5g}" for value in values.tolist()] for name, values in columns.items()}


def with_columns(particles: Particles, columns: dict[str, list[str]]) -> pd.DataFrame:
    """The particle table with new columns, poses among them; all others stay as they came."""
    return particles.table.drop(columns="emflowPoseKnown", errors="ignore").assign(**columns).astype(object)


def fsc_tables(agreement: Agreement) -> dict[str, pd.DataFrame]:
    """FSC curves in RELION's columns, and that without the spherical part."""
    extent = agreement.box * agreement.voxel_size_angstrom
    shells = np.arange(len(agreement.whole))
    table = pd.DataFrame(
        {
            "rlnSpectralIndex": shells,
            "rlnResolution": shells / extent,
            "rlnAngstromResolution": [extent / i if i else 999.0 for i in shells],
            "rlnFourierShellCorrelationUnmaskedMaps": agreement.whole.numpy(),
            "emflowFourierShellCorrelationAspherical": agreement.aspherical.numpy(),
        }
    )
    return {"fsc": table}


def symmetry_table(scored: list[Scored]) -> dict[str, pd.DataFrame]:
    """Point groups in the order of their ranking."""
    table = pd.DataFrame(
        {
            "emflowSymmetry": [one.symmetry for one in scored],
            "emflowSymmetryHolds": [int(one.holds) for one in scored],
            "emflowSymmetryRatio": [round(one.ratio, 4) for one in scored],
            "emflowSymmetryRatioLeast": [round(one.least, 4) for one in scored],
            "emflowSymmetryRatioRandom": [round(one.random_ratio, 4) for one in scored],
            "emflowSymmetryRatioRandomDeviation": [round(one.random_deviation, 4) for one in scored],
        }
    )
    return {"symmetry": table}


def write_maps(out: Path, maps: Maps) -> None:
    """Write the four maps; the halves carry the mark of unrestored pixels, all maps of a control that of a control."""
    voxel = maps.voxel_size_angstrom
    marks = (CONTROL_LABEL,) if maps.control else ()
    for name, volume in (("half1", maps.half1), ("half2", maps.half2)):
        write_mrc(out / f"{name}.mrc", volume.cpu().numpy(), voxel, labels=marks or (UNRESTORED_LABEL,))
    write_mrc(out / "map.mrc", maps.merged.cpu().numpy(), voxel, labels=marks)
    write_mrc(out / "mask.mrc", maps.mask.cpu().numpy(), voxel)


def write_results(
    out: Path,
    tables: dict[str, pd.DataFrame],
    metrics: dict[str, float | int | None],
    judgements: list[Judgement],
    curves: dict[str, pd.DataFrame],
) -> None:
    """Write curves, figures, verdicts and, last, the particles."""
    write_star(out / "fsc.star", curves)
    write_metrics(out / "metrics.json", metrics)
    write_verdicts(out / "verdicts.json", [verdict(*judgement) for judgement in judgements])
    write_star(out / "particles.star", tables)


def write_empty(out: Path, particles: Particles, judgements: list[Judgement]) -> None:
    """Write empty maps for a set with too few particles."""
    nothing = torch.zeros(EMPTY_BOX, EMPTY_BOX, EMPTY_BOX)
    voxel = particles.common_facts().pixel_size_angstrom if len(particles) else 1.0
    write_maps(out, Maps(nothing, nothing, nothing, nothing, voxel))
    columns = pd.Index(["rlnSpectralIndex", "rlnResolution", "rlnFourierShellCorrelationUnmaskedMaps"])
    metrics: dict[str, float | int | None] = {"particles": len(particles), "resolution_angstrom": None}
    tables = {"optics": particles.optics, "particles": particles.table}
    write_results(out, tables, metrics, judgements, {"fsc": pd.DataFrame([], columns=columns)})


def write_sharpened(out: Path, made: SharpenedMaps, halves: RawHalves, judgements: list[Judgement]) -> None:
    """Write the maps for the eye with their tables and figures; the raw half maps stay where and what they are.

    The locally filtered map carries the mark of restored pixels: no reader takes it for a raw one.
    """
    voxel = halves.voxel_size_angstrom
    marks = (CONTROL_LABEL,) if halves.control else (UNRESTORED_LABEL,) if halves.unrestored else ()
    write_mrc(out / "map_sharpened.mrc", made.whole.cpu().numpy(), voxel, labels=marks)
    write_mrc(out / "map_local.mrc", made.local.cpu().numpy(), voxel, labels=(RESTORED_LABEL,))
    write_mrc(out / "mask.mrc", made.mask.cpu().numpy(), voxel)
    metrics: dict[str, float | int | None] = {
        "resolution_angstrom": made.agreement.claim_angstrom,
        "bfactor_fitted": int(made.fitted),
        "local_resolution_p05_angstrom": None,
        "local_resolution_median_angstrom": None,
        "local_resolution_p95_angstrom": None,
        "resolved_fraction": None,
    }
    tables = fsc_tables(made.agreement)
    pictures = {}
    local = made.resolution
    resolved = local.inside & local.resolved if local is not None else torch.zeros_like(made.mask).bool()
    known = torch.where(resolved, local.angstrom, 0.0) if local is not None else torch.zeros_like(made.mask)
    write_mrc(out / "local_resolution.mrc", known.cpu().numpy(), voxel)
    if made.made is not None and local is not None:
        metrics |= made.made.figures()
        metrics["resolved_fraction"] = float(resolved.sum() / local.inside.sum().clamp(min=1))
        ranked = local.angstrom[resolved].sort().values
        for name, share in (("p05", 0.05), ("median", 0.5), ("p95", 0.95)):
            if len(ranked):
                value = float(ranked[round(share * (len(ranked) - 1))])
                metrics[f"local_resolution_{name}_angstrom"] = value
        columns = {name: values.numpy() for name, values in made.made.guinier_columns().items()}
        tables["guinier"] = pd.DataFrame(columns)
        pictures["guinier"] = draw_guinier(made.made)
    pictures["maps"] = draw_maps(torch.lerp(*halves.volumes, 0.5), made.whole, made.local, known, voxel)
    for name, drawn in pictures.items():
        write_bytes(out / "figures" / f"{name}.png", png_bytes(drawn))
    write_star(out / "sharpening.star", tables)
    write_metrics(out / "metrics.json", metrics)
    write_verdicts(out / "verdicts.json", [verdict(*judgement) for judgement in judgements])
