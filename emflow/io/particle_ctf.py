"""The CTF of particles, as their table tells it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from emflow.em.optics import Ctf
from emflow.io.particles import Particles
from emflow.io.star import floats
from emflow.step import EmflowError


def ctf_columns(particles: Particles, rows: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """CTF parameters of some particles as float64 arrays (n,), named as in :class:`emflow.em.optics.Ctf`.

    Defocus in micrometre (the STAR has ångström), angles and phase shifts in degrees, voltage in
    kilovolt, spherical aberration in millimetre.
    """
    table = particles.table if rows is None else particles.table.iloc[np.asarray(rows)]
    groups = particles.groups if rows is None else particles.groups_of(np.asarray(rows))
    facts = {group: particles.facts(group) for group in set(groups)}
    u = floats(table, "rlnDefocusU")
    return {
        "defocus_u_um": u * 1e-4,
        "defocus_v_um": floats(table, "rlnDefocusV") * 1e-4,
        "defocus_angle_deg": floats(table, "rlnDefocusAngle", 0.0),
        "phase_shift_deg": floats(table, "rlnPhaseShift", 0.0),
        "voltage_kv": np.array([facts[g].voltage_kv for g in groups], dtype=np.float64),
        "cs_mm": np.array([facts[g].cs_mm for g in groups], dtype=np.float64),
        "amplitude_contrast": np.array([facts[g].amplitude_contrast for g in groups], dtype=np.float64),
    }


def ctf_of(particles: Particles, rows: np.ndarray | None = None) -> Ctf:
    """CTF parameters of some particles as tensors (float32); the rows must share voltage, Cs and Q0.

    Raises
    ------
    EmflowError
        If they do not: take the optics groups one after the other.
    """
    columns = ctf_columns(particles, rows)
    common: dict[str, float] = {}
    for name, otherwise in (("voltage_kv", 300.0), ("cs_mm", 2.7), ("amplitude_contrast", 0.07)):
        values = np.unique(columns[name])
        if len(values) > 1:
            raise EmflowError(
                f"Particles of different {name} ({values}) have no common CTF; go by optics group."
            )
        common[name] = float(values[0]) if len(values) else otherwise
    u, v, angle, phase = (
        torch.from_numpy(columns[name].astype(np.float32))
        for name in ("defocus_u_um", "defocus_v_um", "defocus_angle_deg", "phase_shift_deg")
    )
    return Ctf(u, v, angle, phase_shift_deg=phase, **common, **envelope_of(particles, rows))


def envelope_of(particles: Particles, rows: np.ndarray | None = None) -> dict[str, Any]:
    """Envelope of some particles' CTF, named as in :class:`emflow.em.optics.Ctf`; without what is 1 for all."""
    table = particles.table if rows is None else particles.table.iloc[np.asarray(rows)]
    found: dict[str, Any] = {}
    for column, name, none in (
        ("rlnCtfBfactor", "b_factor_angstrom2", 0.0),
        ("rlnCtfScalefactor", "scale", 1.0),
    ):
        values = floats(table, column, none)
        if (values != none).any():
            found[name] = torch.from_numpy(values.astype(np.float32))
    return found
