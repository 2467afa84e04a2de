"""The comparison of two half maps as plain numbers, lists and RELION's tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from emflow.validate.inputs import Mask
from emflow.validate.maps import HalfMapCurves


def curve_metrics(
    curves: HalfMapCurves,
    aspherical: HalfMapCurves,
    resolution: float | None,
    mask: Mask,
) -> dict[str, float | int | None]:
    """Figures of the comparison; a resolution is None where the halves agree no more than noise."""
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
    }


def curve_lists(curves: HalfMapCurves) -> dict[str, Any]:
    """FSC curves as lists, for validation.json."""
    names = ("unmasked", "masked", "randomised", "corrected")
    return {name: [round(v, 6) for v in getattr(curves, name).tolist()] for name in names}


def fsc_tables(
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
