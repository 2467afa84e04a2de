"""The comparison of two half maps as plain numbers, lists and RELION's tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from torch import Tensor

from emflow.em.sharpen import Sharpened
from emflow.validate.band import HALF_BIT, ONE_BIT
from emflow.validate.inputs import Mask
from emflow.validate.maps import HalfMapCurves
from emflow.validate.other_masks import OtherMasks

Numbers = dict[str, float | int | None]


def curve_metrics(curves: HalfMapCurves, others: OtherMasks, resolution: float | None, mask: Mask) -> Numbers:
    """Figures of the comparison; a resolution is None where the halves agree no more than noise."""
    fine, coarse = curves.resolution_interval()
    resolutions = {
        "resolution_interpolated_angstrom": curves.resolution(interpolate=True),
        "resolution_band_fine_angstrom": fine,
        "resolution_band_coarse_angstrom": coarse,
        "resolution_fsc05_angstrom": curves.resolution(threshold=0.5),
        "resolution_half_bit_angstrom": curves.bit_resolution(HALF_BIT),
        "resolution_one_bit_angstrom": curves.bit_resolution(ONE_BIT),
        "resolution_masked_angstrom": curves.resolution("masked"),
        "resolution_unmasked_angstrom": curves.resolution("unmasked"),
        "resolution_tight_mask_angstrom": others.resolution("tight"),
        "resolution_spherical_mask_angstrom": others.resolution("spherical"),
    }
    return {
        "resolution_angstrom": resolution,
        **{name: value if resolution is not None else None for name, value in resolutions.items()},
        "significance_sd": curves.significance(),
        "significance_aspherical_sd": curves.significance(curve="aspherical"),
        "significance_sign_test_p": curves.sign_probability,
        "mask_effect_fsc": curves.mask_effect,
        "mask_volume_angstrom3": mask.volume_angstrom3,
        "mask_edge_px": mask.edge_px,
        "tight_mask_volume_angstrom3": others.tight_volume_angstrom3,
        "spherical_mask_diameter_angstrom": others.diameter_angstrom,
        "box_px": curves.box,
        "voxel_size_angstrom": curves.voxel_size_angstrom,
        "random_phases_from_angstrom": curves.box * curves.voxel_size_angstrom / curves.random_from_shell
        if curves.random_from_shell
        else None,
    }


def sharpening_metrics(made: Sharpened | None) -> Numbers:
    """Figures of the sharpened map; all None where there is none."""
    if made is not None:
        return dict(made.figures())
    names = ("sharpening_bfactor", "guinier_slope", "guinier_correlation", "sharpening_lowpass")
    units = ("_angstrom2", "_angstrom2", "", "_angstrom")
    return {name + unit: None for name, unit in zip(names, units, strict=True)}


def curve_lists(curves: HalfMapCurves, others: OtherMasks) -> dict[str, Any]:
    """FSC curves, their band and thresholds as lists, for validation.json."""
    low, high = curves.band()
    named: dict[str, Tensor | None] = {
        "unmasked": curves.unmasked,
        "masked": curves.masked,
        "randomised": curves.randomised,
        "corrected": curves.corrected,
        "corrected_low": low,
        "corrected_high": high,
        "aspherical": curves.aspherical,
        "spherical_mask": others.spherical,
        "tight_mask": others.tight,
        "half_bit": curves.independent_masked.bit_threshold(HALF_BIT),
        "one_bit": curves.independent_masked.bit_threshold(ONE_BIT),
        "independent_numbers": curves.independent.numbers,
        "independent_numbers_masked": curves.independent_masked.numbers,
    }
    return {
        name: [round(v, 6) for v in values.tolist()] for name, values in named.items() if values is not None
    }


def _general(curves: HalfMapCurves, halves: tuple[Path, Path], mask: Path | None) -> dict[str, list[Any]]:
    resolution = curves.resolution()
    size = curves.box * curves.voxel_size_angstrom
    return {
        "rlnFinalResolution": [resolution if resolution is not None else 999.0],
        "rlnUnfilteredMapHalf1": [str(halves[0])],
        "rlnUnfilteredMapHalf2": [str(halves[1])],
        "rlnMaskName": [str(mask) if mask else "None"],
        "rlnRandomiseFrom": [size / curves.random_from_shell if curves.random_from_shell else 0.0],
    }


def _shells(curves: HalfMapCurves) -> dict[str, Any]:
    size, shells = curves.box * curves.voxel_size_angstrom, range(len(curves.unmasked))
    return {
        "rlnSpectralIndex": list(shells),
        "rlnResolution": [i / size for i in shells],
        "rlnAngstromResolution": [size / i if i else 999.0 for i in shells],
        "rlnFourierShellCorrelationCorrected": curves.corrected.numpy(),
        "rlnFourierShellCorrelationUnmaskedMaps": curves.unmasked.numpy(),
        "rlnFourierShellCorrelationMaskedMaps": curves.masked.numpy(),
        "rlnCorrectedFourierShellCorrelationPhaseRandomizedMaskedMaps": curves.randomised.numpy(),
    }


def fsc_tables(
    curves: HalfMapCurves, others: OtherMasks, halves: tuple[Path, Path], mask: Path | None
) -> dict[str, pd.DataFrame]:
    """Tables as relion_postprocess writes them, general and fsc, with columns of our own."""
    low, high = curves.band()
    table = _shells(curves) | {
        "emflowCorrectedLow": low.numpy(),
        "emflowCorrectedHigh": high.numpy(),
        "emflowHalfBit": curves.independent_masked.bit_threshold(HALF_BIT).numpy(),
        "emflowOneBit": curves.independent_masked.bit_threshold(ONE_BIT).numpy(),
        "emflowSphericalMaskCorrelation": others.spherical.numpy(),
    }
    if others.tight is not None:
        table["emflowTightMaskCorrelation"] = others.tight.numpy()
    return {"general": pd.DataFrame(_general(curves, halves, mask)), "fsc": pd.DataFrame(table)}


def postprocess_tables(
    curves: HalfMapCurves, made: Sharpened, halves: tuple[Path, Path], mask: Path | None
) -> dict[str, pd.DataFrame]:
    """Tables of RELION's postprocess.star: general, fsc and guinier."""
    general = _general(curves, halves, mask) | {"rlnBfactorUsedForSharpening": [made.bfactor_angstrom2]}
    if made.line is not None:
        general["rlnFittedSlopeGuinierPlot"] = [made.line.slope]
        general["rlnFittedInterceptGuinierPlot"] = [made.line.intercept]
        general["rlnCorrelationFitGuinierPlot"] = [made.line.correlation]
    guinier = {name: values.numpy() for name, values in made.guinier_columns().items()}
    return {
        "general": pd.DataFrame(general),
        "fsc": pd.DataFrame(_shells(curves)),
        "guinier": pd.DataFrame(guinier),
    }
