"""Commands of the validate room: files in, files out."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import torch
from cyclopts import Parameter
from torch import Tensor

from emflow.device import prepare
from emflow.em.fsc import fsc
from emflow.em.masks import solvent_mask
from emflow.em.symmetry import symmetry_operators
from emflow.figure import png_bytes
from emflow.io.atomic import write_bytes, write_text
from emflow.io.mrc import MrcHeader, read_header, read_mrc
from emflow.io.record import Record, verdict, write_metrics, write_verdicts
from emflow.io.star import floats, integers, read_star, write_star
from emflow.step import EmflowError, Run
from emflow.validate import judge
from emflow.validate.angles import Coverage, judge_coverage, symmetric_views, view_directions
from emflow.validate.config import ValidateMaps
from emflow.validate.figures import draw_fsc, draw_map, draw_views
from emflow.validate.maps import HalfMapCurves, compare_aspherical, compare_halves, mask_edge_width

log = logging.getLogger("emflow")

FIGURES = ("fsc", "map", "views")


def maps(
    half1: Path,
    half2: Path,
    out: Path,
    /,
    *,
    cfg: ValidateMaps = ValidateMaps(),
    run: Run = Run(),
    map_: Annotated[Path | None, Parameter(name="--map")] = None,
    mask: Path | None = None,
    particles: Path | None = None,
    reconstruct: Path | None = None,
) -> None:
    """Judge two half maps: FSC, resolution, mask, half-sets, angular distribution.

    Parameters
    ----------
    half1
        Raw half map (MRC): unfiltered, unmasked, as a refinement ends with it.
    half2
        The other half.
    out
        Folder to write: validation.json, fsc.star, metrics.json, verdicts.json, figures.
    map_
        Combined map, for the pictures; by default the mean of the halves.
    mask
        Mask with values 0 to 1 (MRC); by default one is made from the mean of the halves.
    particles
        Particle STAR with angles and half-sets.
    reconstruct
        Folder of the reconstruction, whose verdicts are taken into account.
    """
    device = prepare(run)
    given = [path for path in (half1, half2, map_, mask, particles) if path is not None]
    with Record("validate.maps", cfg, run, inputs=given):
        headers = [read_header(half1), read_header(half2)]
        voxel = _check_headers((half1, half2), headers, cfg.voxel_size_angstrom)
        halves = [torch.from_numpy(read_mrc(path)).to(device) for path in (half1, half2)]
        table = _particle_table(particles)
        quoted = _verdicts(reconstruct)
        if not any(bool(half.any()) for half in halves):
            _write_empty(out, len(table) if table is not None else None)
            return
        _check_pixels((half1, half2), halves)
        mean = _volume(map_, headers[0], device) if map_ else (halves[0] + halves[1]) / 2
        judged = (
            _Mask.read(mask, headers[0], device)
            if mask
            else _Mask.make((halves[0] + halves[1]) / 2, voxel, cfg)
        )
        curves = compare_halves(halves[0], halves[1], judged.values, voxel, cfg)
        aspherical = compare_aspherical(halves[0], halves[1], judged.values, voxel, cfg)
        views = _views(table, cfg.symmetry)
        coverage = judge_coverage(views) if views is not None else None
        split = judge.split_of(table) if table is not None else None
        diameter = cfg.diameter_angstrom or judged.diameter_angstrom
        judgements = [
            judge.judge_resolution(curves, aspherical, diameter, quoted),
            judge.judge_starts(quoted),
            judge.judge_halves(split),
            judge.judge_origin([header.unrestored for header in headers]),
            judge.judge_mask(curves, judged.edge_px, judged.description),
            judge.judge_residue(curves),
            judge.judge_views(coverage),
        ]
        resolution = curves.resolution() if judge.is_resolved(curves) else None
        figures = {
            "fsc": draw_fsc(curves, resolution),
            "map": draw_map(mean, voxel, judged.values, resolution),
        }
        if views is not None:
            figures["views"] = draw_views(views)
        for name in FIGURES:
            path = out / "figures" / f"{name}.png"
            if name in figures:
                write_bytes(path, png_bytes(figures[name]))
            else:
                path.unlink(missing_ok=True)
        metrics = _metrics(curves, aspherical, resolution, judged, coverage, split)
        write_star(out / "fsc.star", _fsc_tables(curves, (half1, half2), mask))
        _write_results(out, metrics, judgements, {"mask": judged.description, "curves": _curve_lists(curves)})
        log.info("%s", judgements[0].evidence)


@dataclass(frozen=True)
class _Mask:
    """The mask in use, and what is to be said about it."""

    values: Tensor
    description: str
    edge_px: float
    volume_angstrom3: float
    diameter_angstrom: float | None
    """Diameter of a ball of the particle's volume; only where the mask was made here."""

    @classmethod
    def read(cls, path: Path, like: MrcHeader, device: torch.device) -> _Mask:
        values = _volume(path, like, device)
        low, high = float(values.min()), float(values.max())
        if low < -1e-3 or high > 1.001 or high <= 0:
            raise EmflowError(f"{path}: values from {low:g} to {high:g}; a mask has values from 0 to 1.")
        volume = float(values.double().sum()) * like.voxel_size_angstrom**3
        edge = mask_edge_width(values)
        text = f"Mask {path}: {volume / 1e3:.0f} nm³, soft edge of {edge:.1f} voxels"
        return cls(values, text, edge, volume, None)

    @classmethod
    def make(cls, mean: Tensor, voxel: float, cfg: ValidateMaps) -> _Mask:
        made = solvent_mask(
            mean,
            voxel,
            lowpass_angstrom=max(cfg.mask_lowpass_angstrom, 2 * voxel),
            dilate_angstrom=cfg.mask_dilate_angstrom,
            edge_angstrom=cfg.mask_edge_angstrom,
            threshold_deviations=cfg.mask_threshold_deviations,
        )
        kind = "Mask made from the map" if made.found else "No particle rises above the solvent; mask: sphere"
        text = f"{kind}: {made.volume_angstrom3 / 1e3:.0f} nm³, soft edge of {cfg.mask_edge_angstrom:g} Å"
        diameter = (6 / torch.pi * made.core_volume_angstrom3) ** (1 / 3) if made.found else None
        edge = mask_edge_width(made.mask)
        return cls(made.mask, text, edge, made.volume_angstrom3, diameter)


