"""A model's scores, put together: placement, curves, residues, and what is written of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from emflow.em.atoms import AtomicModel, atom_density
from emflow.validate import judge_model
from emflow.validate.figures_model import draw_model_fsc, draw_residues
from emflow.validate.finding import Finding
from emflow.validate.model import ModelCurves, RealSpace, compare_in_space, model_curves, model_mask
from emflow.validate.place import Placement, place_model
from emflow.validate.qscore import expected_q, q_scores


def score_model(
    model: AtomicModel,
    path: Path | None,
    volume: Tensor,
    halves: tuple[Tensor, Tensor],
    mask: Tensor,
    voxel_size_angstrom: float,
    resolution_angstrom: float,
    contour_level: float | None,
) -> Finding:
    """Place a model and score it against a map and its half maps.

    Parameters
    ----------
    model
        Positions relative to the centre n//2.
    path
        Its file, for the tables.
    volume, halves, mask
        Map, half maps and the particle's mask, (n, n, n), n even, on the CPU.
    resolution_angstrom
        Resolution of the map; finer detail is not compared in real space.
    contour_level
        Contour of the map for atom inclusion; None for the density that encloses the model's volume.
    """
    n, voxel = volume.shape[-1], voxel_size_angstrom
    placement = place_model(model, volume, mask, voxel, round(n * voxel / resolution_angstrom))
    placed = placement.model
    density = atom_density(placed, n, voxel)
    curves = model_curves(density, model_mask(placed, n, voxel), volume, halves, voxel)
    space = compare_in_space(placed, density, volume, voxel, resolution_angstrom, contour_level)
    atoms_q = q_scores(placed, volume.numpy(), voxel)
    q = _residue_mean(placed, atoms_q)
    expected = expected_q(resolution_angstrom)
    return Finding(
        judgements=[
            judge_model.judge_fit(placement, curves, space, voxel),
            judge_model.judge_overfit(curves),
            judge_model.judge_residues(placed, space, q, resolution_angstrom),
        ],
        metrics=_metrics(placement, curves, space, atoms_q, expected),
        figures={
            "model_fsc": draw_model_fsc(curves),
            "residues": draw_residues(placed, space, q, expected),
        },
        details={"model": _details(placement, curves, space, path)},
        tables={"model": _tables(placed, curves, space, q)},
        maps={"model": density},
    )


def _residue_mean(model: AtomicModel, values: np.ndarray) -> np.ndarray:
    """Mean over each residue's atoms, leaving out NaN; NaN where none is left."""
    known = np.isfinite(values)
    number = len(model.residue_name)
    total = np.bincount(model.residue[known], values[known], minlength=number)
    count = np.bincount(model.residue[known], minlength=number)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _metrics(
    placement: Placement, curves: ModelCurves, space: RealSpace, q: np.ndarray, expected: float
) -> dict[str, float | int | None]:
    included, excess, preference = space.included, curves.excess(), curves.preference()
    backbone = placement.model.backbone
    return {
        "model_fsc05_angstrom": curves.angstrom(curves.fit_shell),
        "model_mask_resolution_angstrom": curves.angstrom(curves.resolved_shell),
        "model_cc_mask": space.mask,
        "model_cc_box": space.box,
        "model_q_score": float(np.nanmean(q)) if np.isfinite(q).any() else None,
        "model_q_score_expected": expected,
        "model_atom_inclusion": float(included.mean()),
        "model_backbone_inclusion": float(included[backbone].mean()) if backbone.any() else None,
        "model_moved_angstrom": placement.moved_angstrom,
        "model_moved_deg": placement.angle_deg,
        "model_overfit_fsc": excess[0] if excess else None,
        "model_half_preference_fsc": preference[0] if preference else None,
    }


def _details(
    placement: Placement, curves: ModelCurves, space: RealSpace, path: Path | None
) -> dict[str, Any]:
    names = ("full", "half1", "half2", "halves")
    return {
        "file": str(path) if path else None,
        "rotation": placement.rotation.round(6).tolist(),
        "shift_angstrom": placement.shift_angstrom.round(4).tolist(),
        "mirrored": placement.mirrored,
        "searched": placement.searched,
        "contour": space.contour,
        "fsc": {name: [round(v, 6) for v in getattr(curves, name).tolist()] for name in names},
    }


def _tables(
    model: AtomicModel, curves: ModelCurves, space: RealSpace, q: np.ndarray
) -> dict[str, pd.DataFrame]:
    """Blocks ``residues`` and ``fsc`` of model.star."""
    size = curves.box * curves.voxel_size_angstrom
    shells = range(len(curves.full))
    residues = pd.DataFrame(
        {
            "emflowChain": model.residue_chain,
            "emflowResidueNumber": model.residue_number,
            "emflowResidueName": model.residue_name,
            "emflowQScore": q,
            "emflowRealSpaceCorrelation": space.residues,
            "emflowAtomInclusion": _residue_mean(model, space.included.astype(float)),
            "emflowAtomCount": np.bincount(model.residue, minlength=len(model.residue_name)),
        }
    )
    fsc = pd.DataFrame(
        {
            "rlnSpectralIndex": list(shells),
            "rlnResolution": [i / size for i in shells],
            "emflowFscModelMap": curves.full.numpy(),
            "emflowFscModelHalf1": curves.half1.numpy(),
            "emflowFscModelHalf2": curves.half2.numpy(),
            "emflowFscHalves": curves.halves.numpy(),
        }
    )
    return {"residues": residues, "fsc": fsc}
