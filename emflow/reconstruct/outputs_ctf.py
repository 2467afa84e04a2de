"""Write what the refinement of the CTF leaves."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from emflow.figure import png_bytes
from emflow.io.atomic import write_bytes
from emflow.io.mrc import UNRESTORED_LABEL, write_mrc
from emflow.io.particles import Particles
from emflow.io.record import verdict, write_metrics, write_verdicts
from emflow.io.star import floats, write_star
from emflow.reconstruct.agreement import Agreement
from emflow.reconstruct.ctf_match import Geometry, Views
from emflow.reconstruct.ctf_refine import CtfFit
from emflow.reconstruct.figures_ctf import draw_defocus, draw_tilt
from emflow.reconstruct.outputs import fsc_tables
from emflow.step import Judgement

AXES = ("U", "V", "Angle")


@dataclass(frozen=True)
class Outcome:
    """Agreement of the half maps before and after."""

    before: Agreement
    after: Agreement | None = None
    """None where nothing was changed."""
    halves: tuple[Tensor, Tensor] | None = None
    """Half maps with the refined CTF, at the poses that were given."""


def refined_table(particles: Particles, fit: CtfFit) -> Particles:
    """The particles with refined CTF, tilt and the shifts beside it; columns of what was not changed stay as they came."""
    table, changes = particles.table, fit.changes
    columns: dict[str, list[str]] = {}
    if fit.level != "none" or bool(changes.astigmatism_angstrom.any()):
        u, v, angle = (floats(table, f"rlnDefocus{axis}", 0.0 if axis == "Angle" else None) for axis in AXES)
        mean = 0.5 * (u + v) + changes.defocus_angstrom.double().numpy()
        vector = 0.5 * (u - v) * np.exp(2j * np.deg2rad(angle))
        vector = vector + changes.astigmatism_angstrom.double().numpy() @ np.array([1, 1j])
        half, turned = np.abs(vector), np.rad2deg(np.angle(vector)) / 2
        for axis, values in zip(AXES, (mean + half, mean - half, turned), strict=True):
            if f"rlnDefocus{axis}" in table:
                columns[f"emflowDefocus{axis}Before"] = table[f"rlnDefocus{axis}"].tolist()
            columns[f"rlnDefocus{axis}"] = [f"{value:.2f}" for value in values]
    if fit.log_scale is not None and fit.b_factor_angstrom2 is not None:
        scale = floats(table, "rlnCtfScalefactor", 1.0) * fit.log_scale.double().exp().numpy()
        b_factor = floats(table, "rlnCtfBfactor", 0.0) + fit.b_factor_angstrom2.double().numpy()
        columns["rlnCtfScalefactor"] = [f"{value:.4f}" for value in scale]
        columns["rlnCtfBfactor"] = [f"{value:.2f}" for value in b_factor]
    columns["emflowDefocusDeviation"] = [f"{value:.1f}" for value in fit.deviation.tolist()]
    columns["emflowContrast"] = [f"{value:.4f}" for value in fit.contrast.tolist()]
    names = sorted(set(particles.groups))
    shift = changes.shift_px[torch.tensor([names.index(name) for name in particles.groups])]
    if bool(changes.shift_px.any()):
        pixel = particles.common_facts().pixel_size_angstrom
        for column, values in zip(("X", "Y"), shift.double().numpy().T * pixel, strict=True):
            old = floats(table, f"rlnOrigin{column}Angst", 0.0)
            columns[f"rlnOrigin{column}Angst"] = [f"{value:.5f}" for value in old + values]
    optics = particles.optics
    if bool(changes.tilt_mrad.any()):
        optics = _tilted(particles, names, fit)
    return Particles(
        table.assign(**columns).astype(object), optics, particles.stacks, particles.stack, particles.index
    )


def _tilted(particles: Particles, names: list[str], fit: CtfFit) -> pd.DataFrame:
    """Optics with the beam tilt, and half the difference between the half-sets."""
    optics = particles.optics.copy()
    for axis in "XY":
        if f"rlnBeamTilt{axis}" not in optics:
            optics[f"rlnBeamTilt{axis}"] = "0.000000"
    optics["emflowBeamTiltDeviation"] = "None"
    for tilt in fit.tilts:
        if not tilt.applied:
            continue
        row = optics["rlnOpticsGroup"].astype(str) == names[tilt.group]
        known = particles.facts(names[tilt.group]).beam_tilt_mrad
        for axis, old, new in zip("XY", known, fit.changes.tilt_mrad[tilt.group].tolist(), strict=True):
            optics.loc[row, f"rlnBeamTilt{axis}"] = f"{old + new:.6f}"
        last = next((late for late in fit.final_tilts if late.group == tilt.group), tilt)
        optics.loc[row, "emflowBeamTiltDeviation"] = f"{0.5 * last.difference_mrad:.6f}"
    return optics


def metrics_of(fit: CtfFit, particles: Particles, outcome: Outcome) -> dict[str, float | int | None]:
    """Figures of the fit, flat."""
    changed = fit.changes.defocus_angstrom.abs()
    after = outcome.after
    metrics: dict[str, float | int | None] = {
        "particles": len(particles),
        "defocus_change_median_angstrom": float(changed.median()),
        "defocus_spread_angstrom": float(np.mean([p.spread for p in fit.populations])),
        "micrograph_defocus_spread_angstrom": float(
            np.mean([p.spread_of_micrographs for p in fit.populations])
        ),
        "defocus_deviation_median_angstrom": float(fit.deviation.median()),
        "defocus_at_edge_fraction": fit.at_edge,
        "held_out_gain_micrograph_nat": fit.gain_micrograph.mean,
        "held_out_gain_particle_nat": fit.gain_beyond.mean,
        "contrast_deviation": float(
            np.mean([c.spread / c.common for c in fit.contrasts if c.common > 0] or [0])
        ),
        "resolution_before_angstrom": outcome.before.resolution(),
        "resolution_after_angstrom": None if after is None else after.resolution(),
    }
    if fit.astigmatisms:
        metrics["astigmatism_change_median_angstrom"] = float(
            2 * fit.changes.astigmatism_angstrom.norm(dim=1).median()
        )
    if fit.gain_envelope is not None:
        spread = [each.b_factor_angstrom2[each.seen].std() for each in fit.envelopes]
        strength = [each.log_scale[each.seen].std() for each in fit.envelopes]
        metrics |= {
            "held_out_gain_envelope_nat": fit.gain_envelope.mean,
            "micrograph_bfactor_spread_angstrom2": float(np.mean(spread)),
            "micrograph_scale_spread": float(np.mean(strength)),
        }
    for tilt in fit.tilts:
        total = torch.tensor(particles.facts(sorted(set(particles.groups))[tilt.group]).beam_tilt_mrad)
        total = total + fit.changes.tilt_mrad[tilt.group]
        last = next((late for late in fit.final_tilts if late.group == tilt.group), tilt)
        name = f"group{tilt.group + 1}_beam_tilt"
        metrics |= {
            f"{name}_x_mrad": float(total[0]),
            f"{name}_y_mrad": float(total[1]),
            f"{name}_halves_differ_mrad": last.difference_mrad,
        }
    return metrics


def write_ctf(
    out: Path,
    particles: Particles,
    judgements: list[Judgement],
    metrics: dict[str, float | int | None],
    outcome: Outcome | None = None,
) -> None:
    """Write half maps and curves where something changed, metrics, verdicts and, last, the particles."""
    if outcome is not None and outcome.after is not None and outcome.halves is not None:
        voxel = particles.common_facts().pixel_size_angstrom
        for number, half in enumerate(outcome.halves, start=1):
            write_mrc(out / f"half{number}.mrc", half.cpu().numpy(), voxel, labels=(UNRESTORED_LABEL,))
        write_star(out / "fsc.star", fsc_tables(outcome.after))
    write_metrics(out / "metrics.json", metrics)
    write_verdicts(out / "verdicts.json", [verdict(*judgement) for judgement in judgements])
    write_star(out / "particles.star", {"optics": particles.optics, "particles": particles.table})


def write_figures(out: Path, particles: Particles, fit: CtfFit, views: Views, geometry: Geometry) -> None:
    """Write figures/defocus.png, and figures/beam_tilt.png where a tilt was fitted."""
    place = np.stack([floats(particles.table, f"rlnCoordinate{axis}", 0.0) for axis in "XY"], 1)
    write_bytes(
        out / "figures" / "defocus.png", png_bytes(draw_defocus(fit, place, views.micrograph.numpy()))
    )
    for tilt in fit.tilts[:1]:
        write_bytes(
            out / "figures" / "beam_tilt.png", png_bytes(draw_tilt(tilt, geometry, views.ctf[tilt.group]))
        )