def _check_headers(paths: tuple[Path, Path], headers: list[MrcHeader], told: float | None) -> float:
    """Refuse what cannot be a pair of raw half maps; return the voxel size."""
    for path, header in zip(paths, headers, strict=True):
        if header.restored:
            raise EmflowError(
                f"{path}: made from denoised or otherwise restored pixels (its label says so). An FSC of such maps "
                "says nothing about resolution: give half maps from the raw particles."
            )
        if len(header.shape) != 3 or len(set(header.shape)) != 1:
            raise EmflowError(f"{path}: has shape {header.shape}; expected a cubic map.")
    first, second = headers
    if first.shape != second.shape:
        raise EmflowError(
            f"The half maps differ in box: {paths[0]} has {first.shape[0]} voxels a side, {paths[1]} has "
            f"{second.shape[0]}. Give two halves of one refinement."
        )
    if told is not None:
        return told
    if abs(first.voxel_size_angstrom - second.voxel_size_angstrom) > 1e-3 * max(
        first.voxel_size_angstrom, 1e-9
    ):
        raise EmflowError(
            f"The half maps differ in voxel size: {first.voxel_size_angstrom:g} and {second.voxel_size_angstrom:g} Å. "
            "If the headers are wrong, give --voxel-size-angstrom."
        )
    if first.voxel_size_angstrom <= 0:
        raise EmflowError(f"{paths[0]}: the header has no voxel size; give --voxel-size-angstrom.")
    return first.voxel_size_angstrom


def _check_pixels(paths: tuple[Path, Path], halves: list[Tensor]) -> None:
    for path, half in zip(paths, halves, strict=True):
        if not bool(torch.isfinite(half).all()):
            raise EmflowError(f"{path}: holds values that are not finite (NaN or infinity).")
        if float(half.max()) == float(half.min()):
            raise EmflowError(f"{path}: is constant; expected a half map.")
    if bool((fsc(halves[0], halves[1])[1:].abs() > 1 - 1e-9).all()):
        raise EmflowError(
            f"{paths[0]} and {paths[1]} are the same map (or one is a multiple of the other). "
            "Give the two halves of one refinement."
        )


def _volume(path: Path, like: MrcHeader, device: torch.device) -> Tensor:
    values = read_mrc(path)
    if values.shape != like.shape:
        raise EmflowError(f"{path}: has shape {values.shape}, the half maps have {like.shape}.")
    return torch.from_numpy(values).to(device)


def _particle_table(path: Path | None) -> pd.DataFrame | None:
    if path is None:
        return None
    tables = read_star(path)
    name = next((block for block in ("particles", "images", "") if block in tables), None)
    if name is None:
        raise EmflowError(f"{path}: has no block data_particles.")
    table = tables[name]
    if "emflowRestored" in table and bool((integers(table, "emflowRestored") != 0).any()):
        raise EmflowError(
            f"{path}: holds denoised or otherwise restored particles (emflowRestored). Maps from them cannot be "
            "validated: give the raw particles and the maps made from them."
        )
    return table


def _views(table: pd.DataFrame | None, symmetry: str) -> Tensor | None:
    if table is None or not len(table) or not {"rlnAngleRot", "rlnAngleTilt"} <= set(table.columns):
        return None
    angles = [torch.from_numpy(floats(table, f"rlnAngle{name}")) for name in ("Rot", "Tilt")]
    views = view_directions(angles[0], angles[1])
    if symmetry != "C1":
        views = symmetric_views(views, symmetry_operators(symmetry))
    return views


