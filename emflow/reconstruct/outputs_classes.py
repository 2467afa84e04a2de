"""Write classes, subtracted particles and expanded tables."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
from torch import Tensor

from emflow.em.poses import matrix_to_euler
from emflow.io.mrc import CONTROL_LABEL, UNRESTORED_LABEL, write_mrc
from emflow.io.particles import Particles
from emflow.io.record import verdict, write_metrics, write_verdicts
from emflow.io.star import write_star
from emflow.reconstruct.class_match import Matched, MatchedClass
from emflow.reconstruct.merge import merge, particle_mask
from emflow.reconstruct.outputs import fsc_tables, pose_columns, with_columns
from emflow.step import Judgement


def class_folder(out: Path, number: int) -> Path:
    """Folder of a class, numbered from 1."""
    return out / f"class_{number:02d}"


def clear_classes(out: Path) -> None:
    """Remove the folders of an earlier run, which may have had more classes."""
    for folder in sorted(out.glob("class_[0-9][0-9]")):
        shutil.rmtree(folder)


def write_classes(
    out: Path, particles: Particles, matched: Matched, voxel_size_angstrom: float, judgements: list[Judgement]
) -> dict[str, float | int | None]:
    """Write all of a classification; the particles of all classes together come last. Returns the metrics."""
    clear_classes(out)
    columns = pose_columns(matched.rotations, matched.shifts_px, voxel_size_angstrom)
    columns["rlnClassNumber"] = [str(k + 1) for k in matched.label.tolist()]
    columns["rlnMaxValueProbDistribution"] = [f"{value:.6f}" for value in matched.probability.tolist()]
    table = with_columns(particles, columns)
    rows: list[dict[str, object]] = []
    sizes = []
    for k, one in enumerate(matched.classes):
        members = table[(matched.label == k).numpy()]
        _write_class(class_folder(out, k + 1), one, voxel_size_angstrom, particles)
        tables = {"optics": particles.optics, "particles": members}
        write_star(class_folder(out, k + 1) / "particles.star", tables)
        sizes.append(len(members))
        rows.append(
            {
                "rlnReferenceImage": f"class_{k + 1:02d}/map.mrc",
                "rlnClassNumber": k + 1,
                "emflowParticles": len(members),
                "rlnClassDistribution": len(members) / max(1, len(table)),
                "rlnEstimatedResolution": _finite(one.agreement.claim_angstrom),
                "emflowStability": one.stability,
                "emflowDifferenceSignificance": one.difference.significance("whole"),
            }
        )
    write_star(out / "classes.star", {"classes": pd.DataFrame(rows).astype(object)})
    metrics: dict[str, float | int | None] = {
        "particles": len(table),
        "classes": len(rows),
        "adjusted_rand_between_halves": matched.rand,
        "class_posterior_median": float(matched.probability.median()),
    }
    for k, one in enumerate(matched.classes, start=1):
        metrics[f"class_{k:02d}_particles"] = sizes[k - 1]
        metrics[f"class_{k:02d}_stability"] = one.stability
        metrics[f"class_{k:02d}_resolution_angstrom"] = one.agreement.claim_angstrom
        metrics[f"class_{k:02d}_difference_significance_sd"] = one.difference.significance("whole")
    write_metrics(out / "metrics.json", metrics)
    write_verdicts(out / "verdicts.json", [verdict(*judgement) for judgement in judgements])
    write_star(out / "particles.star", {"optics": particles.optics, "particles": table})
    return metrics


def _write_class(folder: Path, one: MatchedClass, voxel: float, particles: Particles) -> None:
    """Raw half maps, the filtered mean, its mask and the FSC of a class."""
    marks = (CONTROL_LABEL,) if particles.control_angstrom is not None else ()
    for name, volume in (("half1", one.half1), ("half2", one.half2)):
        write_mrc(folder / f"{name}.mrc", volume.cpu().numpy(), voxel, labels=marks or (UNRESTORED_LABEL,))
    merged, _ = merge(one.half1, one.half2, one.agreement.whole, voxel, 0.0)
    mask = particle_mask(0.5 * (one.half1 + one.half2), one.agreement)
    write_mrc(folder / "map.mrc", merged.cpu().numpy(), voxel, labels=marks)
    write_mrc(folder / "mask.mrc", mask.cpu().numpy(), voxel)
    write_star(folder / "fsc.star", fsc_tables(one.agreement))


def _finite(value: float | None) -> float:
    return 999.0 if value is None else value


def write_too_few(out: Path, particles: Particles, judgements: list[Judgement]) -> None:
    """Write what a set with too few particles leaves: its table, and why there are no classes."""
    clear_classes(out)
    write_star(out / "classes.star", {"classes": pd.DataFrame({"rlnClassNumber": []})})
    write_metrics(out / "metrics.json", {"particles": len(particles), "classes": 0})
    write_verdicts(out / "verdicts.json", [verdict(*judgement) for judgement in judgements])
    write_star(out / "particles.star", {"optics": particles.optics, "particles": particles.table})


def write_subtracted(
    out: Path, particles: Particles, side: int, contrast: np.ndarray, shifts_px: Tensor | None
) -> None:
    """Write the table of a subtracted stack: poses and all else as it was, but images and, where they moved, origins."""
    table, optics = particles.table.copy(), particles.optics.copy()
    voxel = particles.common_facts().pixel_size_angstrom
    table["rlnImageOriginalName"] = table["rlnImageName"]
    table["rlnImageName"] = [f"{i + 1:06d}@particles.mrcs" for i in range(len(table))]
    if shifts_px is not None:
        for axis, values in zip("XY", (shifts_px.double() * voxel).T.tolist(), strict=True):
            table[f"rlnOrigin{axis}Angst"] = [f"{value:.6f}" for value in values]
    table["emflowContrast"] = [f"{value:.6g}" for value in contrast]
    optics["rlnImageSize"] = str(side)
    write_star(out / "particles.star", {"optics": optics, "particles": table.astype(object)})


def write_expanded(
    out: Path, particles: Particles, row: np.ndarray, number: np.ndarray, rotations: Tensor
) -> None:
    """Write each particle once per operator: new identity and angles, all else as it was.

    ``out`` is the table or its folder. The first copy, by the identity, keeps its angles to the last digit.
    """
    table = particles.table.iloc[row].reset_index(drop=True)
    angles = matrix_to_euler(rotations).numpy()
    for column, name in enumerate(("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")):
        turned = np.array([f"{value:.9f}" for value in angles[:, column]], dtype=object)
        table[name] = np.where(number == 1, table[name].to_numpy(), turned)
    source = table["emflowParticleId"].astype(str)
    table["emflowExpandedFrom"] = source
    table["emflowParticleId"] = [f"{name}-g{g:02d}" for name, g in zip(source, number.tolist(), strict=True)]
    table["emflowSymmetryOperator"] = [str(g) for g in number.tolist()]
    path = out if out.suffix == ".star" else out / "particles.star"
    write_star(path, {"optics": particles.optics, "particles": table.astype(object)})