def _verdicts(folder: Path | None) -> list[dict[str, str]]:
    if folder is None:
        return []
    path = folder / "verdicts.json"
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise EmflowError(f"{path}: no such file; expected the folder of a reconstruction.") from None
    except json.JSONDecodeError as error:
        raise EmflowError(f"{path}: not valid JSON: {error}.") from None
    return [row for row in rows if isinstance(row, dict) and "verdict" in row]


def _metrics(
    curves: HalfMapCurves,
    aspherical: HalfMapCurves,
    resolution: float | None,
    mask: _Mask,
    coverage: Coverage | None,
    split: judge.HalfSets | None,
) -> dict[str, float | int | None]:
    """Figures of validate.maps; a resolution is None where the halves agree no more than noise."""
    resolved = resolution is not None
    return {
        "resolution_angstrom": resolution,
        "resolution_interpolated_angstrom": curves.resolution(interpolate=True) if resolved else None,
        "resolution_fsc05_angstrom": curves.resolution(threshold=0.5) if resolved else None,
        "resolution_masked_angstrom": curves.resolution("masked") if resolved else None,
        "resolution_unmasked_angstrom": curves.resolution("unmasked") if resolved else None,
        "significance_sd": curves.significance(),
        "significance_aspherical_sd": aspherical.significance(curves.last_shell()),
        "mask_effect_fsc": curves.mask_effect,
        "mask_volume_angstrom3": mask.volume_angstrom3,
        "mask_edge_px": mask.edge_px,
        "box_px": curves.box,
        "voxel_size_angstrom": curves.voxel_size_angstrom,
        "random_phases_from_angstrom": curves.box * curves.voxel_size_angstrom / curves.random_from_shell
        if curves.random_from_shell
        else None,
        "half1_particles": split.half1 if split else None,
        "half2_particles": split.half2 if split else None,
        "sampling_factor": coverage.factor if coverage else None,
        "empty_directions_fraction": coverage.empty_fraction if coverage else None,
    }


def _curve_lists(curves: HalfMapCurves) -> dict[str, Any]:
    names = ("unmasked", "masked", "randomised", "corrected")
    return {name: [round(v, 6) for v in getattr(curves, name).tolist()] for name in names}


def _fsc_tables(
    curves: HalfMapCurves, halves: tuple[Path, Path], mask: Path | None
) -> dict[str, pd.DataFrame]:
    """Tables as relion_postprocess writes them: general and fsc."""
    size = curves.box * curves.voxel_size_angstrom
    shells = range(len(curves.unmasked))
    resolution = curves.resolution()
    general = pd.DataFrame(
        {
            "rlnFinalResolution": [resolution if resolution is not None else 999.0],
            "rlnUnfilteredMapHalf1": [str(halves[0])],
            "rlnUnfilteredMapHalf2": [str(halves[1])],
            "rlnMaskName": [str(mask) if mask else "None"],
            "rlnRandomiseFrom": [size / curves.random_from_shell if curves.random_from_shell else 0.0],
        }
    )
    table = pd.DataFrame(
        {
            "rlnSpectralIndex": list(shells),
            "rlnResolution": [i / size for i in shells],
            "rlnAngstromResolution": [size / i if i else 999.0 for i in shells],
            "rlnFourierShellCorrelationCorrected": curves.corrected.numpy(),
            "rlnFourierShellCorrelationUnmaskedMaps": curves.unmasked.numpy(),
            "rlnFourierShellCorrelationMaskedMaps": curves.masked.numpy(),
            "rlnCorrectedFourierShellCorrelationPhaseRandomizedMaskedMaps": curves.randomised.numpy(),
        }
    )
    return {"general": general, "fsc": table}


def _write_empty(out: Path, particles: int | None) -> None:
    """Write the results of a set without particles: nothing to validate."""
    for name in FIGURES:
        (out / "figures" / f"{name}.png").unlink(missing_ok=True)
    columns = pd.Index(["rlnSpectralIndex", "rlnResolution", "rlnFourierShellCorrelationCorrected"])
    write_star(out / "fsc.star", {"fsc": pd.DataFrame([], columns=columns)})
    _write_results(out, {"resolution_angstrom": None, "particles": particles}, judge.empty_set(), {})
    log.info("No particles: nothing to validate.")


def _write_results(
    out: Path,
    metrics: dict[str, float | int | None],
    judgements: list[judge.Judgement],
    more: dict[str, Any],
) -> None:
    rows = [verdict(*judgement) for judgement in judgements]
    write_metrics(out / "metrics.json", metrics)
    write_verdicts(out / "verdicts.json", rows)
    whole = {**metrics, "verdicts": rows, **more}
    write_text(out / "validation.json", json.dumps(whole, indent=1, allow_nan=False) + "\n")
